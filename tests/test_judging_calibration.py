"""A judge held against people: the figures are the textbook's, what failed is no score, and who may block is told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import DataError, StorageError
from harness.judging.calibrating import calibrate
from harness.judging.calibration import Calibration, look_up, look_up_standing, standing, store, stored
from harness.judging.labels import LabelFile, Scale, items_of, read_labels
from harness.judging.records import Case, Judgement, PairCase
from harness.judging.rubric import load_rubric

HELPFULNESS, PREFERENCE = load_rubric("helpfulness"), load_rubric("preference")


class ScriptedJudge:
    """A judge that says what a function says, and remembers what it was asked."""

    def __init__(
        self, says: Callable[[Any], Judgement], *, pairwise: bool = False, fingerprint: str = "f" * 64,
        described: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name, self.fingerprint, self.pairwise = "scripted", fingerprint, pairwise
        self.bounds = (-1.0, 1.0) if pairwise else (1.0, 5.0)
        self.asked: list[Any] = []
        self._says, self._described = says, described or {}

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        self.asked += cases
        return [self._says(case) for case in cases]

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        self.asked += pairs
        return [self._says(pair) for pair in pairs]

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "fingerprint": self.fingerprint, "model": "m", **self._described}

    def close(self) -> None:
        pass


def scored(value: float) -> Judgement:
    return Judgement("scored", value)


def rows_of(human: Sequence[object], **columns: Sequence[object]) -> list[dict[str, Any]]:
    return [
        {"sample_id": f"s{i:04}", "prompt": "?", "output": f"Answer {i}", "label": label}
        | {name: values[i] for name, values in columns.items()}
        for i, label in enumerate(human)
    ]


def held(folder: Path, rows: Sequence[Mapping[str, Any]], judge: ScriptedJudge, **options: Any) -> Calibration:
    return _held(folder, rows, judge, **options)[0]


def _held(
    folder: Path, rows: Sequence[Mapping[str, Any]], judge: ScriptedJudge, **options: Any
) -> tuple[Calibration, LabelFile]:
    folder.mkdir(parents=True, exist_ok=True)
    rubric = PREFERENCE if judge.pairwise else HELPFULNESS
    path = folder / f"{rubric.name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = read_labels(path, Scale.of(rubric))
    return calibrate(judge, rubric, file, items_of(file), **options), file


def noisy(human: Sequence[int], seed: int, share: float = 0.4) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(1, 5) if rng.random() < share else value for value in human]


def saying(values: Sequence[float]) -> ScriptedJudge:
    """Grades `Answer i` with the i-th value."""
    return ScriptedJudge(lambda case: scored(values[int(case.output.split()[1])]))


HUMAN = [1 + (i * 7 + i // 3) % 5 for i in range(240)]
JUDGED = noisy(HUMAN, 1)


# ---------------------------------------------------------------- figures


def test_the_figures_are_those_of_scikit_learn(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    found = held(tmp_path, rows_of(HUMAN), saying(JUDGED)).whole
    assert found is not None
    assert found.kappa.estimate == pytest.approx(metrics.cohen_kappa_score(HUMAN, JUDGED))
    assert found.quadratic_kappa.estimate == pytest.approx(
        metrics.cohen_kappa_score(HUMAN, JUDGED, weights="quadratic")
    )
    assert found.accuracy.estimate == pytest.approx(metrics.accuracy_score(HUMAN, JUDGED))
    assert found.confusion == tuple(map(tuple, metrics.confusion_matrix(HUMAN, JUDGED).tolist()))
    assert found.auc is not None
    assert found.auc.estimate == pytest.approx(metrics.roc_auc_score(np.array(HUMAN) >= 4, JUDGED))
    for figure in (found.kappa, found.quadratic_kappa, found.accuracy, found.auc):
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.estimate < figure.high


def test_the_auc_is_cut_where_it_is_told(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    found = held(tmp_path, rows_of(HUMAN), saying(JUDGED), cut=2).whole
    assert found is not None
    assert found.auc is not None
    assert found.auc.estimate == pytest.approx(metrics.roc_auc_score(np.array(HUMAN) >= 2, JUDGED))
    with pytest.raises(DataError, match="must be a level above the lowest: 2, 3, 4, 5"):
        held(tmp_path, rows_of(HUMAN), saying(JUDGED), cut=1)


def test_slices_are_measured_each_for_itself(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    slices = [["even"] if i % 2 == 0 else ["odd", "all"] for i in range(240)]
    found = held(tmp_path, rows_of(HUMAN, slice=slices), saying(JUDGED)).slices
    assert list(found) == ["all", "even", "odd"]
    assert found["odd"] == found["all"]
    assert found["even"].kappa.estimate == pytest.approx(metrics.cohen_kappa_score(HUMAN[::2], JUDGED[::2]))
    assert found["even"].n == found["odd"].n == 120


def test_pairs_have_three_levels_and_a_tie_is_of_neither_kind(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    human = [(-1, 0, 1)[i % 3] for i in range(90)]
    said = [float((-1, 0, 1)[(i * i) % 3]) if i % 4 == 0 else float(value) for i, value in enumerate(human)]
    rows = [
        {"sample_id": f"s{i}", "prompt": "?", "first": f"a {i}", "second": f"b {i}", "label": label}
        for i, label in enumerate(human)
    ]
    judge = ScriptedJudge(lambda pair: scored(said[int(pair.first.output.split()[1])]), pairwise=True)
    found = held(tmp_path, rows, judge)
    assert found.whole is not None
    assert found.whole.kappa.estimate == pytest.approx(metrics.cohen_kappa_score(human, said))
    assert found.deciding == found.whole.kappa
    told = [i for i, value in enumerate(human) if value]
    assert found.whole.auc is not None
    assert found.whole.auc.estimate == pytest.approx(
        metrics.roc_auc_score([human[i] > 0 for i in told], [said[i] for i in told])
    )


def test_quadratic_kappa_decides_where_a_scale_is_long(tmp_path: Path) -> None:
    found = held(tmp_path, rows_of(HUMAN), saying(JUDGED))
    assert found.whole is not None
    assert found.deciding == found.whole.quadratic_kappa
    assert found.summary() == {
        "kappa": found.deciding.estimate, "kappa_low": found.deciding.low, "labels": 240, "fingerprint": "f" * 64,
        "labels_digest": found.labels_digest,
    }  # fmt: skip


def test_items_of_a_cluster_count_as_one_draw(tmp_path: Path) -> None:
    alone = held(tmp_path / "a", rows_of(HUMAN), saying(JUDGED)).deciding
    # Four copies of sixty items, each copy in the cluster of its original.
    rows = rows_of(HUMAN[:60] * 4, cluster=[f"c{i % 60}" for i in range(240)])
    copied = held(tmp_path / "b", rows, saying(JUDGED[:60] * 4)).deciding
    sixty = held(tmp_path / "c", rows_of(HUMAN[:60]), saying(JUDGED[:60])).deciding
    assert alone is not None
    assert copied is not None
    assert sixty is not None
    assert (copied.low, copied.high) == pytest.approx((sixty.low, sixty.high))


def test_a_judge_that_is_always_right_is_not_known_to_be(tmp_path: Path) -> None:
    found = held(tmp_path, rows_of(HUMAN[:50]), saying(HUMAN[:50])).whole
    assert found is not None
    assert found.accuracy.estimate == found.kappa.estimate == 1
    assert found.accuracy.low is not None
    assert found.accuracy.low == pytest.approx(0.05 ** (1 / 50))
    assert found.kappa.low is not None
    assert found.kappa.low < 1


# ---------------------------------------------------------------- what counts


def test_failures_and_abstentions_are_counted_and_never_scored(tmp_path: Path) -> None:
    def says(case: Case) -> Judgement:
        number = int(case.output.split()[1])
        if number % 4 == 0:
            return Judgement("failed", None, "prose", "unreadable")
        if number % 4 == 1:
            return Judgement("abstained", None, "cannot tell")
        return scored(HUMAN[number])

    found = held(tmp_path, rows_of(HUMAN), ScriptedJudge(says))
    assert (found.held_out, found.scored, found.failed, found.abstained) == (240, 120, 60, 60)
    assert found.whole is not None
    assert found.whole.n == 120
    assert found.whole.accuracy.estimate == 1
    assert "(120 more it could not judge)" in standing(found).detail


def test_labels_for_development_are_never_held_out(tmp_path: Path) -> None:
    split = ["dev" if i < 40 else "" for i in range(240)]
    wrong = [6 - value if i < 40 else value for i, value in enumerate(HUMAN)]
    found = held(tmp_path, rows_of(HUMAN, split=split, slice=[["all"]] * 240), saying(wrong))
    assert (found.held_out, found.scored) == (200, 200)
    assert found.whole is not None
    assert found.whole.accuracy.estimate == 1
    assert found.slices["all"].n == 200
    assert found.development is not None
    assert found.development.n == 40
    assert found.development.quadratic_kappa.estimate < 0


def test_the_same_output_twice_says_nothing_of_a_judge_and_is_not_sent(tmp_path: Path) -> None:
    rows = [
        {"sample_id": f"s{i}", "prompt": "?", "first": "a", "second": "a" if i % 2 else "b", "label": "tie"}
        for i in range(20)
    ]
    judge = ScriptedJudge(lambda pair: scored(0.0), pairwise=True)
    found = held(tmp_path, rows, judge)
    assert (found.identical, found.scored, len(judge.asked)) == (10, 10, 10)
    with pytest.raises(DataError, match="no label says anything of a judge"):
        held(tmp_path, rows[1::2], judge)


def test_a_judge_that_was_not_heard_leaves_no_calibration(tmp_path: Path) -> None:
    def refuse(name: str, judgements: Sequence[Judgement]) -> None:
        assert (name, len(judgements)) == ("scripted", 240)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        held(tmp_path, rows_of(HUMAN), saying(JUDGED), refuse=refuse)


def test_values_that_are_no_levels_are_mapped_by_folds_that_have_not_seen_the_item(tmp_path: Path) -> None:
    judged = noisy(HUMAN, 1, 0.15)
    useful = held(tmp_path / "a", rows_of(HUMAN), saying([0.17 * value + 0.01 for value in judged]))
    exact = held(tmp_path / "b", rows_of(HUMAN), saying(judged))
    assert useful.mapped
    assert not exact.mapped
    assert useful.whole is not None
    assert exact.whole is not None
    assert useful.whole.quadratic_kappa.estimate == pytest.approx(exact.whole.quadratic_kappa.estimate, abs=0.1)
    assert useful.whole.auc == exact.whole.auc
    noise = [random.Random(i).random() for i in range(240)]
    useless = held(tmp_path / "c", rows_of(HUMAN), saying(noise)).deciding
    assert useless is not None
    assert abs(useless.estimate) < 0.15  # fitted to itself, a map of 240 values would agree with nearly everything


def test_agreement_between_people_is_the_ceiling(tmp_path: Path) -> None:
    krippendorff = pytest.importorskip("krippendorff")
    rows = [
        {**row, "annotator": who, "label": label}
        for who, labels in (("ann", HUMAN), ("bob", noisy(HUMAN, 5)))
        for row, label in zip(rows_of(HUMAN), labels, strict=True)
    ]
    found = held(tmp_path, rows, saying(JUDGED))
    wanted = krippendorff.alpha(np.array([HUMAN, noisy(HUMAN, 5)]), level_of_measurement="ordinal")
    assert found.annotators == 2
    assert found.ceiling is not None
    assert found.ceiling.estimate == pytest.approx(wanted, abs=1e-6)
    assert held(tmp_path, rows[:240], saying(JUDGED)).ceiling is None


# ---------------------------------------------------------------- stored


def kept(folder: Path, judge: ScriptedJudge, human: Sequence[int] = HUMAN) -> Path:
    found = held(folder / "calibration", rows_of(human), judge)
    return store(found, folder / "calibration")


def test_a_calibration_is_found_again_as_it_was(tmp_path: Path) -> None:
    judge = saying(JUDGED)
    path = kept(tmp_path, judge)
    assert path == tmp_path / "calibration" / "helpfulness.json"
    found = stored(HELPFULNESS, judge, tmp_path)
    assert found is not None
    assert found.labels == "helpfulness.jsonl"
    assert found == held(tmp_path / "calibration", rows_of(HUMAN), judge)


def test_every_judge_of_a_rubric_has_its_own(tmp_path: Path) -> None:
    one, other = saying(JUDGED), saying(HUMAN)
    other.fingerprint = "e" * 64
    kept(tmp_path, one)
    path = kept(tmp_path, other)
    kept(tmp_path, one)
    assert [c["fingerprint"][0] for c in json.loads(path.read_text())["calibrations"]] == ["e", "f"]
    assert stored(HELPFULNESS, one, tmp_path) != stored(HELPFULNESS, other, tmp_path)


def test_what_has_changed_is_said(tmp_path: Path) -> None:
    judge = saying(JUDGED)
    assert "it was never calibrated" in look_up(HELPFULNESS, judge, tmp_path).why
    kept(tmp_path, judge)
    changed = ScriptedJudge(judge._says, fingerprint="a" * 64, described={"model": "better", "seed": [1, {"x": 2}]})
    why = look_up(HELPFULNESS, changed, tmp_path).why
    changes = "model was m, is better, seed.0 was not there, is 1, seed.1.x was not there, is 2"
    assert why == f"it has changed since it was calibrated: {changes}"
    labels = tmp_path / "calibration" / "helpfulness.jsonl"
    original = labels.read_text()
    labels.write_text(original.replace('"label": 1', '"label": 2', 1))
    assert "have changed since it was calibrated" in look_up(HELPFULNESS, judge, tmp_path).why
    labels.write_text("".join(reversed(original.splitlines(keepends=True))))
    assert look_up(HELPFULNESS, judge, tmp_path).calibration is not None
    labels.unlink()
    assert "are not there any more" in look_up(HELPFULNESS, judge, tmp_path).why


def test_a_damaged_file_is_an_error_and_no_permission(tmp_path: Path) -> None:
    judge = saying(JUDGED)
    path = kept(tmp_path, judge)
    for content in ("{", "[]", '{"calibrations": [{}]}', path.read_text().replace('"scored": 240', '"scored": "all"')):
        path.write_text(content)
        with pytest.raises(StorageError):
            look_up_standing(HELPFULNESS, judge, tmp_path, kappa=0.4, labels=100)


# ---------------------------------------------------------------- standing


def test_a_judge_that_agrees_may_block_and_the_numbers_are_said(tmp_path: Path) -> None:
    found = held(tmp_path, rows_of(HUMAN), saying(JUDGED))
    check = standing(found)
    assert check.passed
    assert check.name == "judge-calibrated"
    kappa = found.deciding
    assert kappa is not None
    assert kappa.low is not None
    assert (
        f"κ {kappa.estimate:.2f}, at least {kappa.low:.2f} with 95 % confidence, on 240 held-out labels" in check.detail
    )


def test_the_bound_decides_and_not_the_estimate(tmp_path: Path) -> None:
    found = held(tmp_path, rows_of(HUMAN), saying(JUDGED))
    kappa = found.deciding
    assert kappa is not None
    assert kappa.low is not None
    between = (kappa.low + kappa.estimate) / 2
    check = standing(found, kappa=between)
    assert not check.passed
    assert "with 95 % confidence. Label outputs and run `harness judge calibrate`" in check.detail
    assert standing(found, kappa=kappa.low).passed


def test_too_few_labels_are_too_few_however_good(tmp_path: Path) -> None:
    check = standing(held(tmp_path, rows_of(HUMAN[:99]), saying(HUMAN[:99])))
    assert not check.passed
    assert "100 held-out labels are needed, 1 more" in check.detail
    assert standing(held(tmp_path, rows_of(HUMAN[:100]), saying(HUMAN[:100]))).passed


def test_without_a_calibration_nobody_may_block(tmp_path: Path) -> None:
    assert not standing(None).passed
    check = look_up_standing(HELPFULNESS, saying(JUDGED), tmp_path, kappa=0.4, labels=100)
    assert not check.passed
    assert check.detail.startswith("helpfulness by scripted may not be required: it was never calibrated")
    assert "judges.uncalibrated" in check.detail


def test_a_judge_that_never_answers_has_shown_nothing(tmp_path: Path) -> None:
    silent = ScriptedJudge(lambda case: Judgement("failed", None, "nothing", "empty"))
    found = held(tmp_path, rows_of(HUMAN), silent)
    assert found.whole is None
    assert not standing(found, labels=0, kappa=-1).passed


def test_one_cluster_of_labels_has_no_bound(tmp_path: Path) -> None:
    found = held(tmp_path, rows_of(HUMAN, cluster=["c"] * 240), saying(HUMAN))
    assert found.deciding is not None
    assert found.deciding.low is None
    assert not standing(found).passed


def test_a_calibration_is_plain_data(tmp_path: Path) -> None:
    found = held(tmp_path, rows_of(HUMAN), saying(JUDGED))
    assert Calibration.model_validate(json.loads(found.model_dump_json())) == found
