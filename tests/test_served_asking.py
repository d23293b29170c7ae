"""One question until it is answered or fails: attempts, waiting and schemas, on a clock that a test moves."""

from __future__ import annotations

import asyncio

import pytest

from harness.served import FailureKind, Prices
from harness.served._failures import Problem, Used, of_status
from tests.served_fakes import FakeClock, FakeWire, answers, asker, completion, question


def passing(status: int = 503, wait: str | None = None) -> Problem:
    return of_status(status, "", {} if wait is None else {"Retry-After": wait})


def test_what_may_pass_is_tried_again_with_growing_waits() -> None:
    clock, wire = FakeClock(), FakeWire([passing(), passing(500), passing(429)])
    (reply,) = answers(asker(wire, clock, retries=3, jitter=1.0), [question()])
    assert (reply.text, reply.attempts) == ("yes", 4)
    assert clock.slept == [0.5, 1.0, 2.0]
    assert reply.seconds == pytest.approx(3.5)


def test_waits_are_drawn_from_the_whole_range_below_the_limit() -> None:
    clock = FakeClock()
    answers(asker(FakeWire([passing()] * 9), clock, retries=9, jitter=0.0), [question()])
    assert clock.slept == [0.0] * 9
    clock = FakeClock()
    answers(asker(FakeWire([passing()] * 9), clock, retries=9, jitter=1.0), [question()])
    assert clock.slept[-2:] == [60.0, 60.0]


def test_attempts_end_with_a_failure_of_the_last_kind() -> None:
    wire = FakeWire([passing(429), passing(500), passing(503)])
    (reply,) = answers(asker(wire, retries=2), [question()])
    assert reply.text is None
    assert (reply.failure.kind, reply.attempts, len(wire.sent)) == ("server", 3, 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    wire = FakeWire([of_status(status, "", {})])
    (reply,) = answers(asker(wire, retries=5), [question()])
    assert (reply.text, len(wire.sent)) == (None, 1)


def test_retry_after_is_waited_for_and_holds_for_every_question_to_that_server() -> None:
    clock, wire = FakeClock(), FakeWire([passing(429, "7")])
    made = asker(wire, clock, concurrency=1)
    answers(made, [question("a")])
    assert clock.slept[0] == 7.25  # and a little more, so that not all come back at once
    clock, wire = FakeClock(), FakeWire([passing(429, "7")])
    replies = answers(asker(wire, clock, retries=0, concurrency=1), [question("a"), question("b")])
    assert [r.text for r in replies] == [None, "yes"]
    assert clock.time == 7.0, "the second question did not wait"


def test_a_server_that_asks_for_an_hour_is_not_waited_for() -> None:
    (reply,) = answers(asker(FakeWire([passing(429, "3600")]), retries=5), [question()])
    assert reply.failure.kind == "rate-limited"
    assert "3600 s" in reply.failure.detail


def test_patience_ends_before_the_attempts_do() -> None:
    clock, wire = FakeClock(), FakeWire([passing(503, "50")] * 20)
    (reply,) = answers(asker(wire, clock, retries=20, patience=120), [question()])
    assert reply.failure.kind == "server"
    assert len(wire.sent) == 3
    assert clock.time < 120


def test_no_answer_in_time_is_a_timeout() -> None:
    class Silent(FakeWire):
        async def send(self, *given: object, **more: object) -> None:
            await asyncio.sleep(3600)

    (reply,) = answers(asker(Silent(), timeout=0.01, retries=0), [question()])
    assert reply.failure.kind == "timeout"
    assert "0.01 s" in reply.failure.detail


def test_what_a_library_raises_is_a_failure_and_no_exception() -> None:
    (reply,) = answers(asker(FakeWire([KeyError("choices")]), retries=0), [question()])
    assert reply.failure.kind == "unreadable"


@pytest.mark.parametrize(
    ("said", "kind"), [({"choices": []}, "empty"), ({"choices": 3}, "unreadable"), ("page", "unreadable")]
)
def test_an_answer_that_is_none_is_paid_for_once(said: object, kind: FailureKind) -> None:
    wire = FakeWire([said])
    (reply,) = answers(asker(wire, retries=5), [question()])
    assert (reply.failure.kind, len(wire.sent)) == (kind, 1)


def test_tokens_and_cost_are_those_of_all_attempts_that_the_server_counted() -> None:
    counted = Problem("server", "", passes=True, used=Used(100, 20))
    wire = FakeWire([counted, completion(read=100, written=30)])
    (reply,) = answers(asker(wire, prices=Prices(input=1, output=10)), [question()])
    assert (reply.prompt_tokens, reply.completion_tokens) == (200, 50)
    assert reply.cost == pytest.approx((200 * 1 + 50 * 10) / 1e6)
    (reply,) = answers(asker(FakeWire()), [question()])
    assert reply.cost is None, "a cost without a price"


SCHEMA = {"type": "object"}


class TestSchema:
    def test_it_is_offered_and_where_it_is_refused_asked_without_and_not_offered_again(self) -> None:
        wire = FakeWire([of_status(400, "", {})])
        made = asker(wire, retries=0)
        replies = [reply for n in range(3) for reply in answers(made, [question(str(n), schema=SCHEMA)])]
        assert [r.text for r in replies] == ["yes"] * 3
        assert [offered for _, offered in wire.sent] == [True, False, False, False]
        assert any("JSON schema" in remark for remark in made.tally.sentences(0))

    def test_a_refusal_for_another_reason_is_the_failure(self) -> None:
        wire = FakeWire([of_status(400, "", {}), of_status(400, '{"error": {"message": "too long"}}', {})])
        made = asker(wire, retries=0)
        (reply,) = answers(made, [question(schema=SCHEMA)])
        assert "too long" in reply.failure.detail
        answers(made, [question(schema=SCHEMA)])
        assert wire.sent[-1][1], "the schema was given up for nothing"

    def test_another_schema_is_offered_still(self) -> None:
        wire = FakeWire([of_status(400, "", {})])
        made = asker(wire, retries=0)
        answers(made, [question(schema=SCHEMA)])
        answers(made, [question(schema={"type": "string"})])
        assert wire.sent[-1][1]


def test_remarks_tell_attempts_failures_tokens_and_cost() -> None:
    made = asker(FakeWire([passing(429), of_status(401, "", {})]), prices=Prices(input=1e6, output=0), concurrency=1)
    answers(made, [question("a"), question("b")])
    said = "; ".join(made.tally.sentences(waited=90.0))
    for part in ("3 requests sent, 1 answered", "10 tokens read and 1 written", "$10", "rate-limited 1",
                 "authentication 1", "waited 90 s"):  # fmt: skip
        assert part in said
