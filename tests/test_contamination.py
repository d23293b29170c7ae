"""Finding frozen samples in training data, in every format, and not finding what is not there."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import contamination
from harness.contamination import N, find
from harness.errors import DataError
from harness.records import Message, Sample

LONG = "A farmer has seventeen sheep and all but nine of them run away during the night, how many are left?"
SHORT = "What is the capital of France?"
SAMPLES = [Sample("long", LONG, ("nine",)), Sample("short", SHORT, ("Paris",))]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def kinds(path: Path, samples: list[Sample] = SAMPLES) -> list[tuple[str, str, int]]:
    return [(f.sample_id, f.kind, f.line) for f in find([path], samples)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": SHORT, "completion": "Paris"},
        {"text": f"{SHORT} Paris"},
        {"text": f"  {SHORT.upper()}\n\nPARIS."},
        {"instruction": SHORT, "input": "", "output": "Paris"},
        {"messages": [{"role": "user", "content": SHORT}, {"role": "assistant", "content": "Paris"}]},
        {"nested": {"deep": ["x", SHORT]}},
    ],
)
def test_an_exact_prompt_is_found_in_any_field(tmp_path: Path, row: dict[str, Any]) -> None:
    assert kinds(jsonl(tmp_path / "train.jsonl", {"prompt": "?"}, row)) == [("short", "exact", 2)]


@pytest.mark.parametrize(
    "row",
    [
        {"text": f"Once upon a time. {LONG} Nine!"},
        {"text": "x " + " ".join(LONG.split()[3:16]) + " y"},
        {"prompt": " ".join(LONG.split()[:8]), "completion": " ".join(LONG.split()[8:])},
        {"text": LONG.upper().replace(" ", "\n").replace(",", " --")},
    ],
)
def test_thirteen_words_in_a_row_are_found(tmp_path: Path, row: dict[str, Any]) -> None:
    ((sample, _, line),) = kinds(jsonl(tmp_path / "train.jsonl", row))
    assert (sample, line) == ("long", 1)


@pytest.mark.parametrize(
    "text",
    [
        " ".join(LONG.split()[3:15]),
        " ".join(reversed(LONG.split())),
        f"Tell me: {SHORT}",
        "What is the capital of Germany?",
        "",
        "...",
    ],
)
def test_less_is_not_found(tmp_path: Path, text: str) -> None:
    assert kinds(jsonl(tmp_path / "train.jsonl", {"text": text})) == []


def test_a_finding_says_where_and_how_often(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "train.jsonl", {"a": "x"}, {"a": SHORT}, {"a": SHORT}, {"a": SHORT})
    (finding,) = find([path], SAMPLES)
    assert finding.rows == 3
    assert str(finding) == (
        f"{path}:2: exact match with sample 'short' and 2 more rows: 'what is the capital of france'"
    )


def test_findings_come_in_the_order_of_the_samples(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "train.jsonl", {"a": SHORT}, {"a": LONG})
    assert kinds(path) == [("long", "exact", 2), ("short", "exact", 1)]


def test_the_answer_is_part_of_what_is_frozen(tmp_path: Path) -> None:
    line = "it was the best of times it was the worst of times it was the age"
    sample = Sample("s", "Recite the first line.", (line,))
    path = jsonl(tmp_path / "train.jsonl", {"text": f"As Dickens wrote, {line} of wisdom."})
    assert kinds(path, [sample]) == [("s", "13-gram", 1)]


def test_the_last_question_of_a_conversation_counts_and_its_greeting_does_not(tmp_path: Path) -> None:
    talk = (Message("user", "Hello!"), Message("assistant", "Hi."), Message("user", SHORT))
    sample = Sample("talk", f"Hello!\n\nHi.\n\n{SHORT}", messages=talk)
    path = jsonl(tmp_path / "train.jsonl", {"text": "Hello!"}, {"text": SHORT})
    assert kinds(path, [sample]) == [("talk", "exact", 2)]


def test_an_instruction_that_begins_every_prompt_is_boilerplate(tmp_path: Path) -> None:
    lead = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    samples = [Sample(f"s{i}", f"{lead} Question {i}") for i in range(12)]
    path = jsonl(tmp_path / "train.jsonl", {"text": f"{lead} Something else"}, {"text": f"{lead} Question 7"})
    assert kinds(path, samples) == [("s7", "exact", 2)]
    assert kinds(path, samples[:10]) != []


def test_every_format_is_read(tmp_path: Path) -> None:
    rows = [{"q": "nothing", "n": 1}, {"q": LONG, "n": 2}]
    jsonl(tmp_path / "a.jsonl", *rows)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.csv").write_text(f'q,n\n"nothing",1\n"{LONG}",2\n')
    (tmp_path / "d.txt").write_text("nothing\n\n" + LONG.replace(" all", "\nall") + "\nmore\n")
    (tmp_path / "e.md").write_text(f"# Title\n{SHORT}\n")
    pq.write_table(pa.table({"q": [r["q"] for r in rows], "n": [1, 2]}), tmp_path / "f.parquet")
    found = {p.name: kinds(p) for p in tmp_path.iterdir()}
    assert found == {
        "a.jsonl": [("long", "exact", 2)], "b.json": [("long", "exact", 2)], "c.csv": [("long", "exact", 3)],
        "d.txt": [("long", "13-gram", 3)], "e.md": [("short", "exact", 1)], "f.parquet": [("long", "exact", 2)],
    }  # fmt: skip
    (first,) = [f for f in find([tmp_path], SAMPLES) if f.sample_id == "long" and f.kind == "exact"]
    assert (first.path.name, first.rows) == ("a.jsonl", 4)


def test_messages_in_parquet_are_read(tmp_path: Path) -> None:
    talk = [[{"role": "user", "content": SHORT}], [{"role": "user", "content": "x"}]]
    pq.write_table(pa.table({"messages": talk}), tmp_path / "train.parquet")
    assert kinds(tmp_path / "train.parquet") == [("short", "exact", 1)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"a": 1}\n{', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"a": "\xff"}', r"a\.jsonl:1: not UTF-8"),
        ("a.json", b"[", r"a\.json: not valid JSON"),
        ("a.parquet", b"PAR1 not really", r"a\.parquet: not a Parquet file"),
        ("a.bin", b"", "cannot be read as training data"),
    ],
)
def test_a_damaged_file_is_an_error_and_not_a_clean_bill(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        find([tmp_path / name], SAMPLES)


def test_a_missing_file_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such training file"):
        find([tmp_path / "none.jsonl"], SAMPLES)
    with pytest.raises(DataError, match="holds no training file"):
        find([tmp_path], SAMPLES)


def test_a_byte_order_mark_in_training_data_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": SHORT}).encode())
    assert kinds(tmp_path / "a.jsonl") == [("short", "exact", 1)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_finds_what_a_plain_search_finds(data: st.DataObject) -> None:
    words = st.lists(st.sampled_from("abc"), min_size=1, max_size=20)
    samples = [Sample(str(i), " ".join(w)) for i, w in enumerate(data.draw(st.lists(words, min_size=1, max_size=4)))]
    row = data.draw(words)
    matches = contamination.Index(samples).matches(contamination.words_of([" ".join(row)]))
    expected = set()
    for sample in samples:
        frozen = sample.prompt.split()
        runs = {tuple(frozen[i : i + N]) for i in range(len(frozen) - N + 1)}
        if frozen == row or any(tuple(row[i : i + N]) in runs for i in range(len(row) - N + 1)):
            expected.add(sample.id)
    assert {sample_id for sample_id, _ in matches} == expected


@pytest.mark.slow
def test_the_last_of_a_hundred_thousand_rows_is_found(tmp_path: Path) -> None:
    rng = Random(1)
    words = [f"w{i}" for i in range(5000)]
    samples = [Sample(f"s{i}", " ".join(rng.choices(words, k=60)), ("x",)) for i in range(1000)]
    lines = [" ".join(rng.choices(words, k=40)) for _ in range(2000)]
    with (tmp_path / "train.jsonl").open("w") as file:
        for i in range(100_000):
            text = samples[7].prompt if i == 99_999 else lines[i % 2000]
            file.write(json.dumps({"prompt": text, "completion": "yes"}) + "\n")
    found = find([tmp_path / "train.jsonl"], samples)
    assert [(f.sample_id, f.line) for f in found] == [("s7", 100_000)]
