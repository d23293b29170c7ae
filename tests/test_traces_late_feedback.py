"""Feedback that comes days after its trace: found when a set is frozen, on any day, and of no other tenant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import goldens
from harness.suites import SuiteContext
from harness.suites.shadow import Options, build
from harness.traces.freezing import FreezeOptions, freeze
from harness.traces.records import LogEvent, Span, SpanEvent
from harness.traces.store import Store
from tests.shadow_store import BEGIN, call, plain, said

pytestmark = pytest.mark.slow  # servers, cryptography or DuckDB in every test

DAY = 86_400 * 10**9
THUMB = {
    "gen_ai.evaluation.name": "thumb", "gen_ai.evaluation.score.value": 1.0, "harness.feedback.source": "human",
}  # fmt: skip
ELSEWHERE = ("f" * 32, "e" * 16)  # the trace of the request that carried the thumb


def answered(number: int, response: str = "", **more: Any) -> Span:
    """A call whose answer has an id."""
    return call(
        number, [said("user", f"Question {number} about the parcel?")], said("assistant", f"Answer {number}."),
        session=f"s{number}", response__id=response or f"resp-{number}", **more,
    )  # fmt: skip


def log(days: int, trace: str = "", span: str = "", **attributes: Any) -> LogEvent:
    return LogEvent(trace, span, "gen_ai.evaluation.result", BEGIN + days * DAY, attributes={**THUMB, **attributes})


def span(days: int, trace: str, parent: str = "", name: str = "evaluation", **more: Any) -> Span:
    """A span of an evaluator, days later."""
    given = {"attributes": {**THUMB, **more}} if "events" not in more else {"events": more["events"]}
    return Span(trace, "d" * 16, parent, name=name, start_ns=BEGIN + days * DAY, end_ns=BEGIN + days * DAY + 1, **given)


def event_of(days: int, **attributes: Any) -> SpanEvent:
    return SpanEvent("gen_ai.evaluation.result", BEGIN + days * DAY, {**THUMB, **attributes})


def liked(folder: Path, *sent: list[Span | LogEvent], tenant: str = "acme", **options: Any) -> dict[str, Any]:
    """What a frozen set says of each call, by its number; every list is sent and compacted by itself."""
    with Store.open(folder / "store") as store:
        for items in sent:
            spans = [item for item in items if isinstance(item, Span)]
            assert not store.append(tenant, spans, [item for item in items if isinstance(item, LogEvent)])
            store.compact()
        freeze(store, folder / "sets", FreezeOptions("production", tenant=tenant, **options))
    golden = goldens.load(folder / "sets", "production@1")
    return {str(int(s.id.rpartition("-")[2], 16) - 1): s.data.get("liked") for s in golden.samples}


def ids(asked: Span) -> tuple[str, str]:
    return asked.trace_id, asked.span_id


CASES: Mapping[str, Callable[[Span, int], Span | LogEvent]] = {
    "log event on the span": lambda asked, days: log(days, *ids(asked)),
    "log event by the answer's id, in another trace": lambda asked, days: log(
        days, *ELSEWHERE, **{"gen_ai.response.id": "resp-1"}
    ),
    "span with a target": lambda asked, days: span(
        days, asked.trace_id, **{"gen_ai.evaluation.target_span_id": asked.span_id}
    ),
    "span by the answer's id, in another trace": lambda asked, days: span(
        days, ELSEWHERE[0], **{"gen_ai.response.id": "resp-1"}
    ),
    "event of a span by the answer's id": lambda asked, days: span(
        days, ELSEWHERE[0], name="Evaluate answer", events=(event_of(days, **{"gen_ai.response.id": "resp-1"}),)
    ),
}


@pytest.mark.parametrize("days", [0, 2, 40])
@pytest.mark.parametrize("case", CASES)
def test_feedback_is_found_whatever_day_it_comes(tmp_path: Path, case: str, days: int) -> None:
    asked = answered(1)
    told = liked(tmp_path, [*plain(1), asked, answered(2)], [CASES[case](asked, days)])
    assert told == {"0": None, "1": True, "2": None}


def test_what_comes_late_is_what_a_replay_scores(tmp_path: Path) -> None:
    calls = [answered(number) for number in range(4)]
    liked(tmp_path, [*calls], [log(5, *ids(calls[2]))], [log(30, *ids(calls[3]))])
    suite = build(Options(set="production@1", root=Path("sets")), SuiteContext(folder=tmp_path))
    assert [suite.concerns("liked", sample) for sample in suite.samples()] == [False, False, True, True]


def test_feedback_on_a_span_above_counts_where_it_is_named(tmp_path: Path) -> None:
    above = Span("a" * 32, "b" * 16, name="turn", start_ns=BEGIN, end_ns=BEGIN + 10**9)
    asked = replace(answered(1), trace_id="a" * 32, parent_span_id="b" * 16)
    sent: list[list[Span | LogEvent]] = [[above, asked], [log(7, "a" * 32, "b" * 16)]]
    from harness.traces.freezing import Liking

    assert liked(tmp_path / "a", *sent) == {"1": None}  # said of the trace, not of this answer
    assert liked(tmp_path / "b", *sent, liking=Liking("thumb")) == {"1": True}


def test_people_who_change_their_minds_are_two_voices(tmp_path: Path) -> None:
    asked = answered(1)
    no = log(9, *ids(asked), **{"gen_ai.evaluation.score.value": 0.0})
    assert liked(tmp_path, [asked], [log(3, *ids(asked)), no]) == {"1": None}


def test_feedback_of_another_tenant_with_the_same_ids_joins_nothing(tmp_path: Path) -> None:
    asked = answered(1)
    by_answer = log(4, *ELSEWHERE, **{"gen_ai.response.id": "resp-1"})
    with Store.open(tmp_path / "store") as store:
        for tenant in ("acme", "other"):  # the very same trace, span and answer
            store.append(tenant, [asked])
        store.append("other", [], [log(4, *ids(asked)), by_answer])
        store.compact()
        for tenant, expected in (("acme", None), ("other", True)):
            freeze(store, tmp_path / tenant, FreezeOptions("production", tenant=tenant))
            (sample,) = goldens.load(tmp_path / tenant, "production@1").samples
            assert sample.data.get("liked") is expected


def test_an_id_that_several_answers_share_names_none_of_them(tmp_path: Path) -> None:
    told = liked(
        tmp_path, [answered(1, "same"), answered(2, "same"), answered(3)],
        [log(4, *ELSEWHERE, **{"gen_ai.response.id": "same"})],
    )  # fmt: skip
    assert told == {"1": None, "2": None, "3": None}


def test_feedback_outside_of_the_days_that_are_drawn_from_counts(tmp_path: Path) -> None:
    asked = answered(1)
    assert liked(tmp_path, [asked], [log(20, *ids(asked))], days=("2025-11-24", "2025-11-24")) == {"1": True}
