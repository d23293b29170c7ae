"""What prompting alone achieves: prompts are searched on rows of their own, and the one that did best there is judged
once, on the frozen samples, by the gate's own machinery. A fine-tuned model has to beat it.

The score on the held-out rows chooses, and is too good for the chosen one (the best of many is lucky, too). The score
on the golden set is not, because exactly one prompt is ever asked there. Who repeats this with other seeds until the
golden set agrees has chosen on the golden set, and knows no more than before.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness import contamination, gate
from harness.cache import OutputCache
from harness.config import LoadedConfig, SubjectSection
from harness.errors import ConfigError, DataError, HoldError, StorageError, nearest
from harness.execution.local import answer_cached
from harness.gate import GateResult
from harness.progress import Observer
from harness.records import Generate, Output, Sample
from harness.statistics.clustered import clustered_interval
from harness.statistics.paired import Interval, paired_interval
from harness.subjects import Subject, SubjectContext
from harness.subjects.prompted import Prompt, PromptedSubject
from harness.suites import AnsweredPair, Suite
from harness.training.advice import mipro
from harness.training.advice.evolving import Evolution, evolve
from harness.training.advice.mipro import Bayesian
from harness.training.advice.prompts import Candidates, Proposal, proposals, read_candidates

_CONFIDENCE = 0.9  # of the interval on held-out rows, as of a gate's at α = 0.05
_FAILURES = 0.02  # share of the held-out rows that a prompt may leave without a score


@dataclass(frozen=True, slots=True)
class Search:
    """How prompts are searched. `gepa` and `mipro` hold the settings of these optimisers, None to do without."""

    candidates: Path
    suite: str | None = None
    instructions: tuple[str, ...] = ()
    shots: int = 8
    trials: int = 16
    held_out: int = 200
    share: float = 0.5
    seed: int = 0
    prompt_out: Path | None = None
    gepa: Evolution | None = None
    mipro: Bayesian | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """A proposal on the held-out rows: its gain over no prompt with interval, in score points, up is better.

    `n` pairs were scored and `failed` were not, the first for `reason`; the gain is None for too many failures.
    """

    proposal: Proposal
    mean: float | None
    gain: Interval | None
    n: int
    failed: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome: every prompt tried, the chosen one with its file, and the gate's judgement of it on frozen samples.

    `chosen` is None where no prompt did better than none; then nothing was judged.
    """

    suite: str
    metric: str
    tried: tuple[Tried, ...]
    chosen: Tried | None
    prompt: Path | None
    judged: GateResult | None
    baseline: dict[str, Any]
    bounds: tuple[float, float] = (0.0, 1.0)


def try_prompts(loaded: LoadedConfig, search: Search, observer: Observer, out: Path | None = None) -> Trial:
    """Search a prompt for the gate's baseline, and judge the best one on one golden suite of the gate.

    Raises:
        ConfigError: the gate has no golden suite, or several and none is named.
        DataError: a candidate row is wrong, or one of the frozen samples.
        HoldError: too many answers could not be scored to say anything.
        PluginError: GEPA or DSPy is asked for and not installed.
    """
    observer.stage("reading suites and candidate rows")
    index = _suite_index(loaded, search.suite)
    suite = gate.build_suite(loaded, index)
    metric = gate.suite_guards(loaded, index, suite)[0].metric
    _refuse_frozen(loaded, search.candidates)
    candidates = read_candidates(search.candidates, share=search.share, most=search.held_out, seed=search.seed)
    with ExitStack() as stack:
        observer.stage("loading the baseline")
        context = SubjectContext(loaded.folder)
        subject = stack.enter_context(closing(gate.build_subject(loaded, "baseline", context)))
        cache = stack.enter_context(OutputCache(loaded.folder / loaded.gate.cache / "outputs.sqlite"))
        bench = Bench(subject, suite, metric, cache, observer)
        observer.stage("searching a prompt")
        tried = bench.compare(_proposed(bench, candidates, search), candidates.held_out)
    _refuse_unscored(tried)
    chosen = _best(tried)
    bounds = suite.metrics[metric].bounds
    if chosen is None:
        return Trial(suite.name, metric, tried, None, None, None, _section(loaded, None), bounds)
    path = search.prompt_out or loaded.folder / "prompts" / f"{suite.name.replace('@', '-')}.yaml"
    _write(path, chosen, search)
    result = gate.run_gate(_judging(loaded, index, path), observer, out=out)
    return Trial(suite.name, metric, tried, chosen, path, result, _section(loaded, path), bounds)


