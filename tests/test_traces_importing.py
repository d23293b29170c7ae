"""Files that other tools wrote: every format and packing, line numbers in errors, bounds on what is unpacked."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from harness.errors import TraceError
from harness.traces import importing, otlp
from harness.traces.importing import _files, detect, read_files, sources
from harness.traces.importing._shape import nanoseconds, span_id, trace_id
from harness.traces.normal import Normalised
from harness.traces.records import Call, LogEvent, Span
from tests.trace_examples import TRACE, calls, genai, span

SPANS = [span(genai(), n) for n in (1, 2, 3)]


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def imported(*paths: Path, **options: Any) -> Normalised:
    spans: list[Span] = []
    events: list[LogEvent] = []
    for found in read_files(paths, **options):
        spans += found.spans
        events += found.events
    return calls(*spans, events=tuple(events))


def one(*paths: Path, **options: Any) -> Call:
    (call,) = imported(*paths, **options).calls
    return call


# ---------------------------------------------------------------- the Collector


def collected(spans: Iterable[Span]) -> list[dict[str, Any]]:
    return [json.loads(otlp.encode_traces([each], otlp.JSON)) for each in spans]


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(message)) + message for message in messages)


PACKED = {
    "t.jsonl": lines(*collected(SPANS)),
    "t.jsonl.gz": gzip.compress(lines(*collected(SPANS))),
    "t.jsonl.zst": zstandard.compress(lines(*collected(SPANS))),
    "two-frames.zst": b"".join(zstandard.compress(lines(each)) for each in collected(SPANS)),
    "blank-lines.jsonl": b"\n\n".join(lines(each) for each in collected(SPANS)),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(*collected(SPANS)),
    "document.json": json.dumps(collected(SPANS), indent=2).encode(),
    "one-line-list.json": json.dumps(collected(SPANS)).encode(),
    "frames-proto": framed(*(otlp.encode_traces([each]) for each in SPANS)),
    "frames-zstd": framed(*(zstandard.compress(lines(each)) for each in collected(SPANS))),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_file_of_the_collector_is_read_however_it_is_packed(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, PACKED[name])
    assert detect(path).name == "collector"
    assert tuple(s for found in read_files([path]) for s in found.spans) == tuple(SPANS)


def test_logs_and_traces_in_two_files_come_together(tmp_path: Path) -> None:
    said = {"gen_ai.input.messages": [{"role": "user", "content": "Hi"}]}
    event = LogEvent(TRACE, f"{1:016x}", "gen_ai.client.inference.operation.details", time_ns=1, attributes=said)
    traces = written(
        tmp_path / "traces.jsonl", otlp.encode_traces([span({"gen_ai.operation.name": "chat"})], otlp.JSON)
    )
    logs = written(tmp_path / "logs.jsonl", otlp.encode_logs([event], otlp.JSON))
    assert one(traces, logs).messages[0].text == "Hi"
    binary = written(tmp_path / "logs.bin", framed(otlp.encode_logs([event])))
    assert one(traces, binary).messages[0].text == "Hi"


def test_a_damaged_line_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    good = lines(*collected(SPANS[:1]))
    path = written(tmp_path / "t.jsonl", good + b"\n" + b'{"resourceSpans": [\n' + lines({"other": 1}) + good)
    with pytest.raises(TraceError, match=r"t\.jsonl:3: not valid JSON"):
        list(read_files([path]))
    told: list[str] = []
    found = list(read_files([path], on_damage=told.append))
    assert [each.line for each in found] == [1, 5]
    assert [message.partition(": ")[0].rpartition(":")[2] for message in told] == ["3", "4"]


def test_a_damaged_first_line_is_told_like_any_other(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", b'{"resourceSpans": [\n' + lines(*collected(SPANS[:2])))
    told: list[str] = []
    assert [each.line for each in read_files([path], on_damage=told.append)] == [2, 3]
    assert len(told) == 1
    assert "t.jsonl:1: not valid JSON" in told[0]
    broken = written(tmp_path / "d.json", json.dumps(collected(SPANS), indent=1).encode()[:-1])
    with pytest.raises(TraceError, match=r"d\.json"):
        list(read_files([broken], source="collector", on_damage=told.append))


def test_rejected_spans_are_counted_with_their_line(tmp_path: Path) -> None:
    document = collected(SPANS[:1])[0]
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] = "xyz"
    (found,) = read_files([written(tmp_path / "t.jsonl", lines(document))])
    assert (found.line, found.rejected) == (1, {"trace-id": 1})


# ---------------------------------------------------------------- Phoenix

PHOENIX = {
    "context.trace_id": TRACE,
    "context.span_id": f"{1:016x}",
    "parent_id": None,
    "name": "ChatCompletion",
    "span_kind": "LLM",
    "start_time": "2026-01-02T03:04:05.000006+00:00",
    "end_time": "2026-01-02T03:04:07+00:00",
    "status_code": "OK",
    "status_message": "",
    "attributes.llm.model_name": "gpt-4o-mini",
    "attributes.llm.token_count.prompt": 21,
    "attributes.llm.invocation_parameters": '{"temperature": 0.5}',
    "attributes.llm.input_messages": [
        {"message.role": "system", "message.content": "Be kind."},
        {"message.role": "user", "message.contents": [{"message_content.type": "text", "message_content.text": "Hi"}]},
    ],
    "attributes.llm.output_messages": [
        {
            "message.role": "assistant",
            "message.tool_calls": [{"tool_call.function.name": "f", "tool_call.function.arguments": "{}"}],
        }
    ],
    "attributes.llm.tools": [{"tool.json_schema": '{"type": "function", "function": {"name": "f"}}'}],
    "attributes.session.id": "s",
    "attributes.metadata": {"plan": "gold"},
    "annotations": [{"name": "thumb", "annotator_kind": "HUMAN", "result": {"score": 1.0, "label": "up"}}],
}


def check_phoenix(call: Call) -> None:
    assert [(m.role, m.text) for m in call.messages] == [("system", "Be kind."), ("user", "Hi")]
    assert call.outputs[0].tool_calls[0].name == call.tools[0].name == "f"
    assert (call.parameters.temperature, call.input_tokens, call.session) == (0.5, 21, "s")
    assert (call.time_ns, call.latency) == (1767323045000006000, 1.999994)
    assert call.metadata == {"plan": "gold"}
    assert call.replayable


def test_a_dataframe_of_phoenix_is_read_from_json_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "spans.jsonl", lines(PHOENIX))
    assert detect(path).name == "phoenix"
    call = one(path)
    check_phoenix(call)
    assert [(f.name, f.score, f.label, f.source) for f in call.feedback] == [("thumb", 1.0, "up", "human")]


def test_a_dataframe_of_phoenix_is_read_from_parquet_with_its_times(tmp_path: Path) -> None:
    import pandas as pd

    times = {key: pd.Timestamp(PHOENIX[key]) for key in ("start_time", "end_time")}
    other = {"context.trace_id": TRACE, "context.span_id": f"{2:016x}", "span_kind": "CHAIN", "attributes.extra": 1.5}
    pd.DataFrame([{**PHOENIX, **times}, other]).to_parquet(tmp_path / "spans.parquet")
    check_phoenix(one(tmp_path / "spans.parquet"))


def test_a_page_of_phoenix_rest_api_is_read(tmp_path: Path) -> None:
    attributes = {k.removeprefix("attributes."): v for k, v in PHOENIX.items() if k.startswith("attributes.")}
    row = {
        **{k: v for k, v in PHOENIX.items() if "." not in k},
        "context": {"trace_id": TRACE, "span_id": f"{1:016x}"},
        "attributes": attributes,
    }
    check_phoenix(one(written(tmp_path / "page.json", json.dumps({"data": [row], "next_cursor": None}).encode())))


def test_a_row_of_phoenix_without_ids_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "spans.jsonl", lines(PHOENIX, {**PHOENIX, "context.span_id": None}))
    with pytest.raises(TraceError, match=r"spans\.jsonl:2: trace_id or span_id is missing"):
        list(read_files([path]))


# ---------------------------------------------------------------- Langfuse

OBSERVATION = {
    "id": "0b9a5d1e-6f7c-4c1b-9f44-1a2b3c4d5e6f",
    "trace_id": "t-1",
    "project_id": "p",
    "type": "GENERATION",
    "name": "answer",
    "start_time": "2026-01-02 03:04:05.000000",
    "end_time": "2026-01-02 03:04:06.500000",
    "completion_start_time": "2026-01-02 03:04:05.250000",
    "provided_model_name": "gpt-4o-mini",
    "model_parameters": '{"temperature": 0.5, "max_tokens": 64}',
    "input": {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    "output": '{"role": "assistant", "content": "Ho"}',
    "usage_details": {"input": 21, "output": 8, "total": 29},
    "cost_details": {"total": 0.25},
    "level": "DEFAULT",
    "session_id": "s",
    "user_id": "eve",
}


def check_langfuse(call: Call) -> None:
    assert [m.text for m in (*call.messages, *call.outputs)] == ["Hi", "Ho"]
    assert (call.parameters.temperature, call.parameters.max_tokens) == (0.5, 64)
    assert (call.input_tokens, call.output_tokens, call.cost) == (21, 8, 0.25)
    assert (call.latency, call.first_token) == (1.5, 0.25)
    assert (call.session, call.user) == ("s", "pseudonym of eve")
    assert call.tools[0].name == "f"
    assert call.replayable
    assert "seed" in {loss.field for loss in call.lost}


def test_enriched_observations_of_langfuse_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "observations.jsonl", lines({**OBSERVATION, "type": "SPAN", "id": "x"}, OBSERVATION))
    assert detect(path).name == "langfuse"
    check_langfuse(one(path))


def test_traces_observations_and_scores_in_three_files_come_together(tmp_path: Path) -> None:
    bare = {key: value for key, value in OBSERVATION.items() if key not in ("session_id", "user_id")}
    trace = {
        "id": "t-1",
        "timestamp": "2026-01-02 03:04:05.000000",
        "project_id": "p",
        "user_id": "eve",
        "session_id": "s",
    }
    score = {
        "id": "c",
        "trace_id": "t-1",
        "observation_id": OBSERVATION["id"],
        "data_type": "NUMERIC",
        "source": "ANNOTATION",
    }
    scores = [
        {**score, "name": "thumb", "value": 1.0},
        {**score, "name": "mood", "value": 0, "string_value": "happy", "data_type": "CATEGORICAL", "source": "EVAL"},
        {**score, "name": "whole", "value": 0.5, "observation_id": None},
    ]
    files = [
        written(tmp_path / "scores.jsonl", lines(*scores)),
        written(tmp_path / "observations.jsonl", lines(bare)),
        written(tmp_path / "traces.jsonl", lines(trace)),
    ]
    call = one(*files)
    check_langfuse(call)
    assert {(f.name, f.score, f.label, f.source, f.about) for f in call.feedback} == {
        ("thumb", 1.0, "", "human", "call"), ("mood", None, "happy", "llm", "call"),
        ("whole", 0.5, "", "human", "trace"),
    }  # fmt: skip


def test_a_trace_of_langfuse_api_holds_its_observations_in_camel_case(tmp_path: Path) -> None:
    def camel(name: str) -> str:
        first, *rest = name.split("_")
        return first + "".join(word.capitalize() for word in rest)

    observation = {camel(k): v for k, v in OBSERVATION.items() if k not in ("session_id", "user_id")}
    trace = {
        "id": "t-1",
        "timestamp": "2026-01-02T03:04:05Z",
        "userId": "eve",
        "sessionId": "s",
        "observations": [observation],
    }
    check_langfuse(one(written(tmp_path / "trace.json", json.dumps(trace, indent=1).encode())))


def test_a_failed_observation_is_an_error(tmp_path: Path) -> None:
    failed = {
        **OBSERVATION,
        "input": json.dumps(OBSERVATION["input"]),
        "level": "ERROR",
        "status_message": "429",
        "output": None,
    }
    call = one(written(tmp_path / "o.jsonl", lines(failed)))
    assert call.error is not None
    assert call.error.message == "429"
    assert call.outputs == ()
    assert call.messages[0].text == "Hi"


def test_a_structured_answer_of_langfuse_is_its_json(tmp_path: Path) -> None:
    call = one(written(tmp_path / "o.jsonl", lines({**OBSERVATION, "output": {"state": "shipped"}})))
    assert call.outputs[0].text == '{"state":"shipped"}'


# ---------------------------------------------------------------- plain logs

REQUEST = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0.5,
    "seed": 3,
    "response_format": {"type": "json_object"},
}
RESPONSE = {
    "id": "chatcmpl-1",
    "model": "gpt-4o-mini-2024",
    "created": 1700000000,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Ho"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 2, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
}


def check_request(call: Call) -> None:
    assert [m.text for m in (*call.messages, *call.outputs)] == ["Hi", "Ho"]
    assert (call.parameters.temperature, call.parameters.seed) == (0.5, 3)
    assert call.parameters.response_format == {"type": "json_object"}
    assert (call.model_asked, call.model_answered, call.finish_reasons) == (
        "gpt-4o-mini",
        "gpt-4o-mini-2024",
        ("stop",),
    )
    assert (call.input_tokens, call.output_tokens, call.cached_tokens) == (2, 1, 1)
    assert call.replayable
    assert call.lost == ()


def test_pairs_of_request_and_response_are_read_with_what_stands_beside_them(tmp_path: Path) -> None:
    beside = {"timestamp": 1700000000.5, "latency_ms": 250, "session_id": "s", "user_id": "u", "run_id": "r"}
    feedback = [{"name": "thumb", "score": 1}]
    path = written(
        tmp_path / "log.jsonl", lines({"request": REQUEST, "response": RESPONSE, "feedback": feedback, **beside})
    )
    assert detect(path).name == "requests"
    call = one(path)
    check_request(call)
    assert (call.run_id, call.session, call.user, call.latency) == ("r", "s", "pseudonym of u", 0.25)
    assert call.time_ns == 1700000000500000000
    assert call.feedback[0].score == 1.0


@pytest.mark.parametrize("turned", [False, True])
def test_the_two_files_of_a_batch_are_paired_in_either_order(tmp_path: Path, turned: bool) -> None:
    asked = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST}
    answered = {"id": "b", "custom_id": "1", "response": {"status_code": 200, "body": RESPONSE}, "error": None}
    failed = {"custom_id": "2", "response": {"status_code": 429, "body": {"error": {"message": "slow down"}}}}
    files = [
        written(tmp_path / "in.jsonl", lines(asked, {**asked, "custom_id": "2"}, {**asked, "custom_id": "3"})),
        written(tmp_path / "out.jsonl", lines(answered, failed)),
    ]
    found = imported(*(reversed(files) if turned else files)).calls
    by_outcome = {(bool(call.outputs), call.error.message if call.error else ""): call for call in found}
    assert set(by_outcome) == {(True, ""), (False, "slow down"), (False, "")}
    check_request(by_outcome[True, ""])
    assert all(call.replayable for call in found)


def test_request_and_answer_in_one_object_are_told_apart(tmp_path: Path) -> None:
    stored = {**RESPONSE, **REQUEST, "object": "chat.completion", "model": "gpt-4o-mini-2024"}
    call = one(written(tmp_path / "stored.jsonl", lines(stored)))
    assert [m.text for m in (*call.messages, *call.outputs)] == ["Hi", "Ho"]
    assert call.parameters.seed == 3


def test_a_conversation_whose_last_word_is_the_assistants_has_its_answer(tmp_path: Path) -> None:
    said = [*REQUEST["messages"], {"role": "assistant", "content": "Ho"}]  # type: ignore[misc]
    call = one(written(tmp_path / "chats.jsonl", lines({"messages": said})))
    assert [m.text for m in call.messages] == ["Hi"]
    assert [m.text for m in call.outputs] == ["Ho"]


def test_the_responses_api_is_read_as_one_answer(tmp_path: Path) -> None:
    request = {"model": "m", "instructions": "Be kind.", "input": "Hi", "max_output_tokens": 9}
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ho"}]},
    ]
    record = {"request": request, "response": {"id": "resp", "output": output, "usage": {"input_tokens": 4}}}
    call = one(written(tmp_path / "log.jsonl", lines(record)))
    assert [(m.role, m.text) for m in call.messages] == [("system", "Be kind."), ("user", "Hi")]
    (answer,) = call.outputs
    assert (answer.text, answer.tool_calls[0].id) == ("Ho", "c")
    assert (call.parameters.max_tokens, call.input_tokens) == (9, 4)
    continued = {"request": {**request, "previous_response_id": "resp"}, "response": {}}
    (call,) = imported(written(tmp_path / "more.jsonl", lines(continued))).calls
    assert call.why_not is not None
    assert call.why_not.reason == "server-state"


def test_equal_lines_are_different_requests(tmp_path: Path) -> None:
    record = {"request": REQUEST, "response": RESPONSE}
    found = imported(written(tmp_path / "log.jsonl", lines(record, record)))
    assert found.counts.calls == 2


def test_an_answer_without_its_request_cannot_be_asked_again(tmp_path: Path) -> None:
    call = one(written(tmp_path / "log.jsonl", lines({"response": RESPONSE})))
    assert call.why_not is not None
    assert call.why_not.reason == "no-content"


# ---------------------------------------------------------------- files that are none

CUT_AFTER_A_LINE = zstandard.compress(lines(*collected(SPANS[:1]))) + zstandard.compress(lines(*collected(SPANS)))[:40]


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", lines({"hello": 1}))
    with pytest.raises(TraceError, match=r"x\.jsonl:1: no known format of traces \(an object with hello\)") as raised:
        list(read_files([path]))
    assert all(source.name in str(raised.value) for source in sources())


def test_a_misspelled_source_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="did you mean 'phoenix'"):
        list(read_files([tmp_path / "x"], source="pheonix"))


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("empty.jsonl", b"", "holds no record"),
        ("cut.gz", gzip.compress(lines(*collected(SPANS)))[:-20], "cut off while it is unpacked"),
        ("cut.zst", zstandard.compress(lines(*collected(SPANS)))[:-9], "cut off while it is unpacked"),
        ("cut-after-a-line.zst", CUT_AFTER_A_LINE, "cut off while it is unpacked"),
        ("no.zst", zstandard.compress(b"{}")[:6] + b"\xff" * 40, "damaged zstd"),
        ("bad.parquet", b"PAR1" + b"x" * 20, "not a Parquet file"),
        ("cut.frames", framed(lines(*collected(SPANS[:1]))) + b"\x00\x00\x01", "a frame is cut off"),
        ("latin.jsonl", b'{"a": "\xe4"}\n', "holds no record"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    path = written(tmp_path / name, data)
    with pytest.raises(TraceError, match=problem):
        list(read_files([path]))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        list(read_files([tmp_path / "nothing.jsonl"]))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_bomb_is_refused_while_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Any) -> None:
    monkeypatch.setattr(_files, "MOST_BYTES", 100_000)
    path = written(tmp_path / "bomb", pack(b" " * 90_000 + b"\n" + b"x" * 50_000))
    with pytest.raises(TraceError, match="unpacks to more than 100000 bytes"):
        list(_files.records(path))


def test_a_line_longer_than_the_limit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "_MOST_LINE", 100)
    path = written(tmp_path / "long.jsonl", lines({"a": 1}) + b"x" * 101)
    with pytest.raises(TraceError, match=r"long\.jsonl:2: a line longer"):
        list(_files.records(path))


def test_deep_json_is_a_damaged_line(tmp_path: Path) -> None:
    path = written(tmp_path / "deep.jsonl", lines(*collected(SPANS[:1])) + b"[" * 100_000 + b"\n")
    with pytest.raises(TraceError, match=r"deep\.jsonl:2: not valid JSON: nested too deeply"):
        list(read_files([path]))


# ---------------------------------------------------------------- ids and times


def test_times_are_read_in_every_usual_unit() -> None:
    wanted = 1700000000000000000
    for given in (1700000000, 1700000000.0, 1700000000000, 1700000000000000, wanted, "2023-11-14T22:13:20Z"):
        assert nanoseconds(given) == wanted
    assert nanoseconds("2023-11-14 22:13:20.000000") == wanted
    assert nanoseconds("2023-11-14T23:13:20+01:00") == wanted
    assert nanoseconds(None) == 0
    for wrong in ("soon", True, float("nan"), -5, [1]):
        with pytest.raises(ValueError, match="is no time"):
            nanoseconds(wrong)


def test_ids_that_are_hexadecimal_are_kept_and_others_are_hashed_the_same_every_time() -> None:
    assert trace_id("0AF76519-16cd-43dd-8448-eb211c80319c") == TRACE
    assert span_id(f"{7:016x}") == f"{7:016x}"
    assert trace_id("t-1") == trace_id("t-1") != trace_id("t-2")
    assert len(span_id("x")) == 16
    assert set(trace_id("0" * 32)) != {"0"}


def test_every_source_has_a_name_and_says_what_it_reads() -> None:
    assert {source.name for source in sources()} == {"collector", "langfuse", "phoenix", "requests"}
    assert all(source.described for source in sources())
    assert importing.Imported(Path(), 1).spans == ()


def test_what_a_few_bytes_unpack_to_is_not_copied_once_more_for_every_piece(tmp_path: Path) -> None:
    """Six kilobytes that unpack to sixty megabytes took eighteen seconds to read."""
    (tmp_path / "x.zst").write_bytes(zstandard.compress(b"{}\n" * 2**20))
    stream = _files._Zstd(tmp_path / "x.zst")
    first, second = stream.read(8192), stream.read(8192)
    stream.close()
    assert isinstance(first, memoryview)
    assert isinstance(second, memoryview)
    assert first.obj is second.obj
