"""The verbs. Each reads its options, calls one function, prints, and returns the exit code of its outcome.

0 promote · 1 block · 2 usage or configuration · 3 hold · 4 infrastructure failure. Heavy libraries are imported by the
plugins that need them, and everything of ours beyond this file inside the verb that uses it, so that `--help` is quick.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import __version__
from harness.errors import ConfigError, HarnessError, HoldError, InfrastructureError, Interrupted, UsageError

if TYPE_CHECKING:
    from harness.gate import GateResult
    from harness.progress import Observer
    from harness.records import Verdict
    from harness.statistics.power import Plan
    from harness.training.run import TrainingResult

app = typer.Typer(
    name="harness",
    help="Decide from paired evidence whether a fine-tuned adapter may be promoted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
golden = typer.Typer(help="Freeze golden sets, verify them, start new versions.", no_args_is_help=True)
app.add_typer(golden, name="golden")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the golden sets; found from here upwards by default.")]


class EstimandOption(StrEnum):
    """What the mean difference is about."""

    frozen = "frozen"
    population = "population"


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `harness` command: every error on purpose becomes one message and its exit code."""
    _quiet_libraries()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=given, standalone_mode=False)
    except HarnessError as error:
        code = _fail(error, as_json="--json" in given)
    except OSError as error:
        failure = InfrastructureError(f"{error.filename or 'system'}: {error.strerror or error}")
        code = _fail(failure, as_json="--json" in given)
    except Exception as error:
        if not _is_click(error):
            raise
        message = _click_message(error)  # empty where the help was printed instead
        code = _fail(UsageError(message), as_json="--json" in given) if message else UsageError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def gate(
    config: Annotated[Path, typer.Argument(help="A gate.yaml.")] = Path("gate.yaml"),
    candidate: Annotated[
        list[Path] | None, typer.Option(help="Gate this adapter or checkpoint instead; repeat for several.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Answer both with this engine; plain is the reference.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that receives the run directory.")] = None,
    as_json: Json = False,
) -> int:
    """Evaluate baseline and candidate on the same samples and decide: promote, block or hold.

    Exit code: 0 promote, 1 block, 2 usage, 3 hold, 4 infrastructure failure.
    Of several candidates the worst counts: block, then hold, then promote.
    """
    from harness.config import load_gate
    from harness.gate import run_gates, with_candidates, with_engine

    loaded = load_gate(config)
    if engine is not None:
        loaded = with_engine(loaded, engine)
    configs = with_candidates(loaded, candidate) if candidate else [loaded]
    with _watching() as observer:
        results = run_gates(configs, observer, out=out)
    if len(results) > 1:
        return _conclude_several(results, as_json)
    return _conclude(results[0].verdict, as_json, run=results[0].path, report=results[0].reports[0])


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe.yaml.")] = Path("recipe.yaml"),
    as_json: Json = False,
) -> int:
    """Measure the baseline on frozen samples, train a recipe's stages, and gate what comes of it.

    Repeat the command after an interruption: it goes on where it was. Exit code: as of `gate`.
    """
    from harness.training.recipe import load_recipe
    from harness.training.run import train as run_training

    loaded = load_recipe(recipe)
    with _watching() as observer:
        result = run_training(loaded, observer)
    return _conclude_training(result, as_json)


