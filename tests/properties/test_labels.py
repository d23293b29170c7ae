"""Human labels: whatever order the rows are in, they say the same."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.judging.calibrating import calibrate
from harness.judging.labels import Scale, items_of, read_labels
from harness.judging.records import Judgement, PairCase
from harness.judging.rubric import load_rubric
from tests.fuzzing import examples
from tests.test_judging_calibration import ScriptedJudge

PAIRS = load_rubric("preference")


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to thirty rows: several annotators of the same pairs, some the other way round, some twice, some untold."""
    found = {}
    for _ in range(draw(st.integers(2, 30))):
        number, who, turned = draw(st.integers(0, 9)), draw(st.sampled_from("ab")), draw(st.booleans())
        sides = [f"first of {number}", f"second of {number}"]
        label = draw(st.sampled_from(["first", "tie", "second", "cannot tell"]))
        row = {
            "sample_id": f"s{number}", "prompt": "?", "first": sides[turned], "second": sides[not turned],
            "label": label, "annotator": who, "split": "dev" if number % 4 == 0 else "", "slice": [f"t{number % 3}"],
            "cluster": f"c{number // 2}",
        }  # fmt: skip
        found.setdefault((number, who), row)
    if all(row["label"] == "cannot tell" for row in found.values()):
        next(iter(found.values()))["label"] = "first"
    return [*found.values(), *list(found.values())[: draw(st.integers(0, 3))]]


def fair(pair: PairCase) -> Judgement:
    value = 1.0 if "first" in pair.second.output else -1.0
    return Judgement("failed", None, "lost", "server") if pair.first.sample.id == "s5" else Judgement("scored", value)


@settings(max_examples=examples(30), deadline=None)
@given(rows(), st.randoms(use_true_random=False))
def test_shuffled_labels_give_the_same_calibration(given: Sequence[dict[str, Any]], rng: random.Random) -> None:
    shuffled = list(given)
    rng.shuffle(shuffled)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for order in (given, shuffled):
            path = Path(folder) / "labels.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in order))
            file = read_labels(path, Scale.of(PAIRS))
            found.append(calibrate(ScriptedJudge(fair, pairwise=True), PAIRS, file, items_of(file)))
    assert found[0] == found[1]
