"""The verbs about judges: hold one against people's labels, and collect the labels that a run's verdict needs."""

from __future__ import annotations

import os
import signal
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli._terminal import Json, print_json, watching
from harness.errors import ConfigError, HoldError, UsageError, nearest

if TYPE_CHECKING:
    from harness.config import JudgesSection
    from harness.judging.building import JudgeSection
    from harness.judging.calibration import Agreement, Calibration, Figure
    from harness.judging.kinds import JudgeContext
    from harness.judging.labelling.session import Session
    from harness.judging.labels import LabelFile
    from harness.judging.rubric import Rubric
    from harness.labelled import LabelPlan
    from harness.records import Check, Sample

judge = typer.Typer(help="Calibrate judges against people, and label what a verdict needs.", no_args_is_help=True)

Judges = Annotated[Path | None, typer.Option(help="Folder of the rubrics; found from here upwards by default.")]


@judge.command()
def calibrate(
    name: Annotated[str, typer.Argument(metavar="JUDGE", help="A rubric: judges/JUDGE.yaml.")],
    labels: Annotated[
        Path | None, typer.Option(help="Human labels, JSONL or CSV; judges/calibration/JUDGE.jsonl by default.")
    ] = None,
    gate: Annotated[Path | None, typer.Option(help="Take who judges from this gate.yaml, as the gate will.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Or: a served model by litellm's name, such as openai/NAME.")
    ] = None,
    api_base: Annotated[str | None, typer.Option(help="Its server, such as http://127.0.0.1:8000/v1.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds its key.")] = None,
    samples: Annotated[str | None, typer.Option(help="The golden set of the labels, name@version.")] = None,
    run: Annotated[Path | None, typer.Option(help="The run whose outputs the labels name by their hash.")] = None,
    cut: Annotated[float | None, typer.Option(help="Level from which an output counts as good, for the AUC.")] = None,
    kappa: Annotated[float | None, typer.Option(help="Lower bound of κ to ask for; the gate's, or 0.4.")] = None,
    needed: Annotated[int | None, typer.Option(help="Held-out labels to ask for; the gate's, or 100.")] = None,
    dollars: Annotated[float | None, typer.Option(help="Stop when so many US dollars are spent.")] = None,
    judges: Judges = None,
    as_json: Json = False,
) -> int:
    """Ask a judge about everything that people labelled, and say whether it may block a promotion.

    Exit code: 0 where it meets the policy, 3 where it does not, 2 for wrong input, 4 where the judge cannot be asked.
    """
    from harness.judging.building import build_judge
    from harness.judging.calibrating import calibrate as measure
    from harness.judging.calibration import FOLDER, standing, store
    from harness.judging.labels import Scale, items_of, read_labels
    from harness.judging.rubric import load_rubric, require
    from harness.suites.judge import refuse_silence

    chosen = _from_gate(gate, name) if gate is not None else _from_options(model, api_base, api_key_env)
    rubrics = _rubrics(judges or chosen.rubrics, chosen.folder)
    rubric = load_rubric(name, rubrics)
    file = read_labels(labels or _default_labels(rubrics / FOLDER, name), Scale.of(rubric))
    known = _samples(file, samples or chosen.samples, chosen)
    items = items_of(file, known, _outputs(run))
    require(rubric, (case.sample for item in items for case in _cases(item.case)))
    with watching() as observer:
        observer.stage(f"asking {name} about {len(items):,} labelled items")
        asked = build_judge(chosen.section, rubric, _context(chosen, dollars), chosen.where)
        try:
            found = measure(asked, rubric, file, items, folder=file.path.parent, cut=cut, refuse=refuse_silence)
        finally:
            asked.close()
    path = store(found, file.path.parent)
    policy = chosen.policy
    check = standing(found, kappa=policy.kappa if kappa is None else kappa, labels=needed or policy.labels)
    if path.parent.resolve() != (rubrics / FOLDER).resolve():
        typer.echo(f"note: a gate looks for calibrations in {rubrics / FOLDER}; move the labels there", err=True)
    return _conclude_calibration(found, check, path, as_json)


