"""What the HTML page shows, as plain records that its template only has to lay out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness import words
from harness.records import Comparison, Score
from harness.report import Change, Item
from harness.report._text import clipped, one_line, visible

CHANGES: tuple[Change, ...] = ("lost", "won", "failed", "changed")
_COMPARED = 40_000  # characters of an output that are looked at; the rest is counted
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")  # a changed word or number is shown whole
_HEAT_STEPS = 4  # shades on either side of zero; the margin is worth two of them


@dataclass(frozen=True, slots=True)
class GuardRow:
    """One line of the table of guards."""

    label: str
    outcome: str
    mark: str
    word: str
    badges: tuple[str, ...]
    baseline: str
    candidate: str
    direction: str
    difference: str
    interval: str
    margin: str
    lost: str
    won: str
    used: str
    share: int
    failed: str
    reason: str
    more: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """One slice of the heat map; `guard` and `slice` are what the sample list is filtered by."""

    guard: str
    slice: str
    name: str
    shade: str
    outcome: str
    mark: str
    number: str
    used: str
    spoken: str


@dataclass(frozen=True, slots=True)
class TileGroup:
    """All slices of one guard."""

    label: str
    tally: str
    margin: str
    tiles: tuple[Tile, ...]


def guard_row(comparison: Comparison) -> GuardRow:
    """A comparison in words."""
    badges = (comparison.standing, *(["fragile"] if comparison.fragile else []))
    return GuardRow(
        label=one_line(comparison.label, 200),
        outcome=comparison.outcome,
        mark=words.MARK[comparison.outcome],
        word=words.outcome_word(comparison),
        badges=badges,
        baseline=words.mean(comparison.baseline_mean, comparison),
        candidate=words.mean(comparison.candidate_mean, comparison),
        direction="" if comparison.higher_is_better else "lower is better",
        difference=words.difference(comparison),
        interval=words.interval(comparison),
        margin=words.margin(comparison),
        lost=words.counted(comparison.lost, comparison),
        won=words.counted(comparison.won, comparison),
        used=words.used(comparison),
        share=round(100 * comparison.n_used / comparison.n) if comparison.n else 0,
        failed=f"{comparison.n_failed:,} failed" if comparison.n_failed else "",
        reason=one_line(comparison.reason, 600),
        more=tuple(_more(comparison)),
    )


def tile_groups(slices: Iterable[Comparison]) -> list[TileGroup]:
    """The heat map: slices grouped by guard, the worst difference first."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in slices:
        groups.setdefault((comparison.suite, comparison.metric), []).append(comparison)
    return [_tile_group(group) for group in groups.values()]


def item_record(item: Item, limit: int) -> dict[str, Any]:
    """One sample as the page's script and template read it; texts are bounded by `limit` characters."""
    baseline, candidate = _differing(item.baseline_output, item.candidate_output, limit)
    return {
        "guard": visible(f"{item.suite}/{item.metric}"),
        "id": one_line(item.sample_id, 200),
        "tags": [one_line(tag, 80) for tag in (*_cluster(item), *item.tags[:20])],
        "change": item.change,
        "prompt": clipped(item.prompt, limit),
        "target": clipped(item.target, limit),
        "baseline": baseline,
        "candidate": candidate,
        "scores": [words.score(item.baseline_score), words.score(item.candidate_score)],
        "reason": _reason(item.baseline_score, item.candidate_score),
    }


def _cluster(item: Item) -> tuple[str, ...]:
    return (f"cluster {item.cluster}",) if item.cluster else ()


def record_size(record: dict[str, Any]) -> int:
    """About how many characters a record adds to the page."""
    return len(record["prompt"]) + len(record["target"]) + sum(map(len, record["baseline"] + record["candidate"]))


# ---------------------------------------------------------------- guards


