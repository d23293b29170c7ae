"""The only wiring: gate.yaml → suites and subjects → evidence → verdict → run directory and reports."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness import __version__, document, plugins, policy, preflight, runs
from harness.cache import OutputCache
from harness.config import ARMS, Arm, GateConfig, GuardSection, LoadedConfig, SubjectSection, slug
from harness.errors import AdapterError, BudgetError, ConfigError, DataError, SubjectError, nearest
from harness.execution.drafts import Source
from harness.execution.local import Evaluation, Schedule, SuiteState, open_state
from harness.execution.parts import NO_VERDICT, part_of, refuse_empty
from harness.labelled import with_labels
from harness.looks import LookBook
from harness.progress import Observer, Reticent
from harness.records import Check, Evidence, Guard, Verdict, content_hash
from harness.registry import reference
from harness.statistics.wear import share
from harness.subjects import Subject, SubjectContext
from harness.suites import Suite, SuiteContext
from harness.wear import FACT, may_err


@dataclass(frozen=True, slots=True)
class GateResult:
    """A finished gate: the verdict on a candidate, and the directory that holds everything it rests on."""

    candidate: str
    verdict: Verdict
    path: Path
    reports: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a configuration asks for, checked, before any model is loaded."""

    loaded: LoadedConfig
    states: tuple[SuiteState, ...]
    guards: tuple[Guard, ...]
    root: Path

    @property
    def schedule(self) -> Schedule:
        """The policy's chunks."""
        settings = self.loaded.gate.policy
        return Schedule(settings.first_chunk, settings.growth, self.loaded.stops_early)

    def anew(self, loaded: LoadedConfig) -> Plan:
        """The same plan for another candidate: the same suites in the same orders, with nothing asked yet."""
        return replace(self, loaded=loaded, states=tuple(SuiteState(s.suite, s.samples) for s in self.states))


@dataclass(frozen=True, slots=True)
class Bench:
    """What all candidates of a run share: the baseline, what it has answered, and what is known of it.

    It stays open from the first candidate to the last, so that the baseline is loaded and asked once and the weights
    that subjects share (`context.pool`) are never freed in between.
    """

    baseline: Subject
    context: SubjectContext
    cache: OutputCache
    observer: Observer
    noise: dict[str, Any] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)


def run_gate(loaded: LoadedConfig, observer: Observer, *, out: Path | None = None) -> GateResult:
    """Gate the candidate of a configuration; a run of the same configuration and inputs is resumed.

    Raises:
        UsageError: the configuration names something that does not exist or does not fit.
        InfrastructureError: a model cannot be loaded, a disk is full …; repeating the command resumes the run.
    """
    (result,) = run_gates([loaded], observer, out=out)
    return result


def run_gates(configs: Sequence[LoadedConfig], observer: Observer, *, out: Path | None = None) -> list[GateResult]:
    """Gate several candidates against one baseline, one after the other: one run directory and one verdict each.

    The configurations differ in their candidate alone, see `with_candidates`. A candidate that cannot be loaded is a
    HOLD of its own; anything that `run_gate` raises ends the whole run, and repeating the command goes on where it was.
    """
    for config in configs:  # a mistake in the last one would cost the time of those before it
        for arm in ARMS:
            subject_options(config, arm)
    observer.stage("reading suites")
    plan = make_plan(configs[0], out)
    loaded = plan.loaded
    with ExitStack() as stack:
        for state in plan.states:
            stack.callback(state.suite.close)
        observer.stage("loading the baseline")
        context = SubjectContext(loaded.folder)
        baseline = stack.enter_context(closing(build_subject(loaded, "baseline", context)))
        cache = stack.enter_context(OutputCache(loaded.folder / loaded.gate.cache / "outputs.sqlite"))
        bench = Bench(baseline, context, cache, observer)
        results = []
        for number, config in enumerate(configs, start=1):
            label = "" if len(configs) == 1 else f"candidate {number} of {len(configs)}, {_candidate_name(config)}: "
            results.append(_gate_one(bench, plan.anew(config), label))
            if label:  # should a later one fail, what this one came to has been said
                observer.note(f"{results[-1].candidate}: {results[-1].verdict.verdict.upper()}, {results[-1].path}")
        _tell_remarks(baseline, observer)
    return results


