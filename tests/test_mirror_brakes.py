"""What stops copies: the breaker, and the budget of a day."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from harness.mirror.brakes import Breaker, DailyBudget
from harness.mirror.config import BreakerSection, BudgetSection
from harness.mirror.drawing import below
from harness.served import Prices


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Books:
    days: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    today: str = "2026-11-26"

    def load(self, day: str) -> tuple[int, int, float]:
        return self.days.get(day, (0, 0, 0.0))

    def book(self, day: str, calls: int, tokens: int, dollars: float) -> None:
        self.days[day] = (calls, tokens, dollars)

    def budget(self, **limits: float) -> DailyBudget:
        section = BudgetSection.model_validate(limits)
        return DailyBudget(section, Prices(input=1, output=2), self.load, self.book, lambda: self.today)


def test_the_breaker_opens_after_failures_in_a_row_and_one_call_tries_after_a_pause() -> None:
    clock = Clock()
    breaker = Breaker(BreakerSection(failures=2, seconds=10), clock)
    for failed in (True, False, True, True):
        assert breaker.admits()
        breaker.said(failed=failed)
    assert breaker.is_open
    assert not breaker.admits()
    clock.now = 11
    assert [breaker.admits(), breaker.admits()] == [True, False]
    breaker.said(failed=True)
    assert not breaker.admits()
    clock.now = 22
    assert breaker.admits()
    breaker.unsaid()
    assert breaker.admits()
    breaker.said(failed=False)
    assert not breaker.is_open


def test_a_day_never_costs_more_than_its_budget_and_the_next_begins_anew() -> None:
    books = Books()
    budget = books.budget(tokens=1000)
    first = budget.reserve({"max_tokens": 300}, 100)
    second = budget.reserve({"max_tokens": 300}, 100)
    assert first is not None
    assert second is not None
    assert budget.reserve({"max_tokens": 300}, 100) is None
    budget.settle(first, 50, 10)
    budget.settle(second, None, None)  # nobody knows, so all of it is spent
    budget.keep()
    assert books.days["2026-11-26"] == (2, 460, (50 * 1 + 10 * 2 + 100 + 600) / 1e6)
    assert books.budget(tokens=1000).reserve({"max_tokens": 500}, 100) is None
    books.today = "2026-11-27"
    assert budget.reserve({"max_tokens": 500}, 100) is not None


def test_what_is_set_aside_is_spent_by_a_process_that_is_killed() -> None:
    books = Books()
    budget = books.budget(calls=1)
    assert budget.reserve({}, 1) is not None
    budget.keep()
    assert books.budget(calls=1).reserve({}, 1) is None


def test_dollars_are_counted_by_the_prices() -> None:
    books = Books()
    budget = books.budget(dollars=0.0005)
    assert budget.reserve({"max_tokens": 200}, 100) is not None  # 100 + 2 · 200 = 500 millionths
    assert budget.reserve({"max_tokens": 1}, 1) is None


@given(salt=st.text(max_size=5), cluster=st.text(max_size=5), small=st.floats(0, 1), large=st.floats(0, 1))
def test_a_larger_share_takes_sessions_in_and_throws_none_out(
    salt: str, cluster: str, small: float, large: float
) -> None:
    small, large = sorted((small, large))
    assert below(small, "mirror", salt, cluster) <= below(large, "mirror", salt, cluster)
    assert not below(0.0, "mirror", salt, cluster)
    assert below(1.0, "mirror", salt, cluster)


def test_the_draw_takes_its_share_and_the_arm_does_not_depend_on_it() -> None:
    names = [f"s{i}" for i in range(4000)]
    mirrored = [below(0.3, "mirror", "a", n) for n in names]
    arms = [below(0.5, "split", "a", n) for n in names]
    assert abs(sum(mirrored) / 4000 - 0.3) < 0.03
    among = [arm for arm, taken in zip(arms, mirrored, strict=True) if taken]
    assert abs(sum(among) / len(among) - 0.5) < 0.06
    assert mirrored != [below(0.3, "mirror", "b", n) for n in names]
