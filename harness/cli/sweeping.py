"""The verb that tries settings of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli._terminal import Json, print_json, watching


def sweep(
    config: Annotated[Path, typer.Argument(help="A sweep.yaml.")] = Path("sweep.yaml"),
    as_json: Json = False,
) -> int:
    """Try settings of a recipe, each in a training of its own, and recommend what learned most without a regression.

    Trials are judged on the samples that gate.yaml holds back (`for_sweeps`); the gate's verdict on the recommended one
    is made by `harness train` of the recipe that is written. Repeat the command after an interruption: it goes on.
    Exit code: 0 with a recommendation, 3 without.
    """
    from harness.errors import HoldError
    from harness.training.sweeping.section import load_sweep
    from harness.training.sweeping.sweep import run_sweep
    from harness.training.sweeping.telling import next_step, table, write_report

    loaded = load_sweep(config)
    with watching() as observer:
        result = run_sweep(loaded, observer)
        report = write_report(result, loaded.recipe.name)
    if as_json:
        print_json(result.as_json() | {"report": str(report)})
    else:
        from harness.console import print_table

        columns, rows = table(result)
        print_table("What was tried", columns, rows)
        typer.echo(f"Report: {report}")
        if result.chosen is None:
            typer.echo("No trial gained on the target without a regression being shown: nothing is recommended.")
        else:
            typer.echo(f"Trial {result.chosen.number} is recommended: a choice, no verdict. For the gate's verdict on")
            typer.echo(
                f"samples that no trial has seen: {next_step(result)}   (in {result.recipe and result.recipe.parent})"
            )
    return HoldError.exit_code if result.chosen is None else 0
