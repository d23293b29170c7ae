"""Human labels from files: what a row may say, what is refused and where, and the items that rows make together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import labelled
from harness.errors import DataError
from harness.judging.labels import Item, Scale, digest_of, items_of, read_labels
from harness.judging.records import Case, PairCase
from harness.judging.rubric import load_rubric
from harness.records import Sample

PAIRS = Scale(pairwise=True)
GRADES = Scale(False, (1.0, 2.0, 3.0, 4.0, 5.0), {"useless": 1.0, "fully helpful": 5.0})


def grade(number: int = 0, label: object = 3, **more: Any) -> dict[str, Any]:
    return {"sample_id": f"s{number}", "prompt": f"Question {number}?", "output": f"Answer {number}.", "label": label,
            **more}  # fmt: skip


def preference(number: int = 0, label: object = "first", **more: Any) -> dict[str, Any]:
    return {"sample_id": f"s{number}", "prompt": "?", "first": "One.", "second": "Two.", "label": label, **more}


def written(folder: Path, *rows: dict[str, Any], name: str = "labels.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def items(folder: Path, scale: Scale, *rows: dict[str, Any]) -> tuple[Item, ...]:
    return items_of(read_labels(written(folder, *rows), scale))


def test_a_row_holds_its_own_sample_and_every_other_column_is_shown_to_the_judge(tmp_path: Path) -> None:
    row = grade(label=4, context=["a", "b"], target="42", slice=["maths"], cluster="c", annotator="ann", answers=["x"])
    (item,) = items(tmp_path, GRADES, row)
    assert item.case == Case(
        Sample("s0", "Question 0?", targets=("42",), data={"context": ["a", "b"]}), "Answer 0.", ("x",)
    )
    assert (item.value, item.held_out, item.slices, item.cluster) == (4.0, True, ("maths",), "c")
    assert item.by_annotator == {"ann": 4.0}


def test_a_csv_says_the_same_as_a_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "sample_id,prompt,output,label,slice,split,context\ns0,Question 0?,Answer 0.,4,a; b,dev,facts\n",
        encoding="utf-8",
    )
    found = items_of(read_labels(path, GRADES))
    assert found == items(tmp_path, GRADES, grade(label=4, slice="a;b", split="dev", context="facts"))
    assert (found[0].slices, found[0].held_out) == (("a", "b"), False)


@pytest.mark.parametrize(("label", "value"), [("first", -1), ("tie", 0), ("second", 1), (-1, -1), ("0", 0), (1.0, 1)])
def test_a_preference_may_be_a_word_or_a_number(tmp_path: Path, label: object, value: float) -> None:
    (item,) = items(tmp_path, PAIRS, preference(label=label))
    assert item.value == value
    assert isinstance(item.case, PairCase)
    assert (item.case.first.output, item.case.second.output) == ("One.", "Two.")


def test_a_level_may_be_named(tmp_path: Path) -> None:
    assert items(tmp_path, GRADES, grade(label="fully helpful"))[0].value == 5.0


def test_the_scale_is_the_rubrics() -> None:
    scale = Scale.of(load_rubric("helpfulness"))
    assert scale.levels == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert scale.names["fully helpful"] == 5.0
    assert Scale.of(load_rubric("preference")) == PAIRS


def test_several_annotators_make_a_mean_and_who_cannot_tell_says_nothing(tmp_path: Path) -> None:
    rows = [grade(label=value, annotator=who) for who, value in (("a", 2), ("b", 5), ("c", "cannot tell"))]
    (item,) = items(tmp_path, GRADES, *rows)
    assert item.value == 3.5
    assert item.by_annotator == {"a": 2.0, "b": 5.0}
    assert items(tmp_path, GRADES, grade(label="cannot tell")) == ()


def test_a_pair_that_is_labelled_the_other_way_round_is_the_same_pair(tmp_path: Path) -> None:
    turned = {"sample_id": "s0", "prompt": "?", "first": "Two.", "second": "One.", "label": "second", "annotator": "b"}
    (item,) = items(tmp_path, PAIRS, preference(label="first", annotator="a"), turned)
    assert isinstance(item.case, PairCase)
    wanted = -1.0 if item.case.first.output == "One." else 1.0
    assert item.by_annotator == {"a": wanted, "b": wanted}


@pytest.mark.parametrize(("mean", "level"), [(2.4, 2), (2.5, 3), (3.5, 3), (4.5, 4), (1.5, 2), (3.0, 3)])
def test_a_mean_goes_to_the_nearest_level_and_between_two_to_the_middle(mean: float, level: float) -> None:
    assert GRADES.nearest(mean) == level


def test_half_a_preference_is_a_tie() -> None:
    assert (PAIRS.nearest(0.5), PAIRS.nearest(-0.5), PAIRS.nearest(0.6)) == (0.0, 0.0, 1.0)


def test_samples_and_outputs_may_stand_elsewhere(tmp_path: Path) -> None:
    answers = ["earlier", "last"]
    row = {"sample_id": "s0", "output_sha256": labelled.digest_of_turns(answers), "label": 2}
    file = read_labels(written(tmp_path, row), GRADES)
    sample = Sample("s0", "From the golden set", tags=("tagged",), cluster="k")
    (item,) = items_of(file, {"s0": sample}, {labelled.digest_of_turns(answers): answers})
    assert item.case == Case(sample, "last", ("earlier",))
    assert (item.slices, item.cluster) == (("tagged",), "k")
    with pytest.raises(DataError, match=r"labels.jsonl:1: no sample 's0': known: s1"):
        items_of(file, {"s1": sample})
    with pytest.raises(DataError, match=r"labels.jsonl:1: the text of output .* --run"):
        items_of(file, {"s0": sample})
    with pytest.raises(DataError, match=r"labels.jsonl:1: no 'prompt' for sample 's0'; .* --samples"):
        items_of(file)


def test_two_things_said_by_one_annotator_are_refused_with_both_lines(tmp_path: Path) -> None:
    rows = [grade(label=3, annotator="ann"), grade(1), grade(label=4, annotator="ann")]
    with pytest.raises(DataError, match=r"labels.jsonl:3: annotator 'ann' says 4 .*said 3 of the same at .*:1;"):
        read_labels(written(tmp_path, *rows), GRADES)
    with pytest.raises(DataError, match=r":2: the same annotator \(none is named\) says 4"):
        read_labels(written(tmp_path, grade(label=3), grade(label=4)), GRADES)


def test_the_same_said_twice_or_withdrawn_before_is_no_disagreement(tmp_path: Path) -> None:
    assert items(tmp_path, GRADES, grade(label=3), grade(label=3))[0].by_annotator == {"": 3.0}
    rows = [grade(label=3), grade(label="withdrawn"), grade(label=4)]
    assert items(tmp_path, GRADES, *rows)[0].value == 4.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sample": "s0", "label": 3}, "unknown column 'sample': did you mean 'sample_id'"),
        ({"id": "s0", "label": 3}, "no 'sample_id': known: id, label"),
        (grade(label=""), "no 'label': write 'cannot tell'"),
        (grade(label=6), r"label 6 is not on the scale: 1 \(useless\)"),
        (grade(label=True), "label True is not on the scale"),
        (grade(label="first"), "label 'first' is not on the scale"),
        ({"sample_id": "s0", "prompt": "?", "label": 3}, "no 'output' and no 'output_sha256'"),
        (grade(output=3), "output must be a text, not int"),
        (grade(output_sha256="ab"), "output_sha256 is not the SHA-256 of output"),
        (grade(answers="one"), "answers must be a list of texts"),
        (grade(messages=["hi"]), "messages must be a list of objects with role and content"),
        (grade(split="train"), "split 'train': known: dev, held-out, test"),
        (grade(spilt="dev"), "unknown column 'spilt': did you mean 'split'"),
        (grade(anotator="ann"), "unknown column 'anotator': did you mean 'annotator'"),
    ],
)
def test_a_row_that_is_no_label_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        items_of(read_labels(written(tmp_path, grade(9), row), GRADES))
    assert str(caught.value).startswith(f"{tmp_path / 'labels.jsonl'}:2: ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.jsonl", "", "holds no label"),
        ("labels.jsonl", "\n\n", "holds no label"),
        ("labels.csv", "sample_id,label\n", "holds no label"),
        ("labels.jsonl", "{", ":1: not JSON"),
        ("labels.jsonl", "[]", ":1: expected an object"),
        ("labels.jsonl", '{"sample_id": "s", "label": NaN}', ":1: not JSON"),
        ("labels.csv", "sample_id,label\ns0\n", ":2: another number of columns"),
        ("labels.txt", "x", "unknown format '.txt'"),
    ],
)
def test_a_file_that_holds_none_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / name, GRADES)


def test_other_bad_files_and_rows_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "nowhere.jsonl", GRADES)
    (tmp_path / "latin.jsonl").write_bytes(b'{"sample_id": "\xe4"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        read_labels(tmp_path / "latin.jsonl", GRADES)
    with pytest.raises(DataError, match="every one was withdrawn"):
        read_labels(written(tmp_path, grade(), grade(label="withdrawn")), GRADES)
    with pytest.raises(DataError, match=r":2: sample 's0' reads otherwise at .*:1"):
        items(tmp_path, GRADES, grade(annotator="a"), grade(annotator="b", prompt="Another?"))
    with pytest.raises(DataError, match="is `split: dev` in one row and not in another"):
        items(tmp_path, GRADES, grade(annotator="a", split="dev"), grade(annotator="b"))


def test_the_digest_is_of_what_the_rows_say_and_not_of_their_order(tmp_path: Path) -> None:
    one, other = written(tmp_path, grade(0), grade(1)), written(tmp_path, grade(1), grade(0), name="other.jsonl")
    changed = written(tmp_path, grade(0), grade(1, label=4), name="changed.jsonl")
    assert digest_of(one) == digest_of(other) == read_labels(one, GRADES).digest != digest_of(changed)
