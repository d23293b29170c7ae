"""The five questions of `harness init`: as options of the command line, and put one by one where they are not given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import ConfigError, nearest
from harness.goldens import names

Ci = Literal["github", "gitlab", "none"]
Ask = Callable[[str, str], str]
"""Puts a question with its default; returns what was answered."""
GATE = "gate.yaml"
_SERVERS: tuple[Ci, ...] = ("github", "gitlab", "none")
_LONGEST = 1_000


@dataclass(frozen=True, slots=True)
class Given:
    """What was said on the command line; None where nothing was."""

    baseline: str | None = None
    adapter: str | None = None
    name: str | None = None
    ci: Ci | None = None
    pre_commit: bool | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything that the files depend on. `baseline` and `adapter` are as gate.yaml names them.

    `name` is empty where no golden set is wanted: a gate.yaml that is there has its own.
    """

    baseline: str
    adapter: str
    name: str
    ci: Ci
    pre_commit: bool
    version: str = "1"

    @property
    def reference(self) -> str:
        """The golden set's version, `name@version`: the first, or the latest of a set that is there."""
        return f"{self.name}@{self.version}"


def settle(folder: Path, given: Given, ask: Ask | None) -> Answers:
    """Complete `given` by asking, or by the defaults where nobody can be asked (`ask` is None).

    Raises:
        ConfigError: an answer is none.
    """

    there = (folder / GATE).exists()  # and says itself what is compared: nothing about that is asked

    def settled(known: str | None, text: str, default: str, *, asked: bool = True) -> str:
        if known is None:
            known = default if ask is None or not asked else ask(text, default)
        return _line(text, known)

    def compared(known: str | None, text: str, default: str) -> str:
        return settled(known, text, default, asked=not there)

    baseline = compared(given.baseline, "Base model: a folder, or a name on the Hugging Face Hub", "models/base")
    adapter = compared(given.adapter, "Adapter to gate: a folder, which need not be there yet", "adapters/candidate")
    name = compared(given.name, "Golden set, named by what the adapter should have learned", "my-task")
    server = settled(given.ci, "CI: github, gitlab or none", _server_of(folder))
    hook = None if given.pre_commit is None else ("yes" if given.pre_commit else "no")
    hooked = settled(hook, "A pre-commit hook that verifies the golden sets: yes or no", "no")
    return Answers(
        _place(folder, baseline), _place(folder, adapter),
        "" if there and given.name is None else names.check_name(name), _ci(server), _yes(hooked),
        _latest(folder / "goldensets" / name),
    )  # fmt: skip


def _line(text: str, answer: str) -> str:
    answer = answer.strip()
    if not answer or len(answer) > _LONGEST or not answer.isprintable():
        raise ConfigError(f"{text}: expected one line of at most {_LONGEST:,} characters, got {answer[:80]!r}")
    return answer


def _place(folder: Path, answer: str) -> str:
    """A path from here as one from `folder`, where gate.yaml will lie; a hub name, or what is not there, as it is."""
    path = Path(answer)
    if path.is_absolute() or not path.exists():
        return answer
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def _latest(golden: Path) -> str:
    """The highest version in the folder of a set; 1 where there is none."""
    found = [path.name for path in golden.iterdir() if path.is_dir()] if golden.is_dir() else []
    return max((name for name in found if not name.startswith(".")), key=names.in_order, default="1")


def _server_of(folder: Path) -> Ci:
    """The server that the repository's own files speak of; GitHub where they do not."""
    if (folder / ".gitlab-ci.yml").exists():
        return "gitlab"
    try:
        remotes = (folder / ".git" / "config").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "github"
    return "gitlab" if "gitlab" in remotes and "github" not in remotes else "github"


def _ci(answer: str) -> Ci:
    found = next((server for server in _SERVERS if server == answer.lower()), None)
    if found is None:
        raise ConfigError(f"{answer!r} is no CI server that harness init writes a job for: {nearest(answer, _SERVERS)}")
    return found


def _yes(answer: str) -> bool:
    known = {"yes": True, "y": True, "no": False, "n": False}
    if answer.lower() not in known:
        raise ConfigError(f"{answer!r} is neither yes nor no")
    return known[answer.lower()]