@dataclass(frozen=True, slots=True)
class Bench:
    """Asks one subject behind prompts, and scores the answers by one metric of a suite."""

    subject: Subject
    suite: Suite
    metric: str
    cache: OutputCache
    observer: Observer

    @property
    def bounds(self) -> tuple[float, float]:
        """Worst and best oriented score."""
        spec = self.suite.metrics[self.metric]
        low, high = spec.bounds
        return (low, high) if spec.higher_is_better else (-high, -low)

    def outputs(self, proposal: Proposal, samples: Sequence[Sample]) -> list[tuple[Output, ...]]:
        """What the subject says behind a prompt, by sample."""
        asked = self.subject
        if proposal.prompt is not None:
            asked = PromptedSubject(proposal.prompt, proposal.title, self.subject)
        groups = [self.suite.requests(sample, asked) for sample in samples]
        flat = [request for group in groups for request in group]

        def tell(done: int) -> None:
            self.observer.asking(self.suite.name, proposal.title, done, len(flat))

        answers = iter(answer_cached(asked, flat, self.cache, tell))
        return [tuple(next(answers) for _ in group) for group in groups]

    def compare(self, proposed: Sequence[Proposal], samples: Sequence[Sample]) -> tuple[Tried, ...]:
        """Every proposal, the first of which is no prompt, against that first one."""
        bare = self.outputs(proposed[0], samples)
        found = []
        for proposal in proposed:
            pairs = zip(samples, bare, self.outputs(proposal, samples), strict=True)
            found.append(self._judge(proposal, [AnsweredPair(s, b, c) for s, b, c in pairs]))
        return tuple(found)

    def scores(self, proposal: Proposal, samples: Sequence[Sample]) -> list[tuple[float | None, str]]:
        """The oriented score of each sample, None where there is none, with the text that was answered or why not."""
        outputs = self.outputs(proposal, samples)
        sign = 1.0 if self.suite.metrics[self.metric].higher_is_better else -1.0
        scored = self.suite.score([AnsweredPair(s, o, o) for s, o in zip(samples, outputs, strict=True)])
        values = [row[self.metric].candidate.value for row in scored]
        said = [o[0].text or o[0].failure or "(a choice)" for o in outputs]
        return [(None if v is None else sign * v, text) for v, text in zip(values, said, strict=True)]

    def _judge(self, proposal: Proposal, answered: Sequence[AnsweredPair]) -> Tried:
        spec = self.suite.metrics[self.metric]
        scored = [row[self.metric] for row in self.suite.score(answered)]
        complete = [
            (pair.sample.cluster or pair.sample.id, s.baseline.value, s.candidate.value)
            for pair, s in zip(answered, scored, strict=True)
            if s.baseline.value is not None and s.candidate.value is not None
        ]
        failed = len(answered) - len(complete)
        if failed > _FAILURES * len(answered) or len(complete) < 2:
            reasons = [side.reason for s in scored for side in (s.candidate, s.baseline) if side.value is None]
            return Tried(proposal, None, None, len(complete), failed, reasons[0] if reasons else "too few rows")
        sign = 1.0 if spec.higher_is_better else -1.0
        differences = np.array([sign * (after - before) for _, before, after in complete])
        mean = float(np.mean([after for _, _, after in complete]))
        return Tried(proposal, mean, _interval(differences, [c for c, _, _ in complete]), len(complete), failed)


def _interval(differences: Any, clusters: Sequence[str]) -> Interval:
    _, labels = np.unique(clusters, return_inverse=True)
    if 2 <= labels.max() + 1 < len(differences):
        return clustered_interval(differences, labels, confidence=_CONFIDENCE)
    return paired_interval(differences, confidence=_CONFIDENCE)


def _proposed(bench: Bench, candidates: Candidates, search: Search) -> list[Proposal]:
    until = _until(bench, candidates)
    instructions = list(search.instructions)
    if search.gepa is not None:
        bench.observer.stage("evolving instructions with GEPA")
        instructions += evolve(bench, candidates.pool, search.gepa, seed=search.seed)
    found = proposals(
        candidates, instructions, trials=search.trials, shots=search.shots, until=until, seed=search.seed
    )  # fmt: skip
    if search.mipro is not None:
        bench.observer.stage("searching instruction and examples with MIPROv2")
        better = mipro.search(
            bench, candidates.pool, search.mipro, shots=search.shots, separator=candidates.separator, until=until,
            seed=search.seed,
        )  # fmt: skip
        found += [] if better is None else [better]
    return found


def _until(bench: Bench, candidates: Candidates) -> tuple[str, ...]:
    """The separator, where text is asked for and nothing that the suite says ends an answer before the next example."""
    asked = bench.suite.requests(candidates.held_out[0], bench.subject)
    texts = [r for r in asked if isinstance(r, Generate) and isinstance(r.prompt, str)]
    ends = all(any(stop in candidates.separator for stop in request.until) for request in texts)
    return () if ends else (candidates.separator,)


