"""The books of a mirror and the gate that reads them: they add up, sessions come in order, verdicts follow evidence."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, InfrastructureError
from harness.mirror.calls import Asked
from harness.mirror.comparer import kinds_of
from harness.mirror.config import Loaded
from harness.mirror.evidence import Evidences, coverage, kinds_check, no_difference
from harness.mirror.frames import Job
from harness.mirror.ledger import Ledger
from harness.records import Score, Verdict
from tests.mirroring import adds_up, load, settings

SERVERS = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"


def loaded(folder: Path, *, aa: bool = False, **more: Any) -> Loaded:
    return load(folder, settings(*SERVERS, **more), aa=aa)


def put(ledger: Ledger, session: str, scores: Sequence[tuple[float | None, float | None]], *, arm: str = "champion",
        metric: str = "complied", complete: bool = True, now: float = 1000.0) -> None:  # fmt: skip
    """A session with these scores of (champion, candidate); None is a failure."""
    held = ledger.session(session, arm, now)
    for i, sides in enumerate(scores):
        ledger.enter(held, now)
        both = tuple(Score.failed("x") if v is None else Score.of(v) for v in sides)
        ledger.add_pair(f"{session}-{i}", held.place, {metric: (both[0], both[1])})
        ledger.count("t", "received")
        ledger.count("t", "compared")
        ledger.kinds(["all"], compared=True)
    if complete:
        ledger.complete(now, -1, 10**9, 100, ())


def verdict(config: Loaded, ledger: Ledger) -> Verdict:
    evidence = Evidences(config, ledger)
    evidence.grow()
    said = evidence.now()()
    evidence.note(said)
    return said


def test_calls_under_way_at_a_kill_are_booked_as_interrupted_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "c")
    ledger.open_epoch("one")
    ledger.count("a", "received", 5)
    ledger.count("a", "compared", 3)
    ledger.count("b", "received", 2)
    ledger.count("b", "queue_full", 2)
    assert not adds_up(ledger.counts())
    assert ledger.open_epoch("one") == (0, [])
    ledger.close()
    ledger = Ledger(tmp_path, "c")
    for _ in range(2):
        ledger.open_epoch("two")
        assert ledger.counts("a") == {"received": 5, "compared": 3, "interrupted": 2}
        assert "interrupted" not in ledger.counts("b")
    ledger.close()


def test_a_process_that_starts_again_knows_which_jobs_and_counts_were_booked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "c")
    ledger.open_epoch("one")
    for job in (3, 4, 9):
        ledger.finish("one", job)
    ledger.set_fact("counts", "7")
    ledger.forget_finished("one", 4)
    ledger.close()
    ledger = Ledger(tmp_path, "c")
    assert ledger.open_epoch("one") == (7, [4, 9])
    assert ledger.open_epoch("two") == (0, [])
    ledger.close()


def test_books_of_another_comparison_or_in_use_are_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "one")
    with pytest.raises(InfrastructureError, match="another mirror"):
        Ledger(tmp_path, "one", patience=0.2)
    ledger.close()
    with pytest.raises(ConfigError, match="another comparison"):
        Ledger(tmp_path, "two", patience=0.2)


def test_sessions_enter_in_order_of_their_first_call_and_none_behind_an_open_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "c")
    for place, (name, last) in enumerate((("a", 10.0), ("b", 500.0), ("c", 20.0)), 1):
        session = ledger.session(name, "champion", last)
        assert session.place == place
    ledger.complete(520.0, 100.0, 10**6, 99, ())
    assert [s.cluster for s, _ in ledger.settled(0)] == ["a"]
    ledger.complete(700.0, 100.0, 10**6, 99, busy=[2])
    assert [s.cluster for s, _ in ledger.settled(0)] == ["a"]
    ledger.complete(700.0, 100.0, 10**6, 99, ())
    assert [s.cluster for s, _ in ledger.settled(1)] == ["b", "c"]
    ledger.close()


def test_a_session_is_complete_after_its_calls_or_its_time_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "c")
    full, old, fresh = (
        ledger.session(name, "champion", at) for name, at in (("full", 90.0), ("old", 10.0), ("new", 90.0))
    )
    for _ in range(2):
        ledger.enter(full, 99.0)
    ledger.touch(old.place, 99.0)
    ledger.complete(100.0, 50.0, 80.0, 2, ())
    assert [ledger.session(s.cluster, "champion", 100.0).complete for s in (full, old, fresh)] == [True, True, False]
    ledger.close()


def test_a_candidate_that_gets_worse_is_blocked_one_that_does_not_is_promoted_and_few_pairs_hold(
    tmp_path: Path,
) -> None:
    guards = {"guards": [{"metric": "complied", "margin": 0.05}]}
    for name, worse, n, expected in (("a", 0.3, 300, "block"), ("b", 0.0, 300, "promote"), ("c", 0.0, 5, "hold")):
        folder = tmp_path / name
        folder.mkdir()
        config, draw = loaded(folder, **guards), random.Random(name)
        ledger = Ledger(config.folder, config.comparison_digest())
        for i in range(n):
            put(ledger, f"s{i}", [(1.0, float(draw.random() >= worse)) for _ in range(draw.choice([1, 1, 3]))])
        said = verdict(config, ledger)
        assert said.verdict == expected, said.reasons
        assert next(c for c in said.comparisons if c.metric == "complied").n_used == n
        ledger.close()


def test_evidence_that_is_taken_up_again_says_the_same(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    ledger = Ledger(config.folder, config.comparison_digest())
    growing = Evidences(config, ledger)
    for i in range(40):
        put(ledger, f"s{i}", [(1.0, float(i % 7 > 0))] * (1 + i % 3))
        growing.grow()
    before = growing.now()()
    ledger.close()
    ledger = Ledger(config.folder, config.comparison_digest())
    assert verdict(config, ledger) == before
    ledger.close()


def test_a_session_counts_once_however_many_calls_it_has(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    ledger = Ledger(config.folder, config.comparison_digest())
    put(ledger, "long", [(1.0, 0.0)] * 8)
    put(ledger, "short", [(1.0, 1.0)])
    put(ledger, "mixed", [(1.0, 0.0), (1.0, 1.0), (None, 1.0)])
    complied = next(c for c in verdict(config, ledger).comparisons if c.metric == "complied")
    assert (complied.n_used, complied.difference) == (3, pytest.approx(-0.5))
    ledger.close()


def test_failed_calls_hold_even_where_other_calls_of_their_sessions_did_not_fail(tmp_path: Path) -> None:
    config = loaded(tmp_path, guards=[{"metric": "complied", "margin": 0.5}])
    ledger = Ledger(config.folder, config.comparison_digest())
    for i in range(100):
        put(ledger, f"s{i}", [(1.0, 1.0), (1.0, None if i % 5 == 0 else 1.0)])
    said = verdict(config, ledger)
    assert said.verdict == "hold"
    assert "failures" in said.reasons[0]
    ledger.close()


def test_too_little_coverage_holds_and_says_what_was_lost(tmp_path: Path) -> None:
    config = loaded(tmp_path, guards=[{"metric": "complied", "margin": 0.5}])
    ledger = Ledger(config.folder, config.comparison_digest())
    for i in range(60):
        put(ledger, f"s{i}", [(1.0, 1.0)])
    ledger.count("t", "received", 540)
    ledger.count("t", "sampled_out", 500)
    ledger.count("t", "queue_full", 40)
    assert coverage(ledger.counts()) == 0.6
    said = verdict(config, ledger)
    assert said.verdict == "hold"
    assert "queue_full 40" in said.reasons[0]
    ledger.close()


def test_a_kind_of_call_that_is_seldom_compared_holds() -> None:
    assert kinds_check({"all": (1000, 900), "long": (100, 85)}, 0.1).passed
    assert kinds_check({"all": (1000, 900), "long": (20, 0)}, 0.1).passed
    assert "long 70%" in kinds_check({"all": (1000, 900), "long": (100, 70)}, 0.1).detail


def test_in_a_split_the_sessions_of_both_arms_are_paired_in_order(tmp_path: Path) -> None:
    config = loaded(tmp_path, split={"weight": 0.3}, guards=[{"metric": "complied", "margin": 0.1}])
    ledger, draw = Ledger(config.folder, config.comparison_digest()), random.Random(3)
    for i in range(800):
        theirs = draw.random() < 0.3
        score = float(draw.random() >= (0.5 if theirs else 0.05))
        put(ledger, f"s{i}", [(score, score)], arm="candidate" if theirs else "champion")
    said = verdict(config, ledger)
    complied = next(c for c in said.comparisons if c.metric == "complied")
    assert 180 <= complied.n_used <= 300
    assert said.verdict == "block"
    assert complied.difference == pytest.approx(-0.45, abs=0.1)
    ledger.close()


def test_in_a_split_the_failures_of_a_small_arm_are_not_hidden_by_the_large_one(tmp_path: Path) -> None:
    config = loaded(tmp_path, split={"weight": 0.1}, guards=[{"metric": "complied", "margin": 0.5}])
    ledger = Ledger(config.folder, config.comparison_digest())
    for i in range(400):
        theirs = i % 10 == 0
        failed = theirs and i % 3 == 0  # a sixth of the candidate's calls, and 2 % of all
        put(ledger, f"s{i}", [(1.0, 1.0), (None, None) if failed else (1.0, 1.0)],
            arm="candidate" if theirs else "champion")  # fmt: skip
    said = verdict(config, ledger)
    assert said.verdict == "hold"
    assert "complied (candidate) 17.5%" in next(c.detail for c in said.checks if c.name == "failures")
    ledger.close()


@pytest.mark.parametrize(
    ("split", "asked", "arms"),
    [(True, Asked("/v1/chat/completions"), ["candidate"]), (False, Asked("/v1/chat/completions"), []),
     (True, Asked("/v1/chat/completions", obstacle="several_choices"), [])],
)  # fmt: skip
def test_in_a_split_each_arm_has_a_coverage_of_its_own(split: bool, asked: Asked, arms: list[str]) -> None:
    job = Job(1, "t", "c", "candidate", asked.path, 200, {}, 0.0, 0.1, None, "r", "", "")
    assert [kind for kind in kinds_of(job, asked, split=split) if kind in ("champion", "candidate")] == arms
    told = kinds_check({"all": (1000, 960), "champion": (900, 900), "candidate": (100, 60)}, 0.1).detail
    assert "candidate 60%" in told


def test_a_trial_passes_only_where_no_difference_either_way_is_left_possible(tmp_path: Path) -> None:
    config = loaded(tmp_path, aa=True, guards=[{"metric": "complied", "margin": 0.1}])
    ledger = Ledger(config.folder, config.comparison_digest())
    for i in range(30):
        put(ledger, f"s{i}", [(1.0, 1.0)])
    assert not no_difference(verdict(config, ledger))
    for i in range(30, 200):
        put(ledger, f"s{i}", [(1.0, 1.0)])
    assert no_difference(verdict(config, ledger))
    ledger.close()
    better = tmp_path / "better"
    better.mkdir()
    config = loaded(better, aa=True, guards=[{"metric": "complied", "margin": 0.1}])
    ledger = Ledger(config.folder, config.comparison_digest())
    for i in range(200):
        put(ledger, f"s{i}", [(0.0, float(i % 2))])
    said = verdict(config, ledger)
    assert said.verdict == "promote"
    assert not no_difference(said)
    ledger.close()


@pytest.mark.slow
def test_two_equal_models_are_blocked_in_no_more_than_alpha_of_streams_looked_at_all_the_time(tmp_path: Path) -> None:
    blocked = 0
    for stream in range(60):
        folder = tmp_path / str(stream)
        folder.mkdir()
        config, draw = loaded(folder, guards=[{"metric": "complied", "margin": 1e-4}]), random.Random(stream)
        ledger = Ledger(config.folder, config.comparison_digest())
        for i in range(150):
            easy = draw.random()  # calls of one session share how hard they are
            put(
                ledger,
                f"s{i}",
                [(float(draw.random() < easy), float(draw.random() < easy)) for _ in range(draw.choice([1, 4]))],
            )
        blocked += any(c.outcome == "regressed" for c in verdict(config, ledger).comparisons)  # of the running maximum
        ledger.close()
    assert blocked <= 7  # P(more than 7 of 60 at 5 %) < 1 %
