"""The replay of captured calls: how they are asked again, what their tools are told to have said, what is compared."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import plugins, runs
from harness.config import load_gate
from harness.errors import ConfigError, DataError
from harness.gate import GateResult, make_plan, run_gate
from harness.progress import Silent
from harness.records import Generate, Output, Sample, Score
from harness.subjects import SubjectContext
from harness.suites import AnsweredPair, SuiteContext, shadow
from harness.suites.shadow import ShadowSuite
from tests.loopback_model import Answer, Fault, LoopbackModel, Said
from tests.shadow_set import WEATHER, asked, frozen, gate, row, scripted, tool_row

FREE = {"input": 0, "output": 0}
ROME = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
ALL = (
    "complied", "finished", "format", "valid_calls", "recorded_calls", "liked", "seconds", "output_tokens",
)  # fmt: skip


def suite(folder: Path, rows: Sequence[Mapping[str, Any]], *metrics: str, **options: Any) -> ShadowSuite:
    frozen(folder, rows)
    chosen = shadow.Options(set="production@1", metrics=metrics or ALL, **options)
    return shadow.build(chosen, SuiteContext(folder))


def first(made: ShadowSuite, index: int = 0) -> Generate:
    (request,) = made.requests(made.samples()[index], None)  # type: ignore[arg-type]
    assert isinstance(request, Generate)
    return request


def goes_on(made: ShadowSuite, *outputs: Output, index: int = 0) -> Generate | None:
    found = made.follow_up(made.samples()[index], None, outputs)  # type: ignore[arg-type]
    assert not found or isinstance(found[0], Generate)
    return found[0] if found else None  # type: ignore[return-value]


def scores(made: ShadowSuite, sample: Sample, *outputs: Output) -> dict[str, Score]:
    (found,) = made.score([AnsweredPair(sample, tuple(outputs), tuple(outputs))])
    return {name: pair.candidate for name, pair in found.items()}


def test_a_call_is_asked_as_it_was_asked(tmp_path: Path) -> None:
    parameters = {
        "temperature": 0.7, "top_p": 0.9, "max_tokens": 33, "until": ["END"], "seed": 5, "tool_choice": "required",
        "response_format": {"type": "json_object"},
    }  # fmt: skip
    turn = {"role": "assistant", "content": "", "tool_calls": [{"id": "x", "name": "weather", "arguments": {}}]}
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, turn,
        {"role": "tool", "content": "", "tool_call_id": "x"},
    ]  # fmt: skip
    made = suite(tmp_path, [{**tool_row(0), "messages": messages, "parameters": parameters}, row(1)])
    request = first(made)
    assert (request.temperature, request.top_p, request.max_tokens, request.until, request.seed) == (
        0.7, 0.9, 33, ("END",), 5,
    )  # fmt: skip
    assert json.loads(request.tools) == [WEATHER]
    assert (request.tool_choice, request.response_format) == ('"required"', '{"type":"json_object"}')
    assert [m.role for m in request.prompt] == ["system", "user", "assistant", "tool"]  # type: ignore[union-attr]
    other = first(made, 1)
    assert (other.tools, other.max_tokens, other.temperature) == ("", 64, 0.0)  # the card's


def test_recorded_results_are_told_for_the_same_canonical_arguments_only(tmp_path: Path) -> None:
    made = suite(tmp_path, [tool_row(0)])
    going = goes_on(made, Output(text=ROME))
    assert going is not None
    assert [(m.role, m.content) for m in going.prompt[-2:]] == [  # type: ignore[union-attr]
        ("assistant", ""), ("tool", "31 °C"),
    ]  # fmt: skip
    assert json.loads(going.prompt[-2].tool_calls)[0]["arguments"] == {"city": "Rome"}  # type: ignore[union-attr]
    assert going.tools == first(made).tools
    for other in ('{"city": "Oslo"}', '{"city": "Rome", "unit": "F"}', "{}", '"{broken"'):
        assert goes_on(made, Output(text=f'<tool_call>{{"name": "weather", "arguments": {other}}}</tool_call>')) is None
    assert goes_on(made, Output(text=ROME.replace("weather", "delete_all"))) is None
    assert goes_on(made, Output(text="It is warm.")) is None
    assert goes_on(made, Output(failure="gone")) is None


def test_of_two_calls_with_one_unknown_none_is_told(tmp_path: Path) -> None:
    made = suite(tmp_path, [tool_row(0)])
    assert goes_on(made, Output(text=f"{ROME}\n{ROME.replace('Rome', 'Oslo')}")) is None


def test_an_unknown_call_ends_the_replay_and_is_told_in_the_details(tmp_path: Path) -> None:
    made = suite(tmp_path, [tool_row(0)])
    sample = made.samples()[0]
    strange = Output(text=ROME.replace("Rome", "Oslo"), tokens=3)
    whole = (Output(text=ROME, tokens=3), Output(text="Warm.", tokens=1))
    (found,) = made.score([AnsweredPair(sample, whole, (strange,))])
    details = found["complied"].details
    assert details["baseline"] == {"steps": 2, "unknown_calls": []}
    assert details["candidate"] == {"steps": 1, "unknown_calls": ['weather({"city": "Oslo"})']}


def test_a_model_that_calls_for_ever_is_stopped(tmp_path: Path) -> None:
    made = suite(tmp_path, [tool_row(0)], max_steps=3)
    assert goes_on(made, *[Output(text=ROME)] * 2) is not None
    assert goes_on(made, *[Output(text=ROME)] * 3) is None


def test_each_metric_concerns_only_the_calls_that_it_is_about(tmp_path: Path) -> None:
    schema = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "required": ["a"]}}}
    rows = [
        row(0), tool_row(1), row(2, parameters={"response_format": {"type": "json_object"}}),
        row(3, parameters={"response_format": schema}), row(4, liked=True), row(5, liked=False),
        row(6, tools=[WEATHER]),
    ]  # fmt: skip
    made = suite(tmp_path, rows)
    about = {name: [s.id for s in made.samples() if made.concerns(name, s)] for name in made.metrics}
    every = [r["id"] for r in rows]
    assert about == {
        "complied": every, "finished": every, "seconds": every, "output_tokens": every,
        "format": ["c002", "c003"], "valid_calls": ["c001", "c006"], "recorded_calls": ["c001"], "liked": ["c004"],
    }  # fmt: skip
    found = scores(made, made.samples()[3], Output(text='{"b": 1}', tokens=2, seconds=0.5))
    assert set(found) == {"complied", "finished", "seconds", "output_tokens", "format"}
    assert (found["format"].value, found["seconds"].value, found["output_tokens"].value) == (0.0, 0.5, 2.0)
    assert scores(made, made.samples()[3], Output(text='{"a": 1}'))["format"].value == 1.0


def test_a_metric_that_concerns_no_call_is_left_out_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    made = suite(tmp_path, [row(0)])
    assert set(made.metrics) == {"complied", "finished", "seconds", "output_tokens"}
    with pytest.raises(DataError, match="none of liked, format concerns any of its calls"):
        shadow.build(shadow.Options(set="production@1", metrics=("liked", "format")), SuiteContext(tmp_path))
    with pytest.raises(ValueError, match="did you mean 'finished'"):
        shadow.Options(set="production@1", metrics=("finnished",))


def test_what_each_metric_says_of_an_answer(tmp_path: Path) -> None:
    made = suite(tmp_path, [tool_row(0, liked=True), row(1, liked=True)])
    called, plain = made.samples()
    good = scores(made, called, Output(text=ROME, tokens=9), Output(text="Warm.", tokens=2))
    assert {name: good[name].value for name in ("valid_calls", "recorded_calls", "complied", "finished")} == {
        "valid_calls": 1.0, "recorded_calls": 1.0, "complied": 1.0, "finished": 1.0,
    }  # fmt: skip
    assert good["output_tokens"].value == 11.0
    other = scores(made, called, Output(text='<tool_call>{"name": "weather", "arguments": {"town": 1}}</tool_call>'))
    assert (other["valid_calls"].value, other["recorded_calls"].value) == (0.0, 0.0)
    refused = scores(made, plain, Output(text="I'm sorry, but I can't help with that.", truncated=True))
    assert (refused["complied"].value, refused["finished"].value, refused["liked"].value) == (0.0, 0.0, 0.0)
    assert scores(made, plain, Output(text="Answer 1."))["liked"].value == 1.0


def test_a_failure_is_a_failed_score_and_never_a_zero(tmp_path: Path) -> None:
    made = suite(tmp_path, [tool_row(0, liked=True)])
    sample = made.samples()[0]
    found = scores(made, sample, Output(text=ROME, seconds=1.0), Output(failure="timeout: no answer"))
    assert {(s.state, s.reason) for s in found.values()} == {("failed", "timeout: no answer")}
    untimed = scores(made, sample, Output(text="Warm."))["seconds"]
    assert (untimed.state, "only a served one does" in untimed.reason) == ("failed", True)


def test_tokens_that_a_server_does_not_count_are_a_failed_score(tmp_path: Path) -> None:
    made = suite(tmp_path, [row(0)])
    (sample,) = made.samples()
    uncounted = scores(made, sample, Output(text="Warm."))
    assert uncounted["output_tokens"].state == "failed"
    assert scores(made, sample, Output(text=""))["output_tokens"].value == 0.0  # it wrote none


def test_latency_and_length_are_lower_is_better_and_bounded(tmp_path: Path) -> None:
    made = suite(tmp_path, [row(0)], max_seconds=2.0, max_output_tokens=10)
    found = scores(made, made.samples()[0], Output(text="x", tokens=99, seconds=7.0))
    assert (found["seconds"].value, found["output_tokens"].value) == (2.0, 10.0)
    assert not made.metrics["seconds"].higher_is_better


PRICES = {"baseline": {"input": 1.0, "output": 2.0}, "candidate": {"input": 10.0, "output": 20.0}}


def test_cost_is_what_the_tokens_of_each_side_cost_and_unknown_where_none_were_counted(tmp_path: Path) -> None:
    made = suite(tmp_path, [row(0)], "cost", prices=PRICES, max_cost=0.01)
    (sample,) = made.samples()

    def costs(*outputs: Output) -> tuple[Score, Score]:
        (found,) = made.score([AnsweredPair(sample, outputs, outputs)])
        return found["cost"].baseline, found["cost"].candidate

    one, two = Output(text="x", tokens=100, read=200), Output(text="x", tokens=1, read=50)
    assert [round(s.value or 0, 9) for s in costs(one)] == [0.0004, 0.004]
    assert [round(s.value or 0, 9) for s in costs(one, two)] == [0.000452, 0.00452]
    assert costs(Output(text="x", tokens=9, read=10**6))[1].value == 0.01  # dearer is no worse
    for uncounted in (Output(text="x", tokens=9), Output(text="x", read=9)):
        assert [s.state for s in costs(one, uncounted)] == ["failed", "failed"]
    with pytest.raises(ValueError, match="needs prices"):
        shadow.Options(set="production@1", metrics=("cost",))


def test_a_candidate_that_costs_more_than_the_margin_is_blocked(tmp_path: Path) -> None:
    frozen(tmp_path, [row(i) for i in range(200)])
    guards = [{"metric": "cost", "margin": 0.0005}]
    with LoopbackModel(lambda messages: "word " * 50) as server:
        subject = {"kind": "served", "model": "openai/m", "api_base": server.base}
        path = gate(tmp_path, subject, {**subject, "revision": "2"}, metrics=["cost"], guards=guards,
                    prices={"baseline": {"input": 0, "output": 1}, "candidate": {"input": 0, "output": 40}},
                    max_cost=0.005)  # fmt: skip
        verdict = replayed(path).verdict
    (compared,) = verdict.comparisons
    assert (verdict.verdict, compared.metric, compared.n_failed) == ("block", "cost", 0)
    assert compared.baseline_mean == pytest.approx(50e-6)


def replayed(path: Path) -> GateResult:
    return run_gate(load_gate(path), Silent())


def test_a_guard_knows_how_large_a_session_of_the_stream_can_be(tmp_path: Path) -> None:
    rows = [row(i) for i in range(8)]
    frozen(tmp_path, rows, largest_cluster=10)
    good = scripted(tmp_path, "base", dict.fromkeys(asked(rows), "Gladly."))
    plan = make_plan(load_gate(gate(tmp_path, good, good, metrics=["complied"])))
    assert {guard.largest_cluster for guard in plan.guards} == {10}


def test_a_candidate_that_refuses_is_blocked_with_sessions_as_clusters(tmp_path: Path) -> None:
    rows = [row(i) for i in range(160)]
    frozen(tmp_path, rows)
    good = dict.fromkeys(asked(rows), "Gladly.")
    bad = {t: "I cannot help with that." if i // 4 % 2 else "Gladly." for i, t in enumerate(good)}
    path = gate(tmp_path, scripted(tmp_path, "base", good), scripted(tmp_path, "worse", bad), metrics=["complied"])
    result = replayed(path)
    (found,) = result.verdict.comparisons
    assert (result.verdict.verdict, found.estimand, found.outcome) == ("block", "population", "regressed")
    (evidence,) = runs.read_evidence(result.path / runs.EVIDENCE)
    assert {pair.cluster for pair in evidence.pairs} == {f"s{i}" for i in range(40)}
    asked_of = [pair.cluster for pair in evidence.pairs if pair.asked]
    assert len(asked_of) < 160  # it stopped early,
    assert all(asked_of.count(cluster) == 4 for cluster in asked_of)  # and after whole sessions
    page = (result.path / "report.md").read_text(encoding="utf-8")
    assert "Clusters that lost samples: `s" in page
    assert "cluster s" in (result.path / "report.html").read_text(encoding="utf-8")
    assert " of cluster s" in (result.path / "junit.xml").read_text(encoding="utf-8")


def test_the_same_subject_twice_is_not_blocked(tmp_path: Path) -> None:
    rows = [row(i) for i in range(400)]
    frozen(tmp_path, rows)
    answers = dict.fromkeys(asked(rows), "Gladly.")
    path = gate(tmp_path, scripted(tmp_path, "a", answers), scripted(tmp_path, "b", {**answers, "x": "y"}))
    assert replayed(path).verdict.verdict == "promote"


def test_training_rows_and_a_changed_set_fail_pre_flight(tmp_path: Path) -> None:
    rows = [row(i, f"Where is the parcel with the number {i} that I sent to my aunt in May?") for i in range(8)]
    root = frozen(tmp_path, rows)
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": rows[3]["messages"][0]["content"]}) + "\n", "utf-8")
    context = SuiteContext(tmp_path, training_files=(tmp_path / "train.jsonl",))
    made = shadow.build(shadow.Options(set="production@1"), context)
    assert [c.passed for c in made.checks()] == [True, False]
    (root / "production" / "1" / "samples.jsonl").write_text("{}", encoding="utf-8")
    assert [c.passed for c in made.checks()] == [False, False]


def served(server: LoopbackModel) -> dict[str, Any]:
    return {"kind": "served", "model": f"openai/{server.model}", "api_base": server.base, "prices": FREE, "retries": 0}


def answer(messages: Sequence[Mapping[str, Any]]) -> Said:
    """Calls the tool once, then says what the tool said."""
    if messages[-1]["role"] == "tool":
        return Said(f"It has {messages[-1]['content']} there.")
    if not (found := re.search(r"warm in (\w+)", str(messages[-1]["content"]))):
        return Said("Yes.")
    city = found[1]
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
    return Said(None, "tool_calls", tool_calls=[call])


def test_served_subjects_are_told_what_tools_said_and_no_tool_is_run(tmp_path: Path) -> None:
    frozen(tmp_path, [tool_row(i) for i in range(12)])
    with LoopbackModel(answer) as base, LoopbackModel(lambda m: answer(m) if len(m) > 1 else Said("No idea.")) as other:
        other.model = "other"
        result = replayed(gate(tmp_path, served(base), served(other), metrics=["recorded_calls", "seconds"]))
        second = next(a.body for a in base.asked if len(a.body["messages"]) == 3)
    assert second["messages"][1]["tool_calls"][0]["function"]["name"] == "weather"
    assert second["messages"][2] == {"role": "tool", "content": "31 °C", "tool_call_id": "call_0"}
    assert second["tools"] == [WEATHER]
    entries = runs.read_entries(result.path)
    assert {tuple(s.value for s in e.scores["recorded_calls"]) for e in entries} == {(1.0, 0.0)}
    assert all(s.value is not None and s.value > 0 for e in entries for s in e.scores["seconds"])
    assert {e.baseline[-1].text for e in entries} == {"It has 31 °C there."}


def test_a_servers_errors_are_failures_and_hold(tmp_path: Path) -> None:
    frozen(tmp_path, [row(i) for i in range(40)])
    half: Answer = lambda m: Fault("500") if re.search(r"[13579]\?", str(m[-1]["content"])) else "Yes."  # noqa: E731
    with LoopbackModel() as base, LoopbackModel(half) as other:
        other.model = "other"
        result = replayed(gate(tmp_path, served(base), served(other), metrics=["complied"]))
    (found,) = result.verdict.comparisons
    assert (result.verdict.verdict, found.n_failed > 5) == ("hold", True)


def test_a_set_is_named_with_the_nearest_when_there_is_none(tmp_path: Path) -> None:
    frozen(tmp_path, [row(0)])
    with pytest.raises((ConfigError, DataError), match="production"):
        shadow.build(shadow.Options(set="prodution@1"), SuiteContext(tmp_path))


@pytest.mark.slow
def test_a_local_model_is_asked_through_its_template_and_one_without_tools_fails_clearly(tmp_path: Path) -> None:
    from tests.tiny_models import CHAT_TEMPLATE, make_model

    make_model(tmp_path / "model")
    made = suite(tmp_path, [row(0), tool_row(1)])
    template = tmp_path / "tools.jinja"
    template.write_text("{% if tools %}{{ tools | tojson }}{% endif %}" + CHAT_TEMPLATE, encoding="utf-8")
    requests = [replace(first(made, i), max_tokens=4) for i in range(2)]
    without, offered = local_answers(tmp_path, requests)
    assert without.text is not None
    assert "no place for tools" in str(offered.failure)
    assert all(o.text is not None for o in local_answers(tmp_path, requests, chat_template="tools.jinja"))


def local_answers(folder: Path, requests: Sequence[Generate], **options: Any) -> list[Output]:
    chosen = plugins.options(
        "subjects", "local", {"model": "model", "device": "cpu", **options}, where="t", folder=folder
    )
    made = plugins.load("subjects", "local").build(chosen, SubjectContext(folder))
    try:
        found = {i: output for batch in made.answer(requests) for i, output in batch}
    finally:
        made.close()
    return [found[i] for i in range(len(requests))]
