"""How a model was asked, from the names that providers and vocabularies have for it"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.traces._reading import Reading
from harness.traces._values import as_flag, as_integer, as_number, structured, structured_or_none
from harness.traces.records import PARAMETERS, Parameters

_NO_PARAMETER = frozenset({
    "model", "messages", "input", "prompt", "system", "instructions", "contents", "tools", "functions", "metadata",
    "user", "stream_options", "extra_headers", "extra_body", "api_key", "timeout", "safety_identifier",
    "prompt_cache_key",
})  # fmt: skip
"""What stands among the parameters of a request and is none, or says nothing about the answer."""


def parameters(given: Mapping[str, Any], reading: Reading) -> Parameters:
    """The parameters in a request; what is there and cannot be read is a loss, and unknown ones are kept as `other`."""
    read: dict[str, Any] = {}
    other: dict[str, Any] = {}
    beside = given.get("extra_body")  # how OpenAI's client passes on what only some servers know
    given = {**beside, **given} if isinstance(beside, Mapping) else given
    for key, value in given.items():
        if value is None or key in _NO_PARAMETER:
            continue
        name = _NAMES.get(key)
        if name is None:
            other[key] = value
            continue
        made = _READERS[name](value)
        if made is None:
            reading.lose(name, "unreadable", f"{key} is {str(value)[:100]!r}")
        else:
            read.setdefault(name, made)
    return Parameters(**read, other=other)


def merged(first: Parameters, second: Parameters) -> Parameters:
    """`first`, with what it leaves open taken from `second`."""
    values = {name: getattr(first, name) for name in PARAMETERS}
    for name, value in values.items():
        if value is None or value == ():
            values[name] = getattr(second, name)
    return Parameters(**values, other={**second.other, **first.other})


def is_set(parameters: Parameters, name: str) -> bool:
    """Whether a parameter was recorded."""
    return getattr(parameters, name) not in (None, ())


def _positive(value: Any) -> int | None:
    made = as_integer(value)
    return made if made is not None and made >= 0 else None


def _stop(value: Any) -> tuple[str, ...] | None:
    value = structured_or_none(value) if isinstance(value, str) and value.startswith("[") else value
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    return None


def _mapping(value: Any) -> dict[str, Any] | None:
    held = structured_or_none(value)
    return dict(held) if isinstance(held, Mapping) else None


def _choice(value: Any) -> str | dict[str, Any] | None:
    if isinstance(value, str) and not value.startswith("{"):
        return value or None
    return _mapping(value)


def _effort(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("effort")
    return value if isinstance(value, str) and value else None


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "temperature": as_number,
    "top_p": as_number,
    "top_k": as_integer,
    "max_tokens": _positive,
    "stop": _stop,
    "seed": as_integer,
    "frequency_penalty": as_number,
    "presence_penalty": as_number,
    "choices": _positive,
    "stream": as_flag,
    "response_format": _mapping,
    "tool_choice": _choice,
    "parallel_tool_calls": as_flag,
    "reasoning_effort": _effort,
}
_NAMES: Mapping[str, str] = {
    **{name: name for name in _READERS},
    "max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens", "maxOutputTokens": "max_tokens",
    "max_new_tokens": "max_tokens", "max_tokens_to_sample": "max_tokens",
    "topP": "top_p", "topK": "top_k", "stop_sequences": "stop", "stopSequences": "stop", "n": "choices",
    "candidate_count": "choices", "candidateCount": "choices", "reasoning": "reasoning_effort",
    "choice.count": "choices", "reasoning.level": "reasoning_effort", "responseFormat": "response_format",
    "toolChoice": "tool_choice", "is_stream": "stream", "streaming": "stream",
}  # fmt: skip


def request_parameters(value: Any, reading: Reading) -> tuple[Parameters, Mapping[str, Any]]:
    """The parameters in an object or a string of JSON, with the object itself; one that cannot be read is a loss."""
    try:
        given = structured(value)
    except ValueError as error:
        reading.lose("parameters", "unreadable", str(error))
        return Parameters(), {}
    if not isinstance(given, Mapping):
        return Parameters(), {}
    return parameters(given, reading), given
