"""How hard a server is asked, by one client and by several together."""

from __future__ import annotations

import asyncio

from harness.served import ServedOptions
from harness.served._endpoints import Endpoint, Slots
from tests.served_fakes import FakeClock, FakeWire, answers, asker, question


def options(**more: object) -> ServedOptions:
    return ServedOptions.model_validate({"model": "openai/m", **more})


def starts(endpoint: Endpoint, clock: FakeClock, requests: int, tokens: float = 0) -> list[float]:
    async def one_after_the_other() -> list[float]:
        times = []
        for _ in range(requests):
            await endpoint.admit(tokens)
            times.append(clock.time)
        return times

    return asyncio.run(one_after_the_other())


def test_requests_are_spread_over_the_minute() -> None:
    clock = FakeClock()
    endpoint = Endpoint(clock)
    endpoint.join(options(requests_per_minute=30))
    times = starts(endpoint, clock, 61)
    assert times == [2.0 * n for n in range(61)]
    assert endpoint.waited == 120.0
    for begin in times:
        assert sum(begin <= t < begin + 60 for t in times) <= 30


def test_a_pause_in_asking_earns_no_burst() -> None:
    clock = FakeClock()
    endpoint = Endpoint(clock)
    endpoint.join(options(requests_per_minute=60))
    starts(endpoint, clock, 1)
    clock.time = 1000.0
    assert starts(endpoint, clock, 3) == [1000.0, 1001.0, 1002.0]


def test_tokens_are_counted_as_thought_and_corrected_when_known() -> None:
    clock = FakeClock()
    endpoint = Endpoint(clock)
    endpoint.join(options(tokens_per_minute=600))
    assert starts(endpoint, clock, 2, tokens=100) == [0.0, 10.0]
    endpoint.correct(-50)  # the second took half of it
    assert starts(endpoint, clock, 1, tokens=100) == [15.0]


def test_all_clients_of_a_server_share_the_strictest_rate_and_the_widest_concurrency() -> None:
    clock = FakeClock()
    endpoint = Endpoint(clock)
    wide, narrow = options(concurrency=16), options(concurrency=2, requests_per_minute=60)
    endpoint.join(wide)
    endpoint.join(narrow)
    assert endpoint.slots.size == 16
    assert starts(endpoint, clock, 3) == [0.0, 1.0, 2.0]
    endpoint.leave(narrow)
    assert starts(endpoint, clock, 2) == [2.0, 2.0]
    endpoint.leave(wide)
    assert endpoint.deserted


def test_no_more_are_under_way_than_allowed_and_every_question_has_its_turn() -> None:
    most = now = 0
    wire = FakeWire()

    def enter() -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        asyncio.get_running_loop().call_soon(leave)

    def leave() -> None:
        nonlocal now
        now -= 1

    wire.meanwhile = enter
    replies = answers(asker(wire, concurrency=5), [question(str(n)) for n in range(40)])
    assert [r.text for r in replies] == ["yes"] * 40
    assert most <= 5


def test_slots_survive_cancellation_and_a_change_of_size() -> None:
    async def scenario() -> int:
        slots, held = Slots(), asyncio.Event()
        slots.size = 1
        inside = 0

        async def hold() -> None:
            nonlocal inside
            async with slots:
                inside += 1
                await held.wait()
                inside -= 1

        tasks = [asyncio.create_task(hold()) for _ in range(6)]
        await asyncio.sleep(0)
        assert inside == 1
        tasks[1].cancel()  # while it waits
        tasks[0].cancel()  # while it holds
        for _ in range(5):
            await asyncio.sleep(0)
        assert inside == 1 + 1  # the cancelled one never counted down, and the next one is in
        slots.size = 3
        slots.wake()
        for _ in range(5):
            await asyncio.sleep(0)
        inside_then = inside - 1
        held.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with slots, slots, slots:  # nothing leaked
            return inside_then

    assert asyncio.run(scenario()) == 3