def _gate_one(bench: Bench, plan: Plan, label: str) -> GateResult:
    """Load one candidate, evaluate it, write its run directory, and let go of it."""
    observer = bench.observer if plan.loaded.gate.wear.disclose == "full" else Reticent(bench.observer)
    with ExitStack() as stack:
        observer.stage(f"{label}loading" if label else "loading the candidate")
        try:
            candidate = stack.enter_context(closing(build_subject(plan.loaded, "candidate", bench.context)))
        except (AdapterError, SubjectError) as error:
            return _hold_unasked(plan, bench.baseline, error)
        manifest = _manifest(plan, bench.baseline.describe(), candidate.describe())
        run = stack.enter_context(closing(runs.RunDirectory(plan.root, slug(candidate.name), manifest)))
        if run.entries:
            observer.note(f"resuming {run.path}: {len(run.entries)} samples are finished")
        evaluation = Evaluation(
            bench.baseline, candidate, plan.states, plan.guards, run, bench.cache, plan.schedule, observer,
            tuple(bench.sources),
        )  # fmt: skip
        book = LookBook(plan.loaded, plan.root, run, manifest)
        verdict = _evaluate(evaluation, plan.loaded.gate, book, bench.noise, label, manifest.get("no_verdict", ()))
        bench.sources.append(Source.of(candidate))
        _tell_remarks(candidate, observer)
        for state in plan.states:
            _tell_remarks(state.suite, observer)
        observer.stage(f"{label}writing reports")
        return _store(run, manifest, evaluation.evidence(), verdict, book)


def make_plan(loaded: LoadedConfig, out: Path | None = None) -> Plan:
    """Suites with their committed orders, and guards; loads no model."""
    built = [(index, build_suite(loaded, index)) for index in range(len(loaded.gate.suites))]
    suites = [(index, each) for index, suite in built for each in (suite, *suite.companions())]
    names = [suite.name for _, suite in suites]
    for place, (index, suite) in enumerate(suites):
        if suite.name in names[:place]:
            raise ConfigError(f"{loaded.where('suites', index)}: a second suite named {suite.name!r}; give it a `name`")
    opened = [open_state(suite, _seed_material(loaded, suite)) for _, suite in suites]
    # A companion's few samples are not for choosing: they belong to the suite that it came with.
    main = {id(suite) for _, suite in built}
    states = tuple(
        part_of(state, loaded.gate.for_sweeps, loaded.part) if id(state.suite) in main else state for state in opened
    )
    guards = tuple(g for index, suite in suites for g in suite_guards(loaded, index, suite))
    refuse_empty(states, guards, loaded.part)
    return Plan(loaded, states, guards, out or loaded.folder / loaded.gate.out)


def build_suite(loaded: LoadedConfig, index: int) -> Suite:
    """The suite of one section, by its plugin."""
    section = loaded.gate.suites[index]
    where = loaded.where("suites", index)
    context = SuiteContext(
        folder=loaded.folder,
        training_files=tuple(loaded.folder / name for name in loaded.gate.training_data),
        allow=frozenset(loaded.gate.allow),
        cache=loaded.folder / loaded.gate.cache,
        required=frozenset(g.metric for g in section.guards if g.required) if section.guards else None,
        judges=loaded.gate.judges,
        candidates=_names_of(loaded.gate.candidate),
    )
    options = plugins.options("suites", section.kind, section.options, where=where)
    try:
        suite: Suite = plugins.load("suites", section.kind).build(options, context)
    except ImportError as error:
        raise ConfigError(f"{where}: {plugins.missing_extra(f'suite kind {section.kind!r}', error)}") from error
    if section.name:
        suite.name = section.name
    if section.estimand:
        suite.estimand = section.estimand
    if not suite.samples():
        raise DataError(f"{where}: suite {suite.name!r} has no sample")
    return suite


