"""Writes the files of a new project, each only where there is none yet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from harness import __version__
from harness.config import json_schema
from harness.errors import ConfigError, StorageError, at
from harness.scaffold import EXAMPLE_TAG
from harness.scaffold.asking import GATE, Answers

_SCHEMA_ANEW = "harness schema gate > .harness/gate.schema.json writes that of this version"
_SLOT = re.compile(r"@([A-Z]+)@")


@dataclass(frozen=True, slots=True)
class Draft:
    """One file to be: where, what is in it, and how to go on by hand where a file is there already."""

    path: str
    text: str
    otherwise: str = "move it away and repeat harness init to have it written anew"


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that was there and was left as it is, and how to go on."""

    path: str
    otherwise: str


@dataclass(frozen=True, slots=True)
class Written:
    """What `write` did, in the order of the files."""

    written: tuple[str, ...]
    kept: tuple[Kept, ...]


def drafts(folder: Path, answers: Answers) -> list[Draft]:
    """The files of a project; those of a golden set only where there is nothing of that name yet."""
    fill = _filler(answers)
    schema = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    found = [Draft(GATE, fill(GATE)), Draft(".harness/gate.schema.json", schema, _SCHEMA_ANEW)]
    return [*found, *_golden(folder, answers, fill), *_ci(answers, fill), *_git(answers, fill)]


def write(folder: Path, planned: list[Draft]) -> Written:
    """Write every draft that does not exist; nothing that exists is changed.

    Raises:
        ConfigError: `folder` is a file.
        StorageError: a file cannot be written; those before it are there, and a repetition goes on.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{at(folder)}is a file; harness init needs a folder")
    written, kept = [], []
    for draft in planned:
        if _create(folder / draft.path, draft.text):
            written.append(draft.path)
        else:
            kept.append(Kept(draft.path, draft.otherwise))
    return Written(tuple(written), tuple(kept))


def misplaced(folder: Path, answers: Answers) -> Path | None:
    """The root of the repository, if that is another folder: CI servers and git read their files there alone."""
    if (answers.ci == "none" and not answers.pre_commit) or (folder / ".git").exists():
        return None
    return next((parent for parent in folder.resolve().parents if (parent / ".git").exists()), None)


def next_commands(answers: Answers) -> tuple[str, ...]:
    """What to type after `harness init`; the example rows are to be replaced before the first of them."""
    freeze = (f"harness golden freeze {answers.reference}",) if answers.name else ()
    gate, plan = f"harness gate {GATE}", "harness plan --samples 400 --margin 0.05"
    if answers.ci == "none":
        return (*freeze, plan, gate)
    return (*freeze, gate, 'git add --all && git commit --message "Gate the adapter"')


def _golden(folder: Path, answers: Answers, fill: Callable[[str], str]) -> list[Draft]:
    golden = f"goldensets/{answers.name}"
    if not answers.name:
        return []
    if (folder / golden).exists():
        # A card of ours beside rows of theirs would be neither's set.
        return [Draft(golden, "", f"gate.yaml asks for {answers.reference}; name there the metrics of its card")]
    return [Draft(f"{golden}/1/{name}", fill(name)) for name in ("card.yaml", "samples.jsonl")]


def _ci(answers: Answers, fill: Callable[[str], str]) -> list[Draft]:
    if answers.ci == "github":
        return [
            Draft(".github/actions/harness-gate/action.yml", fill("github-action.yml")),
            Draft(".github/workflows/harness.yml", fill("github-workflow.yml")),
        ]
    if answers.ci == "gitlab":
        include = fill("gitlab-include.yml")
        return [
            Draft(".gitlab/harness.yml", fill("gitlab.yml")),
            Draft(".gitlab-ci.yml", include, f"add to it:\n{include}"),
        ]
    return []


def _git(answers: Answers, fill: Callable[[str], str]) -> list[Draft]:
    ignored, hook = fill("gitignore"), fill("pre-commit.yaml")
    found = [Draft(".gitignore", ignored, f"add to it what is not in it yet:\n{ignored}")]
    if answers.pre_commit:
        found.append(Draft(".pre-commit-config.yaml", hook, f"add to it:\n{hook}"))
    return found


def _filler(answers: Answers) -> Callable[[str], str]:
    """Reads a file of `files/` and puts the answers into it, all in one pass: an answer with a slot in it is text."""
    values = {
        "BASELINE": json.dumps(answers.baseline),  # a JSON text is a YAML text, whatever is in it
        "ADAPTER": json.dumps(answers.adapter),
        "NAME": json.dumps(answers.name),
        "SET": json.dumps(answers.reference),
        "TAG": EXAMPLE_TAG,
        "VERSION": __version__,
    }
    folder = files("harness.scaffold") / "files"

    def fill(name: str) -> str:
        return _SLOT.sub(lambda slot: values[slot[1]], (folder / name).read_text(encoding="utf-8"))

    return fill


def _create(path: Path, text: str) -> bool:
    """Write a new file; False where something of that name, be it a dangling link, is there."""
    try:
        if path.is_dir():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
    except FileExistsError:
        return _is_there(path)
    except OSError as error:
        raise StorageError(f"{at(path)}cannot be written: {error.strerror or error}") from error
    return True


def _is_there(path: Path) -> bool:
    """False, unless what is there is a file in the place of one of its folders."""
    if not path.is_symlink() and not path.exists():
        raise StorageError(f"{at(path)}cannot be written: one of its folders is a file")
    return False
