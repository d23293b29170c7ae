"""Plans of labels and the answers to them: committed, extended, durable, and read without a model."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from harness import labelled, runs
from harness.errors import DataError, HoldError, StorageError, UsageError
from harness.judging.labelling.planning import expected_residual, judged_metrics, plan_labels
from harness.statistics.ppi import committed_draws
from tests.labelled_run import GRADE, PAIR, make_run


def pair_row(plan: labelled.LabelPlan, pair: labelled.FramePair, label: str, annotator: str = "") -> dict[str, object]:
    digests = {"first_sha256": pair.baseline, "second_sha256": pair.candidate}
    return {"sample_id": pair.sample_id, **digests, "label": label, "annotator": annotator}


def grade_row(pair: labelled.FramePair, digest: str, label: object, annotator: str = "") -> dict[str, object]:
    return {"sample_id": pair.sample_id, "output_sha256": digest, "label": label, "annotator": annotator}


def answer(run: Path, plan: labelled.LabelPlan, *rows: dict[str, object]) -> labelled.RunLabels:
    path = labelled.labels_path(run, plan.suite, plan.metric)
    for row in rows:
        labelled.append_row(path, row)
    return labelled.read_run_labels(run)[plan.suite, plan.metric]


# ---------------------------------------------------------------- the plan


def test_only_pairs_with_different_outputs_can_be_drawn(tmp_path: Path) -> None:
    plan = plan_labels(make_run(tmp_path), *PAIR, 20)
    drawn = {pair.sample_id for pair in plan.frame}
    assert drawn == {f"s{n}" for n in range(40) if n % 7 != 6}
    assert sum(pair.probability for pair in plan.frame) == pytest.approx(1)
    assert min(pair.probability for pair in plan.frame) > 0


def test_pairs_on_which_the_orders_disagreed_are_drawn_more_often(tmp_path: Path) -> None:
    plan = plan_labels(make_run(tmp_path), *PAIR, 20)
    by_kind: dict[int, set[float]] = {}
    for pair in plan.frame:
        by_kind.setdefault(int(pair.sample_id[1:]) % 3, set()).add(round(pair.probability, 12))
    (disagreed,), (won,), (tied,) = by_kind[0], by_kind[1], by_kind[2]
    assert disagreed > tied > won


def test_the_draws_are_those_that_anyone_can_compute_from_the_seed(tmp_path: Path) -> None:
    plan = plan_labels(make_run(tmp_path), *PAIR, 60)
    probabilities = np.array([pair.probability for pair in plan.frame])
    assert list(plan.draws) == committed_draws(probabilities, 60, plan.seed.encode()).tolist()
    assert len(plan.items) == len(set(plan.draws)) < 60
    assert Counter(t for pair in plan.items for t in plan.positions(pair)) == Counter(range(60))


def test_the_plan_is_the_same_whenever_it_is_made_and_another_run_has_another(tmp_path: Path) -> None:
    first = plan_labels(make_run(tmp_path / "a"), *PAIR, 20)
    again = plan_labels(make_run(tmp_path / "b"), *PAIR, 20)
    other = plan_labels(make_run(tmp_path / "c", labels=21), *PAIR, 20)
    assert first == again
    assert first.draws != other.draws


def test_more_labels_extend_the_plan_and_fewer_change_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = plan_labels(run, *PAIR, 20)
    more = plan_labels(run, *PAIR, 30)
    fewer = plan_labels(run, *PAIR, 10)
    assert more.draws[:20] == first.draws
    assert more.planned == (20, 30)
    assert fewer == more == labelled.read_plan(labelled.plan_path(run, *PAIR))


def test_answers_never_change_the_plan(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan = plan_labels(run, *PAIR, 20)
    answer(run, plan, *(pair_row(plan, pair, "first") for pair in plan.items))
    assert plan_labels(run, *PAIR, 20) == plan
    assert plan_labels(run, *PAIR, 40).draws[:20] == plan.draws


def test_a_run_that_went_on_after_the_plan_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan_labels(run, *PAIR, 20)
    longer = make_run(tmp_path / "longer", count=41)
    (run / runs.JOURNAL).write_bytes((longer / runs.JOURNAL).read_bytes())
    with pytest.raises(HoldError, match="1 pairs are new and 0 are gone"):
        plan_labels(run, *PAIR, 20)


def test_a_plan_that_was_changed_is_not_extended(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan_labels(run, *PAIR, 20)
    path = labelled.plan_path(run, *PAIR)
    content = json.loads(path.read_text())
    content["draws"][0] = (content["draws"][0] + 1) % len(content["frame"])
    path.write_text(json.dumps(content))
    with pytest.raises(HoldError, match="it was changed"):
        plan_labels(run, *PAIR, 30)


def test_what_cannot_be_planned_says_why(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'chat preference/preference'"):
        plan_labels(run, "chat preferences", "preference", 20)
    with pytest.raises(UsageError, match="must lie between 1 and"):
        plan_labels(run, *PAIR, 0)
    with pytest.raises(HoldError, match="has yet to see 3 samples"):
        plan_labels(make_run(tmp_path / "unseen", unseen=3), *PAIR, 20)
    same = dict.fromkeys(range(5), ("same", "same"))
    with pytest.raises(HoldError, match="has no pair to label"):
        plan_labels(make_run(tmp_path / "same", count=5, outputs=same), *PAIR, 20)
    with pytest.raises(StorageError):
        judged_metrics(tmp_path / "nowhere")


def test_the_gates_own_number_of_labels_is_known(tmp_path: Path) -> None:
    assert judged_metrics(make_run(tmp_path, labels=33)) == {PAIR: 33}


def test_jurors_that_disagree_and_grades_that_are_close_raise_the_doubt() -> None:
    split = {"baseline": [{"value": 3, "details": {"jurors": [{"value": 1}, {"value": 5}, {"value": None}]}}]}
    assert expected_residual(4.0, 4.0, split) == pytest.approx(4.0)
    assert expected_residual(4.0, 4.0, {}) < expected_residual(1.0, 4.0, {}) < expected_residual(0.0, 4.0, {})
    assert expected_residual(1.0, 1.0, {"pair": [{"value": 1.0, "details": "nonsense"}]}) > 0


# ---------------------------------------------------------------- answers


def test_a_preference_becomes_the_difference_of_every_draw_of_its_pair(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan = plan_labels(run, *PAIR, 60)
    first, second, third = plan.items[:3]
    found = answer(run, plan, pair_row(plan, first, "second"), pair_row(plan, second, "first"),
                   pair_row(plan, third, "cannot tell"))  # fmt: skip
    by_sample = {draw.sample_id: draw for draw in found.draws}
    assert (by_sample[first.sample_id].difference, by_sample[second.sample_id].difference) == (1.0, -1.0)
    assert (by_sample[third.sample_id].state, by_sample[third.sample_id].difference) == ("cannot tell", None)
    assert len(found.draws) == 60
    assert [d.probability for d in found.draws] == [plan.frame[i].probability for i in plan.draws]
    assert not found.complete
    assert found.answered == next(t for t, d in enumerate(found.draws) if d.state == "open")


def test_a_grade_counts_once_both_outputs_have_one_of_the_same_person(tmp_path: Path) -> None:
    run = make_run(tmp_path, GRADE)
    plan = plan_labels(run, *GRADE, 10)
    pair = plan.items[0]
    half = answer(run, plan, grade_row(pair, pair.baseline, 2, "ann"), grade_row(pair, pair.candidate, 5, "bob"))
    assert half.draws[0].state == "open"
    whole = answer(run, plan, grade_row(pair, pair.candidate, 3, "ann"))
    assert (whole.draws[0].state, whole.draws[0].difference) == ("labelled", 1.0)
    both = answer(run, plan, grade_row(pair, pair.baseline, 2, "bob"))
    assert both.draws[0].difference == 2.0
    assert both.annotators == 2


def test_a_withdrawn_answer_is_none_and_a_later_one_replaces_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan = plan_labels(run, *PAIR, 20)
    pair = plan.items[0]
    assert answer(run, plan, pair_row(plan, pair, "first")).draws[0].difference == -1
    assert answer(run, plan, pair_row(plan, pair, "withdrawn")).draws[0].state == "open"
    assert answer(run, plan, pair_row(plan, pair, "tie")).draws[0].difference == 0
    assert answer(run, plan, pair_row(plan, pair, "second")).draws[0].difference == 1


def test_the_difference_is_oriented_so_that_up_is_better(tmp_path: Path) -> None:
    run = make_run(tmp_path, GRADE)
    plan = plan_labels(run, *GRADE, 10)
    path = labelled.plan_path(run, *GRADE)
    path.write_text(json.dumps({**plan.as_json(), "higher_is_better": False}))
    pair = plan.items[0]
    found = answer(run, plan, grade_row(pair, pair.baseline, 2), grade_row(pair, pair.candidate, 5))
    assert found.draws[0].difference == -3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_id": "s00"}, "the plan has no sample 's00': did you mean 's0'"),
        ({"second_sha256": "0" * 64}, "the label is of another run"),
        ({"label": "left"}, "label 'left'"),
        ({"label": None}, "label None"),
    ],
)
def test_an_answer_to_something_else_is_refused_with_its_line(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    run = make_run(tmp_path)
    plan = plan_labels(run, *PAIR, 60)
    pair = next(p for p in plan.frame if p.sample_id == "s0")
    answer(run, plan, pair_row(plan, plan.items[0], "tie"))
    with pytest.raises(DataError, match=message) as caught:
        answer(run, plan, {**pair_row(plan, pair, "tie"), **changes})
    assert str(caught.value).startswith(f"{labelled.labels_path(run, *PAIR)}:2: ")


def test_a_grade_off_the_scale_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, GRADE)
    plan = plan_labels(run, *GRADE, 10)
    for label in (0, 6, "3", True):
        path = labelled.labels_path(run, *GRADE)
        path.unlink(missing_ok=True)
        with pytest.raises(DataError, match="no level of the scale, 1 to 5"):
            answer(run, plan, grade_row(plan.items[0], plan.items[0].baseline, label))


# ---------------------------------------------------------------- files


def test_a_line_that_a_crash_cut_off_is_dropped_and_then_written_over(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan = plan_labels(run, *PAIR, 20)
    path = labelled.labels_path(run, *PAIR)
    answer(run, plan, pair_row(plan, plan.items[0], "first"))
    with open(path, "ab") as stream:
        stream.write(b'{"sample_id": "s1", "lab')
    assert sum(draw.state != "open" for draw in labelled.read_run_labels(run)[PAIR].draws) >= 1
    found = answer(run, plan, pair_row(plan, plan.items[1], "second"))
    assert {draw.difference for draw in found.draws} == {None, -1.0, 1.0}
    assert path.read_bytes().count(b"\n") == 2


def _append_many(path: Path, who: str) -> None:
    for number in range(50):
        labelled.append_row(path, {"who": who, "number": number, "padding": "x" * 3_000})


def test_sessions_that_append_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "many.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = [row for _, row in labelled.read_rows(path)]
    assert all([row["number"] for row in rows if row["who"] == who] == list(range(50)) for who in "abc")
    assert len(rows) == 150


def test_names_that_are_no_file_names_stay_apart(tmp_path: Path) -> None:
    paths = {labelled.plan_path(tmp_path, suite, "m") for suite in ("a b", "a/b", "a.b", "a-b", "../a-b", "ä b")}
    assert len(paths) == 6
    assert {path.parent for path in paths} == {tmp_path / "labels"}


def test_a_damaged_plan_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan_labels(run, *PAIR, 20)
    path = labelled.plan_path(run, *PAIR)
    for content in ("{", "[]", "{}", path.read_text().replace('"draws": [', '"draws": [999,')):
        path.write_text(content)
        with pytest.raises(StorageError, match="not a plan of labels"):
            labelled.read_run_labels(run)


def test_reading_labels_loads_no_judge_and_no_numpy(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan_labels(run, *PAIR, 20)
    code = (
        "import sys; from pathlib import Path; from harness.labelled import read_run_labels;"
        f"assert read_run_labels(Path({str(run)!r}));"
        "print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'litellm', 'torch') or 'judging' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
