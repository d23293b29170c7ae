"""Which scope trains with which objective, from what they declare themselves; `python -m tests.training_matrix` writes
docs/training-matrix.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import plugins
from harness.training.objectives import Objective
from harness.training.scopes import Scope
from tests import objective_jobs as jobs

PAGE = Path(__file__).parents[1] / "docs" / "training-matrix.md"

_REWARDS: dict[str, Any] = {
    "rewards": [{"metric": "chrf"}], "generations": 4, "max_new_tokens": 6, "max_failures": 0.5
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {"grpo": _REWARDS, "rloo": _REWARDS}
"""Options of the objectives that cannot be without."""

_HEAD = """# What trains with what

Made from what scopes and objectives declare, by `python -m tests.training_matrix`; a test fails when it is out of date,
and `tests/test_training_matrix.py` trains every pair that is marked ✓ for two steps, loads what it left in another
process, and gates it. A pair with a number is refused before anything is loaded, for the reason below.
"""


def scopes() -> dict[str, Scope]:
    return {name: jobs.scope(name) for name in plugins.names("training.scopes")}


def objectives() -> dict[str, Objective]:
    return {name: jobs.objective(name, **OPTIONS.get(name, {})) for name in plugins.names("training.objectives")}


def claimed() -> list[tuple[str, str]]:
    """Every (scope, objective) that is not refused."""
    return [(s, o) for s, scope in scopes().items() for o, aim in objectives().items() if aim.refusal(scope) is None]


def page() -> str:
    """The whole page."""
    reasons: list[str] = []
    table = [("scope", *objectives())]
    for name, scope in scopes().items():
        table.append((f"`{name}`", *(_cell(scope, aim, reasons) for aim in objectives().values())))
    notes = [f"{number}. {reason[0].upper()}{reason[1:]}." for number, reason in enumerate(reasons, start=1)]
    return "\n".join([_HEAD, *_markdown(table), "", *notes, "", _TRAITS, *_markdown(_traits()), ""])


_TRAITS = """## Scopes

*Saves*: an adapter beside the base, a whole model (checkpoint), or a head for classes (classifier). *Merges*: can be
folded into the base's weights exactly. *4-bit*: trains on a base in 4 bits. `bitfit` trains biases, so that a base
without any (Llama) is refused.
"""


def _traits() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("scope", "trains", "saves", "merges", "4-bit")]
    for name, scope in scopes().items():
        has = scope.traits
        heads = ", ".join(sorted(has.heads))
        rows.append((f"`{name}`", heads, has.saves, _yes(has.merges), _yes(has.quantised)))
    return rows


def _yes(fact: bool) -> str:
    return "✓" if fact else ""


def _cell(scope: Scope, aim: Objective, reasons: list[str]) -> str:
    reason = aim.refusal(scope)
    if reason is None:
        return "✓"
    for said, meant in ((f"scope {scope.name} ", "the scope "), (f"objective {aim.name} ", "the objective ")):
        reason = reason.replace(said, meant)
    reason = reason.replace(f"trainer for {aim.name} ", "trainer for the objective ")
    if reason not in reasons:
        reasons.append(reason)
    return str(reasons.index(reason) + 1)


def _markdown(rows: list[tuple[str, ...]]) -> list[str]:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|" + " --- |" * len(rows[0]), *body]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
