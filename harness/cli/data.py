"""The verbs that make training rows: the demo's, a teacher's answers, a judge's preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli._terminal import Json, print_json

app = typer.Typer(help="Make rows to train on: a teacher's answers, a judge's preferences.", no_args_is_help=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="A new folder.")] = Path("walk"),
    seed: Annotated[int, typer.Option(help="Seed of the rows.")] = 0,
    as_json: Json = False,
) -> int:
    """Write the demo's small model, rows of its new and its old skills, and a gate.yaml: a project to train in."""
    from harness.demo.project import write_project

    written = [str(path) for path in write_project(folder, seed)]
    if as_json:
        print_json({"written": written})
    else:
        typer.echo("\n".join(written))
    return 0
