"""What `harness advise` does with its options: settle the situation, advise, and write the recipe."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import load_gate
from harness.errors import ConfigError, HoldError, StorageError
from harness.progress import Observer
from harness.training.advice.asking import QUESTIONS, describe, settle
from harness.training.advice.deciding import Advice, advise
from harness.training.advice.situation import Situation
from harness.training.advice.telling import as_document, tell
from harness.training.advice.writing import Places, recipe_text
from harness.training.recipe import load_recipe

_PLACES = ("revision", "data", "feedback_data", "replay", "gate")


GIVEN = frozenset({*(question.key for question in QUESTIONS), *_PLACES, "parameters", "memory", "device"})
"""Options of the command line that `run` takes."""


@dataclass(frozen=True, slots=True)
class Advised:
    """What is printed, in words and as a document, and the exit code."""

    text: str
    document: dict[str, Any]
    code: int


def run(given: Mapping[str, Any], out: Path | None, ask: Callable[[str], str] | None) -> Advised:
    """Advise, and write the recipe to `out` where one is asked for and there is one.

    The exit code is 0; 3 where a recipe was asked for and the advice is not to train, or not yet.

    Args:
        given: answers and places by key, None where not given.
        out: where the recipe goes.
        ask: puts a question and returns what was typed; None where nobody can be asked.

    Raises:
        ConfigError: an answer is missing or wrong.
        StorageError: the recipe cannot be written.
    """
    settled = settle(given, ask)
    advice = advise(settled.now)
    named = {"model": settled.model, **{key: given.get(key) for key in _PLACES}}
    places = Places(**{key: _relative(value, out) for key, value in named.items()})
    text = f"{describe(settled.now.shape)}\n\n"
    text += tell(advice, settled.now, settled.assumed, shutil.get_terminal_size((100, 24)).columns)
    code = 0
    if out is not None:
        told, code = _write(advice, settled.now, places, out)
        text += f"\n{told}\n"
    document = as_document(advice, settled.now, settled.assumed)
    return Advised(
        text, {**document, "recipe": str(out) if out is not None and advice.plan is not None else None}, code
    )


def _relative(value: str | None, out: Path | None) -> str | None:
    """What the recipe has to write for a path that is relative to here; anything that is no path stays as it is."""
    if value is None or out is None or not Path(value).exists():
        return value
    path, folder = Path(value).resolve(), out.resolve().parent
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _write(advice: Advice, now: Situation, places: Places, out: Path) -> tuple[str, int]:
    if advice.plan is None:
        return f"No recipe was written to {out}: there is nothing to train.", HoldError.exit_code
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(recipe_text(advice, now, places), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out}: the recipe cannot be written: {error.strerror or error}") from error
    load_recipe(out)  # what is handed over is known to be read
    blanks = out.read_text(encoding="utf-8").count("FILL IN") - 1  # the heading explains the words
    filled = f"; fill in the {blanks} places marked FILL IN" if blanks else ""
    if not advice.trains:
        return f"Recipe, for when a searched prompt falls short: {out}{filled}.", HoldError.exit_code
    return f"Recipe: {out}{filled}.", 0


def try_prompts(config: Path, search: Mapping[str, Any], observer: Observer, out: Path | None) -> Advised:
    """Measure what prompting achieves for the baseline of a gate.yaml; see `trying`.

    Args:
        config: the gate.yaml.
        search: the fields of `trying.Search`, but `gepa` as a number of calls and `mipro` as a number of trials, with
            `reflection` beside them.
        observer: is told how far it is.
        out: folder of the run directories.

    Raises:
        ConfigError: no candidate rows were named, or the gate does not fit; see `trying.try_prompts`.
    """
    from harness.training.advice import reporting, trying  # here: they bring numpy and the gate
    from harness.training.advice.evolving import Evolution
    from harness.training.advice.mipro import Bayesian

    chosen = dict(search)
    if chosen["candidates"] is None:
        raise ConfigError("--try-prompts needs --candidates ROWS.jsonl, rows that are in no golden set")
    calls, trials, reflection = (chosen.pop(key) for key in ("gepa", "mipro", "reflection"))
    chosen["gepa"] = None if calls is None else Evolution(calls, reflection)
    chosen["mipro"] = None if trials is None else Bayesian(trials, reflection)
    trial = trying.try_prompts(load_gate(config), trying.Search(**chosen), observer, out)
    return Advised(reporting.tell(trial), reporting.as_document(trial), reporting.exit_code(trial))
