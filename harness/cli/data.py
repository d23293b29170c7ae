"""The verbs that make training rows: the demo's, a teacher's answers, a judge's preferences"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli._terminal import Json, print_json, watching
from harness.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from harness.served.client import Budget
    from harness.training.data.making import Written
    from harness.training.objectives._distill import Distilled
    from harness.training.objectives._label_pairs import Labelled

app = typer.Typer(help="Make rows to train on: a teacher's answers, a judge's preferences.", no_args_is_help=True)

Rows = Annotated[str, typer.Argument(help="Rows: a .jsonl, .json or .parquet file, a folder, or a dataset's name.")]
Out = Annotated[Path, typer.Option(help="The file that receives the rows, as JSON lines.")]
ApiBase = Annotated[str | None, typer.Option(help="Its server, such as http://127.0.0.1:8000/v1.")]
KeyEnv = Annotated[str | None, typer.Option(help="Environment variable that holds its key.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests under way at a time.")]
Dollars = Annotated[float | None, typer.Option(help="Stop when so many US dollars are spent.")]
Failures = Annotated[float, typer.Option(min=0, max=0.99, help="Share that may stay without an answer.")]

_STORE = ".harness-cache"


@app.command()
def distill(
    prompts: Rows,
    model: Annotated[str, typer.Option(help="The teacher, by litellm's name, such as openai/NAME.")],
    out: Out,
    api_base: ApiBase = None,
    api_key_env: KeyEnv = None,
    system: Annotated[str | None, typer.Option(help="System message before every prompt; no part of the rows.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest answer.")] = 0.0,
    answers: Annotated[int, typer.Option(min=1, help="Answers to each prompt; several need a temperature.")] = 1,
    keep_cut: Annotated[bool, typer.Option("--keep-cut", help="Keep answers that --max-tokens cut off.")] = False,
    max_failures: Failures = 0.05,
    concurrency: Concurrency = 8,
    dollars: Dollars = None,
    as_json: Json = False,
) -> int:
    """Let a stronger, served model answer prompts, and write its answers as rows for supervised fine-tuning.

    Repeat the command after an interruption: what was answered is not asked again.
    """
    from harness.training.data.making import distill as write
    from harness.training.objectives._distill import DistillOptions

    options = DistillOptions(
        model=model, api_base=api_base, api_key_env=api_key_env, concurrency=concurrency, system=system,
        max_tokens=max_tokens, temperature=temperature, answers=answers, keep_cut=keep_cut, max_failures=max_failures,
    )  # fmt: skip
    with watching() as observer:
        made, written = write(
            _source(prompts), options, out, _store(out, "distilled"), observer, budget=_budget(dollars)
        )
        for line in made.remarks:
            observer.note(line)
    return _conclude_distilling(made, written, as_json)


@app.command()
def label(
    pairs: Rows,
    judge: Annotated[str, typer.Option(help="A pairwise rubric: judges/JUDGE.yaml.")],
    model: Annotated[str, typer.Option(help="The judge's model, by litellm's name, such as openai/NAME.")],
    out: Out,
    api_base: ApiBase = None,
    api_key_env: KeyEnv = None,
    judges: Annotated[Path | None, typer.Option(help="Folder of the rubrics; found from here upwards.")] = None,
    max_failures: Failures = 0.05,
    concurrency: Concurrency = 8,
    dollars: Dollars = None,
    as_json: Json = False,
) -> int:
    """Let a judge say which of two answers is better, in both orders, and write preferences for DPO and its kin.

    Pairs on which the two orders disagree become no row; how often that was is told, and towards which place. Repeat
    the command after an interruption: what was judged is not asked again.
    """
    from harness import assets
    from harness.judging.building import JudgeSection, build_judge
    from harness.judging.kinds import JudgeContext, remarks
    from harness.judging.rubric import load_rubric
    from harness.training.data.making import label as write

    rubric = load_rubric(judge, assets.find("judges", judges, start=Path.cwd()))
    if not rubric.pairwise:
        raise ConfigError(
            f"--judge {judge} grades one answer; pairs need a rubric of mode pairwise, such as preference"
        )
    given = {"model": model, "api_base": api_base, "api_key_env": api_key_env, "concurrency": concurrency}
    section = JudgeSection(kind="served", **{key: value for key, value in given.items() if value is not None})
    context = JudgeContext(Path.cwd(), _store(out, "labelled"), _budget(dollars))
    with watching() as observer:
        asked = build_judge(section, rubric, context, "--model")
        try:
            made, written = write(_source(pairs), asked, out, observer, max_failures=max_failures)
            for line in remarks(asked):
                observer.note(line)
        finally:
            asked.close()
    return _conclude_labelling(made, written, as_json)


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


def _source(rows: str) -> Any:
    """A file or folder where there is one, else a dataset by its name."""
    from harness.training.recipe import SourceSection

    if Path(rows).exists():
        return SourceSection(path=rows)
    if Path(rows).suffix in (".jsonl", ".json", ".parquet"):
        raise UsageError(f"there is no file {rows}")
    return SourceSection(dataset=rows)


def _store(out: Path, name: str) -> Path:
    """The file of remembered replies, beside the rows that are made of them."""
    from harness.training.keeping import make_folder

    folder = out.parent / _STORE
    make_folder(folder)
    return folder / f"{name}.sqlite"


def _budget(dollars: float | None) -> Budget | None:
    from harness.served.client import Budget

    return None if dollars is None else Budget(dollars=dollars)


def _conclude_distilling(made: Distilled, written: Written, as_json: bool) -> int:
    if as_json:
        document = {
            "out": str(written.path), "rows": written.rows, "read": written.read, "empty": written.empty,
            "asked": made.asked, "cut": made.cut, "repeated": made.repeated, "failures": dict(made.failures),
        }  # fmt: skip
        print_json(document)
        return 0
    typer.echo(f"{written.path}: {written.rows:,} rows of {made.asked:,} answers to {written.read:,} prompts")
    parts = [
        (made.cut, "answers ran into --max-tokens"),
        (made.repeated, "answers were the same as another to their prompt"),
        (written.empty, "prompts were empty"),
        (made.failures.total(), "requests stayed without an answer"),
    ]
    for count, what in parts:
        if count:
            typer.echo(f"  {count:,} {what}")
    for why, count in made.failures.most_common(3):
        typer.echo(f"    {count:,} times: {why}")
    return 0


def _conclude_labelling(made: Labelled, written: Written, as_json: bool) -> int:
    from collections import Counter

    counted = Counter(made.outcomes)
    if as_json:
        document = {
            "out": str(written.path), "rows": written.rows, "read": written.read, "outcomes": dict(counted),
            "consistent": made.consistent, "position_bias": made.position_bias,
        }  # fmt: skip
        print_json(document)
        return 0
    typer.echo(f"{written.path}: {written.rows:,} preferences of {written.read:,} pairs")
    for outcome, times in counted.items():
        if outcome in _OUTCOMES:
            typer.echo(f"  {times:,} {_OUTCOMES[outcome]}")
    typer.echo(
        f"  both orders agree in {made.consistent:.0%} of the pairs judged; position bias {made.position_bias:+.2f}"
    )
    return 0


_OUTCOMES = {
    "tie": "are a tie in both orders",
    "half_a_tie": "are a tie in one order only",
    "prefers_first_place": "went to the first place both times",
    "prefers_second_place": "went to the second place both times",
    "failed": "have no judgement",
}
