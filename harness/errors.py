"""Every error that Harness raises on purpose, as one tree.

    HarnessError                     exit code 4
    ├── UsageError                   exit code 2   what was asked for cannot be done as asked
    │   ├── ConfigError                            gate.yaml, recipe.yaml or an option is wrong
    │   ├── DataError                              a file of samples or scores is wrong
    │   ├── TraceError                             telemetry that cannot be read
    │   └── PluginError                            no such metric, suite, subject …, or its extra is missing
    ├── HoldError                    exit code 3   nothing may be decided on this input
    │   ├── LockError                              a frozen file is not what was frozen
    │   ├── BudgetError                            what may be spent is spent; the same command goes on
    │   ├── AdapterError                           the adapter is unsafe, foreign or inactive
    │   ├── PromotionError                         a run may not be promoted, or there is nothing to go back to
    │   └── RecordError                            a promoted adapter, its record or the ledger is not what was signed
    └── InfrastructureError          exit code 4   the machine failed, not the model
        ├── SubjectError                           a model could not be loaded or asked
        ├── JudgeError                             a judge could not be asked at all
        ├── SandboxError                           untrusted code could not be confined
        ├── StorageError                           a run directory or cache could not be written
        └── Interrupted                            Ctrl-C or a signal; the run can be resumed

A message says what is wrong, where (file, line, sample), and what to do about it. A new error goes under the
branch whose exit code a CI job should see; nothing here carries a score, and no score is ever made from one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar


class HarnessError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 4


class UsageError(HarnessError):
    """The request itself is wrong; repeating it unchanged cannot succeed."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or option is wrong."""


class DataError(UsageError):
    """A file of samples or scores is wrong."""


class TraceError(UsageError):
    """A telemetry payload or an export of traces is malformed, too large or nested too deeply."""


class PluginError(UsageError):
    """A named plugin does not exist, does not import, or is not what its kind requires."""


class HoldError(HarnessError):
    """The input may not be decided on: the verdict is HOLD."""

    exit_code = 3


class LockError(HoldError):
    """A frozen file differs from its locked hash, or is not locked at all."""


class BudgetError(HoldError):
    """What may be spent is spent: nothing more can be asked, and the same command goes on from there."""


class AdapterError(HoldError):
    """The adapter is unsafe to load, made for another base, or changes nothing."""


class PromotionError(HoldError):
    """A run may not be promoted: its verdict, its evidence or its adapter does not allow it. Nothing was changed."""


class RecordError(HoldError):
    """What was promoted cannot be proved: a record, a file that it vouches for or the ledger is not what was signed."""


class InfrastructureError(HarnessError):
    """The machine, a server or a tool failed; the same command may succeed later."""


class SubjectError(InfrastructureError):
    """A subject could not be loaded or could not be asked at all."""


class JudgeError(InfrastructureError):
    """A judge could not be asked, or said nothing that can be used, too often to be the samples' fault."""


class SandboxError(InfrastructureError):
    """Untrusted code could not be confined, so it was not run."""


class StorageError(InfrastructureError):
    """A run directory, cache or report could not be read or written."""


class Interrupted(InfrastructureError):
    """The run was stopped from outside; what was finished is in the journal."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Sentence fragment naming the closest of `known`, or all of them when none is close."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(choices)}" if choices else "none is known"


def at(path: Path | str, line: int | None = None) -> str:
    """Prefix `file:line: ` that editors and CI logs turn into a link."""
    return f"{path}:{line}: " if line is not None else f"{path}: "
