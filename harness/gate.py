"""The only wiring: gate.yaml → suites and subjects → evidence → verdict → run directory and reports."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel

from harness import __version__, document, plugins, policy, preflight, runs
from harness.cache import OutputCache
from harness.config import GateConfig, GuardSection, LoadedConfig, SubjectSection, slug
from harness.errors import AdapterError, ConfigError, DataError, SubjectError, nearest
from harness.execution.drafts import Source
from harness.execution.local import Evaluation, Schedule, SuiteState, open_state
from harness.execution.parts import NO_VERDICT, part_of, refuse_empty
from harness.progress import Observer
from harness.records import Check, Evidence, Guard, Verdict, content_hash
from harness.subjects import Subject, SubjectContext
from harness.suites import Suite, SuiteContext

Arm = Literal["baseline", "candidate"]


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
        # Trials of a sweep are compared with each other, so all of them answer all samples.
        early = settings.sequential and self.loaded.part == "verdict"
        return Schedule(settings.first_chunk, settings.growth, early)

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
        for arm in get_args(Arm):
            subject_options(config, arm)
    observer.stage("reading suites")
    plan = make_plan(configs[0], out)
    loaded = plan.loaded
    with ExitStack() as stack:
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
    observer = bench.observer
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
        verdict = _evaluate(
            evaluation, plan.loaded.gate.policy.noise_probe, bench.noise, label, manifest.get("no_verdict", ())
        )
        bench.sources.append(Source.of(candidate))
        _tell_remarks(candidate, observer)
        observer.stage(f"{label}writing reports")
        return _store(run, manifest, evaluation.evidence(), verdict)


def make_plan(loaded: LoadedConfig, out: Path | None = None) -> Plan:
    """Suites with their committed orders, and guards; loads no model."""
    suites = [build_suite(loaded, index) for index in range(len(loaded.gate.suites))]
    names = [suite.name for suite in suites]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(f"{loaded.where('suites', index)}: a second suite named {name!r}; give it a `name`")
    opened = (open_state(suite, _seed_material(loaded, suite)) for suite in suites)
    states = tuple(part_of(state, loaded.gate.for_sweeps, loaded.part) for state in opened)
    guards = tuple(g for index, suite in enumerate(suites) for g in suite_guards(loaded, index, suite))
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
    asked = section.guards or tuple(GuardSection(metric=metric) for metric in suite.metrics)
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
        guards.append(whole)
        guards += [replace(whole, slice=tag) for tag in guard.critical_slices]
        if section.slices:
            others = [tag for tag in tags if tag not in guard.critical_slices]
            guards += [replace(whole, slice=tag, required=False) for tag in others]
    return guards


def _guard(loaded: LoadedConfig, section: GuardSection, suite: Suite) -> Guard:
    settings = loaded.gate.policy
    return Guard(
        suite=suite.name,
        metric=section.metric,
        margin=settings.margin if section.margin is None else section.margin,
        must_improve=section.must_improve,
        alpha=settings.alpha if section.alpha is None else section.alpha,
        estimand=suite.estimand,
        required=section.required,
        max_failures=settings.max_failures if section.max_failures is None else section.max_failures,
    )


def build_subject(loaded: LoadedConfig, arm: Arm, context: SubjectContext) -> Subject:
    """One arm's subject, by its plugin."""
    section: SubjectSection = getattr(loaded.gate, arm)
    try:
        subject: Subject = plugins.load("subjects", section.kind).build(subject_options(loaded, arm), context)
    except ImportError as error:
        what = f"subject kind {section.kind!r}"
        raise ConfigError(f"{loaded.where(arm)}: {plugins.missing_extra(what, error)}") from error
    subject.name = section.name or subject.name
    return subject


def subject_options(loaded: LoadedConfig, arm: Arm) -> BaseModel:
    """One arm's options, checked without loading anything.

    Raises:
        UsageError: there is no such kind of subject or option, or a file that it names is not there.
    """
    section: SubjectSection = getattr(loaded.gate, arm)
    return plugins.options("subjects", section.kind, section.options, where=loaded.where(arm), folder=loaded.folder)


def with_candidates(loaded: LoadedConfig, candidates: Sequence[Path]) -> list[LoadedConfig]:
    """One configuration a candidate, named by its folder and by as many folders above it as tell it from the others.

    Raises:
        ConfigError: a folder is neither an adapter nor a model, or is given twice.
    """
    resolved = [candidate.resolve() for candidate in candidates]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise ConfigError(f"--candidate {path} is given twice")
    return [with_candidate(loaded, path, _distinct(path, resolved)) for path in resolved]


def with_candidate(loaded: LoadedConfig, candidate: Path, name: str | None = None) -> LoadedConfig:
    """The configuration with another candidate: an adapter on the baseline's model, or a full checkpoint.

    Where the configured candidate reads recorded answers, another file of answers is a candidate too.

    Raises:
        ConfigError: the path is none of these.
    """
    candidate = candidate.resolve()
    if (candidate / "adapter_config.json").is_file() and not (candidate / "classifier.json").is_file():
        like, chosen = _on_baseline(loaded.gate), {"adapter": str(candidate)}
    elif (candidate / "config.json").is_file():
        made = _classifier_itself if _classifies(candidate) else _by_itself
        like, chosen = made(loaded.gate), {"model": str(candidate)}
    elif (candidate / "classifier.json").is_file():
        like, chosen = _classifying(loaded.gate), {"head": str(candidate)}
    elif candidate.is_file() and "answers" in loaded.gate.candidate.options:
        like, chosen = loaded.gate.candidate, {"answers": str(candidate)}
    else:
        raise ConfigError(
            f"{candidate}: neither an adapter (adapter_config.json), a classifier's head (classifier.json) nor a model "
            "(config.json) is there"
        )
    section = SubjectSection(kind=like.kind, name=name or candidate.name, **{**like.options, **chosen})
    command = f"{loaded.command} --candidate {shlex.quote(str(candidate))}"
    return replace(loaded, gate=loaded.gate.model_copy(update={"candidate": section}), command=command)


