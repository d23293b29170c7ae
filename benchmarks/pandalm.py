"""Recomputes how two judges agree with the humans of the PandaLM test set, and what correcting them saves.

    python -m benchmarks.pandalm --data FOLDER [--runs 2000] [--seed 0]

FOLDER (or $HARNESS_DATA) holds `judging/pandalm/{testset-v1,gpt-3.5-turbo-testset-v1,pandalm-7b-testset-v1}.json` as
https://github.com/WeOpenML/PandaLM publishes them (Wang et al. 2023, arXiv 2306.05087; Apache-2.0). The tables are part
of docs/judging-validity.md.

Outcomes are −1 where the first response is better, 0 for a tie, 1 where the second is; 999 pairs of responses to 170
instructions, by five models, labelled by three annotators of whom at least two always agree. Intervals take all pairs
of one instruction for a cluster.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.validity import Report, table
from harness.statistics.agreement import alpha_interval, kappa_interval
from harness.statistics.clustered import clustered_interval
from harness.statistics.paired import Interval
from harness.statistics.ppi import LabelDraws, committed_draws, corrected_difference, draw_probabilities

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FOLDER = "judging/pandalm"
JUDGES = {"GPT-3.5-turbo": ("gpt-3.5-turbo-testset-v1.json", "gpt_result")}
JUDGES["PandaLM-7B"] = ("pandalm-7b-testset-v1.json", "pandalm_result")
OUTCOMES = {"0": 0, "Tie": 0, "1": -1, "2": 1}  # what the files say, as an outcome
UNPARSED = "garbage"
LABELS = (50, 100, 200)
# compute_metrics.py of the source, whose comments give these; of the README, κ between annotators.
PUBLISHED_ACCURACY = {"GPT-3.5-turbo": 0.7107, "PandaLM-7B": 0.6677}
PUBLISHED_F1 = {"GPT-3.5-turbo": 0.5755, "PandaLM-7B": 0.5743}
PUBLISHED_KAPPA = {(0, 1): 0.85, (0, 2): 0.88, (1, 2): 0.86}


@dataclass(frozen=True, slots=True)
class Labels:
    """The test set, pair by pair.

    `annotators` is (3, n) and `human` (n,), the majority; `judges` holds outcomes, NaN where a verdict could not be
    parsed; `models` are the authors of both responses, `instruction` numbers what they respond to.
    """

    annotators: Ints
    human: Ints
    judges: dict[str, Floats]
    models: list[tuple[str, str]]
    instruction: Ints


def read(data: Path) -> Labels:
    """The files under `data`, joined on their index."""
    rows = {row["idx"]: row for row in load(data, "testset-v1.json")}
    annotators = np.array([[OUTCOMES[str(row[f"annotator{k}"])] for row in rows.values()] for k in (1, 2, 3)])
    numbers: dict[tuple[str, str], int] = {}
    instruction = [numbers.setdefault((row["instruction"], row["input"]), len(numbers)) for row in rows.values()]
    judges = {}
    for name, (file, key) in JUDGES.items():
        said = {row["idx"]: str(row[key]) for row in load(data, file)}
        assert said.keys() == rows.keys(), f"{file} is about other pairs"
        judges[name] = np.array([np.nan if said[i] == UNPARSED else OUTCOMES[said[i]] for i in rows], dtype=float)
    models = [tuple(row["cmp_key"].split("_")) for row in rows.values()]
    return Labels(annotators, majority(annotators), judges, models, np.array(instruction))


def load(data: Path, file: str) -> list[dict[str, Any]]:
    """One of the source's files."""
    rows: list[dict[str, Any]] = json.loads((data / FOLDER / file).read_text(encoding="utf-8"))
    return rows


def majority(annotators: Ints) -> Ints:
    """What at least two of three said; in these files two always agree."""
    counts = np.array([(annotators == outcome).sum(axis=0) for outcome in (-1, 0, 1)])
    assert (counts.max(axis=0) >= 2).all(), "three annotators with three opinions"
    return counts.argmax(axis=0) - 1


# ---------------------------------------------------------------- agreement


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge against the humans' majority, by one way of counting what could not be parsed."""

    pairs: int
    accuracy: Interval
    f1: float
    kappa: Interval
    weighted: Interval


COUNTED = ("left out", "wrong", "a tie, as the source does")


