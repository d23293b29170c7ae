"""The verbs that the steps of a CI job call: cache key, summary, annotations, comment, exit code"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.ci.commenting import Discussion, Job

ci = typer.Typer(
    help="What a CI job does with a gate's result; docs/ci.md has the jobs that call these.", no_args_is_help=True
)

Result = Annotated[Path, typer.Argument(help="A run directory, or the file that holds what gate --json printed.")]
Config = Annotated[Path, typer.Option(help="The gate.yaml of the run, to mark its lines.")]
Name = Annotated[str, typer.Option(help="Tells the comment of one gate from that of another, in one repository.")]


class HoldOption(StrEnum):
    """What a CI job does about the verdict HOLD."""

    fail = "fail"
    neutral = "neutral"


@ci.command()
def key(config: Annotated[Path, typer.Argument(help="A gate.yaml.")] = Path("gate.yaml")) -> int:
    """Say where the output cache is and under which key to keep it: two step outputs, path and key."""
    from harness.ci import github
    from harness.ci.caching import cache_entry

    entry = cache_entry(config)
    said = github.outputs({"path": str(entry.path), "key": entry.key})
    if not github.append(os.environ, "GITHUB_OUTPUT", said):
        typer.echo(said, nl=False)
    return 0


@ci.command()
def summary(result: Result, name: Name = "harness-report") -> int:
    """Write the report into the job summary of GitHub Actions, or on stdout where there is none."""
    from harness.ci import github
    from harness.ci.commenting import body
    from harness.ci.outcome import read_outcome

    text = body(read_outcome(result), _job(), name=name)
    if not github.append(os.environ, "GITHUB_STEP_SUMMARY", text):
        typer.echo(text, nl=False)
    return 0


@ci.command()
def annotate(result: Result, config: Config = Path("gate.yaml")) -> int:
    """Mark the regressed and the open guards at their lines of gate.yaml, by workflow commands of GitHub Actions."""
    from harness.ci import github
    from harness.ci.outcome import read_outcome
    from harness.ci.places import findings

    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd())
    for line in github.workflow_commands(findings(read_outcome(result), config, root)):
        typer.echo(line)
    return 0


@ci.command()
def comment(
    result: Result,
    name: Name = "harness-report",
    author: Annotated[str, typer.Option(help="GitHub: the account that the token writes as.")] = "github-actions[bot]",
) -> int:
    """Write the report as one comment on the pull or merge request, and from then on update that comment.

    Where the token may not write, as on a pull request from a fork, the report stays in the job summary, and that is
    no failure. Exit code 4: the server could not be reached, so an older comment may still stand there.
    """
    from harness.ci.commenting import body, publish
    from harness.ci.outcome import read_outcome

    discussion = _discussion(author)
    if discussion is None:
        typer.echo("no pull or merge request to comment on, or no token to do it with; nothing was written", err=True)
        return 0
    written = publish(discussion, body(read_outcome(result), discussion.job, name=name))
    why = f": the token may not write here ({written.detail}); see the job's summary" if written.detail else ""
    typer.echo(f"comment {written.state}{why}", err=True)
    return 0


@ci.command()
def conclude(
    result: Result,
    code: Annotated[int | None, typer.Option(help="The exit code of harness gate, which the result confirms.")] = None,
    hold: Annotated[HoldOption, typer.Option(help="fail, or neutral: a verdict HOLD lets the job pass.")] = (
        HoldOption.fail
    ),
) -> int:
    """End the job with the exit code of its gate, decided anew from the stored evidence."""
    from harness.ci import github
    from harness.ci.outcome import concluded, read_outcome

    outcome = read_outcome(result)
    github.append(os.environ, "GITHUB_OUTPUT", github.outputs({"verdict": outcome.verdict, "code": str(outcome.code)}))
    ends = concluded(outcome, code, neutral=hold is HoldOption.neutral)
    typer.echo(f"{outcome.verdict.upper()} (exit code {ends})", err=True)
    return ends


def _job() -> Job:
    from harness.ci import github, gitlab

    if _on_gitlab():
        return gitlab.job(os.environ)
    return github.job(os.environ, github.event(os.environ) if os.environ.get("GITHUB_EVENT_PATH") else None)


def _discussion(author: str) -> Discussion | None:
    from harness.ci import github, gitlab

    if _on_gitlab():
        return gitlab.merge_request(os.environ)
    if os.environ.get("GITHUB_ACTIONS") != "true":
        raise ConfigError("comments are written in a job of GitHub Actions or GitLab CI; this is neither")
    return github.pull_request(os.environ, author)


def _on_gitlab() -> bool:
    return os.environ.get("GITLAB_CI") == "true"