def suite_guards(loaded: LoadedConfig, index: int, suite: Suite) -> list[Guard]:
    """The guards of one section: those it names, or one a metric; then its slices, advisory unless critical."""
    section = loaded.gate.suites[index]
    asked = tuple(suite.default_guards()) or section.guards
    asked = asked or tuple(GuardSection(metric=metric) for metric in suite.metrics)
    tags = sorted({tag for sample in suite.samples() for tag in sample.tags})
    guards = []
    for number, guard in enumerate(asked):
        where = loaded.where("suites", index, "guards", number)
        if guard.metric not in suite.metrics:
            near = nearest(guard.metric, suite.metrics)
            raise ConfigError(f"{where}: {suite.name} has no metric {guard.metric!r}: {near}")
        for tag in guard.critical_slices:
            if tag not in tags:
                raise ConfigError(f"{where}: {suite.name} has no slice {tag!r}: {nearest(tag, tags)}")
        whole = _guard(loaded, guard, suite)
        if whole.margin >= suite.metrics[guard.metric].span:
            raise ConfigError(f"{where}: margin {whole.margin:g} tolerates any drop on this metric's scale")
        if suite.labels and guard.critical_slices:
            raise ConfigError(
                f"{where}: people's labels correct the mean over all samples, not that of a slice; make a suite of "
                f"{guard.critical_slices[0]!r}, or take `labels` out"
            )
        guards.append(whole)
        guards += [replace(whole, slice=tag) for tag in guard.critical_slices]
        if section.slices:
            others = [tag for tag in tags if tag not in guard.critical_slices]
            guards += [replace(whole, slice=tag, required=False, labels=0) for tag in others]
    return guards


def _guard(loaded: LoadedConfig, section: GuardSection, suite: Suite) -> Guard:
    settings, candidates = loaded.gate.policy, loaded.gate.wear.candidates
    alpha = settings.alpha if section.alpha is None else section.alpha
    guard = Guard(
        suite=suite.name,
        metric=section.metric,
        margin=settings.margin if section.margin is None else section.margin,
        must_improve=section.must_improve,
        alpha=alpha,
        estimand=suite.estimand,
        required=section.required,
        max_failures=settings.max_failures if section.max_failures is None else section.max_failures,
        labels=suite.labels,
        veto=section.veto,
        largest_cluster=suite.largest_cluster,
    )
    shared = candidates and may_err(guard, stops_early=loaded.stops_early)
    return replace(guard, alpha=share(alpha, candidates)) if shared else guard


def _names_of(section: SubjectSection) -> tuple[str, ...]:
    """What a subject's section says that it is made of: its name, and the names or paths of model and adapter."""
    options = section.options
    given = (section.name, *(options.get(key) for key in ("model", "adapter", "base_model")))
    return tuple(str(name) for name in given if name)


def build_subject(loaded: LoadedConfig, arm: Arm, context: SubjectContext) -> Subject:
    """One arm's subject, by its plugin."""
    section: SubjectSection = getattr(loaded.gate, arm)
    _, promoted = reference.resolve(loaded, arm)
    try:
        subject: Subject = plugins.load("subjects", section.kind).build(subject_options(loaded, arm), context)
    except ImportError as error:
        what = f"subject kind {section.kind!r}"
        raise ConfigError(f"{loaded.where(arm)}: {plugins.missing_extra(what, error)}") from error
    subject.name = section.name or promoted or subject.name
    return subject


def subject_options(loaded: LoadedConfig, arm: Arm) -> BaseModel:
    """One arm's options, checked without loading anything.

    Raises:
        UsageError: there is no such kind of subject or option, or a file that it names is not there.
    """
    section: SubjectSection = getattr(loaded.gate, arm)
    options, _ = reference.resolve(loaded, arm)
    return plugins.options("subjects", section.kind, options, where=loaded.where(arm), folder=loaded.folder)


def _evaluate(
    evaluation: Evaluation, gate: GateConfig, book: LookBook, noise: dict[str, Any], label: str, stopped: Sequence[str]
) -> Verdict:
    evaluation.observer.stage(f"{label}pre-flight")
    checks: list[Check] = []
    try:
        checks = preflight.run(evaluation, gate.policy.noise_probe, noise)
        if all(check.passed for check in checks):
            checks = [*checks, *book.before(evaluation.guards)]
        if all(check.passed for check in checks):
            evaluation.observer.stage(f"{label}evaluating")
            evaluation.finish()
    except BudgetError as error:
        stopped = [*stopped, str(error)]
    evidence = with_labels(evaluation.evidence(), evaluation.run.path)
    verdict = policy.decide(evidence, evaluation.guards, checks, stopped=stopped)
    checks = [*checks, *book.after(verdict, checks)]
    _note_end(evaluation.run, gate, checks, stopped)
    return replace(verdict, checks=tuple(checks))


