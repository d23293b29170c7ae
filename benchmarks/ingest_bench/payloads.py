"""Export requests like those of a chat service: unique prose in JSON messages, about 5 KB a span, some of it personal."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterator

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
    "word",
    "but",
    "not",
    "what",
    "all",
    "were",
    "we",
    "when",
    "your",
    "can",
    "said",
    "there",
    "use",
    "an",
    "each",
    "which",
    "she",
    "do",
    "how",
    "their",
    "if",
    "will",
    "up",
    "other",
    "about",
    "out",
    "many",
    "then",
    "them",
    "these",
    "so",
    "some",
    "her",
    "would",
    "make",
    "like",
    "him",
    "into",
    "time",
    "has",
    "look",
    "two",
    "more",
    "write",
    "go",
    "see",
    "number",
    "no",
    "way",
    "could",
    "people",
    "my",
    "than",
    "first",
    "water",
    "been",
    "call",
    "who",
    "oil",
    "its",
    "now",
    "find",
    "long",
    "down",
    "day",
    "did",
    "get",
    "come",
    "made",
    "may",
    "part",
    "over",
    "customer",
    "invoice",
    "refund",
    "order",
    "shipping",
    "warranty",
    "battery",
    "screen",
    "account",
    "balance",
    "address",
    "delivery",
    "return",
    "policy",
    "discount",
    "request",
    "agent",
]
MODELS = ("support-7b-lora-3", "support-7b", "gpt-4o-mini")


def prose(source: random.Random, characters: int) -> str:
    """Sentences of about so many characters; none of it personal."""
    words: list[str] = []
    size = 0
    while size < characters:
        word = source.choice(WORDS) if source.random() > 0.02 else str(source.randint(1, 2500))
        words.append(word + (".\n" if source.random() < 0.07 else ""))
        size += len(words[-1]) + 1
    return " ".join(words)


def span(source: random.Random, request: object, *, characters: int, personal: bool, now: int) -> bytes:
    """Add one span to an ExportTraceServiceRequest's scope; returns its span id."""
    text = prose(source, characters // 2)
    if personal:
        text += f" Write to {source.choice(WORDS)}.{source.randint(1, 999)}@example.org or +49 30 {source.randint(10**6, 10**7)}"
    asked = [
        {"role": "system", "parts": [{"type": "text", "content": prose(source, characters // 4)}]},
        {"role": "user", "parts": [{"type": "text", "content": text}]},
    ]
    answered = [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": prose(source, characters // 4)}],
            "finish_reason": "stop",
        }
    ]
    made = request.spans.add()  # type: ignore[attr-defined]
    made.trace_id, made.span_id = source.randbytes(16), source.randbytes(8)
    made.name, made.kind = "chat support-7b", 3
    made.start_time_unix_nano, made.end_time_unix_nano = now - 2_000_000_000, now
    model = source.choice(MODELS)
    for key, value in {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": model,
        "gen_ai.response.model": model, "gen_ai.response.id": f"chatcmpl-{source.randbytes(12).hex()}",
        "gen_ai.conversation.id": f"session-{source.randint(1, 10**6)}", "user.id": f"user-{source.randint(1, 10**5)}",
        "gen_ai.input.messages": json.dumps(asked), "gen_ai.output.messages": json.dumps(answered),
        "server.address": "models.internal", "gen_ai.output.type": "text",
    }.items():  # fmt: skip
        pair = made.attributes.add()
        pair.key, pair.value.string_value = key, value
    for key, number in {"gen_ai.usage.input_tokens": 900, "gen_ai.usage.output_tokens": 300, "gen_ai.request.seed": 7,
                        "gen_ai.request.max_tokens": 512}.items():  # fmt: skip
        pair = made.attributes.add()
        pair.key, pair.value.int_value = key, number
    pair = made.attributes.add()
    pair.key, pair.value.double_value = "gen_ai.request.temperature", 0.7
    return bytes(made.span_id)


def export(
    seed: int, spans: int, *, characters: int = 4400, personal_share: float = 0.05, now: int | None = None
) -> tuple[bytes, list[str]]:
    """An export request in protobuf, not compressed, and its span ids in hex."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    source = random.Random(seed)  # noqa: S311 - a workload, no secret
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    pair = group.resource.attributes.add()
    pair.key, pair.value.string_value = "service.name", "support"
    scope = group.scope_spans.add()
    scope.scope.name = "bench"
    now = now or time.time_ns()
    ids = [
        span(source, scope, characters=characters, personal=source.random() < personal_share, now=now).hex()
        for _ in range(spans)
    ]
    return request.SerializeToString(), ids


def exports(seed: int, count: int, spans: int, **options: object) -> Iterator[tuple[bytes, list[str]]]:
    """Gzipped export requests and their span ids."""
    for index in range(count):
        body, ids = export(seed * 10_000 + index, spans, **options)  # type: ignore[arg-type]
        yield gzip.compress(body, 1), ids