def _more(comparison: Comparison) -> Iterable[tuple[str, str]]:
    yield "Estimand", comparison.estimand
    yield "Level of the interval", words.level(comparison)
    if comparison.n_tied:
        yield "Same output, not judged", f"{comparison.n_tied:,} pairs, in neither mean"
    if comparison.correction is not None:
        told = comparison.correction
        yield "Corrected by people", f"{told.labels:,} of {told.planned:,} labels, {told.distinct:,} pairs"
        yield "The judge alone", words.signed(told.judged, comparison) + words.unit(comparison.bounds)
        yield "Reliance on the judge", f"{told.reliance:.2f}"
    if comparison.population_interval is not None:
        yield "Population interval", words.span(comparison.population_interval, comparison)
    if comparison.smallest_detectable_drop is not None:
        size = words.signed(-comparison.smallest_detectable_drop, comparison)
        yield "Smallest detectable drop", size + words.unit(comparison.bounds)
    if comparison.forgetting is not None:
        yield "Forgetting above chance", f"{100 * comparison.forgetting:.1f} %"
    if comparison.mcnemar_p is not None:
        yield "McNemar test, exact p", f"{comparison.mcnemar_p:.2g}"
    if comparison.has_e_values:
        yield "e-value for pass", _e_value(comparison.log_e_pass)
        yield "e-value for regressed", _e_value(comparison.log_e_block)


def _e_value(log_e: float | None) -> str:
    if log_e is None:
        return "certain"
    return f"{math.exp(log_e):.3g}" if abs(log_e) < 20 else f"10^{log_e / math.log(10):.0f}"


# ---------------------------------------------------------------- slices


def _tile_group(group: Sequence[Comparison]) -> TileGroup:
    ordered = sorted(group, key=lambda c: math.inf if c.difference is None else c.difference)
    margins = {words.margin(comparison) for comparison in group}
    return TileGroup(
        label=one_line(f"{group[0].suite}/{group[0].metric}", 200),
        tally=words.tally(group),
        margin=margins.pop() if len(margins) == 1 else "",
        tiles=tuple(_tile(comparison) for comparison in ordered),
    )


def _tile(comparison: Comparison) -> Tile:
    name = one_line(comparison.slice or "", 80)
    number = words.MISSING if comparison.difference is None else words.signed(comparison.difference, comparison)
    interval = words.interval(comparison)
    return Tile(
        guard=visible(f"{comparison.suite}/{comparison.metric}"),
        slice=name,
        name=name,
        shade=_shade(comparison),
        outcome=comparison.outcome,
        mark=words.MARK[comparison.outcome],
        number=number,
        used=f"{comparison.n_used:,}",
        spoken=f"{name}: {words.difference(comparison)} {interval}, {words.margin(comparison)}, "
        f"{words.outcome_word(comparison).lower()}, {words.used(comparison)} samples used",
    )


def _shade(comparison: Comparison) -> str:
    """`n4` … `z` … `p4`: the difference in halves of the margin, so that colour means harm and not mere size."""
    if comparison.difference is None:
        return "none"
    half = abs(words.threshold(comparison)) / 2 or abs(comparison.bounds[1] - comparison.bounds[0]) / 100
    step = max(-_HEAT_STEPS, min(_HEAT_STEPS, round(comparison.difference / half)))
    return "z" if step == 0 else f"{'n' if step < 0 else 'p'}{abs(step)}"


# ---------------------------------------------------------------- samples


def _reason(baseline: Score, candidate: Score) -> str:
    sides = (("baseline", baseline), ("candidate", candidate))
    return one_line("; ".join(f"{side} {s.state}: {s.reason}" for side, s in sides if s.value is None), 600)


def _differing(baseline: str, candidate: str, limit: int) -> tuple[list[str], list[str]]:
    """Both texts as [same start, differing middle, same end]; a long same part is shortened to what is near."""
    one, two = clipped(baseline, _COMPARED), clipped(candidate, _COMPARED)
    if one == two:
        return [clipped(one, limit), "", ""], [clipped(two, limit), "", ""]
    first, second = _TOKEN.findall(one), _TOKEN.findall(two)
    start = _common(first, second)
    end = _common(first[start:][::-1], second[start:][::-1])
    return _parts(first, start, end, limit), _parts(second, start, end, limit)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _parts(tokens: Sequence[str], start: int, end: int, limit: int) -> list[str]:
    stop = len(tokens) - end
    before, middle, after = ("".join(part) for part in (tokens[:start], tokens[start:stop], tokens[stop:]))
    near = max(200, limit // 4)
    if len(before) > near:
        before = f"… {len(before) - near:,} characters alike …\n{before[-near:]}"
    return [before, clipped(middle, limit), clipped(after, near)]
