"""The verbs about training: whether to train at all, and a whole recipe from its baseline to its verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli._terminal import Json, print_json, watching

if TYPE_CHECKING:
    from harness.training.run import TrainingResult


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe.yaml.")] = Path("recipe.yaml"),
    as_json: Json = False,
) -> int:
    """Measure the baseline on frozen samples, train a recipe's stages, and gate what comes of it.

    Repeat the command after an interruption: it goes on where it was. Exit code: as of `gate`; a recipe that stopped
    before its last stage is never 0.
    """
    from harness.training.recipe import load_recipe
    from harness.training.run import train as run_training

    loaded = load_recipe(recipe)
    with watching() as observer:
        result = run_training(loaded, observer)
    return _conclude_training(result, as_json)


def advise(
    model: Annotated[str | None, typer.Option(help="Folder or hub name (its config is read), or a size: 7B.")] = None,
    parameters: Annotated[str | None, typer.Option(help="Size of the model, 7B; its config is not read then.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")] = None,
    task: Annotated[str | None, typer.Option(help="generation or classification.")] = None,
    need: Annotated[str | None, typer.Option(help="behaviour, format, knowledge, preference or cost.")] = None,
    prompting: Annotated[str | None, typer.Option(help="untried, or measured: gap or enough.")] = None,
    rows: Annotated[str | None, typer.Option(help="Rows with the wanted answer; counted in --data by default.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Further prompts, without an answer.")] = None,
    changing: Annotated[bool | None, typer.Option(help="The facts change more often than one trains.")] = None,
    feedback: Annotated[str | None, typer.Option(help="Judged answers: none, pairs or labels.")] = None,
    judgements: Annotated[str | None, typer.Option(help="How many of them.")] = None,
    verifiable: Annotated[bool | None, typer.Option(help="A program can tell a right answer.")] = None,
    teacher: Annotated[bool | None, typer.Option(help="A stronger model may answer or judge.")] = None,
    serving: Annotated[str | None, typer.Option(help="one, many (adapters) or lowest-latency.")] = None,
    keep: Annotated[bool | None, typer.Option(help="Old skills must be kept (the default).")] = None,
    priority: Annotated[str | None, typer.Option(help="balanced, quality or smallest.")] = None,
    length: Annotated[str | None, typer.Option(help="Tokens of a long row.")] = None,
    memory: Annotated[str | None, typer.Option(help="Free memory, 24GB; this machine's by default.")] = None,
    device: Annotated[str | None, typer.Option(help="What that memory is of: cuda, mps or cpu.")] = None,
    data: Annotated[str | None, typer.Option(help="Training rows, for the recipe.")] = None,
    feedback_data: Annotated[str | None, typer.Option(help="Judged answers, for the recipe.")] = None,
    replay: Annotated[str | None, typer.Option(help="Broader rows against forgetting, for the recipe.")] = None,
    gate: Annotated[str | None, typer.Option(help="The gate.yaml that decides, for the recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a recipe.yaml; with --try-prompts, the runs' folder.")] = None,
    try_prompts: Annotated[
        Path | None, typer.Option(help="Measure prompting instead, for the baseline of this gate.yaml.")
    ] = None,
    candidates: Annotated[Path | None, typer.Option(help="Rows to take examples from: prompt, completion.")] = None,
    suite: Annotated[str | None, typer.Option(help="Golden suite that the prompt is for.")] = None,
    instruction: Annotated[list[str] | None, typer.Option(help="An instruction to try; repeat for more.")] = None,
    shots: Annotated[int, typer.Option(min=0, help="Examples in a prompt at most.")] = 8,
    trials: Annotated[int, typer.Option(min=0, help="Choices of examples to try.")] = 16,
    gepa: Annotated[int | None, typer.Option(min=1, help="Also evolve instructions: answers GEPA may ask for.")] = None,
    mipro: Annotated[
        int | None, typer.Option(min=1, help="Also search with DSPy's MIPROv2: trials it may make.")
    ] = None,
    reflection: Annotated[
        str | None, typer.Option(help="Model that writes instructions; for GEPA the baseline by default.")
    ] = None,
    prompt_out: Annotated[Path | None, typer.Option(help="Where the prompt is written.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    as_json: Json = False,
) -> int:
    """Should this be fine-tuned at all? If so: what moves, towards what, with which settings, in how much memory?

    In a terminal, what is not said is asked. Exit code: 0; 3 where --out is given and the advice is not to train (yet).
    """
    from harness.training.advice import command

    given = {name: value for name, value in locals().items() if name in command.GIVEN}
    if try_prompts is None:
        ask = _ask if sys.stdin.isatty() and not as_json else None
        said = command.run(given, out, ask)
    else:
        search = {
            "candidates": candidates, "suite": suite, "instructions": tuple(instruction or ()), "shots": shots,
            "trials": trials, "seed": seed, "prompt_out": prompt_out, "gepa": gepa, "mipro": mipro,
            "reflection": reflection,
        }  # fmt: skip
        with watching() as observer:
            said = command.try_prompts(try_prompts, search, observer, out)
    if as_json:
        print_json(said.document)
    else:
        typer.echo(said.text, nl=False)
    return said.code


def _ask(question: str) -> str:
    """Put a question on stderr; stdout is for the advice."""
    typer.echo(question, err=True, nl=False)
    return input()


def _conclude_training(result: TrainingResult, as_json: bool) -> int:
    """The stages, and the verdict on what they came to."""
    last = result.verdict
    if as_json:
        document = {
            "stages": [{"name": s.name, "folder": str(s.folder), "rows": s.rows, **s.outcome} for s in result.stages],
            "result": None if result.result is None else str(result.result),
            "stopped": result.stopped,
            "ungated": result.ungated,
            "verdicts": {name: {**r.verdict.as_json(), "run": str(r.path)} for name, r in result.verdicts.items()},
        }
        print_json(document)
    else:
        from harness.console import print_table, print_verdict

        columns = ("stage", "rows", "trained parameters", "steps", "ended because", "folder")
        print_table("What was trained", columns, [stage.row() for stage in result.stages])
        if last is not None:
            print_verdict(last.verdict, report=last.reports[0])
        for line in (result.stopped, result.ungated):
            if line:
                typer.echo(line)
    return result.exit_code