@app.command()
def compare(
    baseline: Annotated[Path, typer.Argument(help="Baseline scores: CSV, JSONL, Parquet, lm-eval or Inspect log.")],
    candidate: Annotated[Path, typer.Argument(help="Candidate scores, of the same samples.")],
    margin: Annotated[float, typer.Option(help="Largest tolerated drop, in score points.")],
    alpha: Annotated[float, typer.Option(help="Error level of each direction.")] = 0.05,
    estimand: Annotated[EstimandOption, typer.Option(help="These samples, or the stream they came from.")] = (
        EstimandOption.frozen
    ),
    sequential: Annotated[bool, typer.Option("--sequential", help="Stop at the first decided sample.")] = False,
    seed: Annotated[int, typer.Option(help="Mixed into the order of the samples.")] = 0,
    bounds: Annotated[str, typer.Option(help="Lowest and highest possible score, LO,HI.")] = "0,1",
    max_failures: Annotated[float, typer.Option(help="Share of pairs that may fail.")] = 0.02,
    metric: Annotated[list[str] | None, typer.Option(help="Only this metric; repeat for more.")] = None,
    lower_is_better: Annotated[list[str] | None, typer.Option(help="A metric for which lower is better.")] = None,
    as_json: Json = False,
) -> int:
    """Decide from per-sample scores that were made elsewhere; needs no model."""
    from harness.compare import Terms, compare_files

    low, high = _bounds(bounds)
    width = high - low
    _require(0 < margin < width, f"--margin {margin:g} must lie between 0 and the width of the bounds, {width:g}")
    _require(0 < alpha < 0.5, f"--alpha {alpha:g} must lie between 0 and 0.5")
    _require(0 <= max_failures < 1, f"--max-failures {max_failures:g} must lie in [0, 1)")
    terms = Terms(
        margin, alpha, estimand.value, sequential, seed, (low, high), max_failures, metric or (), lower_is_better or ()
    )
    result = compare_files(baseline, candidate, terms)
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    return _conclude(result.verdict, as_json)


