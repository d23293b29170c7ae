"""The verb about reports: one run's anew, several beside each other, or the history of all of them as a site"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli._terminal import Json, print_json
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.history.lineage import Move
    from harness.report import Document


class LogOption(StrEnum):
    """A tracker that has a plugin here."""

    mlflow = "mlflow"
    wandb = "wandb"


def report(
    run: Annotated[list[Path], typer.Argument(help="Run directories; with --history also folders that hold them.")],
    history: Annotated[bool, typer.Option("--history", help="Write a site of all runs into --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the site.")] = None,
    registry: Annotated[
        str | None, typer.Option(envvar="HARNESS_REGISTRY", help="With --history: whose ledger says what was promoted.")
    ] = None,
    title: Annotated[str, typer.Option(help="With --history: what the site is called.")] = "History",
    log: Annotated[list[LogOption] | None, typer.Option(help="Log the runs to this tracker, too.")] = None,
    as_json: Json = False,
) -> int:
    """Decide stored runs again from their evidence and write their reports anew; needs no model.

    Of several runs the guards are shown side by side, and the worst verdict is the exit code. With --history nothing is
    written into the runs, and the exit code is 0.
    """
    if history:
        if out is None or log:
            raise ConfigError(
                "--history needs --out DIR" if out is None else "--log goes with runs, not with --history"
            )
        return _history(run, out, registry, title, as_json)
    if out is not None:
        raise ConfigError("--out is the folder of a site: add --history; the reports of a run go into the run")
    return _reports(run, log or (), as_json)


def _reports(paths: Sequence[Path], logs: Sequence[LogOption], as_json: bool) -> int:
    from harness.document import read_run, write_reports
    from harness.records import EXIT_CODES, worst

    documents = [read_run(path) for path in paths]
    written = [write_reports(path, document) for path, document in zip(paths, documents, strict=True)]
    for name in logs:
        _log(name, paths, documents)
    verdicts = [document.verdict for document in documents]
    if as_json and len(paths) == 1:
        print_json(verdicts[0].as_json() | {"run": str(paths[0])})
    elif as_json:
        each = [{"run": str(path), **verdict.as_json()} for path, verdict in zip(paths, verdicts, strict=True)]
        print_json({"verdict": worst(v.verdict for v in verdicts), "runs": each})
    elif len(paths) == 1:
        from harness.console import print_verdict

        print_verdict(verdicts[0], report=written[0][0])
    else:
        _print_side_by_side(paths, documents)
    return EXIT_CODES[worst(v.verdict for v in verdicts)]


def _log(name: LogOption, paths: Sequence[Path], documents: Sequence[Document]) -> None:
    from harness import plugins

    options = plugins.options("history.logs", name.value, {}, where=f"--log {name.value}")
    try:
        tracker = plugins.load("history.logs", name.value).build(options)
    except ImportError as error:
        raise ConfigError(plugins.missing_extra(f"--log {name.value}", error)) from error
    for path, document in zip(paths, documents, strict=True):
        typer.echo(f"logged {path} to {tracker.log(path, document)}", err=True)


def _print_side_by_side(paths: Sequence[Path], documents: Sequence[Document]) -> None:
    """A column a run, a row a guard."""
    from harness import words
    from harness.console import print_table

    labels = list(dict.fromkeys(c.label for d in documents for c in d.verdict.comparisons if c.required or c.blocks))
    cells = [{c.label: c for c in document.verdict.comparisons} for document in documents]
    rows = [
        (label, *(f"{words.MARK[c[label].outcome]} {words.difference(c[label])}" if label in c else words.MISSING
                  for c in cells))
        for label in labels
    ]  # fmt: skip
    rows.insert(0, ("verdict", *(document.verdict.verdict.upper() for document in documents)))
    names = [str(document.manifest["candidate"]["name"]) for document in documents]
    print_table("Runs", ("guard", *names), rows)
    for path in paths:
        typer.echo(f"Report: {path / 'report.html'}")


def _history(places: Sequence[Path], out: Path, registry: str | None, title: str, as_json: bool) -> int:
    from harness.history.site import build

    built = build(places, out, moves=None if registry is None else _moves(registry), title=title)
    for unread in built.unread:
        typer.echo(f"not in the history: {unread.path}: {unread.reason}", err=True)
    if as_json:
        print_json({
            "index": str(built.index),
            "runs": [{"run": str(run.path), "verdict": run.verdict, "when": run.when} for run in built.runs],
            "unread": [{"run": str(unread.path), "reason": unread.reason} for unread in built.unread],
        })  # fmt: skip
    else:
        typer.echo(f"{len(built.runs)} runs: {built.index}")
    return 0


def _moves(registry: str) -> list[Move]:
    from harness.history.lineage import Move
    from harness.registry import open_registry

    entries = open_registry(registry).log()
    return [Move(e.at, e.action, e.alias, e.run, e.verdict, e.by, e.reason) for e in entries]