def agreement(labels: Labels, judge: str, counted: str) -> Agreement:
    """Accuracy, macro F1, κ and quadratic κ with 95 % intervals over instructions.

    `counted` says what becomes of a verdict that could not be parsed: the pair is left out; or it is an outcome of its
    own, wrong whatever the humans say (for quadratic κ it has no place on the scale, and the pair is left out); or it
    is taken for a tie.
    """
    said, kept = labels.judges[judge], np.ones(len(labels.human), dtype=bool)
    parsed = ~np.isnan(said)
    if counted == "left out":
        kept = parsed
    level = np.where(parsed, np.nan_to_num(said) + 1, 3 if counted == "wrong" else 1).astype(np.int64)
    human, clusters = labels.human + 1, labels.instruction
    right = (level == human)[kept].astype(float)
    place = parsed if counted == "wrong" else kept
    return Agreement(
        pairs=int(kept.sum()),
        accuracy=clustered_interval(right, clusters[kept], confidence=0.95),
        f1=macro_f1(human[kept], level[kept]),
        kappa=kappa_interval(human[kept], level[kept], levels=4, clusters=clusters[kept]),
        weighted=kappa_interval(human[place], level[place], levels=3, weights="quadratic", clusters=clusters[place]),
    )


def macro_f1(human: Ints, judge: Ints) -> float:
    """Mean over the three outcomes of 2·both / (humans + judge)."""
    both = [np.sum((human == k) & (judge == k)) for k in range(3)]
    return float(np.mean([2 * both[k] / (np.sum(human == k) + np.sum(judge == k)) for k in range(3)]))


def agreement_table(labels: Labels) -> str:
    """Both judges, by each way of counting."""
    head = ["judge", "unparsed verdicts", "pairs", "accuracy", "published", "macro F1", "published", "κ", "quadratic κ"]
    rows = []
    for judge in labels.judges:
        failed = int(np.isnan(labels.judges[judge]).sum())
        for counted in COUNTED if failed else COUNTED[:1]:
            found = agreement(labels, judge, counted)
            source = counted == COUNTED[2] or not failed
            published = [f"{p[judge]:.4f}" if source else "–" for p in (PUBLISHED_ACCURACY, PUBLISHED_F1)]
            name = f"{failed}: {counted}" if failed else "none"
            row = [
                judge,
                name,
                str(found.pairs),
                within(found.accuracy, 4),
                published[0],
                f"{found.f1:.4f}",
                published[1],
            ]
            rows.append([*row, within(found.kappa), within(found.weighted)])
    return table(head, rows)


def humans_table(labels: Labels) -> str:
    """The ceiling: annotators among themselves, and one against the two others where those agree."""
    rows = []
    for a, b in itertools.combinations(range(3), 2):
        first, second = labels.annotators[a] + 1, labels.annotators[b] + 1
        pair = [
            kappa_interval(first, second, levels=3, weights=w, clusters=labels.instruction)
            for w in ("none", "quadratic")
        ]
        share = float(np.mean(first == second))
        rows.append(
            [f"annotators {a + 1} and {b + 1}", f"{share:.4f}", *map(within, pair), f"{PUBLISHED_KAPPA[a, b]:.2f}"]
        )
    alpha = [
        alpha_interval(labels.annotators.astype(float), level=level, clusters=labels.instruction)
        for level in ("nominal", "interval")
    ]
    rows.append(["all three: Krippendorff's α, nominal and interval", "–", *map(within, alpha), "–"])
    return table(["raters", "agree", "κ", "quadratic κ", "published κ"], rows)


def within(interval: Interval, digits: int = 3) -> str:
    """An estimate with its interval."""
    return f"{interval.estimate:.{digits}f} ({interval.low:.3f} to {interval.high:.3f})"


def unparsed_words(labels: Labels) -> str:
    """What the humans said of the pairs on which the judge's verdict could not be parsed."""
    unparsed = np.isnan(labels.judges["GPT-3.5-turbo"])
    counts = Counter(labels.human[unparsed].tolist())
    return f"{counts[-1]} first, {counts[0]} tie, {counts[1]} second"


# ---------------------------------------------------------------- what correcting saves


@dataclass(frozen=True, slots=True)
class Duel:
    """One model against the four others: humans' and judge's outcomes, 1 where it is better."""

    human: Floats
    judge: Floats
    residual: Floats


