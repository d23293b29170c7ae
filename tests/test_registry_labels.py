"""Labels are evidence too: a promotion takes the plan that the run's own seed drew, and none that was bent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import labelled, runs
from harness.errors import PromotionError
from harness.judging.labelling.planning import plan_labels
from harness.registry import promoting
from tests.labelled_run import PAIR, make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = make_run(tmp_path)
    plan_labels(made, *PAIR, 20)
    return made


def look(run: Path) -> None:
    promoting._refuse_contradiction(run, runs.read_json(run / runs.MANIFEST))


def test_a_plan_as_it_was_drawn_is_taken(run: Path) -> None:
    look(run)


def _other_draws(plan: dict[str, Any]) -> None:
    plan["draws"][0] = (plan["draws"][0] + 1) % len(plan["frame"])


def _other_output(plan: dict[str, Any]) -> None:
    plan["frame"][3][3] = "0" * 64


def _likelier(plan: dict[str, Any]) -> None:
    plan["frame"][0][1], plan["frame"][1][1] = plan["frame"][1][1] * 1.5, plan["frame"][0][1]


def _turned(plan: dict[str, Any]) -> None:
    plan["higher_is_better"] = False


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (_other_draws, "not those of this run's seed"),
        (_other_output, "other outputs in the journal"),
        (_likelier, "not those of this run's seed|damaged"),
        (_turned, "not the evidence's"),
    ],
)
def test_a_plan_that_was_bent_is_refused_by_name(run: Path, bend: Callable[[dict[str, Any]], None], said: str) -> None:
    path = labelled.plan_path(run, *PAIR)
    plan = json.loads(path.read_text(encoding="utf-8"))
    bend(plan)
    path.write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(PromotionError, match=said) as raised:
        look(run)
    assert "labels" in str(raised.value)
