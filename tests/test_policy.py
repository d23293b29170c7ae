"""From evidence to the verdict: what promotes, what blocks, what holds, and what may never tip the balance."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from harness.policy import Table, block_level, compare, compare_all, decide, is_open, observe, stopping_point
from harness.records import Check, Comparison, Evidence, Guard, MetricSpec, PairedScore, Score, Verdict
from harness.statistics.betting import log_wealth
from harness.statistics.ordering import commit_order

ACCURACY = MetricSpec("accuracy")
ERRORS = MetricSpec("errors", higher_is_better=False)
GUARD = Guard("math", "accuracy")
FAILED = Score.failed("timeout")


def pair(
    index: int, baseline: float | None, candidate: float | None, *, cluster: str = "", tags: Sequence[str] = ()
) -> PairedScore:
    """One asked pair; None stands for a failure."""
    sides = [FAILED if value is None else Score.of(value) for value in (baseline, candidate)]
    return PairedScore(f"s{index}", cluster, tuple(tags), *sides)


def evidence(pairs: Iterable[PairedScore], *, metric: MetricSpec = ACCURACY, suite: str = "math") -> Evidence:
    return Evidence(suite, metric, tuple(pairs))


def scores(n: int, lost: int, won: int, *, failed: int = 0, seed: int = 0) -> list[PairedScore]:
    """n pairs in random order of which so many got worse, got better, failed; the rest stay at 1."""
    kinds = [(1.0, 0.0)] * lost + [(0.0, 1.0)] * won + [(1.0, None)] * failed + [(1.0, 1.0)] * (n - lost - won - failed)
    order = np.random.default_rng(seed).permutation(n)
    return [pair(i, *kinds[k]) for i, k in enumerate(order)]


def unasked(pairs: Iterable[PairedScore]) -> list[PairedScore]:
    return [replace(p, baseline=None, candidate=None) for p in pairs]


def only(verdict: Verdict) -> Comparison:
    (comparison,) = verdict.comparisons
    return comparison


# ---------------------------------------------------------------- the verdict


@pytest.mark.parametrize(
    ("lost", "won", "verdict"), [(0, 0, "promote"), (3, 0, "promote"), (4, 0, "block"), (30, 2, "block")]
)
def test_a_complete_frozen_guard_promotes_or_blocks(lost: int, won: int, verdict: str) -> None:
    result = decide([evidence(scores(200, lost, won))], [GUARD])
    assert result.verdict == verdict
    assert len(result.reasons) == 1
    assert f"{lost} lost, {won} won, 200 of 200 samples used" in result.reasons[0]


def test_every_required_guard_must_pass_and_one_that_regressed_blocks() -> None:
    good, bad = evidence(scores(300, 0, 0)), evidence(scores(300, 60, 0), suite="code")
    guards = [GUARD, replace(GUARD, suite="code")]
    assert decide([good, evidence(scores(300, 2, 2), suite="code")], guards).verdict == "promote"
    blocked = decide([good, bad], guards)
    assert blocked.verdict == "block"
    assert [c.outcome for c in blocked.comparisons] == ["pass", "regressed"]
    assert all("code/accuracy" in reason for reason in blocked.reasons)


def test_an_undecided_guard_holds_unless_another_regressed() -> None:
    half = scores(300, 9, 9)
    undecided = evidence([*half[:30], *unasked(half[30:])], suite="code")
    guards = [GUARD, replace(GUARD, suite="code")]
    held = decide([evidence(scores(300, 0, 0)), undecided], guards)
    assert held.verdict == "hold"
    assert "code/accuracy is undecided" in held.reasons[0]
    blocked = decide([evidence(scores(300, 60, 0)), undecided], guards)
    assert blocked.verdict == "block"
    assert len(blocked.reasons) == 2


def test_advisory_guards_never_change_the_verdict() -> None:
    bad, advisory = evidence(scores(300, 60, 0), suite="style"), replace(GUARD, suite="style", required=False)
    good = evidence(scores(300, 0, 0))
    result = decide([bad, good], [advisory, GUARD])
    assert result.verdict == "promote"
    assert [(c.suite, c.outcome) for c in result.comparisons] == [("math", "pass"), ("style", "regressed")]
    assert decide([bad], [advisory]).verdict == "hold"
    assert "no required guard" in decide([bad], [advisory]).reasons[0]


def test_a_failed_check_and_an_interruption_hold() -> None:
    good, bad = evidence(scores(300, 0, 0)), evidence(scores(300, 60, 0))
    checks = [Check("golden-lock", True, ""), Check("adapter-active", False, "logits equal the base's")]
    for table in (good, bad):
        held = decide([table], [GUARD], checks)
        assert held.verdict == "hold"
        assert held.reasons == ("pre-flight check adapter-active failed: logits equal the base's",)
    assert decide([good], [GUARD], stopped=["out of time"]).reasons == ("out of time",)
    assert decide([good], [GUARD], stopped=["out of time"]).verdict == "hold"
    assert decide([bad], [GUARD], stopped=["out of time"]).verdict == "block"  # shown before the interruption


def test_nothing_asked_holds_and_says_so() -> None:
    held = decide([evidence(unasked(scores(50, 0, 0)))], [GUARD])
    assert held.verdict == "hold"
    assert "no sample was asked" in held.reasons[0]
    empty = decide([evidence([])], [GUARD])
    assert empty.verdict == "hold"
    assert only(empty).interval is None


# ---------------------------------------------------------------- failures and what was not asked


def test_failures_remove_the_pair_and_are_counted() -> None:
    comparison = only(decide([evidence(scores(200, 2, 1, failed=4))], [GUARD]))
    assert (comparison.n, comparison.n_used, comparison.n_failed) == (200, 196, 4)
    assert comparison.difference == pytest.approx(-1 / 196)
    assert comparison.outcome == "pass"
    assert comparison.reason == ""


def test_more_failures_than_allowed_decide_nothing_in_either_direction() -> None:
    for lost in (0, 100):
        held = decide([evidence(scores(200, lost, 0, failed=5))], [GUARD])
        assert held.verdict == "hold"
        assert only(held).outcome == "undecided"
        assert "5 of 200 pairs failed (2.5%), more than the 2.0% allowed" in held.reasons[0]
    assert decide([evidence(scores(200, 0, 0, failed=5))], [replace(GUARD, max_failures=0.03)]).verdict == "promote"


def test_a_side_that_failed_counts_like_both() -> None:
    kinds = [pair(0, None, 1.0), pair(1, 1.0, None), pair(2, None, None), pair(3, 1.0, 1.0)]
    comparison = only(decide([evidence(kinds)], [replace(GUARD, max_failures=0.9)]))
    assert (comparison.n_used, comparison.n_failed, comparison.baseline_mean) == (1, 3, 1.0)


def test_all_pairs_failed_is_undecided_even_where_any_failure_is_allowed() -> None:
    held = decide([evidence(scores(5, 0, 0, failed=5))], [replace(GUARD, max_failures=0.999)])
    assert held.verdict == "hold"
    assert "no sample was scored on both sides" in held.reasons[0]


def test_a_cluster_counts_only_when_all_of_it_was_asked() -> None:
    pairs = [pair(i, 1.0, 0.0, cluster=f"c{i // 3}") for i in range(9)]
    seen = observe(Table(evidence([*pairs[:5], *unasked(pairs[5:])])), None)
    assert list(seen.draws.sums) == [-3.0]
    assert list(seen.draws.sizes) == [3]
    assert (seen.asked, seen.total, seen.weight, len(seen.baseline)) == (3, 9, 9, 3)


def test_a_failure_in_a_cluster_leaves_the_rest_of_it() -> None:
    pairs = [pair(0, 1.0, 0.0, cluster="c"), pair(1, 1.0, None, cluster="c"), pair(2, 0.0, 1.0)]
    seen = observe(Table(evidence(pairs)), None)
    assert list(seen.draws.sums) == [-1.0, 1.0]
    assert list(seen.draws.scored) == [1, 1]
    assert list(seen.draws.sizes) == [2, 1]
    assert seen.failed == 1


def test_a_cluster_may_not_be_mistaken_for_a_sample_of_the_same_name() -> None:
    seen = observe(Table(evidence([pair(0, 1.0, 1.0, cluster="s1"), pair(1, 1.0, 1.0)])), None)
    assert list(seen.draws.sizes) == [1, 1]


# ---------------------------------------------------------------- directions and demands


def test_lower_is_better_turns_the_sign_and_keeps_the_scores() -> None:
    guard = replace(GUARD, metric="errors")
    rising = [pair(i, 0.0, float(i % 4 == 0)) for i in range(200)]
    falling = [pair(i, float(i % 4 == 0), 0.0) for i in range(200)]
    worse = decide([evidence(rising, metric=ERRORS)], [guard])
    assert worse.verdict == "block"
    assert only(worse).difference == pytest.approx(-0.25)
    assert (only(worse).baseline_mean, only(worse).candidate_mean) == (0.0, 0.25)
    assert (only(worse).lost, only(worse).won) == (50, 0)
    assert decide([evidence(falling, metric=ERRORS)], [guard]).verdict == "promote"


def test_a_demanded_improvement_must_be_shown() -> None:
    guard = replace(GUARD, must_improve=0.05)
    won = {10: "block", 11: "promote"}  # of 200: exactly 5 points is not more than 5 points
    for count, verdict in won.items():
        result = decide([evidence(scores(200, 0, count))], [guard])
        assert result.verdict == verdict
        assert "demanded: gain > 5.0 pts" in result.reasons[0]
    assert decide([evidence(scores(200, 0, 0))], [guard]).verdict == "block"


def test_a_metric_in_points_of_a_hundred_takes_its_margin_in_them() -> None:
    metric = MetricSpec("accuracy", bounds=(0.0, 100.0))
    pairs = [pair(i, 50.0, 50.0 - (i % 2)) for i in range(100)]
    for margin, verdict in ((0.6, "promote"), (0.5, "block"), (0.4, "block")):
        result = decide([evidence(pairs, metric=metric)], [replace(GUARD, margin=margin)])
        assert result.verdict == verdict
        assert only(result).interval == pytest.approx((-0.5, -0.5))
        assert only(result).forgetting is None  # the scores are not right or wrong


# ---------------------------------------------------------------- several guards, slices


def test_blocks_are_corrected_over_the_guards_of_the_same_standing() -> None:
    guards = [replace(GUARD, suite=s) for s in "abcd"] + [replace(GUARD, suite=s, required=False) for s in "ef"]
    assert block_level(guards[0], guards) == pytest.approx(0.05 / 4)
    assert block_level(guards[-1], guards) == pytest.approx(0.05 / 2)


def test_the_correction_is_used() -> None:
    pairs = scores(2000, 300, 60)
    seen = [*pairs[:400], *unasked(pairs[400:])]
    table = Table(evidence(seen))
    strength = compare(table, GUARD, block_alpha=0.05).log_e_block
    assert strength is not None
    assert strength > math.log(1 / 0.05)
    assert compare(table, GUARD, block_alpha=0.05).outcome == "regressed"
    assert compare(table, GUARD, block_alpha=math.exp(-strength) / 2).outcome == "undecided"


def sliced(n: int) -> list[PairedScore]:
    """The slice "hard", a tenth of the samples, got much worse; everything else stayed."""
    return [
        pair(i, 1.0, float(i % 10 != 0 or i % 20 == 0), tags=["hard"] if i % 10 == 0 else ["easy"]) for i in range(n)
    ]


def test_a_slice_advises_unless_it_is_critical() -> None:
    table, whole = evidence(sliced(400)), replace(GUARD, margin=0.1)
    advisory = replace(whole, slice="hard", required=False)
    result = decide([table], [whole, advisory])
    assert result.verdict == "promote"
    assert result.comparisons[1].outcome == "regressed"
    assert (result.comparisons[1].n, result.comparisons[1].n_used) == (40, 40)
    critical = decide([table], [whole, replace(advisory, required=True)])
    assert critical.verdict == "block"
    assert "math/accuracy[hard] regressed" in critical.reasons[0]


def test_a_slice_that_nothing_carries_is_undecided() -> None:
    held = decide([evidence(sliced(40))], [replace(GUARD, slice="absent")])
    assert held.verdict == "hold"
    assert only(held).n == 0


def test_a_slice_of_clusters_weighs_them_by_their_whole_size() -> None:
    pairs = [pair(i, 1.0, 0.0, cluster="ab"[i % 2], tags=["x"] if i < 3 else []) for i in (0, 2, 4, 1, 3, 5, 7)]
    seen = observe(Table(evidence([*pairs, pair(9, 1.0, 1.0, cluster="c")])), "x")
    assert list(seen.draws.sizes) == [3, 4]  # c is not in the slice
    assert list(seen.draws.sums) == [-2.0, -1.0]
    assert (seen.total, seen.weight, seen.exhausted) == (3, 7, True)


def test_clustered_slices_pass_wrongly_no_more_often_than_promised() -> None:
    # Large clusters lose and small ones win; the slice cuts through the large ones. Its mean is exactly −δ.
    clusters = {f"big{c}": [(1.0, 0.0, i < 3) for i in range(6)] for c in range(4)}
    clusters |= {f"small{c}": [(0.0, 1.0, True)] if c < 4 else [(1.0, 1.0, True)] for c in range(16)}
    plain = [
        pair(index, before, after, cluster=name, tags=["x"] if inside else [])
        for index, (name, (before, after, inside)) in enumerate((n, m) for n, ms in clusters.items() for m in ms)
    ]
    marked = [p for p in plain if "x" in p.tags]
    delta = -sum(p.values[1] - p.values[0] for p in marked if p.values) / len(marked)
    guard, runs, passed = replace(GUARD, slice="x", margin=delta, alpha=0.25), 150, 0
    for run in range(runs):
        order = commit_order([p.cluster for p in plain], len(plain), str(run).encode(), size_biased=True)
        shown = [plain[i] for i in order]
        last = shown[-1].cluster
        table = Table(
            evidence([*(p for p in shown if p.cluster != last), *unasked(p for p in shown if p.cluster == last)])
        )
        passed += compare(table, guard, block_alpha=1e-9).outcome == "pass" if not observe(table, "x").exhausted else 0
    assert passed / runs <= 0.25 + 3 * math.sqrt(0.25 * 0.75 / runs)


def test_clusters_of_which_a_metric_concerns_a_part_weigh_as_much_as_the_order_drew_them_by() -> None:
    """Over all orders, each as likely as successive sampling makes it, wealth against a true null is 1 on average."""
    whole, differences = {"big": 12, **{f"s{i}": 1 for i in range(4)}}, [1.0, -0.3, -0.3, -0.2, -0.2]
    named = [
        PairedScore(name, name, (), Score.of(0.5), Score.of(0.5 + d / 2))
        for name, d in zip(whole, differences, strict=True)
    ]
    mean = math.fsum(differences) / 2 / len(named)

    def expected(sizes: Mapping[str, int]) -> float:
        total = 0.0
        for order in itertools.permutations(named):
            left = np.cumsum([whole[p.cluster] for p in order][::-1])[::-1]
            chance = float(np.prod([whole[p.cluster] / n for p, n in zip(order, left, strict=True)]))
            seen = observe(Table(Evidence("s", ACCURACY, order, sizes=sizes)), None)
            assert seen.weight == sum({**dict.fromkeys(whole, 1), **sizes}.values())
            sums, scored, weights = seen.draws.sums, seen.draws.scored.astype(float), seen.draws.sizes.astype(float)
            path = log_wealth(sums, scored, weights, mean, gap=0.02, total=float(seen.weight), cap=1.0)
            total += chance * math.exp(path[2])
        return total

    assert expected({"big": 12}) == pytest.approx(1.0)
    assert expected({}) > 1.1, "by the samples that it concerns it would be no martingale"


# ---------------------------------------------------------------- when to stop


def test_asking_goes_on_only_while_something_can_change() -> None:
    same = scores(2000, 0, 0)
    level = GUARD.alpha
    assert is_open(Table(evidence(unasked(same))), GUARD, block_alpha=level)
    assert is_open(Table(evidence([*same[:20], *unasked(same[20:])])), GUARD, block_alpha=level)
    assert not is_open(Table(evidence([*same[:500], *unasked(same[500:])])), GUARD, block_alpha=level)
    assert not is_open(Table(evidence(same)), GUARD, block_alpha=level)


def test_more_failures_than_the_whole_set_allows_close_a_guard() -> None:
    broken = [pair(i, 1.0, None) for i in range(5)]
    rest = unasked(pair(i, 1.0, 1.0) for i in range(5, 200))
    assert not is_open(Table(evidence([*broken, *rest])), GUARD, block_alpha=0.05)
    assert is_open(Table(evidence([*broken[:4], *unasked(broken[4:]), *rest])), GUARD, block_alpha=0.05)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (20, 20), (300, 10)])
def test_the_stopping_point_is_where_a_run_that_looks_after_every_pair_would_stop(lost: int, won: int) -> None:
    pairs = scores(1500, lost, won)
    stop = stopping_point(Table(evidence(pairs)), GUARD, block_alpha=0.05)
    assert 0 < stop < 1500
    for seen, still_open in ((stop - 1, True), (stop, False)):
        table = Table(evidence([*pairs[:seen], *unasked(pairs[seen:])]))
        assert is_open(table, GUARD, block_alpha=0.05) == still_open
    whole = compare(Table(evidence(pairs)), GUARD, block_alpha=0.05).outcome
    assert compare(table, GUARD, block_alpha=0.05).outcome == whole


def test_the_stopping_point_counts_samples_of_clusters() -> None:
    pairs = [replace(p, cluster=f"c{i // 4}") for i, p in enumerate(scores(2000, 0, 0))]
    stop = stopping_point(Table(evidence(pairs)), GUARD, block_alpha=0.05)
    assert 0 < stop < 2000
    assert stop % 4 == 0


def test_a_close_case_and_one_with_failures_run_to_the_end() -> None:
    assert stopping_point(Table(evidence(scores(40, 1, 0))), GUARD, block_alpha=0.05) == 40
    broken = [pair(i, 1.0, None) for i in range(10)] + scores(990, 0, 0)
    assert stopping_point(Table(evidence(broken)), replace(GUARD, max_failures=0.012), block_alpha=0.05) == 1000


# ---------------------------------------------------------------- what is reported beside it


def test_a_frozen_verdict_that_another_draw_might_not_repeat_is_fragile() -> None:
    assert only(decide([evidence(scores(200, 10, 8))], [GUARD])).fragile
    assert not only(decide([evidence(scores(200, 60, 0))], [GUARD])).fragile
    assert not only(decide([evidence(scores(200, 10, 8))], [replace(GUARD, estimand="population")])).fragile


def test_the_reported_numbers_are_those_of_the_complete_pairs() -> None:
    comparison = only(decide([evidence(scores(400, 12, 4, failed=2))], [replace(GUARD, margin=0.05)]))
    assert (comparison.lost, comparison.won) == (12, 4)
    assert comparison.mcnemar_p == pytest.approx(0.0768, abs=1e-3)
    assert comparison.forgetting == pytest.approx(8 / 398)
    low, high = comparison.population_interval or (0, 0)
    assert low < -8 / 398 < high
    assert comparison.smallest_detectable_drop == pytest.approx(2.486 * math.sqrt(16 / 398) / math.sqrt(398), rel=0.02)


def test_samples_that_change_together_resolve_less_and_have_no_mcnemar_test() -> None:
    groups = [(1.0, 0.0)] * 3 + [(0.0, 1.0)] * 2 + [(1.0, 1.0)] * 35
    copies = [pair(10 * c + i, *both, cluster=f"c{c}") for c, both in enumerate(groups) for i in range(9)]
    once = [pair(c, *both) for c, both in enumerate(groups)]
    clustered, single = (only(decide([evidence(pairs)], [GUARD])) for pairs in (copies, once))
    assert clustered.smallest_detectable_drop == pytest.approx(single.smallest_detectable_drop)
    assert (clustered.lost, clustered.mcnemar_p) == (27, None)
    assert single.mcnemar_p is not None


def test_mcnemar_waits_for_the_whole_set() -> None:
    pairs = scores(400, 12, 4)
    partial = evidence([*pairs[:100], *unasked(pairs[100:])])
    assert only(decide([partial], [GUARD])).mcnemar_p is None


def test_a_verdict_is_plain_json_whatever_was_seen() -> None:
    sets = [
        [],
        unasked(scores(9, 0, 0)),
        scores(1, 0, 0),
        scores(3, 0, 0, failed=3),
        scores(60, 60, 0),
        scores(60, 0, 60),
        [*scores(60, 60, 0)[:50], *unasked(scores(60, 60, 0)[50:])],
        [pair(i, 1.0, 0.0, cluster="one") for i in range(5)],
    ]
    for pairs in sets:
        for guard in (GUARD, replace(GUARD, estimand="population"), replace(GUARD, must_improve=0.9)):
            verdict = decide([evidence(pairs)], [guard])
            document = json.loads(json.dumps(verdict.as_json(), allow_nan=False))
            assert document["verdict"] == verdict.verdict


def test_a_hypothesis_that_became_impossible_is_shown_without_infinity() -> None:
    comparison = only(decide([evidence(scores(60, 60, 0))], [GUARD]))
    assert comparison.outcome == "regressed"
    assert comparison.log_e_block is None
    assert comparison.log_e_pass is not None


def test_comparing_many_guards_of_one_table_keeps_their_order_within_their_standing() -> None:
    guards = [replace(GUARD, slice="easy", required=False), GUARD, replace(GUARD, slice="hard")]
    labels = [c.label for c in compare_all([evidence(sliced(60))], guards)]
    assert labels == ["math/accuracy", "math/accuracy[hard]", "math/accuracy[easy]"]


def test_a_population_is_bounded_by_all_its_clusters_not_by_those_seen() -> None:
    """Rare large clusters that are all lost: with a bound from the clusters seen so far the first look would pass."""
    big = 100
    few = [PairedScore(f"u{i}", baseline=Score.of(1), candidate=Score.of(1)) for i in range(40)]
    unasked = [PairedScore(f"b{i}", cluster="big") for i in range(big)]
    table = Table(Evidence("s", MetricSpec("m"), (*few, *unasked)))
    guard = Guard("s", "m", margin=0.3, estimand="population")
    assert observe(table, None).largest == big
    assert compare(table, guard, block_alpha=0.05).outcome == "undecided"
    alone = Table(Evidence("s", MetricSpec("m"), tuple(few)))
    assert compare(alone, guard, block_alpha=0.05).outcome == "pass"
    capped = replace(guard, largest_cluster=big)
    assert compare(alone, capped, block_alpha=0.05).outcome == "undecided", "that none was drawn is luck as well"
