"""What people's labels do to a judge's guard, and what ties and vetoes do to a verdict."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harness import policy
from harness.records import Comparison, Evidence, Guard, HumanDraw, HumanLabels, MetricSpec, PairedScore, Score

METRIC = MetricSpec("preference")
N, LABELS = 400, 200
GUARD = Guard("judged", "preference", margin=0.1, labels=LABELS)


def pair(i: int, difference: float | None) -> PairedScore:
    """A pair with a judge's preference; a tie for None."""
    if difference is None:
        return PairedScore(f"s{i}", "", (), Score.tied(), Score.tied())
    return PairedScore(f"s{i}", "", (), Score.of((1 - difference) / 2), Score.of((1 + difference) / 2))


def evidence(
    judged: np.ndarray, people: np.ndarray, *, labels: int = LABELS, untold: int = 0, asked: int = N
) -> Evidence:
    """Judged pairs, of which `labels` draws were shown to people, who could not tell in the first `untold` of them."""
    rng = np.random.default_rng(5)
    draws = [
        HumanDraw(f"s{i}", None if t < untold else float(people[i])) for t, i in enumerate(rng.integers(N, size=labels))
    ]
    human = HumanLabels({f"s{i}": 1 / N for i in range(N)}, tuple(draws))
    pairs = [pair(i, float(judged[i])) if i < asked else PairedScore(f"s{i}") for i in range(N)]
    return Evidence("judged", METRIC, tuple(pairs), human if labels else None)


def biased() -> tuple[np.ndarray, np.ndarray]:
    """People find the candidate worse by 30 points; the judge sees no difference at all."""
    people = np.where(np.arange(N) % 10 < 3, -1.0, 0.0)
    return np.zeros(N), people


def test_people_block_what_their_judge_would_have_let_pass() -> None:
    judged, people = biased()
    alone = policy.decide([evidence(judged, people)], [replace(GUARD, labels=0)])
    corrected = policy.decide([evidence(judged, people)], [GUARD])
    (found,) = corrected.comparisons
    assert (alone.verdict, corrected.verdict) == ("promote", "block")
    assert found.difference == pytest.approx(-0.3, abs=0.1)
    assert found.correction is not None
    assert (found.correction.judged, found.correction.labels, found.correction.planned) == (0.0, LABELS, LABELS)
    assert {"log_e_pass", "log_e_block"} <= set(alone.as_json()["comparisons"][0])
    told = corrected.as_json()["comparisons"][0]
    assert not {"log_e_pass", "log_e_block"} & set(told), "no bets decided it: neither e = 1 nor certainty"
    assert Comparison.from_json(json.loads(json.dumps(told))) == found


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"labels": 0}, f"none of the {LABELS} labels"),
        ({"labels": 60}, f"60 of the {LABELS} labels by people decide it: harness judge label RUN"),
        ({"asked": 390}, "the judge has yet to see 10 samples"),
        ({"untold": 30}, "nobody could tell"),
    ],
)
def test_without_all_that_was_planned_a_labelled_guard_is_undecided_and_says_why(
    given: dict[str, int], says: str
) -> None:
    verdict = policy.decide([evidence(*biased(), **given)], [GUARD])
    assert verdict.verdict == "hold"
    assert says in verdict.reasons[0]


def test_a_judged_pair_that_could_not_be_drawn_is_noticed() -> None:
    found = evidence(*biased())
    assert found.human is not None
    fewer = {f"s{i}": 1 / (N - 1) for i in range(N - 1)}
    draws = tuple(draw for draw in found.human.draws if draw.sample_id in fewer)
    human = HumanLabels(fewer, (*draws, *draws)[:LABELS])
    verdict = policy.decide([replace(found, human=human)], [GUARD])
    assert "no longer those that people's were drawn from" in verdict.reasons[0]


def test_an_open_draw_among_the_planned_ones_is_no_label() -> None:
    found = evidence(*biased())
    assert found.human is not None
    draws = (replace(found.human.draws[0], difference=None, open=True), *found.human.draws[1:])
    verdict = policy.decide([replace(found, human=replace(found.human, draws=draws))], [GUARD])
    assert f"{LABELS - 1} of the {LABELS} labels" in verdict.reasons[0]


def test_more_labels_than_were_planned_change_nothing() -> None:
    judged, people = biased()
    many = policy.decide([evidence(judged, people, labels=300)], [GUARD]).comparisons[0]
    few = policy.decide([evidence(judged, people)], [GUARD]).comparisons[0]
    assert many == few


def test_a_labelled_guard_goes_on_until_the_judge_has_seen_all() -> None:
    table = policy.Table(evidence(np.full(N, -1.0), np.full(N, -1.0), asked=300))
    assert policy.is_open(table, GUARD, block_alpha=0.05)
    assert not policy.is_open(table, replace(GUARD, labels=0), block_alpha=0.05)


def test_a_judge_of_another_orientation_is_corrected_the_same_way() -> None:
    judged, people = biased()
    flipped = MetricSpec("preference", higher_is_better=False)
    found = evidence(-judged, people)
    verdict = policy.decide([replace(found, metric=flipped)], [GUARD])
    assert verdict.verdict == "block"


def test_ties_count_as_no_difference_and_stay_out_of_both_means() -> None:
    pairs = tuple(pair(i, None if i % 2 else -1.0) for i in range(40))
    found = policy.decide([Evidence("judged", METRIC, pairs)], [replace(GUARD, labels=0)]).comparisons[0]
    assert (found.n_used, found.n_tied, found.n_failed) == (40, 20, 0)
    assert (found.baseline_mean, found.candidate_mean, found.difference) == (1.0, 0.0, -0.5)
    assert (found.lost, found.won) == (20, 0)


def test_one_tied_side_is_no_pair() -> None:
    assert PairedScore("s", "", (), Score.tied(), Score.of(1)).difference is None


VETO = Guard("judged", "preference", margin=0.1, required=False, veto=True)
FINE = Guard("fine", "preference", margin=0.1)


def two(difference: float) -> list[Evidence]:
    """A suite without any change, and one in which every pair changed by `difference`."""
    same, changed = (tuple(pair(i, d) for i in range(200)) for d in (0.0, difference))
    return [Evidence("fine", METRIC, same), Evidence("judged", METRIC, changed)]


def test_a_veto_blocks_once_a_regression_is_shown_and_demands_nothing_else() -> None:
    assert policy.decide(two(-1.0), [FINE, VETO]).verdict == "block"
    assert policy.decide(two(0.0), [FINE, VETO]).verdict == "promote"
    undecided = replace(VETO, estimand="population", margin=0.001)
    verdict = policy.decide(two(0.0), [FINE, undecided])
    assert (verdict.verdict, verdict.comparisons[1].outcome) == ("promote", "undecided")


def test_an_advisory_guard_has_no_veto() -> None:
    assert policy.decide(two(-1.0), [FINE, replace(VETO, veto=False)]).verdict == "promote"


def test_a_veto_shares_the_error_of_the_blocking_side_with_the_required_guards() -> None:
    assert policy.block_level(FINE, [FINE, VETO]) == FINE.alpha / 2
    assert policy.block_level(FINE, [FINE, replace(VETO, veto=False)]) == FINE.alpha
