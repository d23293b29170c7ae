"""The verbs. Each reads its options, calls one function, prints, and returns the exit code of its outcome.

0 promote · 1 block · 2 usage or configuration · 3 hold · 4 infrastructure failure. Heavy libraries are imported by the
plugins that need them, and everything of ours beyond this file inside the verb that uses it, so that `--help` is quick.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import __version__
from harness.cli import ci, data, filling, judging, promotion, reporting, shadow, starting, sweeping, training
from harness.cli._terminal import Json, print_json, watching
from harness.errors import ConfigError, HarnessError, HoldError, InfrastructureError, UsageError

if TYPE_CHECKING:
    from harness.gate import GateResult
    from harness.goldens import GoldenSet
    from harness.records import Verdict
    from harness.statistics.power import Plan

app = typer.Typer(
    name="harness",
    help="Decide from paired evidence whether a fine-tuned adapter may be promoted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
golden = typer.Typer(help="Freeze golden sets, verify them, start new versions.", no_args_is_help=True)
app.add_typer(golden, name="golden")
app.add_typer(judging.judge, name="judge")
app.add_typer(shadow.shadow, name="shadow")
shadow.shadow.command("import")(filling.import_traces)
app.add_typer(data.app, name="data")
app.add_typer(ci.ci, name="ci")
app.command()(starting.init)
app.command()(reporting.report)
app.add_typer(promotion.registry, name="registry")
app.add_typer(promotion.key, name="key")

Root = Annotated[Path | None, typer.Option(help="Folder of the golden sets; found from here upwards by default.")]


class EstimandOption(StrEnum):
    """What the mean difference is about."""

    frozen = "frozen"
    population = "population"


class SchemaOption(StrEnum):
    """A file that users write."""

    gate = "gate"
    recipe = "recipe"
    sweep = "sweep"
    rubric = "rubric"
    mirror = "mirror"


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
    from harness.candidates import with_candidates, with_engine
    from harness.config import load_gate
    from harness.gate import run_gates

    loaded = load_gate(config)
    if engine is not None:
        loaded = with_engine(loaded, engine)
    configs = with_candidates(loaded, candidate) if candidate else [loaded]
    with watching() as observer:
        results = run_gates(configs, observer, out=out)
    if len(results) > 1:
        return _conclude_several(results, as_json)
    return _conclude(results[0].verdict, as_json, run=results[0].path, report=results[0].reports[0])


app.command()(training.train)
app.command()(sweeping.sweep)
app.command()(promotion.promote)
app.command()(promotion.rollback)
app.command()(promotion.verify)
app.command()(training.advise)


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

    with watching() as observer:
        story = tell(out, seed, observer)
    if as_json:
        print_json(story.as_json())
    else:
        from harness.console import print_table, print_verdict

        for chapter in story.chapters:
            typer.echo(f"\n{chapter.title}")
            print_verdict(chapter.result.verdict, report=chapter.result.reports[0])
        columns = ("adapter", "verdict", "expected", "new skill", "worst old skill", "training", "gate")
        print_table("What happened", columns, [chapter.row() for chapter in story.chapters])
    return 0 if story.held else HoldError.exit_code


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
    _warn_of_examples(store.load(folder, name))
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
def schema(
    file: Annotated[SchemaOption, typer.Argument(help="Which file.")] = SchemaOption.gate,
) -> int:
    """Print the JSON schema of gate.yaml, recipe.yaml, sweep.yaml, mirror.yaml or a judge's rubric, for editors."""
    if file is SchemaOption.recipe:
        from harness.training.recipe import json_schema
    elif file is SchemaOption.sweep:
        from harness.training.sweeping.section import json_schema
    elif file is SchemaOption.rubric:
        from harness.judging.rubric import json_schema
    elif file is SchemaOption.mirror:
        from harness.mirror.config import json_schema
    else:
        from harness.config import json_schema

    print_json(json_schema())
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
    # bitsandbytes looks for a faster kernel, says at every import on a CPU that there is none, and does without.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def _conclude(verdict: Verdict, as_json: bool, *, run: Path | None = None, report: Path | None = None) -> int:
    """Print a verdict; its exit code."""
    from harness.records import EXIT_CODES

    if as_json:
        place = {} if run is None else {"run": str(run)}
        print_json(verdict.as_json() | place)
    else:
        from harness.console import print_verdict

        print_verdict(verdict, report=report)
    return EXIT_CODES[verdict.verdict]


def _conclude_several(results: Sequence[GateResult], as_json: bool) -> int:
    """Print every candidate's verdict and a table of all; the exit code of the worst."""
    from harness.records import EXIT_CODES, worst

    verdict = worst(result.verdict.verdict for result in results)
    if as_json:
        each = [{"candidate": r.candidate, "run": str(r.path), **r.verdict.as_json()} for r in results]
        print_json({"verdict": verdict, "candidates": each})
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
        print_json(document)
    else:
        typer.echo(sentence)
    return 0


def _warn_of_examples(golden: GoldenSet) -> None:
    """Rows that `harness init` wrote may be frozen, to try things out; what they show is said once, here."""
    from harness.scaffold import EXAMPLE_TAG

    examples = sum(EXAMPLE_TAG in sample.tags for sample in golden.samples)
    if examples:
        typer.echo(
            f"warning: {examples} of {len(golden.samples)} rows of {golden.reference} are examples of harness init; a "
            f"verdict on them says nothing about your task. For your own: harness golden new-version {golden.name}",
            err=True,
        )


def _print_plan(answer: Plan, as_json: bool) -> int:
    if as_json:
        print_json(asdict(answer))
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


def _fail(error: HarnessError, *, as_json: bool) -> int:
    if as_json:
        print_json({"error": {"kind": type(error).__name__, "message": str(error)}, "exit_code": error.exit_code})
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
