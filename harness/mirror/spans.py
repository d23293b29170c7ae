"""GenAI spans of both sides of a comparison, redacted, and where they go: a store of traces, a receiver, or nowhere

Names are those of the OpenTelemetry GenAI conventions (semantic-conventions-genai 0.1, span `gen_ai.client.inference`).
Both sides carry the same `run_id`, and `harness.arm` says whose answer it is. The champion's span continues the
caller's trace; the candidate's is a trace of its own that links to it, because no user has seen what it answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from harness.errors import StorageError
from harness.mirror.calls import Answer, Asked
from harness.mirror.config import Loaded, key_of
from harness.mirror.frames import Job
from harness.traces import otlp
from harness.traces.admission import Admission, Admitted
from harness.traces.records import Span, SpanLink
from harness.traces.redaction import Pseudonyms, store_key
from harness.traces.store import MIRRORED, Store

SERVICE = "harness-mirror"
_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_MOST_POSTS = 64
_PARAMETERS = {
    "temperature": "temperature", "top_p": "top_p", "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens",
    "seed": "seed", "frequency_penalty": "frequency_penalty", "presence_penalty": "presence_penalty", "top_k": "top_k",
    "reasoning_effort": "reasoning.level",
}  # fmt: skip


def span_of(
    job: Job, asked: Asked, answer: Answer, *, arm: str, base: str, began: float, beside: Span | None = None
) -> Span:
    """The span of one side. `base` is the server's URL, `began` seconds since 1970; `beside` the other side's."""
    parent = _PARENT.fullmatch(job.parent) if beside is None else None
    start = int(began * 1e9)
    model = str(asked.body.get("model", ""))[:512]
    return Span(
        trace_id=parent[1] if parent else secrets.token_hex(16), span_id=secrets.token_hex(8),
        parent_span_id=parent[2] if parent else "", name=f"{_operation(asked)} {model}".strip(), kind="client",
        start_ns=start, end_ns=start + int(answer.seconds * 1e9),
        status="error" if answer.failure or answer.rejected else "unset",
        status_message=answer.failure or answer.rejected,
        attributes={**_request(job, asked, model), **_response(answer), **_of_arm(arm, base, beside is not None)},
        links=(SpanLink(beside.trace_id, beside.span_id),) if beside is not None else (),
        resource={"service.name": SERVICE if beside is None else MIRRORED}, scope="harness.mirror",
    )  # fmt: skip


def _operation(asked: Asked) -> str:
    return "chat" if asked.chat else "text_completion"


def _request(job: Job, asked: Asked, model: str) -> dict[str, Any]:
    body = asked.body
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": _operation(asked), "gen_ai.provider.name": "openai", "gen_ai.request.model": model,
        "gen_ai.input.messages": json.dumps([_message(m) for m in asked.messages], ensure_ascii=False),
        "run_id": job.run_id,
    }  # fmt: skip
    for name, key in _PARAMETERS.items():
        if isinstance(body.get(name), int | float | str) and not isinstance(body.get(name), bool):
            attributes[f"gen_ai.request.{key}"] = body[name]
    if asked.stream:
        attributes["gen_ai.request.stream"] = True
    stop = body.get("stop")
    if isinstance(stop, str | list) and stop:
        attributes["gen_ai.request.stop_sequences"] = [stop] if isinstance(stop, str) else [str(s) for s in stop]
    if isinstance(body.get("n"), int) and body["n"] != 1:
        attributes["gen_ai.request.choice.count"] = body["n"]
    if body.get("tools"):
        attributes["gen_ai.tool.definitions"] = json.dumps(body["tools"], ensure_ascii=False)
    for name in ("response_format", "tool_choice", "parallel_tool_calls"):  # the conventions have no place for them
        if body.get(name) is not None:
            attributes[f"gen_ai.request.{name}"] = json.dumps(body[name])
    if job.conversation:  # never made up, so only where the caller has named it
        attributes["gen_ai.conversation.id"] = job.conversation
    if isinstance(body.get("user"), str) and body["user"]:
        attributes["user.id"] = body["user"]
    return attributes


def _response(answer: Answer) -> dict[str, Any]:
    if answer.failure or answer.rejected:
        return {"error.type": str(answer.status) if answer.status not in (0, 200) else "unanswered"}
    parts = [{"type": "text", "content": answer.text}] if answer.text else []
    parts += [_call(c.name, c.arguments, c.id) for c in answer.tool_calls]
    given = {
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": parts}], ensure_ascii=False),
        "gen_ai.response.finish_reasons": [answer.finish], "gen_ai.response.id": answer.id,
        "gen_ai.response.model": answer.model, "gen_ai.usage.input_tokens": answer.input_tokens,
        "gen_ai.usage.output_tokens": answer.output_tokens,
        "gen_ai.response.time_to_first_chunk": answer.first_token,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value not in (None, "")}


def _of_arm(arm: str, base: str, mirrored: bool) -> dict[str, Any]:
    parts = urlsplit(base)
    where: dict[str, Any] = {"server.address": parts.hostname} if parts.hostname else {}
    port = {"server.port": parts.port} if parts.port else {}
    # A `metadata.` attribute is kept with the stored call, so that whoever draws a sample can leave copies out.
    return {**where, **port, "harness.arm": arm, "harness.mirrored": mirrored, "metadata.arm": arm}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """One message of OpenAI's API in the form of the conventions."""
    role, content = str(message.get("role", "user")), message.get("content")
    if role == "tool":
        held = {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
        return {"role": role, "parts": [held]}
    listed = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    parts = [_part(p) for p in listed if isinstance(p, Mapping)]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            parts.append(_call(str(function.get("name", "")), str(function.get("arguments", "")), call.get("id")))
    return {"role": role, "parts": parts}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(part.get("text"), str):
        return {"type": "text", "content": part["text"]}
    image = part.get("image_url")
    address = image.get("url") if isinstance(image, Mapping) else image
    if isinstance(address, str):
        return {"type": "uri", "modality": "image", "uri": address}
    return {"type": str(part.get("type", "other"))}


def _call(name: str, arguments: str, call_id: Any) -> dict[str, Any]:
    try:
        held = json.loads(arguments)
    except (ValueError, RecursionError):
        held = arguments
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": held}


# ---------------------------------------------------------------- redacted, and sent


@dataclass(slots=True)
class Spans:
    """Redacts spans and sends them on. `lost` counts those that could not be delivered."""

    loaded: Loaded
    lost: int = 0
    _store: Store | None = field(init=False, default=None)
    _admissions: dict[str, Admission] = field(default_factory=dict)
    _posts: set[asyncio.Task[None]] = field(default_factory=set)
    _session: Any = None

    def __post_init__(self) -> None:
        folder = self.loaded.resolved(self.loaded.config.store)
        if folder is not None:
            self._store = Store.open(folder)

    def admitted(self, tenant: str, span: Span) -> tuple[Admitted, Span] | None:
        """The span redacted, for delivery and to be read; None where redaction failed."""
        taken = self._admission(tenant).traces(otlp.encode_traces([span]))
        if taken.records != 1:
            return None
        redacted = otlp.decode_traces(taken.message.SerializeToString()).items
        return (taken, redacted[0]) if len(redacted) == 1 else None

    def send(self, tenant: str, taken: Admitted, now_ns: int) -> None:
        """Deliver a redacted span, in the background."""
        if self._store is not None:
            self._store.journal.append(*self._store.records(tenant, "traces", taken, now_ns)).add_done_callback(
                lambda done: self._note(done.exception())
            )
        if self.loaded.config.receiver is not None:
            if len(self._posts) >= _MOST_POSTS:
                self.lost += 1
                return
            post = asyncio.get_running_loop().create_task(self._post(taken.message.SerializeToString()))
            self._posts.add(post)
            post.add_done_callback(self._posts.discard)

    async def close(self) -> None:
        """Deliver what is under way, for a moment, and let go."""
        if self._posts:
            await asyncio.wait(self._posts, timeout=3)
        if self._session is not None:
            await self._session.close()
        if self._store is not None:
            self._store.close()

    def _admission(self, tenant: str) -> Admission:
        if self._store is not None:
            return self._store.admission(tenant)
        if tenant not in self._admissions:
            self._admissions[tenant] = Admission(Pseudonyms(store_key(self.loaded.folder), tenant))
        return self._admissions[tenant]

    def _note(self, error: BaseException | None) -> None:
        if error is not None:
            self.lost += 1

    async def _post(self, body: bytes) -> None:
        import aiohttp

        section = self.loaded.config.receiver
        assert section is not None  # noqa: S101 - asked before
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        token = key_of(section.token_env)
        headers = {"Content-Type": otlp.PROTOBUF} | ({"Authorization": f"Bearer {token}"} if token else {})
        delivered = False
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, StorageError):
            url = section.endpoint + "/v1/traces"
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                delivered = answer.status == 200
        self.lost += 0 if delivered else 1