def _on_baseline(gate: GateConfig) -> SubjectSection:
    """What an adapter is put on: the baseline's model, as the configured candidate has it if it is on that model."""
    baseline, old = gate.baseline, gate.candidate
    # As paths, because ./base and base are one folder.
    names = [(Path(str(s.options.get("model"))), s.options.get("revision")) for s in (baseline, old)]
    if names[0] == names[1] or "model" not in baseline.options:
        return old
    return _without(baseline, ("merge",))


def _classifying(gate: GateConfig) -> SubjectSection:
    """What a trained head is put on: the baseline's model, which need not be a classifier itself."""
    shared = ("model", "revision", "tokenizer", "dtype", "device", "max_length", "trust_remote_code")
    given = {key: gate.baseline.options[key] for key in shared if key in gate.baseline.options}
    return SubjectSection(kind="classifier", **given)


def _classifies(candidate: Path) -> bool:
    """Whether a full checkpoint is a classifier of texts, by what its config says that it is."""
    try:
        config = json.loads((candidate / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # loading it will say so
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _classifier_itself(gate: GateConfig) -> SubjectSection:
    """What of the configuration holds for a checkpoint that is a classifier and brings its own tokenizer."""
    if gate.candidate.kind == "classifier":
        return _without(_by_itself(gate), ("head",))
    return _without(_classifying(gate), ("revision", "tokenizer"))


def _by_itself(gate: GateConfig) -> SubjectSection:
    """What of the configured candidate holds for any full checkpoint; it brings its own tokenizer and chat template,
    unless both subjects were given the same.
    """
    like = gate.candidate if "model" in gate.candidate.options else gate.baseline
    given = [key for key in ("tokenizer", "chat_template") if like.options.get(key) != gate.baseline.options.get(key)]
    return _without(like, ("revision", "adapter", "merge", *given))


def _without(section: SubjectSection, keys: Sequence[str]) -> SubjectSection:
    kept = {key: value for key, value in section.options.items() if key not in keys}
    return SubjectSection(kind=section.kind, name=section.name, **kept)


def with_engine(loaded: LoadedConfig, engine: str) -> LoadedConfig:
    """The configuration with both subjects answered by another engine; options of the engine before are dropped.

    Raises:
        ConfigError: there is no such engine, or a subject is of a kind that has none.
    """
    known = plugins.names("engine")
    if engine not in known:
        raise ConfigError(f"--engine: there is no engine {engine!r}: {nearest(engine, known)}")
    update = {arm: _on_engine(loaded, arm, engine) for arm in get_args(Arm)}
    command = f"{loaded.command} --engine {shlex.quote(engine)}"
    return replace(loaded, gate=loaded.gate.model_copy(update=update), command=command)


def _on_engine(loaded: LoadedConfig, arm: Arm, engine: str) -> SubjectSection:
    section: SubjectSection = getattr(loaded.gate, arm)
    fields = plugins.load("subjects", section.kind).Options.model_fields
    if "engine" not in fields:
        raise ConfigError(f"{loaded.where(arm)}: --engine: a subject of kind {section.kind!r} has no engine to choose")
    changed = section.options.get("engine", fields["engine"].default) != engine
    kept = _without(section, ("engine_options",)) if changed else section
    return SubjectSection(kind=kept.kind, name=kept.name, **{**kept.options, "engine": engine})


def _distinct(path: Path, among: Sequence[Path]) -> str:
    """The shortest end of `path` that no other path has."""
    others = [other.parts for other in among if other != path]
    lengths = range(1, len(path.parts) + 1)
    size = next((n for n in lengths if all(other[-n:] != path.parts[-n:] for other in others)), len(path.parts))
    return Path(*path.parts[-size:]).as_posix()


def _evaluate(
    evaluation: Evaluation, noise_probe: int, noise: dict[str, Any], label: str, stopped: Sequence[str]
) -> Verdict:
    evaluation.observer.stage(f"{label}pre-flight")
    checks = preflight.run(evaluation, noise_probe, noise)
    if all(check.passed for check in checks):
        evaluation.observer.stage(f"{label}evaluating")
        evaluation.finish()
    return policy.decide(evaluation.evidence(), evaluation.guards, checks, stopped=stopped)


def _tell_remarks(subject: Subject, observer: Observer) -> None:
    for remark in subject.remarks():
        observer.note(f"{subject.name}: {remark}")


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
        return _store(run, manifest, evidence, policy.decide(evidence, plan.guards, [refusal]))


def _metrics(guards: Sequence[Guard], state: SuiteState) -> list[str]:
    return list(dict.fromkeys(g.metric for g in guards if g.suite == state.suite.name))


def _store(
    run: runs.RunDirectory, manifest: dict[str, Any], evidence: Sequence[Evidence], verdict: Verdict
) -> GateResult:
    """Write evidence, verdict and reports; the verdict comes last but the reports, so it is never without evidence."""
    runs.write_evidence(run.path / runs.EVIDENCE, evidence)
    runs.write_json(run.path / runs.VERDICT, verdict.as_json())
    reports = document.write_reports(run.path, document.make_document(verdict, manifest, run.entries))
    return GateResult(manifest["candidate"]["name"], verdict, run.path, tuple(reports))


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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
