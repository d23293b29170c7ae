"""Broken traces from a seed: wrong types, cut and nested JSON, missing and cyclic parents, colliding ids.

A generator of its own, because ten thousand traces are made for each dialect: drawn value by value by hypothesis they
would take hours. A failing test names the seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from harness.traces.records import LogEvent, Span, SpanEvent

TEXTS = (
    "", "…", "x" * 250, "x" * 300 + "…", "{", "[", "[{", '[{"role":', "null", "NaN", "1e999", "9" * 5000, "chat", "LLM",
    "__REDACTED__", "[" * 3000, "{'a': ", "['\\n\\n']", "(" * 300, "[" + "-" * 3000, "\ud800", '["\\ud800"]', "\x00",
    "litellm_truncated", '[{"content":' * 2000, "user", "assistant", "tool", "text", "function",
    '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]',
    '{"role":"assistant","content":[{"type":"image_url"}]}',
    '[{"role":"tool","parts":[{"type":"tool_call_response","id":1,"response":{"a":[1,null]}}]}]',
    '[{"role":1,"parts":{"type":[]}}]', '[{"type":"function","function":{"name":"f","parameters":"{"}}]',
    '{"temperature":NaN}', '{"temperature":"hot","max_tokens":-1,"stop":[1],"n":1e400}', "[{'role': 'user', 'content':",
    "[{'message': {'content': None, 'tool_calls': [{'function': {'name': 'f'}}]}}]",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**63, -(2**70), 10**30, 0.5, float("nan"), float("inf"), True, False, None, b"\xff\x00")
WORDS = (
    "role", "content", "contents", "parts", "type", "text", "message", "message_content", "tool_call", "tool_calls",
    "function", "name", "arguments", "id", "image", "url", "image_url", "source", "data", "response", "result", "input",
    "output", "finish_reason", "tool", "json_schema", "parameters", "function_call", "uri", "modality", "blob", "usage",
    "choices", "messages", "tools", "model", "prompt", "instructions", "choice", "index", "body", "status_code",
    "0", "1", "annotation", "completion", "score", "label", "temperature", "stop", "max_tokens", "tool_choice",
    "response_format",
)  # fmt: skip
KINDS = (
    "text", "tool_call", "tool_call_response", "image_url", "blob", "uri", "reasoning", "function", "tool_use", "file",
    "input_audio", "refusal", "web_search", "message", "function_call_output",
)  # fmt: skip
MARKS: Mapping[str, dict[str, Any]] = {
    "otel_genai": {"gen_ai.operation.name": "chat"},
    "openinference": {"openinference.span.kind": "LLM"},
    "openllmetry": {"llm.request.type": "chat", "gen_ai.prompt.0.role": "user", "gen_ai.request.model": "m"},
    "traceai": {"gen_ai.span.kind": "LLM"},
    "litellm": {"litellm.call_id": "1", "gen_ai.operation.name": "chat"},
    "vllm": {"gen_ai.latency.time_in_queue": 0.1},
    "request_log": {"harness.request": {}},
}
"""What makes each dialect recognise a span, whatever else is in it."""
KEYS = (
    "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions",
    "gen_ai.prompt", "gen_ai.completion", "gen_ai.request.temperature", "gen_ai.request.max_tokens", "gen_ai.request.n",
    "gen_ai.request.stop_sequences", "gen_ai.request.seed", "gen_ai.response.finish_reasons", "gen_ai.response.id",
    "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "gen_ai.request.parameters", "gen_ai.cost.total",
    "gen_ai.request.structured_output_schema", "gen_ai.output.type", "gen_ai.response.time_to_first_chunk",
    "llm.invocation_parameters", "llm.finish_reason", "llm.token_count.prompt", "llm.model_name", "input.value",
    "output.value", "harness.request", "harness.response", "harness.feedback", "metadata", "session.id", "user.id",
    "run_id", "error.type", "llm.openai.messages", "llm.openai.tools", "llm.openai.stop", "llm.openai.choices",
    "gen_ai.evaluation.name", "gen_ai.evaluation.score.value", "gen_ai.evaluation.target_span_id",
    "gen_ai.event.content", "message", "content", "index",
)  # fmt: skip
PREFIXES = (
    "gen_ai.prompt", "gen_ai.completion", "llm.input_messages", "llm.output_messages", "llm.tools", "llm.prompts",
    "llm.choices", "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.definitions", "annotations",
    "llm.request.functions", "evaluations", "metadata",
)  # fmt: skip
EVENTS = (
    "gen_ai.user.message", "gen_ai.assistant.message", "gen_ai.tool.message", "gen_ai.choice", "gen_ai.content.prompt",
    "gen_ai.content.completion", "gen_ai.client.inference.operation.details", "gen_ai.evaluation.result", "exception",
    "First Token Stream Event",
)  # fmt: skip
TRACES = tuple(f"{n:032x}" for n in (1, 2))
IDS = tuple(f"{n:016x}" for n in range(1, 5))
TIMES = (0, 1, 1_700_000_000_000_000_000, 2**63, 2**64 - 1)


class Fuzz:
    """Everything broken that one seed makes."""

    def __init__(self, seed: int, mark: Mapping[str, Any]) -> None:
        self._random = random.Random(seed)
        self._mark = mark

    def _below(self, bound: int) -> int:
        return int(self._random.random() * bound)  # five times as fast as randrange

    def _pick(self, options: Sequence[Any]) -> Any:
        return options[int(self._random.random() * len(options))]

    def spans(self) -> list[Span]:
        """One to three spans of two traces, most of them with the mark."""
        return [self._span() for _ in range(1 + self._below(3))]

    def log_events(self) -> list[LogEvent]:
        """Up to three log events, some of them of these spans."""
        return [self._log_event() for _ in range(self._below(4))]

    def value(self, depth: int = 4) -> Any:
        """Any value that an attribute could hold, and some that it could not."""
        pick = self._random.random()
        if depth == 0 or pick < 0.45:
            return self._leaf()
        if pick < 0.5:
            return self._nested(self._pick((15, 40, 90)))
        if pick < 0.6:
            return json.dumps(self.value(depth - 1), default=repr)[: self._pick((20, 200, 10_000))]
        if pick < 0.75:
            return [self.value(depth - 1) for _ in range(self._below(4))]
        return self._object(depth)

    def _leaf(self) -> Any:
        pick = self._random.random()
        if pick < 0.6:
            return self._pick(TEXTS)
        if pick < 0.9:
            return self._pick(NUMBERS)
        return "".join(chr(self._pick((10, 65, 0x2028, 0x1F600, 0xDFFF, 0x663))) for _ in range(5))

    def _object(self, depth: int) -> dict[str, Any]:
        made = {self._pick(WORDS): self.value(depth - 1) for _ in range(self._below(6))}
        return {**made, "type": self._pick(KINDS)} if self._random.random() < 0.5 else made

    def _nested(self, depth: int) -> Any:
        value: Any = "x"
        for _ in range(depth):
            value = {self._pick(("content", "parts", "a")): [value]}
        return value

    def _attributes(self, most: int = 8) -> dict[str, Any]:
        return {self._key(): self.value() for _ in range(self._below(most + 1))}

    def _key(self) -> str:
        pick = self._random.random()
        if pick < 0.5:
            return self._pick(KEYS)
        rest = [self._pick(WORDS) for _ in range(self._below(6))]
        index = self._pick(("0", "0", "1", "10", "999999", "-1", "x", "٣", "9" * 50))
        return ".".join([self._pick(PREFIXES), index, *rest])

    def _span(self) -> Span:
        choose = self._pick
        mark = self._mark if self._random.random() < 0.8 else {}
        events = [SpanEvent(choose(EVENTS), choose(TIMES), self._attributes(4)) for _ in range(choose((0, 1, 3)))]
        return Span(
            trace_id=choose(TRACES),
            span_id=choose(IDS),
            parent_span_id=choose((*IDS, "")),
            name=choose(("chat", "chat", "llm_request", "raw_gen_ai_request", "\ud800")),
            start_ns=choose(TIMES),
            end_ns=choose(TIMES),
            status=choose(("unset", "ok", "error")),
            attributes={**self._attributes(), **mark, **self._attributes(choose((0, 0, 0, 2)))},
            events=tuple(events),
            resource=self._attributes(3),
            scope=choose(("", "litellm", "vllm.engine", "a", "b")),
            dropped_attributes=choose((0, 0, 0, 3)),
            dropped_events=choose((0, 0, 0, 3)),
        )

    def _log_event(self) -> LogEvent:
        choose = self._pick
        return LogEvent(
            trace_id=choose((*TRACES, "")),
            span_id=choose((*IDS, "")),
            name=choose(EVENTS),
            time_ns=choose(TIMES),
            body=self.value(),
            attributes=self._attributes(4),
        )