@app.command()
def plan(
    samples: Annotated[int, typer.Option("--samples", "-n", help="Samples in the set, N.")],
    margin: Annotated[float, typer.Option(help="Largest tolerated drop, in score points.")],
    flip_rate: Annotated[float, typer.Option(help="Share of samples whose score changes between two models.")] = 0.1,
    alpha: Annotated[float, typer.Option(help="Error level of each direction.")] = 0.05,
    estimand: Annotated[EstimandOption, typer.Option(help="These samples, or the stream they came from.")] = (
        EstimandOption.frozen
    ),
    cluster_size: Annotated[int, typer.Option(help="Samples that stand and fall together.")] = 1,
    guards: Annotated[int, typer.Option(help="Required guards in the gate.")] = 1,
    true_difference: Annotated[float, typer.Option(help="Difference for which to answer, in score points.")] = 0.0,
    runs: Annotated[int, typer.Option(help="Simulated runs behind every figure.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    as_json: Json = False,
) -> int:
    """Before spending a GPU hour: what can this set show, how soon, and how often would it block an equal model?"""
    import numpy as np

    from harness.statistics import power

    _require(samples >= 1, "--samples must be at least 1")
    _require(0 < margin < 1, "--margin must lie between 0 and 1")
    _require(0 <= flip_rate <= 1, "--flip-rate must lie in [0, 1]")
    _require(abs(true_difference) <= flip_rate or true_difference == 0, "--true-difference cannot exceed --flip-rate")
    answer = power.plan(
        samples,
        flip_rate,
        margin,
        alpha,
        estimand=estimand.value,
        cluster_size=cluster_size,
        guards=guards,
        true_difference=true_difference,
        runs=runs,
        rng=np.random.default_rng(seed),
    )
    return _print_plan(answer, as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder that receives adapters and runs.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of both trainings.")] = 0,
    as_json: Json = False,
) -> int:
    """Train a careless and a careful adapter on a small model and watch the gate tell them apart."""
    from harness.demo.story import tell

    with _watching() as observer:
        story = tell(out, seed, observer)
    if as_json:
        _print_json(story.as_json())
    else:
        from harness.console import print_table, print_verdict

        for chapter in story.chapters:
            typer.echo(f"\n{chapter.title}")
            print_verdict(chapter.result.verdict, report=chapter.result.reports[0])
        columns = ("adapter", "verdict", "expected", "new skill", "worst old skill", "training", "gate")
        print_table("What happened", columns, [chapter.row() for chapter in story.chapters])
    return 0 if story.held else HoldError.exit_code


@app.command()
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
    reflection: Annotated[
        str | None, typer.Option(help="Model that rewrites for GEPA; the baseline by default.")
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
            "trials": trials, "seed": seed, "prompt_out": prompt_out, "gepa": gepa, "reflection": reflection,
        }  # fmt: skip
        with _watching() as observer:
            said = command.try_prompts(try_prompts, search, observer, out)
    if as_json:
        _print_json(said.document)
    else:
        typer.echo(said.text, nl=False)
    return said.code


def _ask(question: str) -> str:
    """Put a question on stderr; stdout is for the advice."""
    typer.echo(question, err=True, nl=False)
    return input()


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    as_json: Json = False,
) -> int:
    """Decide a stored run again from its evidence and write its reports anew; needs no model."""
    from harness.document import read_run, write_reports

    document = read_run(run)
    written = write_reports(run, document)
    return _conclude(document.verdict, as_json, run=run, report=written[0])


@golden.command("freeze")
def golden_freeze(
    name: Annotated[str, typer.Argument(help="The set, name@version; the version is a folder under it.")],
    root: Root = None,
    as_json: Json = False,
) -> int:
    """Check a set completely and write the hashes of its files into LOCK.yaml."""
    from harness.assets import find
    from harness.goldens import names, store

    folder = find("goldensets", root)
    plain, version = names.split(name)
    _require(version is not None, f"{name}: say which version to freeze, for example {plain}@1")
    frozen = store.freeze(folder, plain, version or "")
    return _say(as_json, {"frozen": name, "samples": frozen.samples}, f"{name} is frozen: {frozen.samples} samples")


@golden.command("verify")
def golden_verify(
    sets: Annotated[list[str] | None, typer.Argument(help="Sets to verify; all by default.")] = None,
    root: Root = None,
    as_json: Json = False,
) -> int:
    """Hold every frozen file against its hash; a file that was changed, added or removed is named."""
    from harness.assets import find
    from harness.goldens import lock

    checked = lock.verify(find("goldensets", root), sets or None)
    return _say(as_json, {"verified": checked}, f"{len(checked)} golden sets are as they were frozen")


@golden.command("new-version")
def golden_new_version(
    name: Annotated[str, typer.Argument(help="The set, name or name@version to start from.")],
    root: Root = None,
    as_json: Json = False,
) -> int:
    """Copy a set to its next version, where it can be edited and frozen anew."""
    from harness.assets import find
    from harness.goldens import names, store

    plain, version = names.split(name)
    path = store.new_version(find("goldensets", root), plain, version)
    hint = f"edit {path}, then: harness golden freeze {plain}@{path.name}"
    return _say(as_json, {"created": str(path)}, hint)


@app.command()
def schema() -> int:
    """Print the JSON schema of gate.yaml, for editors."""
    from harness.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
    return 0


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


# ---------------------------------------------------------------- printing and plumbing


def _quiet_libraries() -> None:
    """Settings that libraries read when they are imported; what the user has set stays."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    # transformers warns of a name that peft still uses; nothing a user of either could do about it.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


@contextmanager
def _watching() -> Iterator[Observer]:
    from harness.console import watch

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled CI job is told to stop this way
    try:
        with watch() as observer:
            yield observer
    except KeyboardInterrupt:  # here, because typer would turn it into an exit code of its own
        raise Interrupted("interrupted; what was finished is kept, repeat the command to go on") from None


def _conclude(verdict: Verdict, as_json: bool, *, run: Path | None = None, report: Path | None = None) -> int:
    """Print a verdict; its exit code."""
    from harness.records import EXIT_CODES

    if as_json:
        place = {} if run is None else {"run": str(run)}
        _print_json(verdict.as_json() | place)
    else:
        from harness.console import print_verdict

        print_verdict(verdict, report=report)
    return EXIT_CODES[verdict.verdict]


def _conclude_training(result: TrainingResult, as_json: bool) -> int:
    """The stages, and the verdict on what they came to."""
    from harness.records import EXIT_CODES

    last = result.verdict
    if as_json:
        document = {
            "stages": [{"name": s.name, "folder": str(s.folder), "rows": s.rows, **s.outcome} for s in result.stages],
            "result": None if result.result is None else str(result.result),
            "stopped": result.stopped,
            "verdicts": {name: {**r.verdict.as_json(), "run": str(r.path)} for name, r in result.verdicts.items()},
        }
        _print_json(document)
    else:
        from harness.console import print_table, print_verdict

        columns = ("stage", "rows", "trained parameters", "steps", "ended because", "folder")
        print_table("What was trained", columns, [stage.row() for stage in result.stages])
        if last is not None:
            print_verdict(last.verdict, report=last.reports[0])
        if result.stopped:
            typer.echo(result.stopped)
    return 0 if last is None else EXIT_CODES[last.verdict.verdict]


def _conclude_several(results: Sequence[GateResult], as_json: bool) -> int:
    """Print every candidate's verdict and a table of all; the exit code of the worst."""
    from harness.records import EXIT_CODES, worst

    verdict = worst(result.verdict.verdict for result in results)
    if as_json:
        each = [{"candidate": r.candidate, "run": str(r.path), **r.verdict.as_json()} for r in results]
        _print_json({"verdict": verdict, "candidates": each})
    else:
        from harness.console import print_candidates, print_verdict

        for result in results:
            typer.echo(f"\n{result.candidate}")
            print_verdict(result.verdict, report=result.reports[0])
        typer.echo()
        print_candidates([(result.candidate, result.verdict, result.path) for result in results])
    return EXIT_CODES[verdict]


def _say(as_json: bool, document: Any, sentence: str) -> int:
    """Print the outcome of a small verb; it succeeded."""
    if as_json:
        _print_json(document)
    else:
        typer.echo(sentence)
    return 0


def _print_plan(answer: Plan, as_json: bool) -> int:
    if as_json:
        _print_json(asdict(answer))
        return 0
    from harness.console import print_table

    drop = "none of this flip rate" if answer.detectable_drop is None else f"{answer.detectable_drop:.3f}"
    rows = [
        ("earliest possible verdict", f"{answer.fewest_samples:,} samples (if no score changes at all)"),
        ("samples until a verdict, mean", f"{answer.mean_share * answer.n:,.0f} ({answer.mean_share:.0%})"),
        ("samples until a verdict, 9 runs of 10", f"{answer.share_90 * answer.n:,.0f} ({answer.share_90:.0%})"),
        ("promotes", f"{answer.pass_rate:.1%} of runs"),
        ("blocks", f"{answer.block_rate:.1%} of runs"),
        ("undecided at the end", f"{answer.undecided_rate:.1%} of runs"),
        ("blocks a candidate equal to its baseline", f"{answer.aa_block_rate:.1%} of runs"),
        ("smallest drop that is blocked in 80 % of runs", drop),
        ("error of the rates above (Monte Carlo)", f"± {answer.error:.1%} at most"),
    ]
    print_table(f"{answer.n:,} samples, margin {answer.margin:g}", ("question", "answer"), rows)
    return 0


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def _fail(error: HarnessError, *, as_json: bool) -> int:
    if as_json:
        _print_json({"error": {"kind": type(error).__name__, "message": str(error)}, "exit_code": error.exit_code})
    from harness.console import print_error

    print_error(error)
    return error.exit_code


def _bounds(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--bounds {text!r}: expected LO,HI, for example 0,100") from None
    _require(low < high, f"--bounds {text}: the lower bound must be below the upper one")
    return low, high


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _is_click(error: Exception) -> bool:
    """Whether the command line itself was wrong; typer brings its own copy of click or uses the installed one."""
    return any(kind.__name__ in ("ClickException", "Abort", "Exit") for kind in type(error).__mro__)


def _click_message(error: Exception) -> str:
    return str(getattr(error, "format_message", lambda: str(error))())
