"""A run's samples as files that a page can load from a folder: one of columns to list and filter, others of texts

A page that was opened from a folder may fetch nothing, but it may load scripts from there. So the files are scripts
of one call with one string: JSON that the page parses. Whatever a sample says stays inside that string, whose
characters are all ASCII; no text of a run is ever code, HTML, or the name of a property.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import runs
from harness.document import readable
from harness.history.reading import Run
from harness.records import Score
from harness.report import change_of
from harness.report._text import clipped, one_line

TEXTS = 100  # samples whose texts are in one file
_LIMIT = 4_000  # characters of each text
_EXCERPT = 80
_LETTERS = {"lost": "l", "won": "w", "failed": "f", "changed": "c"}


def write_samples(run: Run, folder: Path) -> None:
    """Write `<key>.js` and `<key>/<number>.js` below `folder`, unless they are of these very files already.

    Raises:
        StorageError: the run cannot be read, or the files cannot be written.
    """
    done = folder / run.key / "stamp"
    if done.is_file() and done.read_text("ascii") == run.stamp:
        return
    (folder / run.key).mkdir(parents=True, exist_ok=True)
    entries = [] if run.withheld else runs.read_entries(run.path)
    for number, start in enumerate(range(0, len(entries), TEXTS)):
        texts = [_texts(entry) for entry in entries[start : start + TEXTS]]
        _write(folder / run.key / f"{number}.js", "harnessTexts", run.key, number, texts)
    _write(folder / f"{run.key}.js", "harnessRun", run.key, _columns(run, entries))
    done.write_text(run.stamp, "ascii")


def _write(path: Path, call: str, *values: Any) -> None:
    """One call with one string: the JSON of each value."""
    arguments = ",".join(
        json.dumps(_json(value)) if isinstance(value, dict | list) else json.dumps(value) for value in values
    )
    path.write_text(f"{call}({arguments});\n", encoding="ascii")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _columns(run: Run, entries: Sequence[runs.Entry]) -> dict[str, Any]:
    """Samples by column, and below them one row a sample and metric; `of` is the sample's place in the columns."""
    higher = {(c.suite, c.metric): c.higher_is_better for c in run.comparisons}
    guards: dict[tuple[str, str], int] = {}
    tags: dict[str, int] = {}
    rows = list(_rows(entries, higher, guards))
    return {
        "guards": [one_line(f"{suite}/{metric}", 200) for suite, metric in guards],
        "digests": [run.suites.get(suite, "") for suite, _ in guards],
        "higher": [higher[guard] for guard in guards],
        "ids": [one_line(entry.sample_id, 120) for entry in entries],
        "excerpts": [one_line(entry.prompt, _EXCERPT) for entry in entries],
        "tags": [[tags.setdefault(one_line(t, 60), len(tags)) for t in entry.tags[:20]] for entry in entries],
        "tagNames": list(tags),
        "of": [row[0] for row in rows],
        "guard": [row[1] for row in rows],
        "before": [row[2] for row in rows],
        "after": [row[3] for row in rows],
        "change": "".join(row[4] for row in rows),
        "texts": TEXTS,
    }


def _rows(
    entries: Sequence[runs.Entry], higher: Mapping[tuple[str, str], bool], guards: dict[tuple[str, str], int]
) -> Iterator[tuple[int, int, float | str, float | str, str]]:
    for place, entry in enumerate(entries):
        for metric, (baseline, candidate) in entry.scores.items():
            key = entry.suite, metric
            if key not in higher:
                continue
            letter = _LETTERS[change_of(baseline, candidate, higher_is_better=higher[key])]
            yield place, guards.setdefault(key, len(guards)), _value(baseline), _value(candidate), letter


def _value(score: Score) -> float | str:
    """The score, or its state where there is none: never a number that was not observed."""
    return score.state if score.value is None else float(f"{score.value:.6g}")


def _texts(entry: runs.Entry) -> list[Any]:
    """Prompt, what is expected, both answers, and why scores are missing, by metric."""
    sides = (readable(entry.baseline), readable(entry.candidate))
    missing = [
        one_line(f"{metric}, {arm} {score.state}: {score.reason}", 600)
        for metric, pair in entry.scores.items()
        for arm, score in zip(("baseline", "candidate"), pair, strict=True)
        if score.value is None
    ]
    return [clipped(text, _LIMIT) for text in (entry.prompt, entry.target, *sides)] + [missing]
