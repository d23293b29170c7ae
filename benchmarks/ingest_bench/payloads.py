"""Export requests like those of a chat service: prose in JSON messages, about 5 KB a span, some of it personal"""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_TEXT = """the of and to in is you that it he was for on are as with his they at be this have from or one had by but
not what all were we when your can said there use an each which she do how their if will up other about out many then
them these so some her would make like him into time has look two more write go see number no way could people my than
first water been call who oil its now find long down day did get come made may part over customer invoice refund order
shipping warranty battery screen account balance address delivery return policy discount request agent"""
WORDS = _TEXT.split()
MODELS = ("support-7b-lora-3", "support-7b", "gpt-4o-mini")


@dataclass(frozen=True, slots=True)
class Payload:
    """A request to send: its body, and the ids of its spans in hex."""

    body: bytes
    ids: tuple[str, ...]


def payloads(count: int, *, spans: int = 256, templates: int = 24, seed: int = 1) -> Iterator[Payload]:
    """Gzipped requests whose span ids are all different; their texts repeat after `templates` requests."""
    made = [_template(seed + i, spans) for i in range(templates)]
    for index in range(count):
        yield _fresh(*made[index % templates])


def export(seed: int, spans: int, *, characters: int = 4400, personal_share: float = 0.05) -> tuple[bytes, list[str]]:
    """An export request in protobuf, not compressed, and its span ids in hex."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    source = random.Random(seed)  # noqa: S311 - a workload, no secret
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    _set(group.resource, {"service.name": "support"})
    scope = group.scope_spans.add()
    scope.scope.name = "bench"
    ids = [
        _span(source, scope.spans.add(), characters, personal=source.random() < personal_share) for _ in range(spans)
    ]
    return request.SerializeToString(), ids


def prose(source: random.Random, characters: int) -> str:
    """Sentences of about so many characters; none of it personal."""
    words: list[str] = []
    size = 0
    while size < characters:
        word = source.choice(WORDS) if source.random() > 0.02 else str(source.randint(1, 2500))
        words.append(word + (".\n" if source.random() < 0.07 else ""))
        size += len(words[-1]) + 1
    return " ".join(words)


def _span(source: random.Random, made: Any, characters: int, *, personal: bool) -> str:
    text = prose(source, characters // 2)
    if personal:
        name, number = source.choice(WORDS), source.randint(10**6, 10**7)
        text += f" Write to {name}.{number % 999}@example.org or +49 30 {number}"
    asked = [_message("system", prose(source, characters // 4)), _message("user", text)]
    answered = [{**_message("assistant", prose(source, characters // 4)), "finish_reason": "stop"}]
    now = time.time_ns()
    made.trace_id, made.span_id = source.randbytes(16), source.randbytes(8)
    made.name, made.kind = "chat support-7b", 3
    made.start_time_unix_nano, made.end_time_unix_nano = now - 2_000_000_000, now
    model = source.choice(MODELS)
    _set(made, {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": model,
        "gen_ai.response.model": model, "gen_ai.response.id": f"chatcmpl-{source.randbytes(12).hex()}",
        "gen_ai.conversation.id": f"session-{source.randint(1, 10**6)}", "user.id": f"user-{source.randint(1, 10**5)}",
        "gen_ai.input.messages": json.dumps(asked), "gen_ai.output.messages": json.dumps(answered),
        "server.address": "models.internal", "gen_ai.output.type": "text", "gen_ai.usage.input_tokens": 900,
        "gen_ai.usage.output_tokens": 300, "gen_ai.request.seed": 7, "gen_ai.request.max_tokens": 512,
        "gen_ai.request.temperature": 0.7,
    })  # fmt: skip
    return bytes(made.span_id).hex()


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": content}]}


def _set(message: Any, values: dict[str, str | int | float]) -> None:
    fields = {str: "string_value", int: "int_value", float: "double_value"}
    for key, value in values.items():
        pair = message.attributes.add()
        pair.key = key
        setattr(pair.value, fields[type(value)], value)


def _template(seed: int, spans: int) -> tuple[bytes, Sequence[tuple[int, int]]]:
    """A body, and where the ids of each span are in it: (trace id, span id)."""
    body, ids = export(seed, spans)
    places = []
    for span_id in ids:
        at = body.index(bytes.fromhex(span_id))
        places.append((at - 18, at))  # the span id follows the trace id, with a tag and a length between them
    return body, places


def _fresh(body: bytes, places: Sequence[tuple[int, int]]) -> Payload:
    changed = bytearray(body)
    ids = []
    for trace, span in places:
        changed[trace : trace + 16], changed[span : span + 8] = os.urandom(16), os.urandom(8)
        ids.append(bytes(changed[span : span + 8]).hex())
    return Payload(gzip.compress(bytes(changed), 1), tuple(ids))