@judge.command()
def label(
    run: Annotated[Path, typer.Argument(help="A run directory of a gate with a judge.")],
    suite: Annotated[str | None, typer.Option(help="The suite, where a run has several judges.")] = None,
    metric: Annotated[str | None, typer.Option(help="Its judge.")] = None,
    labels: Annotated[int | None, typer.Option(help="Draws to plan; what the gate asks for, or 150.")] = None,
    annotator: Annotated[str, typer.Option(help="Who labels; needed where several people do.")] = "",
    everyone: Annotated[bool, typer.Option("--everyone", help="Also show what others have labelled already.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; a free one by default.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    judges: Judges = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the golden sets; found from here upwards.")] = None,
    as_json: Json = False,
) -> int:
    """Open a page on which a person judges the pairs of a run that would tighten its verdict most.

    Which side is the baseline is hidden. Answers are stored one by one; stop with Ctrl-C and go on at any time.
    """
    from harness.judging.labelling.planning import judged_metrics, plan_labels
    from harness.judging.labelling.session import Session, check_shown
    from harness.judging.labelling.texts import question_of, shown_of
    from harness.judging.rubric import load_rubric
    from harness.runs import read_entries

    known = judged_metrics(run)
    where = _choose(run, list(known), suite, metric)
    rubric = load_rubric(where[1], _rubrics(judges, Path.cwd()))
    plan = plan_labels(run, *where, labels or known[where] or _USUAL)
    _refuse_other_rubric(rubric, plan)
    entries = [entry for entry in read_entries(run) if entry.suite == plan.suite]
    shown = shown_of(entries, rubric, _asked_samples(run, plan.suite, root))
    check_shown(plan, shown)
    session = Session(run, plan, shown, question_of(rubric), annotator, everyone=everyone)
    if not known[where]:
        typer.echo(f"note: the gate asks for no labels of {plan.suite}; give its section `labels: {_USUAL}`", err=True)
    _serve(session, port, browse=not no_browser, stream_url=not as_json)
    return _conclude_labelling(session, run, as_json)


_USUAL = 150


# ---------------------------------------------------------------- who judges


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Who judges, where things are, and what is asked of them: from a gate.yaml, or from options."""

    section: JudgeSection
    where: str
    folder: Path
    cache: Path
    policy: JudgesSection
    rubrics: Path | None = None
    samples: str | None = None
    golden: Path | None = None


def _from_options(model: str | None, api_base: str | None, api_key_env: str | None) -> _Chosen:
    from harness.config import GateConfig, JudgesSection
    from harness.judging.building import JudgeSection

    if model is None:
        raise UsageError("say who judges: --gate gate.yaml, or --model openai/NAME with --api-base")
    given = {"model": model, "api_base": api_base, "api_key_env": api_key_env}
    section = JudgeSection(kind="served", **{key: value for key, value in given.items() if value is not None})
    here = Path.cwd()
    cache = here / str(GateConfig.model_fields["cache"].default)
    return _Chosen(section, "--model", here, cache, JudgesSection())


def _from_gate(path: Path, name: str) -> _Chosen:
    """Who applies the rubric `name` in a gate, with the gate's own memory of what was asked."""
    from harness.config import load_gate
    from harness.judging.building import JudgeSection

    loaded = load_gate(path)
    sections = {s.options.get("judge"): i for i, s in enumerate(loaded.gate.suites) if s.kind == "judge"}
    if name not in sections:
        near = nearest(name, (str(known) for known in sections))
        raise ConfigError(f"{path}: no suite of kind judge has the judge {name!r}: {near}")
    index = sections[name]
    options, folder = loaded.gate.suites[index].options, loaded.folder
    by = options.get("by")
    if not isinstance(by, Mapping):
        raise ConfigError(f"{loaded.where('suites', index)}: key 'by' must say who judges")
    return _Chosen(
        section=JudgeSection(**by),
        where=loaded.where("suites", index, "by"),
        folder=folder,
        cache=folder / loaded.gate.cache,
        policy=loaded.gate.judges,
        rubrics=folder / str(options["judges"]) if "judges" in options else None,
        samples=options.get("samples"),
        golden=folder / str(options["root"]) if "root" in options else None,
    )