def _refuse_unscored(tried: Sequence[Tried]) -> None:
    """That nothing could be scored is no finding about prompts."""
    bare, *others = tried
    if not others:
        raise ConfigError("no prompt to try: give --instruction, or allow --shots and --trials")
    unscored = bare if bare.gain is None else others[0] if all(t.gain is None for t in others) else None
    if unscored is not None:
        raise HoldError(
            f"nothing can be said about prompts: with {unscored.proposal.title}, {unscored.failed} of "
            f"{unscored.n + unscored.failed} held-out rows could not be scored (the first: {unscored.reason})"
        )


def _best(tried: Sequence[Tried]) -> Tried | None:
    """The largest gain; of equals the one with fewer examples, then the earlier; None where none gains anything."""
    gained = [t for t in tried if t.proposal.prompt is not None and t.gain is not None and t.gain.estimate > 0]
    return max(gained, key=_rank, default=None)


def _rank(tried: Tried) -> tuple[float, int]:
    assert tried.gain is not None  # noqa: S101 - only gains are ranked
    assert tried.proposal.prompt is not None  # noqa: S101
    return round(tried.gain.estimate, 12), -len(tried.proposal.prompt.shots)


def _suite_index(loaded: LoadedConfig, wanted: str | None) -> int:
    """Which suite the prompt is for: the one named, else the one that must improve, else the only golden one."""
    golden = [i for i, section in enumerate(loaded.gate.suites) if section.kind == "golden"]
    names = {_suite_name(loaded, i): i for i in golden}
    if not golden:
        raise ConfigError(f"{loaded.where('suites')}: no golden suite, so there is nothing to try a prompt on")
    if wanted is not None:
        if wanted not in names:
            raise ConfigError(f"--suite: no golden suite {wanted!r}: {nearest(wanted, names)}")
        return names[wanted]
    improving = [i for i in golden if any(g.must_improve is not None for g in loaded.gate.suites[i].guards)]
    for group in (improving, golden):
        if len(group) == 1:
            return group[0]
    raise ConfigError(f"several golden suites ({', '.join(names)}); say which one the prompt is for with --suite")


def _suite_name(loaded: LoadedConfig, index: int) -> str:
    section = loaded.gate.suites[index]
    return section.name or str(section.options.get("set", f"suite {index}"))


def _refuse_frozen(loaded: LoadedConfig, path: Path) -> None:
    """No candidate row may be in any golden set of the gate: as an example it would give an answer away."""
    for index, section in enumerate(loaded.gate.suites):
        if section.kind != "golden":
            continue
        suite = gate.build_suite(loaded, index)
        found = contamination.find([path], suite.samples())
        if found:
            shown = "; ".join(str(f) for f in found[:5]) + ("; …" if len(found) > 5 else "")
            raise DataError(f"{len(found)} frozen samples of {suite.name} are among the candidate rows: {shown}")


def _section(loaded: LoadedConfig, prompt: Path | None) -> dict[str, Any]:
    """The baseline's section of the gate, behind the prompt where there is one."""
    bare = loaded.gate.baseline.model_dump(mode="json", exclude_none=True)
    if prompt is None:
        return bare
    path = prompt.resolve()
    inside = path.is_relative_to(loaded.folder)
    return {"kind": "prompted", "prompt": str(path.relative_to(loaded.folder) if inside else path), "subject": bare}


def _judging(loaded: LoadedConfig, index: int, prompt: Path) -> LoadedConfig:
    """The gate of one suite, all of its samples, with the prompt as the candidate."""
    section = _section(loaded, prompt)
    bare = loaded.gate.baseline
    name = f"{bare.name or bare.kind} prompted with {prompt.stem}"
    update = {
        "candidate": SubjectSection(name=name, **section),
        "suites": (loaded.gate.suites[index],),
        "policy": loaded.gate.policy.model_copy(update={"sequential": False}),
        "training_data": (),
    }
    return replace(loaded, gate=loaded.gate.model_copy(update=update), command="harness advise --try-prompts")


def _write(path: Path, chosen: Tried, search: Search) -> None:
    prompt = chosen.proposal.prompt
    assert prompt is not None  # noqa: S101 - the chosen one is a prompt
    head = (
        f"# Found by `harness advise --try-prompts` in {search.candidates.name} ({chosen.proposal.title}), "
        f"seed {search.seed}.\n# A subject of kind `prompted` puts it before every question.\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + as_yaml(prompt), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: the prompt cannot be written: {error.strerror or error}") from error


def as_yaml(prompt: Prompt) -> str:
    """A prompt as its file's text."""
    values = prompt.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return str(yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=10_000))
