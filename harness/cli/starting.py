"""The verb that starts a project: files to fill in, and the job that runs the gate"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli._terminal import Json, print_json
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.scaffold.asking import Ci
    from harness.scaffold.writing import Written


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project, made where there is none.")] = Path("."),
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; take the defaults.")] = False,
    baseline: Annotated[str | None, typer.Option(help="Base model: a folder, or a name on the hub.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Adapter to gate: a folder.")] = None,
    name: Annotated[str | None, typer.Option("--set", help="Name of the golden set.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Write a GitHub workflow.")] = False,
    gitlab: Annotated[bool, typer.Option("--gitlab", help="Write a GitLab job.")] = False,
    no_ci: Annotated[bool, typer.Option("--no-ci", help="Write neither.")] = False,
    pre_commit: Annotated[
        bool | None, typer.Option("--pre-commit/--no-pre-commit", help="Write a hook that verifies golden sets.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Start a project: gate.yaml, a golden set of examples to replace, and the CI job; no file is overwritten.

    What is not given as an option is asked, five questions at most.
    """
    from harness.scaffold.asking import Given, settle
    from harness.scaffold.writing import drafts, misplaced, next_commands, write

    if not yes and (as_json or not sys.stdin.isatty()):
        raise ConfigError("there is nobody to ask; add --yes to take the defaults for what is not given")
    given = Given(baseline, adapter, name, _server(github, gitlab, no_ci), pre_commit)
    answers = settle(folder, given, None if yes else _ask)
    result = write(folder, drafts(folder, answers))
    commands = next_commands(answers)
    root = misplaced(folder, answers)
    if root is not None:
        typer.echo(
            f"warning: {folder} lies inside of the repository {root}, and only there are the files of CI and of "
            "pre-commit read: move them there, and name the gate.yaml in them by its path from there",
            err=True,
        )
    if as_json:
        kept = [{"path": k.path, "otherwise": k.otherwise} for k in result.kept]
        print_json({"written": list(result.written), "kept": kept, "next": list(commands)})
    else:
        _tell(folder, result, commands)
    return 0


def _ask(text: str, default: str) -> str:
    return str(typer.prompt(text, default=default, err=True))


def _server(github: bool, gitlab: bool, no_ci: bool) -> Ci | None:
    if github + gitlab + no_ci > 1:
        raise ConfigError("choose one of --github, --gitlab and --no-ci")
    return "github" if github else "gitlab" if gitlab else "none" if no_ci else None


def _tell(folder: Path, result: Written, commands: tuple[str, ...]) -> None:
    for path in result.written:
        typer.echo(f"wrote {folder / path}")
    for kept in result.kept:
        typer.echo(f"kept  {folder / kept.path}, which was there: {kept.otherwise}")
    if any(path.endswith("samples.jsonl") for path in result.written):
        typer.echo("\nThe rows of the golden set are examples: put your own in their place before you freeze them.")
    where = "" if folder.resolve() == Path.cwd() else f", in {folder}"
    typer.echo(f"\nNext{where}:")
    for command in commands:
        typer.echo(f"  {command}")
