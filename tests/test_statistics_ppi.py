"""The corrected difference: against ppi-python, by complete enumeration, and by what repeated labelling shows."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chisquare, norm

from harness.records import Estimand
from harness.statistics.ppi import (
    Corrected,
    LabelDraws,
    committed_draws,
    corrected_difference,
    corrected_outcome,
    draw_probabilities,
    labels_needed,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def judged(n: int, seed: int, *, sight: float = 0.6) -> tuple[Floats, Floats]:
    """Human and judge outcomes in {−1, 0, 1}."""
    rng = np.random.default_rng(seed)
    human = rng.choice([-1.0, 0.0, 1.0], n, p=[0.4, 0.3, 0.3])
    return human, np.where(rng.random(n) < sight, human, rng.choice([-1.0, 0.0, 1.0], n))


def labelled(human: Floats, judge: Floats, n: int, *, q: Floats | None = None, seed: bytes = b"") -> LabelDraws:
    """n committed draws, uniform unless told otherwise."""
    chances = draw_probabilities(np.ones(len(human))) if q is None else q
    pairs = committed_draws(chances, n, seed)
    return LabelDraws(pairs, human[pairs], chances)


def correct(judge: Floats, draws: LabelDraws, estimand: Estimand = "frozen", **more: object) -> Corrected:
    return corrected_difference(judge, draws, span=1.0, estimand=estimand, **more)  # type: ignore[arg-type]  # a test's shorthand


# ---------------------------------------------------------------- against others


@pytest.mark.parametrize("tuning", [0.0, 0.4, 1.0])
def test_uniform_draws_at_a_fixed_tuning_are_ppi_python(tuning: float) -> None:
    ppi = pytest.importorskip("ppi_py")
    human, judge = judged(500, 0)
    draws = labelled(human, judge, 120)
    found = correct(judge, draws, tuning=tuning)
    assert found.interval is not None
    arguments = draws.labels, judge[draws.pairs], judge
    assert found.interval.estimate == pytest.approx(float(ppi.ppi_mean_pointestimate(*arguments, lam=tuning)[0]))
    low, high = (float(end[0]) for end in ppi.ppi_mean_ci(*arguments, alpha=0.05, lam=tuning))
    theirs = ((high - low) / 2 / norm.ppf(0.975)) ** 2
    # Theirs counts the judge's mean as random, and divides by n where ours divides by n − 1.
    of_labels = theirs - np.var(tuning * judge) / 500
    assert found.error**2 == pytest.approx(of_labels * 120 / 119, rel=1e-9)


def test_the_tuning_is_near_that_of_ppi_python() -> None:
    ppi = pytest.importorskip("ppi_py")
    human, judge = judged(2000, 1)
    draws = labelled(human, judge, 300)
    best = np.cov(draws.labels, judge[draws.pairs])[0, 1] / np.var(judge[draws.pairs], ddof=1)
    found = correct(judge, draws)
    assert found.tuning == pytest.approx(best, abs=0.02)
    assert found.interval is not None
    # Theirs shrinks λ by 1 + n/N for a judge's mean that is random.
    theirs = float(ppi.ppi_mean_pointestimate(draws.labels, judge[draws.pairs], judge)[0])
    assert found.interval.estimate == pytest.approx(theirs, abs=0.01)


@pytest.mark.parametrize("tuning", [0.3, None])
def test_the_estimate_is_unbiased_over_every_possible_labelling(tuning: float | None) -> None:
    human, judge = np.array([-1.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.5, -1.0])
    q = np.array([0.1, 0.2, 0.3, 0.4])
    mean = 0.0
    for pairs in itertools.product(range(4), repeat=5):
        chosen = np.array(pairs)
        found = correct(judge, LabelDraws(chosen, human[chosen], q), tuning=tuning)
        assert found.interval is not None
        mean += float(np.prod(q[chosen])) * found.interval.estimate
    assert mean == pytest.approx(0.25, abs=1e-12)


# ---------------------------------------------------------------- errors


def test_frozen_error_is_what_repeated_labelling_shows() -> None:
    human, judge = judged(400, 2)
    q = draw_probabilities(np.abs(human - judge) + 0.2)
    found = [correct(judge, labelled(human, judge, 150, q=q, seed=bytes([k, k >> 4]))) for k in range(256)]
    estimates = [one.interval.estimate for one in found if one.interval is not None]
    assert np.mean([one.error for one in found]) == pytest.approx(np.std(estimates), rel=0.12)
    assert np.mean(estimates) == pytest.approx(human.mean(), abs=4 * np.std(estimates) / 16)


@pytest.mark.parametrize("size", [1, 5])
def test_population_error_is_what_repeated_streams_show(size: int) -> None:
    rng = np.random.default_rng(3)
    clusters = np.arange(300) // size
    estimates, errors = [], []
    for _ in range(400):
        shared = rng.choice([-1.0, 0.0, 1.0], 300)[clusters]
        human = np.where(rng.random(300) < 0.8, shared, rng.choice([-1.0, 0.0, 1.0], 300))
        judge = np.where(rng.random(300) < 0.6, human, rng.choice([-1.0, 0.0, 1.0], 300))
        q = draw_probabilities(np.where(rng.random(300) < 0.5, 1.0, 0.2))
        draws = labelled(human, judge, 200, q=q, seed=rng.bytes(8))
        found = correct(judge, draws, "population", clusters=clusters)
        assert found.interval is not None
        estimates.append(found.interval.estimate)
        errors.append(found.error**2)
        frozen = correct(judge, draws)
        assert found.error**2 == pytest.approx(frozen.error**2 + found.stream)
    assert np.mean(errors) == pytest.approx(np.var(estimates), rel=0.2)


def test_population_error_counts_pairs_that_are_never_drawn() -> None:
    rng = np.random.default_rng(16)
    estimates, errors = [], []
    for _ in range(300):
        # Half of the outputs are identical, in whole clusters; the others are mostly better.
        drawable = (rng.random(60) < 0.5)[np.arange(300) // 5]
        human = np.where(drawable, rng.choice([-1.0, 0.0, 1.0], 300, p=[0.05, 0.05, 0.9]), 0.0)
        judge = np.where(drawable, np.where(rng.random(300) < 0.7, human, 1.0), 0.0)
        q = draw_probabilities(np.ones(300), drawable=drawable)
        draws = labelled(human, judge, 200, q=q, seed=rng.bytes(8))
        found = correct(judge, draws, "population", clusters=np.arange(300) // 5)
        assert found.interval is not None
        estimates.append(found.interval.estimate)
        errors.append(found.error**2)
    assert np.mean(errors) == pytest.approx(np.var(estimates), rel=0.2)


def test_two_pairs_drawn_again_and_again_are_not_certainty() -> None:
    human, judge = np.array([1.0, -1.0, 0.0]), np.array([0.5, -0.5, 0.0])
    pairs = np.arange(40) % 2
    assert correct(judge, LabelDraws(pairs, human[pairs], np.full(3, 1 / 3))).error > 0.1


def test_clusters_widen_a_population_and_not_a_frozen_set() -> None:
    rng = np.random.default_rng(4)
    clusters = np.arange(500) // 10
    human = rng.choice([-1.0, 0.0, 1.0], 500)[clusters]
    judge = np.where(rng.random(500) < 0.7, human, 0.0)
    draws = labelled(human, judge, 200)
    alone, together = (correct(judge, draws, "population", clusters=c) for c in (None, clusters))
    assert together.stream > 5 * alone.stream
    assert together.freedom == 49
    assert correct(judge, draws, clusters=clusters).error == correct(judge, draws).error


def test_labels_that_all_agree_with_the_judge_are_not_certainty() -> None:
    human, _ = judged(400, 5)
    found = correct(human, labelled(human, human, 100))
    assert found.interval is not None
    assert found.interval.estimate == pytest.approx(human.mean())
    # The judge could be wrong by two points in 3 % of the pairs and 100 labels show nothing of it, once in 20 times.
    assert found.interval.estimate - found.interval.low > 0.05


@pytest.mark.parametrize("tuning", [0.0, None])
def test_labels_that_are_nearly_all_ties_are_not_certainty(tuning: float | None) -> None:
    rng = np.random.default_rng(14)
    human, judge = np.zeros(400), rng.choice([-1.0, 0.0, 1.0], 400)
    human[3] = 1.0
    found = correct(judge, labelled(human, judge, 100), tuning=tuning)
    assert found.error > 0.02


def test_a_constant_offset_is_corrected_and_not_certain() -> None:
    judge = np.random.default_rng(15).choice([-0.5, 0.0, 0.5], 200)
    found = correct(judge, labelled(judge - 0.25, judge, 100))
    assert found.interval is not None
    assert found.interval.estimate == pytest.approx(judge.mean() - 0.25)
    assert found.error > 0.02


def test_rare_mistakes_to_one_side_move_the_end_on_that_side() -> None:
    human, _ = judged(1000, 6)
    judge = np.where((np.arange(1000) % 10 == 0) & (human < 1), 1.0, human)
    found = correct(judge, labelled(human, judge, 150))
    assert found.skewness < -0.05
    assert found.interval is not None
    below, above = found.interval.estimate - found.interval.low, found.interval.high - found.interval.estimate
    assert below > 1.05 * above
    mirrored = correct(-judge, labelled(-human, -judge, 150))
    assert mirrored.interval is not None
    assert (mirrored.interval.low, mirrored.interval.high) == pytest.approx((-found.interval.high, -found.interval.low))


def test_no_end_leaves_the_scale() -> None:
    human, judge = np.array([1.0, 1.0, -1.0]), np.array([0.0, 1.0, 1.0])
    found = correct(judge, LabelDraws(np.array([0, 2]), human[[0, 2]], np.full(3, 1 / 3)))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (-1.0, 1.0)


def test_a_judge_that_knows_nothing_costs_nothing() -> None:
    rng = np.random.default_rng(7)
    human, _ = judged(1000, 7)
    blind = rng.choice([-1.0, 0.0, 1.0], 1000)
    found, alone = (correct(blind, labelled(human, blind, 200), tuning=t) for t in (None, 0.0))
    assert found.tuning < 0.2
    assert found.error == pytest.approx(alone.error, rel=0.03)
    assert found.effective_labels == pytest.approx(200, rel=0.06)
    assert alone.effective_labels == pytest.approx(200, rel=0.01)


def test_a_good_judge_is_worth_labels() -> None:
    human, judge = judged(1000, 8, sight=0.9)
    found = correct(judge, labelled(human, judge, 200))
    assert found.effective_labels > 600
    assert found.distinct < found.draws == 200


def test_identical_outputs_are_known_without_a_label() -> None:
    human, judge = judged(500, 9)
    human[:250] = judge[:250] = 0.0
    q = draw_probabilities(np.ones(500), drawable=np.arange(500) >= 250)
    found = correct(judge, labelled(human, judge, 150, q=q))
    blind = correct(judge, labelled(human, judge, 150))
    assert found.interval is not None
    assert abs(found.interval.estimate - human.mean()) < 3 * found.error
    assert found.error < 0.85 * blind.error  # half of the blind draws say what was known


# ---------------------------------------------------------------- outcomes


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_labels_are_undecided(n: int) -> None:
    human, judge = judged(50, 10)
    found = correct(judge, labelled(human, judge, n))
    assert found.interval is None
    assert found.at(0.9) is None
    assert (found.draws, found.judge_mean) == (n, pytest.approx(judge.mean()))
    assert corrected_outcome(found, 1.0, 0.05, 0.05) == "undecided"


def test_an_outcome_is_read_off_the_ends_of_the_interval() -> None:
    human, judge = judged(1000, 11)
    found = correct(judge, labelled(human, judge, 200))
    passing, blocking = found.at(0.9), found.at(1 - 2 * 0.01)
    assert passing is not None
    assert blocking is not None
    assert passing.low > blocking.low
    assert corrected_outcome(found, -passing.low + 1e-9, 0.05, 0.01) == "pass"
    assert corrected_outcome(found, -passing.low - 1e-9, 0.05, 0.01) == "undecided"
    assert corrected_outcome(found, -blocking.high + 1e-9, 0.05, 0.01) == "undecided"
    assert corrected_outcome(found, -blocking.high - 1e-9, 0.05, 0.01) == "regressed"
    with pytest.raises(ValueError, match="levels"):
        corrected_outcome(found, 0.1, 0.5, 0.05)


# ---------------------------------------------------------------- draws


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    q = draw_probabilities(np.arange(1.0, 40.0))
    longer = committed_draws(q, 500, b"judge and pairs")
    assert longer[:80].tolist() == committed_draws(q, 80, b"judge and pairs").tolist()
    assert longer.tolist() != committed_draws(q, 500, b"another judge").tolist()
    assert committed_draws(np.full(10, 0.1), 8, b"pinned").tolist() == [9, 2, 0, 6, 4, 8, 8, 9]


def test_draws_follow_their_probabilities_and_never_take_what_cannot_be_drawn() -> None:
    q = np.array([0.0, 0.1, 0.0, 0.25, 0.05, 0.6, 0.0])
    counts = np.bincount(committed_draws(q, 20_000, b"many"), minlength=7)
    assert counts[q == 0].tolist() == [0, 0, 0]
    assert chisquare(counts[q > 0], 20_000 * q[q > 0]).pvalue > 0.001


def test_probabilities_are_partly_uniform_and_partly_in_proportion_to_the_guess() -> None:
    guess, drawable = np.array([1.0, 3.0, 0.0, 9.0]), np.array([True, True, True, False])
    found = draw_probabilities(guess, floor=0.4, drawable=drawable)
    assert found.tolist() == pytest.approx([0.4 / 3 + 0.6 / 4, 0.4 / 3 + 0.6 * 3 / 4, 0.4 / 3, 0.0])
    assert draw_probabilities(np.zeros(4)).tolist() == [0.25] * 4
    with pytest.raises(ValueError, match="0 pairs can be drawn of 4"):
        draw_probabilities(guess, drawable=np.zeros(4, dtype=bool))
    for bad, floor in ((np.array([-1.0, 2.0]), 0.5), (np.array([np.nan, 2.0]), 0.5), (np.ones(2), 0.0)):
        with pytest.raises(ValueError, match="floor"):
            draw_probabilities(bad, floor=floor)


def test_a_right_guess_narrows_the_interval() -> None:
    human, judge = judged(1000, 12, sight=0.9)
    q = draw_probabilities((human != judge) * 1.0 + 0.05, floor=0.3)
    uniform, active = (
        np.mean([correct(judge, labelled(human, judge, 150, q=p, seed=bytes([k]))).error for k in range(20)])
        for p in (None, q)
    )
    assert active < 0.8 * uniform


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": np.array([2.0, 0.0])}, "span"),
        ({"labels": np.array([np.nan, 0.0])}, "span"),
        ({"labels": np.array([1.0])}, "2 draws and 1 labels"),
        ({"pairs": np.array([0, 3])}, "cannot be drawn"),
        ({"pairs": np.array([0, 2])}, "cannot be drawn"),
        ({"probabilities": np.array([0.5, 0.4, 0.0])}, "sum to 1"),
        ({"probabilities": np.array([0.5, 0.5])}, "2 probabilities"),
        ({"judge": np.array([1.0, 0.0, 1.0])}, "identical outputs"),
        ({"judge": np.array([1.0, 3.0, 0.0])}, "span"),
        ({"tuning": 1.5}, "tuning"),
        ({"clusters": np.array([0, 1])}, "clusters for 2"),
        ({"clusters": np.array([0, 0, 0])}, "two clusters"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(change: dict[str, object], complaint: str) -> None:
    given: dict[str, object] = {
        "judge": np.array([1.0, -1.0, 0.0]),
        "pairs": np.array([0, 1]),
        "labels": np.array([1.0, 0.0]),
        "probabilities": np.array([0.5, 0.5, 0.0]),
        "tuning": None,
        "clusters": None,
    } | change
    draws = LabelDraws(given["pairs"], given["labels"], given["probabilities"])  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match=complaint):
        correct(given["judge"], draws, "population", tuning=given["tuning"], clusters=given["clusters"])  # type: ignore[arg-type]  # the same


# ---------------------------------------------------------------- planning


def test_labels_needed_are_the_fewest_that_reach() -> None:
    from scipy.special import stdtrit

    for spread, reach, power in ((0.6, 0.1, 0.5), (1.3, 0.2, 0.8), (0.05, 0.3, 0.5)):
        n = labels_needed(spread, reach, alpha=0.025, power=power, stream=1e-4)
        assert n is not None

        def seen(n: int, spread: float = spread, power: float = power) -> float:
            return float(stdtrit(n - 1, 0.975) + stdtrit(n - 1, power)) * math.sqrt(spread**2 / n + 1e-4)

        assert seen(n) <= reach
        assert n == 2 or seen(n - 1) > reach


def test_no_number_of_labels_makes_up_for_a_short_stream() -> None:
    assert labels_needed(0.6, 0.1, alpha=0.05, stream=0.01) is None
    with pytest.raises(ValueError, match="spread"):
        labels_needed(math.inf, 0.1, alpha=0.05)


def test_a_plan_made_from_a_pilot_has_the_width_that_was_asked_for() -> None:
    human, judge = judged(3000, 13)
    pilot = correct(judge, labelled(human, judge, 100, seed=b"pilot"))
    n = labels_needed(pilot.spread, 0.06, alpha=0.025)
    assert n is not None
    found = correct(judge, labelled(human, judge, n, seed=b"plan"))
    assert found.interval is not None
    assert (found.interval.high - found.interval.low) / 2 == pytest.approx(0.06, rel=0.15)
