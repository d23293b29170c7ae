"""Benchmark files on this machine in place of hub data sets, for machines that cannot reach the hub.

Only the rows are replaced: prompts, few-shot sampling, filters and metrics stay lm-eval's. The files are read in the
form in which their authors publish them (the folder may hold them directly, or under the benchmark's name):

    mmlu        dev/<subject>_dev.csv, test/<subject>_test.csv   question,choice0..choice3,answer (0-3)
    gsm8k       test.jsonl, train*.jsonl                         question, answer
    ifeval      input_data.jsonl                                 key, prompt, instruction_id_list, kwargs
    humaneval   HumanEval.jsonl.gz or .jsonl                     task_id, prompt, entry_point, canonical_solution, test
    bbh         <task>.json                                      {"examples": [{"input", "target"}]}
    truthfulqa  mc_task.json; TruthfulQA.csv for the generation task
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, DataError, nearest

Row = dict[str, Any]
Splits = dict[str, list[Row]]


def reader_for(dataset_path: str, dataset_name: str | None, folder: Path) -> Callable[..., Any]:
    """What stands in for the hub data set `dataset_path`: called by lm-eval, it gives a DatasetDict.

    Raises:
        ConfigError: the data set has no local form here, or the folder does not hold it.
    """
    if dataset_path not in _READERS:
        raise ConfigError(
            f"there is no local form of the data set {dataset_path!r}: {nearest(dataset_path, _READERS)}; write a "
            "task YAML with dataset_path: json and its own data_files instead"
        )
    benchmark, read = _READERS[dataset_path]
    found = _folder(folder, benchmark)

    def load(**_: Any) -> Any:
        return _datasets(read(found, dataset_name))

    return load


def _datasets(splits: Splits) -> Any:
    import datasets

    return datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})


def _folder(given: Path, benchmark: str) -> Path:
    """The benchmark's folder under what the user named; a file stands for its folder."""
    start = given.parent if given.is_file() else given
    for candidate in (start / benchmark, start / "benchmarks" / benchmark, start):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"data: {given} does not exist")


def _mmlu(folder: Path, subject: str | None) -> Splits:
    return {split: _mmlu_rows(folder / split / f"{subject}_{split}.csv", subject) for split in ("test", "dev")}


def _mmlu_rows(path: Path, subject: str | None) -> list[Row]:
    rows = []
    for line, row in enumerate(_csv(path), start=2):
        choices = [row.get(f"choice{i}") for i in range(4)]
        answer = row.get("answer", "")
        if None in choices or answer not in ("0", "1", "2", "3"):
            raise DataError(f"{path}: row {line}: expected question, choice0 to choice3 and answer 0-3")
        rows.append({"question": row["question"], "subject": subject, "choices": choices, "answer": int(answer)})
    return rows


def _gsm8k(folder: Path, _: str | None) -> Splits:
    train = sorted(folder.glob("train*.jsonl"))
    if not train:
        raise DataError(f"{folder}: no train*.jsonl to draw few-shot examples from")
    return {"test": _jsonl(folder / "test.jsonl"), "train": _jsonl(train[0])}


def _ifeval(folder: Path, _: str | None) -> Splits:
    return {"train": _jsonl(folder / "input_data.jsonl")}


def _humaneval(folder: Path, _: str | None) -> Splits:
    packed, plain = folder / "HumanEval.jsonl.gz", folder / "HumanEval.jsonl"
    return {"test": _jsonl(packed if packed.is_file() else plain)}


def _bbh(folder: Path, task: str | None) -> Splits:
    document = _json(folder / f"{task}.json")
    return {"test": [{"input": e["input"], "target": e["target"]} for e in document["examples"]]}


def _truthfulqa(folder: Path, part: str | None) -> Splits:
    if part == "generation":
        return {"validation": [_generation_row(row) for row in _csv(folder / "TruthfulQA.csv")]}
    rows = [
        {
            "question": row["question"],
            "mc1_targets": _targets(row["mc1_targets"]),
            "mc2_targets": _targets(row["mc2_targets"]),
        }
        for row in _json(folder / "mc_task.json")
    ]
    return {"validation": rows}


def _targets(choices: Mapping[str, int]) -> Row:
    """Choices with the true ones first, as the hub data set has them and the task's fixed target expects."""
    ordered = sorted(choices, key=lambda choice: -choices[choice])
    return {"choices": ordered, "labels": [choices[choice] for choice in ordered]}


def _generation_row(row: Mapping[str, str]) -> Row:
    return {
        "type": row["Type"], "category": row["Category"], "question": row["Question"],
        "best_answer": row["Best Answer"], "correct_answers": _semicolons(row["Correct Answers"]),
        "incorrect_answers": _semicolons(row["Incorrect Answers"]), "source": row["Source"],
    }  # fmt: skip


def _semicolons(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _csv(path: Path) -> list[dict[str, str]]:
    with _opened(path) as file:
        return list(csv.DictReader(file))


def _jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from error
    return rows


def _json(path: Path) -> Any:
    with _opened(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise DataError(f"{path}: not JSON: {error}") from error


def _opened(path: Path) -> Any:
    try:
        # newline="" because a quoted field of a CSV file may hold line breaks of either kind.
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        return path.open(encoding="utf-8", newline="")
    except FileNotFoundError as error:
        raise ConfigError(f"data: {path} does not exist") from error


_READERS: Mapping[str, tuple[str, Callable[[Path, str | None], Splits]]] = {
    "cais/mmlu": ("mmlu", _mmlu),
    "hails/mmlu_no_train": ("mmlu", _mmlu),
    "openai/gsm8k": ("gsm8k", _gsm8k),
    "gsm8k": ("gsm8k", _gsm8k),
    "google/IFEval": ("ifeval", _ifeval),
    "openai/openai_humaneval": ("humaneval", _humaneval),
    "openai_humaneval": ("humaneval", _humaneval),
    "SaylorTwift/bbh": ("bbh", _bbh),
    "lukaemon/bbh": ("bbh", _bbh),
    "truthfulqa/truthful_qa": ("truthfulqa", _truthfulqa),
    "truthful_qa": ("truthfulqa", _truthfulqa),
}