def duels(labels: Labels, judge: str) -> dict[str, Duel]:
    """By model; pairs without a verdict are left out. The residual is what other models' pairs lead one to expect."""
    said, parsed = labels.judges[judge], ~np.isnan(labels.judges[judge])
    found = {}
    for model in sorted({name for pair in labels.models for name in pair}):
        sign = np.array([(pair[1] == model) - (pair[0] == model) for pair in labels.models])
        mine, others = (sign != 0) & parsed, (sign == 0) & parsed
        error = (labels.human - said) ** 2
        expected = {v: np.sqrt(np.mean(error[others & (np.abs(said) == v)])) for v in (0.0, 1.0)}
        residual = np.array([expected[v] for v in np.abs(said[mine])])
        found[model] = Duel(sign[mine] * labels.human[mine] * 1.0, sign[mine] * said[mine], residual)
    return found


def efficiency_table(labels: Labels, report: Report) -> str:
    """Half-width and coverage of the corrected net win rate, against labels alone, over repeated labelling."""
    head = ["judge", "draws", "labels", "corrected", "labels alone", "labels alone for the same width"]
    head += ["coverage", "coverage, labels alone", "mean λ"]
    rows = []
    for judge in labels.judges:
        for active in (False, True):
            for n in LABELS:
                rows.append(
                    [judge, "active" if active else "uniform", str(n), *saving(labels, judge, active, n, report)]
                )
                print(" | ".join(rows[-1]), flush=True)
    return table(head, rows)


def saving(labels: Labels, judge: str, active: bool, n: int, report: Report) -> list[str]:
    """Averages over the five models and over repetitions of drawing n of a model's pairs to be labelled."""
    runs, every = max(report.runs // 5, 1), []
    for duel in duels(labels, judge).values():
        every += [repeat(duel, active, n, report.rng) for _ in range(runs)]
    width, alone, covered, alone_covered, tuning = np.mean(every, axis=0)
    same = n * (alone / width) ** 2
    cells = [f"± {width:.3f}", f"± {alone:.3f}", f"{same:.0f}", f"{covered:.3f}", f"{alone_covered:.3f}"]
    return [*cells, f"{tuning:.2f}"]


def repeat(duel: Duel, active: bool, n: int, rng: np.random.Generator) -> list[float]:
    """One labelling: half-widths and coverage with the judge and without, and λ."""
    truth = float(np.mean(duel.human))
    uniform = draw_probabilities(np.ones(len(duel.human)))
    found = []
    for q, tuning in ((draw_probabilities(duel.residual) if active else uniform, None), (uniform, 0.0)):
        pairs = committed_draws(q, n, rng.bytes(32))
        draws = LabelDraws(pairs, duel.human[pairs], q)
        found.append(corrected_difference(duel.judge, draws, span=1.0, estimand="frozen", tuning=tuning))
    ends = [one.interval for one in found if one.interval is not None]
    widths = [(end.high - end.low) / 2 for end in ends]
    return [*widths, *(float(end.low <= truth <= end.high) for end in ends), found[0].tuning]


def rates_table(labels: Labels) -> str:
    """Net win rates by humans and judges: what a judge's own mean gets wrong."""
    rows = []
    by_judge = {judge: duels(labels, judge) for judge in labels.judges}
    for model in next(iter(by_judge.values())):
        cells = []
        for judge in labels.judges:
            duel = by_judge[judge][model]
            cells += [f"{np.mean(duel.human):+.3f}", f"{np.mean(duel.judge):+.3f}"]
        rows.append([model, *cells])
    head = [column for judge in labels.judges for column in (f"humans, where {judge} said something", judge)]
    return table(["model", *head], rows)


def tables(labels: Labels, report: Report) -> dict[str, str]:
    """Everything that the document shows of PandaLM."""
    return {
        "panda_agreement": agreement_table(labels),
        "panda_humans": humans_table(labels),
        "panda_unparsed": unparsed_words(labels),
        "panda_rates": rates_table(labels),
        "panda_efficiency": efficiency_table(labels, report),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Agreement of two judges with the humans of the PandaLM test set.")
    parser.add_argument("--runs", type=int, default=2000, help="simulated labellings behind every figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=os.environ.get("HARNESS_DATA"), help="default: $HARNESS_DATA")
    chosen = parser.parse_args(arguments)
    if chosen.data is None:
        parser.error("--data or $HARNESS_DATA must name the folder that holds judging/pandalm")
    report = Report(chosen.runs, np.random.default_rng(chosen.seed))
    for made in tables(read(Path(chosen.data)), report).values():
        print(f"\n{made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