def _context(chosen: _Chosen, dollars: float | None) -> JudgeContext:
    from harness.judging.kinds import JudgeContext
    from harness.served.budget import Budget

    chosen.cache.mkdir(parents=True, exist_ok=True)
    budget = None if dollars is None else Budget(dollars=dollars)
    return JudgeContext(chosen.folder, chosen.cache / "judgements.sqlite", budget)


def _rubrics(explicit: Path | None, start: Path) -> Path:
    from harness import assets

    return assets.find("judges", explicit, start=start)


# ---------------------------------------------------------------- what was labelled


def _default_labels(folder: Path, name: str) -> Path:
    """The labels that lie where a gate looks for them."""
    found = [path for suffix in ("jsonl", "csv") if (path := folder / f"{name}.{suffix}").exists()]
    if len(found) == 2:
        raise UsageError(f"{found[0]} and {found[1].name} both hold labels; name one with --labels")
    if not found:
        raise UsageError(f"no labels: there is no {folder / name}.jsonl or .csv; name a file with --labels")
    return found[0]


def _samples(file: LabelFile, reference: str | None, chosen: _Chosen) -> Mapping[str, Sample] | None:
    """The samples of a golden set by id; None where the rows hold their own."""
    if reference is None or any("prompt" in label.row or "messages" in label.row for label in file.labels):
        return None
    from harness import assets, goldens

    golden = goldens.load(assets.find("goldensets", chosen.golden, start=chosen.folder), reference)
    return {sample.id: sample for sample in golden.samples}


def _outputs(run: Path | None) -> dict[str, Sequence[str]]:
    """Texts of a run's outputs by their digest."""
    if run is None:
        return {}
    from harness.judging.labelling.texts import texts_of
    from harness.labelled import digest_of_turns
    from harness.runs import read_entries

    entries = read_entries(run)
    sides = (texts_of(side) for entry in entries for side in (entry.baseline, entry.candidate))
    return {digest_of_turns(side): side for side in sides if side}


def _cases(case: Any) -> tuple[Any, ...]:
    from harness.judging.records import PairCase

    return (case.first, case.second) if isinstance(case, PairCase) else (case,)


# ---------------------------------------------------------------- labelling


def _choose(run: Path, known: Sequence[tuple[str, str]], suite: str | None, metric: str | None) -> tuple[str, str]:
    """The one judge that is meant."""
    if not known:
        raise UsageError(f"{run}: no judge scored anything in this run")
    fits = [(s, m) for s, m in known if suite in (None, s) and metric in (None, m)]
    if len(fits) == 1:
        return fits[0]
    listed = "; ".join(f"--suite {s!r} --metric {m}" for s, m in known)
    problem = "several judges scored this run" if fits else "no such judge scored this run"
    raise UsageError(f"{run}: {problem}; choose one: {listed}")


def _refuse_other_rubric(rubric: Rubric, plan: LabelPlan) -> None:
    """People must answer what the judge was asked."""
    if rubric.pairwise != plan.pairwise or (not rubric.pairwise and rubric.bounds != plan.bounds):
        raise ConfigError(f"judge {rubric.name!r} has another scale now than it had in this run; restore its files")


def _asked_samples(run: Path, suite: str, root: Path | None) -> Mapping[str, Sample]:
    """The golden set that a suite asked, if it is still here: it holds more than the journal does."""
    from harness import assets, goldens, runs
    from harness.errors import HarnessError

    said = runs.read_json(run / runs.MANIFEST)["suites"][suite]
    try:
        golden = goldens.load(assets.find("goldensets", root), str(said.get("asked", "")))
    except HarnessError:  # the journal's prompts do as well, unless the rubric shows more: then that is said
        return {}
    return {sample.id: sample for sample in golden.samples}


