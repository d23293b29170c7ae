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
    """Everything that the files depend on. `baseline` and `adapter` are as gate.yaml names them."""

    baseline: str
    adapter: str
    name: str
    ci: Ci
    pre_commit: bool

    @property
    def reference(self) -> str:
        """The golden set's first version, `name@1`."""
        return f"{self.name}@1"


def settle(folder: Path, given: Given, ask: Ask | None) -> Answers:
    """Complete `given` by asking, or by the defaults where nobody can be asked (`ask` is None).

    Raises:
        ConfigError: an answer is none.
    """

    def settled(known: str | None, text: str, default: str) -> str:
        if known is None:
            known = default if ask is None else ask(text, default)
        return _line(text, known)

    baseline = settled(given.baseline, "Base model: a folder, or a name on the Hugging Face Hub", "models/base")
    adapter = settled(given.adapter, "Adapter to gate: a folder, which need not be there yet", "adapters/candidate")
    name = settled(given.name, "Golden set, named by what the adapter should have learned", "my-task")
    server = settled(given.ci, "CI: github, gitlab or none", _server_of(folder))
    hook = None if given.pre_commit is None else ("yes" if given.pre_commit else "no")
    hooked = settled(hook, "A pre-commit hook that verifies the golden sets: yes or no", "no")
    return Answers(
        _place(folder, baseline), _place(folder, adapter), names.check_name(name), _ci(server), _yes(hooked),
        _latest(folder / "goldensets" / name),
    )  # fmt: skip
    return known[answer.lower()]
