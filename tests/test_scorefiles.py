"""Scores made elsewhere: every format pairs the same way, and every defect is named with its place."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import scorefiles
from harness.errors import DataError
from harness.scorefiles import read_scores


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_jsonl_and_parquet_say_the_same(tmp_path: Path) -> None:
    records = [
        {"sample_id": "1", "score": 1.0, "suite": "s", "metric": "m", "cluster": "c", "slice": "x"},
        {"sample_id": "2", "score": 0.25, "suite": "s", "metric": "m", "cluster": "", "slice": ""},
    ]
    header = ",".join(records[0])
    rows = "\n".join(",".join(str(v) for v in r.values()) for r in records)
    files = [
        write(tmp_path / "a.csv", f"{header}\n{rows}\n"),
        write(tmp_path / "a.jsonl", "".join(json.dumps(r) + "\n" for r in records)),
        tmp_path / "a.parquet",
    ]
    pq.write_table(pa.Table.from_pylist(records), files[2])
    read = [{k: (r.score.value, r.cluster, r.slices) for k, r in read_scores(f).rows["s", "m"].items()} for f in files]
    assert read[0] == read[1] == read[2] == {"1": (1.0, "c", ("x",)), "2": (0.25, "", ())}


def test_several_slices_in_a_cell(tmp_path: Path) -> None:
    table = read_scores(write(tmp_path / "a.csv", "sample_id,score,slice\n1,1,x; y\n"))
    assert table.rows["scores", "score"]["1"].slices == ("x", "y")


def test_an_empty_score_is_a_failed_observation(tmp_path: Path) -> None:
    table = read_scores(write(tmp_path / "a.csv", "sample_id,score\n1,\n2,1\n"))
    assert table.rows["scores", "score"]["1"].score.state == "failed"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "sample_id,score\n1,1\n1,0\n", "a.csv:3: sample_id '1' is given twice"),
        ("a.csv", "sample_id,score\n1,nan\n", "a.csv:2: score is nan"),
        ("a.csv", "sample_id,score\n1,inf\n", "a.csv:2: score is inf"),
        ("a.csv", "sample_id,score\n1,good\n", "a.csv:2: score 'good' is not a number"),
        ("a.csv", "sample_id,scores\n1,1\n", "no column 'score': did you mean 'scores'?"),
        ("a.csv", "sample_id,score\n,1\n", "a.csv:2: sample_id is empty"),
        ("a.csv", "sample_id,score\n1,1,7\n", "a.csv:2: another number of columns"),
        ("a.csv", "sample_id,score\n", "holds no score"),
        ("a.jsonl", '{"sample_id": 1, "score": 1}\n{broken\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", "[1, 2]\n", "a.jsonl:1: expected an object"),
        ("a.jsonl", '{"sample_id": 1, "score": NaN}\n', "a.jsonl:1: score is nan"),
        ("a.txt", "", "unknown format '.txt'"),
        ("a.parquet", "no parquet", "not a Parquet file"),
        ("a.json", "{}", "not an Inspect log"),
        ("a.eval", "no zip", "not an Inspect log"),
    ],
)
def test_each_defect_has_one_message(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        read_scores(write(tmp_path / name, text))
    assert says in str(caught.value)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_scores(tmp_path / "absent.csv")


def lm_eval_row(doc: int, **values: object) -> str:
    return json.dumps({
        "doc_id": doc, "filtered_resps": [], "filter": "none", "doc_hash": f"h{doc}", "metrics": list(values), **values
    })  # fmt: skip


def test_lm_eval_logs_of_a_folder(tmp_path: Path) -> None:
    write(
        tmp_path / "m" / "samples_mmlu_law_2026-01-01T00-00-00.000000.jsonl",
        lm_eval_row(0, acc=1.0, brier=[0.1]) + "\n",
    )
    write(tmp_path / "m" / "samples_gsm8k_2026-01-01T00-00-00.000000.jsonl", lm_eval_row(3, exact_match=0.0) + "\n")
    table = read_scores(tmp_path)
    assert set(table.rows) == {("mmlu_law", "acc"), ("gsm8k", "exact_match")}
    assert table.rows["mmlu_law", "acc"]["0"].digest == "h0"
    assert "mmlu_law/brier is left out" in table.notes[0]


def test_two_runs_of_one_task_are_ambiguous(tmp_path: Path) -> None:
    for day in (1, 2):
        write(tmp_path / f"samples_t_2026-01-0{day}T00-00-00.0.jsonl", lm_eval_row(0, acc=1.0) + "\n")
    with pytest.raises(DataError, match="two logs of task 't'"):
        read_scores(tmp_path)


INSPECT = {
    "eval": {"task": "arc"},
    "samples": [
        {"id": 1, "epoch": 1, "scores": {"choice": {"value": "C"}}},
        {"id": 2, "epoch": 1, "scores": {"choice": {"value": "I"}}},
        {"id": 3, "epoch": 1, "error": "timeout", "scores": {"choice": {"value": "I"}}},
    ],
}


def test_a_log_that_unpacks_to_too_much_or_cannot_be_unpacked_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorefiles, "_LARGEST_LOG", 2**20)
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({"eval": INSPECT["eval"]}))
        for number in range(5):  # each is small enough by itself
            archive.writestr(f"samples/{number}.json", json.dumps({"id": number, "pad": "x" * 2**18}))
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        read_scores(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "[" * 200_000)
    with pytest.raises(DataError, match="not JSON"):
        read_scores(path)
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):  # the flag of an encrypted member
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not an Inspect log: .*encrypted"):
        read_scores(path)


def test_inspect_json_and_zip(tmp_path: Path) -> None:
    plain = write(tmp_path / "log.json", json.dumps(INSPECT))
    zipped = tmp_path / "log.eval"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("header.json", json.dumps({"eval": INSPECT["eval"]}))
        for sample in INSPECT["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_1.json", json.dumps(sample))
    for path in (plain, zipped):
        rows = read_scores(path).rows["arc", "choice"]
        assert {k: r.score.value for k, r in rows.items()} == {"1": 1.0, "2": 0.0, "3": None}