def _serve(session: Session, port: int, *, browse: bool, stream_url: bool) -> None:
    """Serve the page until it is finished, or until Ctrl-C or a signal ends it."""
    from harness.judging.labelling.server import LabelServer

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = LabelServer(session, port=port, tell=lambda text: typer.echo(f"error: {text}", err=True))
    try:
        typer.echo(f"Open {server.url}", err=not stream_url)
        typer.echo("The address works once. Ctrl-C ends; everything answered is kept.", err=True)
        sys.stdout.flush()
        if browse and _has_display():
            webbrowser.open(server.url)
        server.serve()
    except KeyboardInterrupt:
        typer.echo("", err=True)
    finally:
        server.close()


def _has_display() -> bool:
    """Whether a browser has a screen to open on; without one it would take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _conclude_labelling(session: Session, run: Path, as_json: bool) -> int:
    done, total = session.progress()
    plan = session.plan
    if as_json:
        print_json(
            {
                "suite": plan.suite,
                "metric": plan.metric,
                "labelled": done,
                "pairs": total,
                "draws": len(plan.draws),
                "run": str(run),
            }
        )
        return 0
    typer.echo(f"{done} of {total} pairs are labelled, for {len(plan.draws)} planned draws.")
    rest = "Repeat the gate: the labels decide." if done == total else f"Go on with: harness judge label {run}"
    typer.echo(rest)
    return 0


# ---------------------------------------------------------------- printing


def _conclude_calibration(found: Calibration, check: Check, path: Path, as_json: bool) -> int:
    if as_json:
        document = {"passed": check.passed, "detail": check.detail, "file": str(path)}
        print_json(document | {"calibration": found.model_dump(mode="json")})
    else:
        _print_calibration(found)
        typer.echo(("✓ " if check.passed else "‖ ") + check.detail)
        typer.echo(f"Stored: {path}")
    return 0 if check.passed else HoldError.exit_code


def _print_calibration(found: Calibration) -> None:
    from harness.console import print_table

    columns = ("labels", "items", "accuracy", "κ", "quadratic κ", f"AUC (≥ {found.cut:g})")
    groups: list[tuple[str, Agreement | None]] = [("held out", found.whole), *found.slices.items()]
    groups.append(("development", found.development))
    rows = [(name, *_figures(agreement)) for name, agreement in groups if agreement is not None]
    print_table(f"{found.rubric} by {found.judge}, held against people; 90 % intervals", columns, rows)
    if found.whole is not None:
        levels = [f"{level:g}" for level in found.levels]
        lines = [(level, *counts) for level, counts in zip(levels, found.whole.confusion, strict=True)]
        typer.echo("\nPeople (rows) and judge (columns), held out")
        print_table("", ("", *levels), lines)
    typer.echo(_counted(found))


def _figures(agreement: Agreement) -> tuple[object, ...]:
    auc = "–" if agreement.auc is None else _in_words(agreement.auc)
    kappas = (_in_words(agreement.kappa), _in_words(agreement.quadratic_kappa))
    return (agreement.n, _in_words(agreement.accuracy), *kappas, auc)


def _in_words(figure: Figure) -> str:
    limits = "" if figure.low is None or figure.high is None else f" [{figure.low:.2f}, {figure.high:.2f}]"
    return f"{figure.estimate:.2f}{limits}"


def _counted(found: Calibration) -> str:
    """What the figures rest on, and what they leave out, in a line."""
    parts = [
        f"{found.held_out} held-out items: {found.scored} scored, {found.failed} failed, {found.abstained} abstained"
    ]
    parts += [f"{found.untold} that no person could tell"] if found.untold else []
    parts += [f"{found.identical} pairs of the same output left out"] if found.identical else []
    if found.ceiling is not None:
        parts.append(f"agreement between people (Krippendorff's α): {_in_words(found.ceiling)}")
    if found.mapped:
        parts.append("the judge's values were mapped to levels by folds that had not seen the item")
    return "; ".join(parts)
