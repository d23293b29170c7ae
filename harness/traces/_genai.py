"""OTel GenAI attributes and events in all the forms they have had; the common ground of several dialects

Content is looked for in this order, and the first that is there counts: `gen_ai.input.messages` (a JSON string or a
structured value, on the span or on its `gen_ai.client.inference.operation.details` event), one event a message
(`gen_ai.user.message`, `gen_ai.choice` …, as span events or log records), the older `gen_ai.content.prompt` events, and
the attributes `gen_ai.prompt` and `gen_ai.completion`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.traces._messages import messages, tools
from harness.traces._parameters import parameters
from harness.traces._reading import Reading
from harness.traces._trace import Happening, Trace
from harness.traces._values import Cut, count, number, structured, structured_or_none, text
from harness.traces.records import ChatMessage, Span

CHAT = frozenset({"chat", "generate_content", "text_completion", "completion", "generate", "message_batches"})
"""Operations that are one request to a model for text."""
DETAILS = "gen_ai.client.inference.operation.details"
FIRST_TOKEN_EVENTS = frozenset({
    "First Token Stream Event", "gen_ai.content.completion.chunk", "llm.content.completion.chunk", "gen_ai.first_token",
})  # fmt: skip

CARRIED = frozenset({
    "temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "frequency_penalty", "presence_penalty", "choices",
    "stream", "reasoning_effort",
})  # fmt: skip
"""Parameters that the conventions have an attribute for; there is none for response_format and tool_choice."""
_REQUEST = "gen_ai.request."
_OLDER = {  # names of some instrumentations, and of openai-v2 until it followed the conventions
    "gen_ai.openai.request.seed": "seed",
    "gen_ai.openai.request.response_format": "output_type",
    "gen_ai.is_streaming": "stream",
    "llm.is_streaming": "stream",
    "llm.frequency_penalty": "frequency_penalty",
    "llm.presence_penalty": "presence_penalty",
    "llm.top_k": "top_k",
    "llm.chat.stop_sequences": "stop",
    "llm.request.reasoning_effort": "reasoning_effort",
    "gen_ai.request.n": "choices",
}
_NO_PARAMETER = frozenset({
    "model", "type", "id", "prompt", "messages", "parameters", "structured_output_schema", "previous_response.id",
    "encoding_formats", "is_stream",
})  # fmt: skip


def read_genai(span: Span, trace: Trace, reading: Reading) -> Mapping[str, Any]:
    """Fill `reading` from the span and its events; returns the attributes of both, for what a dialect adds to them."""
    happenings = trace.happenings(span)
    attributes = _with_details(span.attributes, happenings)
    reading.operation = _operation(attributes)
    reading.provider = text(attributes, "gen_ai.provider.name", "gen_ai.system").lower()
    reading.model_asked = text(attributes, "gen_ai.request.model")
    reading.model_answered = text(attributes, "gen_ai.response.model")
    reading.response_id = text(attributes, "gen_ai.response.id")
    reading.parameters = parameters(_request(attributes, reading), reading)
    _content(attributes, happenings, reading)
    reading.finish_reasons = finish_reasons(attributes) or reading.finish_reasons
    _usage(attributes, reading)
    reading.first_token = number(attributes, "gen_ai.response.time_to_first_chunk") or first_token(span, happenings)
    return attributes


def first_token(span: Span, happenings: Sequence[Happening]) -> float | None:
    """Seconds from the start of the span to the event that marks the first piece of a stream."""
    times = (h.time_ns for h in happenings if h.name in FIRST_TOKEN_EVENTS)
    first = next(times, 0)
    return (first - span.start_ns) / 1e9 if first >= span.start_ns > 0 else None


def finish_reasons(attributes: Mapping[str, Any]) -> list[str]:
    """The reasons as they were recorded: a list, or (as litellm has it) a string of JSON, or one word."""
    value = attributes.get("gen_ai.response.finish_reasons", attributes.get("gen_ai.response.finish_reason"))
    if isinstance(value, str):
        value = structured_or_none(value) if value.startswith("[") else [value]
    return [finish_word(v) for v in value if isinstance(v, str)] if isinstance(value, list) else []


def finish_word(word: str) -> str:
    """One word for one reason, whatever case it came in and whether the tool calls were one or several."""
    plain = word.lower().rpartition(".")[2]
    return {"tool_call": "tool_calls", "tool_use": "tool_calls", "end_turn": "stop", "max_tokens": "length"}.get(
        plain, plain
    )


def read_content(reading: Reading, field: str, value: Any, role: str) -> list[ChatMessage]:
    """Messages of an attribute that holds JSON or a structured value; what cannot be read is a loss of `field`."""
    try:
        held = structured(value)
    except Cut as error:
        reading.lose(field, "truncated", f"the JSON {error}")
        return []
    except ValueError as error:
        reading.lose(field, "unreadable", str(error)[:200])
        return []
    found = messages(held, role)
    if not found and held not in (None, [], "", {}):
        reading.lose(field, "unreadable", f"holds {type(held).__name__} and no message")
    return found


def read_tools(reading: Reading, definitions: Any) -> None:
    """Tools of a list, unless some are known already; one that makes no sense is a loss."""
    listed = definitions if isinstance(definitions, list) else [definitions] if definitions else []
    if reading.tools or not listed:
        return
    reading.tools = tools(listed)
    if len(reading.tools) < len(listed):
        reading.lose("tools", "unreadable", f"{len(listed) - len(reading.tools)} of {len(listed)} definitions")


def read_outputs(reading: Reading, value: Any) -> None:
    """Output messages, with the reason for which each of them ended."""
    reading.outputs = read_content(reading, "outputs", value, "assistant")
    listed = structured_or_none(value)
    ends = [text(m, "finish_reason") for m in listed if isinstance(m, Mapping)] if isinstance(listed, list) else []
    reading.finish_reasons = [finish_word(end) for end in ends if end]


# ---------------------------------------------------------------- parts of the reading


def _with_details(attributes: Mapping[str, Any], happenings: Sequence[Happening]) -> Mapping[str, Any]:
    for happening in happenings:
        if happening.name == DETAILS:
            body = happening.body if isinstance(happening.body, Mapping) else {}
            attributes = {**body, **happening.attributes, **attributes}
    return attributes


def _operation(attributes: Mapping[str, Any]) -> Any:
    completion = text(attributes, "gen_ai.operation.name") == "text_completion"
    return "completion" if completion else "chat"


def _request(attributes: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    given = {}
    for key, value in attributes.items():
        name = key.removeprefix(_REQUEST)
        if name != key and name not in _NO_PARAMETER and value not in ("", []):
            given[name] = value
    for key, name in _OLDER.items():
        if attributes.get(key) is not None:
            given.setdefault(name, attributes[key])
    wanted = text(attributes, "gen_ai.output.type") or str(given.pop("output_type", ""))
    if wanted not in ("", "text"):
        reading.lose("response_format", "unrecorded", f"the output type was {wanted[:50]}; its schema is not recorded")
    earlier = text(attributes, "gen_ai.request.previous_response.id")
    return {**given, "previous_response_id": earlier} if earlier else given


def _usage(attributes: Mapping[str, Any], reading: Reading) -> None:
    usage = "gen_ai.usage."
    reading.input_tokens = count(attributes, usage + "input_tokens", usage + "prompt_tokens", "llm.usage.prompt_tokens")
    reading.output_tokens = count(
        attributes, usage + "output_tokens", usage + "completion_tokens", "llm.usage.completion_tokens"
    )
    reading.cached_tokens = count(
        attributes,
        usage + "cache_read.input_tokens",
        usage + "cache_read_input_tokens",
        usage + "cache_read_tokens",
        usage + "details.cache_read_tokens",
    )
    reading.reasoning_tokens = count(
        attributes, usage + "reasoning.output_tokens", usage + "reasoning_tokens", usage + "details.reasoning_tokens"
    )


def _content(attributes: Mapping[str, Any], happenings: Sequence[Happening], reading: Reading) -> None:
    if attributes.get("gen_ai.input.messages") is not None:
        reading.messages = read_content(reading, "messages", attributes["gen_ai.input.messages"], "user")
    if attributes.get("gen_ai.output.messages") is not None:
        read_outputs(reading, attributes["gen_ai.output.messages"])
    _from_events(happenings, reading)
    if not reading.messages and isinstance(attributes.get("gen_ai.prompt"), str | list):
        reading.messages = _text_or_messages(reading, "messages", attributes["gen_ai.prompt"], "user")
    if not reading.outputs and isinstance(attributes.get("gen_ai.completion"), str | list):
        reading.outputs = _text_or_messages(reading, "outputs", attributes["gen_ai.completion"], "assistant")
    _instructions(attributes, reading)
    if attributes.get("gen_ai.tool.definitions") is not None:
        _definitions(attributes["gen_ai.tool.definitions"], reading)
    for field, key in (("messages", "gen_ai.input.messages"), ("outputs", "gen_ai.output.messages")):
        where = text(attributes, key + ".ref", key + "_ref")
        if where and not getattr(reading, field):
            reading.lose(field, "external", "stored elsewhere; only a reference to it was recorded")


def _definitions(value: Any, reading: Reading) -> None:
    try:
        held = structured(value)
    except Cut as error:
        reading.lose("tools", "truncated", f"the JSON {error}")
    except ValueError as error:
        reading.lose("tools", "unreadable", str(error)[:200])
    else:
        read_tools(reading, held)


def _instructions(attributes: Mapping[str, Any], reading: Reading) -> None:
    """System instructions are a list of parts; they come first, unless a system message says the same already."""
    value = attributes.get("gen_ai.system_instructions")
    if value is None:
        return
    try:
        held = structured(value)
    except Cut as error:
        reading.lose("messages", "truncated", f"the system instructions: JSON that {error}")
        return
    except ValueError:
        held = value  # some write plain text here
    found = messages({"role": "system", "parts": held}, "system")
    if found and found[0].parts and (not reading.messages or reading.messages[0].parts != found[0].parts):
        reading.messages = [found[0], *reading.messages]


def _text_or_messages(reading: Reading, field: str, value: Any, role: str) -> list[ChatMessage]:
    """The older attributes hold JSON or plain text; text that only looks like JSON stays text."""
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        return messages(value, role)
    if structured_or_none(value) is None and isinstance(value, str) and not _looks_like_messages(value):
        return messages(value, role)
    return read_content(reading, field, value, role)


def _looks_like_messages(value: str) -> bool:
    return '"role"' in value or '"content"' in value


# ---------------------------------------------------------------- one event a message

_MESSAGE_EVENTS = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}


def _from_events(happenings: Sequence[Happening], reading: Reading) -> None:
    asked: list[ChatMessage] = []
    answered: list[tuple[int, ChatMessage, str]] = []
    for happening in happenings:
        payload = _payload(happening)
        if happening.name in _MESSAGE_EVENTS:
            asked += messages(payload, _MESSAGE_EVENTS[happening.name])
        elif happening.name == "gen_ai.choice":
            index = count(payload, "index")
            made = _choice(payload)
            if made is not None:
                answered.append((len(answered) if index is None else index, made, text(payload, "finish_reason")))
        elif happening.name == "gen_ai.content.prompt":
            asked += _text_or_messages(reading, "messages", payload.get("gen_ai.prompt"), "user")
        elif happening.name == "gen_ai.content.completion":
            for made in _text_or_messages(reading, "outputs", payload.get("gen_ai.completion"), "assistant"):
                answered.append((len(answered), made, ""))
    answered.sort(key=lambda choice: choice[0])
    reading.messages = reading.messages or [m for m in asked if m.parts or m.tool_calls]
    if not reading.outputs:
        reading.outputs = [m for _, m, _ in answered if m.parts or m.tool_calls]
        reading.finish_reasons = [finish_word(end) for _, _, end in answered if end]


def _payload(happening: Happening) -> Mapping[str, Any]:
    """What an event says: the body of a log record, or the attributes of a span event (in one of them, as JSON)."""
    if isinstance(happening.body, Mapping):
        return {**happening.attributes, **happening.body}
    inner = structured_or_none(happening.attributes.get("gen_ai.event.content"))
    return {**happening.attributes, **inner} if isinstance(inner, Mapping) else happening.attributes


def _choice(payload: Mapping[str, Any]) -> ChatMessage | None:
    held = payload.get("message", payload.get("content"))
    parsed = structured_or_none(held) if isinstance(held, str) and held.lstrip().startswith(("{", "[")) else None
    content: Any = held if parsed is None else parsed
    if isinstance(content, list):
        content = {"role": "assistant", "content": content}
    if isinstance(content, Mapping):
        content = {**content, "tool_calls": content.get("tool_calls") or payload.get("tool_calls")}
    elif content is None:
        content = {"role": "assistant", "tool_calls": payload.get("tool_calls")}
    made = messages(content, "assistant")
    return made[0] if made else None
