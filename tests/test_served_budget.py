"""What may be spent is never overshot, whatever is under way together, and what is left over is told."""

from __future__ import annotations

import asyncio
import random

import pytest

from harness.errors import ConfigError
from harness.served import Prices
from harness.served._failures import Problem
from harness.served.budget import Budget, Spending
from tests.served_fakes import FakeWire, answers, asker, completion, question


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
@pytest.mark.parametrize("name", ["calls", "tokens", "dollars"])
def test_a_budget_that_buys_nothing_is_refused(name: str, limit: float) -> None:
    with pytest.raises(ConfigError, match=f"budget: {name}"):
        Budget(**{name: limit})  # type: ignore[arg-type]


@pytest.mark.parametrize("calls", [1, 17, 40])
def test_calls_are_never_overshot_with_32_under_way(calls: int) -> None:
    wire, budget = FakeWire(), Budget(calls=calls)
    replies = answers(asker(wire, concurrency=32, budget=budget), [question(str(n)) for n in range(100)])
    assert len(wire.sent) == calls == budget.spent.calls
    assert sum(r.text is not None for r in replies) == calls
    refused = [r for r in replies if r.failure is not None]
    assert {(r.failure.kind, r.attempts, r.cost) for r in refused} == {("budget", 0, 0.0)}
    assert budget.exhausted
    assert f"{calls} of {calls} calls" in refused[0].failure.detail


def test_attempts_are_calls() -> None:
    wire = FakeWire([Problem("server", "", passes=True)] * 3)
    (reply,) = answers(asker(wire, budget=Budget(calls=2), retries=9), [question()])
    assert (reply.failure.kind, reply.attempts, len(wire.sent)) == ("budget", 2, 2)


def test_tokens_and_dollars_are_never_overshot_and_used_up_to_less_than_one_request() -> None:
    draw = random.Random(0)
    for _ in range(20):
        sizes = [draw.randint(1, 60) for _ in range(200)]
        asked = [question("x" * size, max_tokens=40) for size in sizes]
        wire = FakeWire([completion(read=size, written=draw.randint(1, 40)) for size in sizes])
        budget = Budget(tokens=3000)
        answers(asker(wire, concurrency=32, budget=budget), asked)
        assert 3000 - 60 - 64 - 16 - 40 <= budget.spent.tokens <= 3000
    wire = FakeWire([completion(read=50, written=20)] * 200)
    budget = Budget(dollars=0.01)
    prices = Prices(input=1, output=10)
    answers(asker(wire, concurrency=32, budget=budget, prices=prices), [question("x" * 50, max_tokens=20)] * 200)
    assert 0.0095 < budget.spent.dollars <= 0.01


def test_a_request_without_room_waits_for_those_under_way_and_takes_what_they_leave() -> None:
    async def scenario() -> list[bool]:
        budget = Budget(tokens=100)
        assert await budget.reserve(Spending(1, 80))
        waiting = asyncio.create_task(budget.reserve(Spending(1, 60)))
        await asyncio.sleep(0)
        early = waiting.done()
        budget.settle(Spending(1, 80), Spending(1, 30))
        return [early, await waiting, await budget.reserve(Spending(1, 80)), budget.exhausted]

    assert asyncio.run(scenario()) == [False, True, False, True]


def test_an_attempt_that_may_have_been_charged_counts_in_full_and_one_that_was_refused_does_not() -> None:
    most = 4 + 64 + 16 + 10
    for problem, tokens in (
        (Problem("timeout", "", perhaps_charged=True), most),
        (Problem("rejected", ""), 0),
    ):
        budget = Budget(tokens=1000)
        answers(asker(FakeWire([problem]), retries=0, budget=budget), [question("xxxx", max_tokens=10)])
        assert budget.spent == Spending(1, tokens)


def test_a_budget_is_shared() -> None:
    budget = Budget(calls=5)
    wires = FakeWire(), FakeWire()
    for wire in wires:
        answers(asker(wire, budget=budget), [question(str(n)) for n in range(4)])
    assert [len(wire.sent) for wire in wires] == [4, 1]
