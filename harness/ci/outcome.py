"""What a gate came to, read from its run directory or from what `harness gate --json` printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.document import read_run
from harness.errors import ConfigError, InfrastructureError, at
from harness.records import EXIT_CODES, Decision, worst
from harness.report import Document

MAX_BYTES = 256 * 2**20
HOLD: Literal[3] = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """The documents of all candidates that were gated; or, where the gate ended with an error, its message.

    `code` is the exit code of `harness gate`: 0 promote, 1 block, 2 usage, 3 hold, 4 infrastructure failure.
    """

    documents: tuple[Document, ...]
    code: int
    error: str = ""

    @property
    def verdict(self) -> Decision | Literal["error"]:
        """The verdict on all candidates together, or `error`."""
        return "error" if self.error else worst(d.verdict.verdict for d in self.documents)


def read_outcome(path: Path) -> Outcome:
    """The outcome in a run directory, or in the file that holds the JSON of `harness gate --json`.

    Verdicts are decided anew from the stored evidence, not copied. A file without JSON in it, as a gate leaves that
    was killed, is an outcome too: an error with exit code 4.

    Raises:
        ConfigError: there is no such file or folder.
        StorageError: a run directory is not complete.
    """
    if path.is_dir():
        return _of_runs([path])
    document = _read(path)
    if document is None:
        return Outcome((), InfrastructureError.exit_code, "The gate ended without a result; its log says why.")
    if "error" in document:
        return _of_error(document)
    return _of_runs(_runs(path, document))


def concluded(outcome: Outcome, code: int | None = None, *, neutral: bool = False) -> int:
    """The exit code of a CI job: that of the outcome, which `code`, what the gate itself returned, must confirm.

    With `neutral`, a verdict HOLD lets the job pass. A refusal to decide at all, such as a golden set that is not what
    was frozen, never does.

    Raises:
        InfrastructureError: the gate's own exit code and its result disagree, so neither can be relied on.
    """
    if code is not None and code != outcome.code:
        raise InfrastructureError(
            f"the gate returned exit code {code}, but its result is {outcome.verdict.upper()} ({outcome.code}); "
            "repeat the job"
        )
    return 0 if neutral and outcome.code == HOLD and not outcome.error else outcome.code


def _of_runs(paths: Sequence[Path]) -> Outcome:
    documents = tuple(read_run(path) for path in paths)
    return Outcome(documents, EXIT_CODES[worst(d.verdict.verdict for d in documents)])


def _of_error(document: Mapping[str, Any]) -> Outcome:
    error, given = document["error"], document.get("exit_code")
    message = error.get("message") if isinstance(error, Mapping) else None
    code = next((code for code in (2, 3, 4) if code == given), InfrastructureError.exit_code)
    return Outcome((), code, str(message or "The gate failed."))


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    try:
        with path.open("rb") as stream:
            document = json.loads(stream.read(MAX_BYTES))
    except OSError as error:
        wanted = "expected a run directory, or what harness gate --json printed"
        raise ConfigError(f"{at(path)}{error.strerror}; {wanted}") from error
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _runs(path: Path, document: Mapping[str, Any]) -> list[Path]:
    try:
        found = [Path(one["run"]) for one in document.get("candidates", [document])]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{at(path)}not what harness gate --json prints: no run is named in it") from error
    if not found:
        raise ConfigError(f"{at(path)}names no candidate")
    return found
