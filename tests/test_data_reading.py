"""Rows of files, folders and datasets come with where they stand, and a source that cannot be read says why."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import DataError
from harness.training.data.reading import open_source
from harness.training.recipe import SourceSection

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder: Path, **section: Any) -> list[tuple[str, dict[str, Any]]]:
    source = open_source(SourceSection(**section), folder)
    return [(str(origin), row) for origin, row in source.rows()]


def test_every_file_format_yields_the_same_rows_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n" + "\n\n".join(json.dumps(row) for row in ROWS))
    (tmp_path / "b.json").write_text(json.dumps(ROWS, indent=1))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    assert read(tmp_path, path="a.jsonl") == [("a.jsonl:2", ROWS[0]), ("a.jsonl:4", ROWS[1])]
    assert read(tmp_path, path="b.json") == [("b.json:1", ROWS[0]), ("b.json:2", ROWS[1])]
    assert read(tmp_path, path="c.parquet") == [("c.parquet:1", ROWS[0]), ("c.parquet:2", ROWS[1])]


def test_a_folder_is_read_in_the_order_of_names_and_says_what_it_passes_over(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    jsonl(tmp_path / "data" / "b.jsonl", ROWS[:1])
    jsonl(tmp_path / "data" / "deep" / "a.jsonl", ROWS[1:])
    (tmp_path / "data" / "README.md").write_text("about")
    source = open_source(SourceSection(path="data"), tmp_path)
    assert [str(origin) for origin, _ in source.rows()] == ["data/b.jsonl:1", "data/deep/a.jsonl:1"]
    assert source.ignored == ("README.md",)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    source = open_source(SourceSection(path="a.jsonl"), tmp_path)
    assert source.hashes == {"a.jsonl": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_columns_are_renamed_and_the_others_stay(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [{"q": "x", "a": "y", "n": 1}])
    columns = {"prompt": "q", "completion": "a"}
    assert read(tmp_path, path="a.jsonl", columns=columns)[0][1] == {"n": 1, "prompt": "x", "completion": "y"}


def test_columns_can_be_swapped(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", ROWS[:1])
    columns = {"prompt": "completion", "completion": "prompt"}
    assert read(tmp_path, path="a.jsonl", columns=columns)[0][1] == {"prompt": "b", "completion": "a"}


def test_a_column_that_is_not_there_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [{"question": "x"}])
    with pytest.raises(DataError, match=r"a\.jsonl:1: no column 'quesion', .*did you mean 'question'"):
        read(tmp_path, path="a.jsonl", columns={"prompt": "quesion"})


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"a": 1}\n{', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]', r"a\.jsonl:2: expected an object with named columns, found list"),
        ("a.json", b'["text"]', r"a\.json:1: expected an object"),
        ("a.jsonl", b'{"a": "\xff"}', r"a\.jsonl:1: not UTF-8"),
        ("a.parquet", b"PAR1", r"a\.parquet: not a Parquet file"),
        ("a.txt", b"text", r"a\.txt: cannot be read as training data; known are \.json, \.jsonl"),
    ],
)
def test_a_damaged_file_is_an_error_with_its_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        read(tmp_path, path=name)


def test_a_missing_file_and_a_folder_without_rows_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such training file"):
        read(tmp_path, path="none.jsonl")
    with pytest.raises(DataError, match="holds no training file"):
        read(tmp_path, path=".")


def test_split_and_subset_of_a_file_are_refused() -> None:
    with pytest.raises(ValueError, match="belong to a dataset"):
        SourceSection(path="a.jsonl", split="test")


# ---------------------------------------------------------------- datasets


def saved(folder: Path) -> None:
    import datasets

    labels = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": labels})
    one = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": [1, 0, -1]}, features=features)
    datasets.DatasetDict({"train": one}).save_to_disk(str(folder / "both"))
    one.save_to_disk(str(folder / "one"))


def test_a_saved_dataset_is_read_by_index_with_the_names_of_its_classes(tmp_path: Path) -> None:
    saved(tmp_path)
    expected = [("both[0]", {"text": "x", "label": "good"}), ("both[1]", {"text": "y", "label": "bad"}),
                ("both[2]", {"text": "z", "label": None})]  # fmt: skip
    assert read(tmp_path, dataset="both") == expected
    assert [row for _, row in read(tmp_path, dataset="one")] == [row for _, row in expected]


def test_the_hash_of_a_dataset_is_that_of_the_rows_that_were_read(tmp_path: Path) -> None:
    saved(tmp_path)
    hashes = []
    for name in ("one", "both"):
        source = open_source(SourceSection(dataset=name), tmp_path)
        assert source.hashes == {}
        list(source.rows())
        hashes.append(source.hashes[f"{name}[train]"])
    assert hashes[0] == hashes[1]


def test_a_split_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(DataError, match="no split 'tran': did you mean 'train'"):
        read(tmp_path, dataset="both", split="tran")
    with pytest.raises(DataError, match="saved without splits"):
        read(tmp_path, dataset="one", split="test")


def test_a_dataset_out_of_reach_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset 'nobody/nothing' cannot be loaded: .*save_to_disk"):
        read(tmp_path, dataset="nobody/nothing")


def test_a_dataset_by_name_never_runs_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: dict[str, Any] = {}

    def load(name: str, subset: str | None, **settings: Any) -> Any:
        asked.update(settings, name=name, subset=subset)
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = read(tmp_path, dataset="team/set", subset="en", split="test", revision="v1")
    assert asked == {"name": "team/set", "subset": "en", "split": "test", "revision": "v1"}
    assert found == [("team/set/en[0]", ROWS[0]), ("team/set/en[1]", ROWS[1])]