def _note_end(run: runs.RunDirectory, gate: GateConfig, checks: Sequence[Check], stopped: Sequence[str] = ()) -> None:
    """Keep in the journal what a verdict rests on beside evidence and manifest, so that it can be decided again."""
    checked = [asdict(check) for check in checks]
    ended = {"checks": checked, "stopped": list(stopped), "gate": gate.section_digests()}
    if run.fact(runs.ENDED) != ended:
        run.note_fact(runs.ENDED, ended)


def _tell_remarks(teller: Subject | Suite, observer: Observer) -> None:
    for remark in teller.remarks():
        observer.note(f"{teller.name}: {remark}")


def _candidate_name(loaded: LoadedConfig) -> str:
    """What a candidate is called before it is loaded."""
    section = loaded.gate.candidate
    return section.name or Path(str(section.options.get("adapter") or section.options.get("model", "candidate"))).name


def _hold_unasked(plan: Plan, baseline: Subject, error: AdapterError | SubjectError) -> GateResult:
    """The candidate could not be loaded or must not be: HOLD, with the refusal as the failed check."""
    name = _candidate_name(plan.loaded)
    what = "adapter" if isinstance(error, AdapterError) else "model"
    refusal = Check(f"{what}-accepted", False, str(error))
    manifest = _manifest(plan, baseline.describe(), {"name": name, "refused": str(error)})
    evidence = [state.evidence(metric) for state in plan.states for metric in _metrics(plan.guards, state)]
    with closing(runs.RunDirectory(plan.root, slug(name), manifest)) as run:
        _note_end(run, plan.loaded.gate, [refusal])
        return _store(run, manifest, evidence, policy.decide(evidence, plan.guards, [refusal]))


def _metrics(guards: Sequence[Guard], state: SuiteState) -> list[str]:
    return list(dict.fromkeys(g.metric for g in guards if g.suite == state.suite.name))


def _store(
    run: runs.RunDirectory, manifest: dict[str, Any], evidence: Sequence[Evidence], verdict: Verdict,
    book: LookBook | None = None,
) -> GateResult:  # fmt: skip
    """Write evidence, verdict and reports; the verdict comes last but the reports, so it is never without evidence."""
    runs.write_evidence(run.path / runs.EVIDENCE, evidence)
    if book is not None:  # without a candidate nothing was decided
        book.note(verdict)
    runs.write_json(run.path / runs.VERDICT, verdict.as_json())
    runs.write_seal(run.path)
    shown = document.make_document(verdict, manifest, run.entries, rungs=(run.fact(FACT) or {}).get("rungs"))
    reports = document.write_reports(run.path, shown)
    return GateResult(manifest["candidate"]["name"], shown.verdict, run.path, tuple(reports))


def _seed_material(loaded: LoadedConfig, suite: Suite) -> bytes:
    """What fixes the order of a suite's samples: its own frozen content and the policy, nothing seen later."""
    settings = loaded.gate.policy.model_dump(mode="json")
    return content_hash({"suite": suite.digest(), "name": suite.name, "policy": settings}).encode()


def _manifest(plan: Plan, baseline: dict[str, Any], candidate: dict[str, Any]) -> dict[str, Any]:
    """What was compared. It holds no clock and no run's own path: the same inputs give the same manifest."""
    return {
        "harness": __version__,
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
        "baseline": baseline,
        "candidate": candidate,
        "suites": {
            state.suite.name: {
                "digest": state.suite.digest(),
                "samples": len(state.samples),
                "estimand": state.suite.estimand,
                "order": content_hash([sample.id for sample in state.samples]),
                **state.suite.describe(),
            }
            for state in plan.states
        },
        "guards": [asdict(guard) for guard in plan.guards],
        "policy": plan.loaded.gate.policy.model_dump(mode="json"),
        "command": plan.loaded.command,
        **_parts(plan.loaded),
    }


def _parts(loaded: LoadedConfig) -> dict[str, Any]:
    """What a manifest says of samples that were held back for sweeps."""
    said: dict[str, Any] = {"for_sweeps": loaded.gate.for_sweeps} if loaded.gate.for_sweeps else {}
    return said if loaded.part == "verdict" else {**said, "part": loaded.part, "no_verdict": [NO_VERDICT]}


_LIBRARIES = ("torch", "transformers", "peft", "lm_eval", "datasets", "evaluate", "sacrebleu", "numpy", "scipy")


@cache  # reading a package's metadata takes milliseconds, and what is installed does not change under a process
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
