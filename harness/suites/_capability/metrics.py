"""Which of a task's metrics can guard: a mean of per-sample values with known bounds.

A gate compares sample by sample, so a corpus statistic (F1 over the set, perplexity, Matthews correlation) has no
per-sample value to pair, and an unbounded one has no margin that holds for every model. Such metrics are refused by
name, with what can be used instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import ConfigError
from harness.records import MetricSpec

Bounds = Mapping[str, tuple[float, float]]

# Names of a yes-or-no or a share: acc, acc_norm, exact_match, pass@1, prompt_level_strict_acc, rouge1_acc …
_UNIT = re.compile(r"(^|_)(acc|accuracy|exact_match|em|correct|pass|contains|mcc1)(_|@|$)")
# TruthfulQA's similarities come in percent, their differences in both directions.
_PERCENT = re.compile(r"(bleu|rouge(1|2|L|Lsum)|chrf|bleurt)_(max|diff)")


Task = tuple[Any, Sequence[Any]]
"""A task of lm-eval and its documents."""


def choose(task_name: str, tasks: Sequence[Task], wanted: Sequence[str] | None, bounds: Bounds) -> list[MetricSpec]:
    """The metrics that guard, of those that all `tasks` have; `wanted` None means every usable one.

    Raises:
        ConfigError: a wanted metric cannot be used, or none can; the reason and the usable ones are named.
    """
    usable, refused = _sort_out(tasks, bounds)
    if wanted is None:
        if not usable:
            reasons = "; ".join(f"{name} {reason}" for name, reason in sorted(refused.items()))
            raise ConfigError(f"no metric of task {task_name!r} can guard: {reasons or 'it declares none in common'}")
        return list(usable.values())
    for name in wanted:
        if name not in usable:
            reason = refused.get(name, "is not one of the task's metrics")
            raise ConfigError(
                f"metric {name!r} of task {task_name!r} {reason}; usable: {', '.join(sorted(usable)) or 'none'}"
            )
    return [usable[name] for name in wanted]


def _sort_out(tasks: Sequence[Task], bounds: Bounds) -> tuple[dict[str, MetricSpec], dict[str, str]]:
    """Usable metrics by name, and the reason against each of the others."""
    usable: dict[str, MetricSpec] = {}
    refused: dict[str, str] = {}
    declared = [_declared(task) for task, _ in tasks]
    for name in declared[0]:
        if any(name not in others for others in declared):
            refused[name] = "is not a metric of every task of the group"
            continue
        aggregations = {_function_name(others[name][0]) for others in declared}
        if aggregations != {"mean"}:
            refused[name] = (
                f"is aggregated by {', '.join(sorted(aggregations))}, not as the mean of one value per sample"
            )
            continue
        scale = bounds.get(name) or known_bounds(name)
        if scale is None:
            refused[name] = f"has no known bounds (declare them: bounds: {{{name}: [low, high]}})"
            continue
        higher = all(bool(others[name][1]) for others in declared)
        usable[name] = MetricSpec(name, higher, (float(scale[0]), float(scale[1])), _chance(name, tasks))
    return usable, refused


def known_bounds(name: str) -> tuple[float, float] | None:
    """Bounds of a metric by its name in lm-eval's tasks, or None where nothing is known."""
    similarity = _PERCENT.fullmatch(name)
    if similarity:
        return (-100.0, 100.0) if similarity[3] == "diff" else (0.0, 100.0)
    return (0.0, 1.0) if _UNIT.search(name) else None


def _declared(task: Any) -> dict[str, tuple[Any, Any]]:
    """(aggregation, higher is better) by the name under which a task's results carry the metric."""
    aggregation, better = task.aggregation(), task.higher_is_better()
    named: dict[str, tuple[Any, Any]] = {}
    for name, aggregate in aggregation.items():
        arguments = getattr(task, "_metric_fn_kwargs", {}).get(name, {})
        ks = arguments.get("k") if name == "pass_at_k" else None
        # pass_at_k spreads into one result per k, which lm-eval learns only from the first sample's score.
        names = [f"pass@{k}" for k in ([ks] if isinstance(ks, int) else ks)] if ks else [name]
        named |= {n: (aggregate, better.get(name, True)) for n in names}
    return named


def _function_name(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def _chance(name: str, tasks: Sequence[Task]) -> float:
    """What guessing earns on average over all samples: 1/k with k choices, 0 where guessing is hopeless or unknown."""
    if name not in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info"):
        return 0.0
    shares: list[float] = []
    for task, docs in tasks:
        if not _plain_multiple_choice(task):
            return 0.0
        shares += [_share(task, doc) for doc in docs]
    return sum(shares) / len(shares) if shares else 0.0


def _plain_multiple_choice(task: Any) -> bool:
    return task.OUTPUT_TYPE == "multiple_choice" and not callable(task.get_config("process_results"))


def _share(task: Any, doc: Any) -> float:
    """Share of a document's choices that count as right."""
    choices = task.doc_to_choice(doc)
    gold = doc_gold(task, doc)
    right = len(gold) if isinstance(gold, list) else 1
    return right / len(choices) if choices else 0.0


def doc_gold(task: Any, doc: Any) -> Any:
    """A document's target; tasks with one context per choice keep it where the text would be."""
    return task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)
