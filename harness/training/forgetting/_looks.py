"""A look: the model of a running training is asked some of the gate's frozen samples, and the gate's own test decides.

**What is tested.** The model changes between two looks, so what one look has seen says nothing about the next model,
and no evidence is carried over. Each look is a test of its own, of the gate's null for each guard: betting within a
look is anytime-valid, so it is looked at after every chunk and ends as soon as everything is decided. With k guards
and L looks, fixed before the first of them, "regressed" is tested at α/(k·L); so a training none of whose
checkpoints has regressed is stopped with probability at most α in all (union bound: it needs no independence, and
all looks may ask the same samples). A look that is not made spends nothing. That is about the first regression that is
shown: until then the weights depend on no look. A training that then goes on from kept weights has looks at the same
level, but at weights that a look has helped to choose.

**Where it asks on.** A look costs most where there is nothing to see, so it begins small, and goes on only with the
suites in which some guard's mean is at its margin or beyond it, the worst first. Whether to go on is decided from what
was seen, and an anytime-valid test allows that: the level of "regressed" holds whatever the reason to ask on or to
stop. What is given up is power against losses so small or so rare that none shows in the beginning of a look.

**Which samples.** The first of an order that is the guard's own: derived as the gate's is, from the frozen content and
the policy, but of another seed. Given the checkpoint that a training leaves, whatever looks have made of it, the gate's
order is still a uniform draw, so the gate's levels hold for it as for any other candidate. A gate that holds samples
back (`for_sweeps`) has its looks on those, and they share no sample with its verdict.

**What is not tested.** Guards that demand an improvement, since early in a training nothing has improved; advisory
ones; those of suites whose samples are a stream.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.cache import OutputCache
from harness.config import LoadedConfig, Part
from harness.drift import common_prefix
from harness.errors import ConfigError
from harness.execution.local import UNANSWERED, Schedule, SuiteState, answer_cached
from harness.gate import Plan, make_plan
from harness.policy import Table, compare
from harness.records import Comparison, Draft, Generate, Guard, LogLikelihood, Output, Request, Sample, content_hash
from harness.subjects import Subject
from harness.suites import AnsweredPair, Suite

CHUNK = 16  # samples of a suite between two decisions within a look
_SCHEDULE = Schedule(first=CHUNK, growth=1.0)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has found. `loss` is the validation loss, or where there is none the training loss, if known."""

    step: int
    comparisons: tuple[Comparison, ...]
    samples: int
    loss: float | None = None

    @property
    def regressed(self) -> tuple[Comparison, ...]:
        """The guards that were shown to have regressed."""
        return tuple(c for c in self.comparisons if c.outcome == "regressed")

    @property
    def clear(self) -> bool:
        """Whether the checkpoint may be kept: nothing was shown, and nothing hidden by answers that failed."""
        return not self.regressed and not any(c.reason for c in self.comparisons)

    def as_json(self) -> dict[str, Any]:
        """What the log says besides the step."""
        return {
            "regressed": [c.label for c in self.regressed],
            "clear": self.clear,
            "samples": self.samples,
            "loss": self.loss,
            "guards": [
                {
                    "guard": c.label, "outcome": c.outcome, "difference": c.difference, "margin": c.margin,
                    "lost": c.lost, "won": c.won, "used": c.n_used, "failed": c.n_failed, "reason": c.reason,
                }
                for c in self.comparisons
            ],
        }  # fmt: skip


def watchable(plan: Plan) -> tuple[Guard, ...]:
    """The guards of a gate that looks are about.

    Raises:
        ConfigError: there is none.
    """
    judged = {
        state.suite.name for state in plan.states if state.suite.asks_judges
    }  # too slow, and too dear, for a look
    guards = tuple(
        g
        for g in plan.guards
        if g.required and g.must_improve is None and g.estimand == "frozen" and g.suite not in judged
    )
    if not guards:
        raise ConfigError(
            f"{plan.loaded.path}: no required guard tolerates a drop on frozen samples, so there is nothing that "
            "ForgettingGuard could look at; add a golden or capability suite with a margin"
        )
    return guards


@dataclass(slots=True)
class Watch:
    """The suites and guards of a gate that looks are about, and what the baseline has answered, by sample id."""

    suites: tuple[SuiteState, ...]
    guards: tuple[Guard, ...]
    samples: int
    baseline: dict[str, dict[str, tuple[Output, ...]]] = field(default_factory=dict)
    tokenizer: str = ""

    @classmethod
    def of(cls, loaded: LoadedConfig, samples: int) -> Watch:
        """From a gate's configuration.

        Raises:
            ConfigError: the gate has no required guard against a regression on frozen samples.
            UsageError, LockError: as `harness gate` raises them.
        """
        policy = loaded.gate.policy
        seed = int(content_hash({"for": "looks", "seed": policy.seed})[:8], 16)
        # Looks are about checkpoints and are no decisions, so that they have no share of α to pay.
        wear = loaded.gate.wear.model_copy(update={"candidates": 0})
        gate = loaded.gate.model_copy(update={"policy": policy.model_copy(update={"seed": seed}), "wear": wear})
        # Where samples are held back for choosing, looks choose by those: they decide which checkpoint is kept.
        part: Part = "sweep" if gate.for_sweeps else "verdict"
        plan = make_plan(replace(loaded, gate=gate, part=part))
        guards = watchable(plan)
        watched = {guard.suite for guard in guards}
        return cls(tuple(state for state in plan.states if state.suite.name in watched), guards, samples)

    @property
    def asked(self) -> list[tuple[Suite, Sequence[Sample]]]:
        """The samples that looks may ask."""
        return [(state.suite, state.samples[: _end(state, self.samples)]) for state in self.suites]

    def ask_baseline(self, subject: Subject, cache: OutputCache, fingerprint: str) -> None:
        """Fill `baseline`, from the cache where it holds what the subject of this fingerprint has answered."""
        per_sample = [(s, x, s.requests(x, subject)) for s, samples in self.asked for x in samples]
        requests = [request for *_, group in per_sample for request in group]
        if fingerprint == subject.fingerprint:
            outputs = answer_cached(subject, requests, cache, lambda _: None)
        else:  # the weights that answered are no longer at hand
            known = cache.get(fingerprint, requests)
            outputs = [known.get(index, UNANSWERED) for index in range(len(requests))]
            if not known:
                raise ConfigError(
                    f"the baseline's answers are no longer in {cache.path}, and a resumed training has no starting "
                    "weights to ask; start the training anew, or resume it without ForgettingGuard"
                )
        flat = iter(outputs)
        for suite, sample, group in per_sample:
            self.baseline.setdefault(suite.name, {})[sample.id] = tuple(next(flat) for _ in group)
        self.tokenizer = str(subject.describe().get("tokenizer_sha256") or "")

    def expected_cost(self, subject: Subject, encode: Callable[[str], Sequence[int]]) -> float:
        """Tokens that a look at all of its samples is expected to forward.

        What prompts begin with alike is computed once, as the fast engine does it. An answer is taken to be as long as
        the baseline's and to differ from it: the draft is verified in vain, then the answer is written.
        """
        prompts, written = [], 0
        for suite, samples in self.asked:
            for sample in samples:
                requests = suite.requests(sample, subject)
                prompts += [tuple(encode(_text(request, subject))) for request in requests]
                answers = zip(requests, self.baseline[suite.name][sample.id], strict=True)
                written += 2 * sum(answer.tokens for request, answer in answers if isinstance(request, Generate))
        return float(_distinct_tokens(prompts) + written)

    def look(
        self, subject: Subject, step: int, *, looks: int, samples: int, affords: Callable[[float], bool]
    ) -> Look | None:
        """Ask `samples` of every suite, and go on with those that do worse than is tolerated; see the module.

        Args:
            subject: the model as it is now.
            step: for the record.
            looks: L of the module, fixed before the first look.
            samples: of every suite, unless its guards are decided before; of one that goes on, up to all of a look's.
            affords: told the share of a full look that comes next; false keeps it from being asked.

        Returns:
            None where not a single chunk of every suite could be afforded.
        """
        states = [SuiteState(state.suite, state.samples) for state in self.suites]
        found: list[Comparison] = []
        waiting = states
        while chunks := self._paid(waiting, affords):
            if len(chunks) < len(states) and not found:
                return None
            self._ask(subject, chunks)
            found = self._compare(states, looks)
            if any(c.outcome == "regressed" for c in found):
                break
            waiting = self._going_on(states, found, samples)
        return Look(step, tuple(found), sum(state.done for state in states)) if found else None

    def _paid(
        self, waiting: Sequence[SuiteState], affords: Callable[[float], bool]
    ) -> list[tuple[SuiteState, Sequence[Sample]]]:
        """The next chunk of each suite, as far down the list as can be afforded."""
        chunks = [(state, state.next_chunk(_SCHEDULE)) for state in waiting]
        whole = sum(len(samples) for _, samples in self.asked)
        parts = itertools.accumulate(len(chunk) / whole for _, chunk in chunks)
        return [chunk for chunk, _ in zip(chunks, itertools.takewhile(affords, parts), strict=False)]

    def _going_on(self, states: Sequence[SuiteState], found: Sequence[Comparison], samples: int) -> list[SuiteState]:
        """The suites that are asked more, the one that does worst first."""
        room = {state.suite.name: _room(state, found) for state in states}
        open_states = [
            state
            for state in states
            if state.done < _end(state, samples if room[state.suite.name] > 0 else self.samples)
            and any(c.outcome == "undecided" for c in found if c.suite == state.suite.name)
        ]
        return sorted(open_states, key=lambda state: room[state.suite.name])

    def _ask(self, subject: Subject, chunks: Sequence[tuple[SuiteState, Sequence[Sample]]]) -> None:
        groups = [(state, x, state.suite.requests(x, subject)) for state, chunk in chunks for x in chunk]
        requests = [request for *_, group in groups for request in group]
        known = [output for state, x, _ in groups for output in self.baseline[state.suite.name][x.id]]
        drafts = [_draft(r, output, self.tokenizer) for r, output in zip(requests, known, strict=True)]
        outputs = {i: output for batch in subject.answer(requests, drafts) for i, output in batch}
        flat = (outputs.get(i, UNANSWERED) for i in range(len(requests)))
        pairs: dict[str, list[AnsweredPair]] = {}
        for state, x, group in groups:
            ours = self.baseline[state.suite.name][x.id]
            pairs.setdefault(state.suite.name, []).append(AnsweredPair(x, ours, [next(flat) for _ in group]))
        for state, _ in chunks:
            mine = pairs[state.suite.name]
            for pair, scores in zip(mine, state.suite.score(mine), strict=True):
                state.scores[pair.sample.id] = {m: (both.baseline, both.candidate) for m, both in scores.items()}

    def _compare(self, states: Sequence[SuiteState], looks: int) -> list[Comparison]:
        by_name = {state.suite.name: state for state in states}
        tables: Mapping[tuple[str, str], Table] = {
            (g.suite, g.metric): Table(by_name[g.suite].evidence(g.metric)) for g in self.guards
        }
        level = 1 / (len(self.guards) * looks)
        return [compare(tables[g.suite, g.metric], g, block_alpha=g.alpha * level) for g in self.guards]


def _end(state: SuiteState, samples: int) -> int:
    """Where `samples` samples end, a cluster never being cut."""
    walk = SuiteState(state.suite, state.samples)
    while walk.done < min(samples, len(walk.samples)):
        walk.scores.update({sample.id: {} for sample in walk.next_chunk(_SCHEDULE)})
    return walk.done


def _room(state: SuiteState, found: Sequence[Comparison]) -> float:
    """How far the worst open guard of a suite is from its margin: 0 or less where it is there, or cannot be told."""
    known = [
        0.0 if c.reason or c.difference is None else c.margin + c.difference
        for c in found
        if c.suite == state.suite.name and c.outcome == "undecided"
    ]
    return min(known, default=math.inf)


def _distinct_tokens(prompts: Sequence[tuple[int, ...]]) -> int:
    """Nodes of the tree of all prompts: of two neighbours in the sorted order, only the common beginning is shared."""
    ordered = sorted(prompts)
    shared = sum(common_prefix(a, b) for a, b in itertools.pairwise(ordered))
    return sum(map(len, ordered)) - shared


def _draft(request: Request, output: Output, tokenizer: str) -> Draft | None:
    if not isinstance(request, Generate) or request.temperature or output.text is None:
        return None
    return Draft(output.text, output.ids, tokenizer)


def _text(request: Request, subject: Subject) -> str:
    if isinstance(request, Generate):
        prompt, rest = request.prompt, ""
    elif isinstance(request, LogLikelihood):
        prompt, rest = request.context, request.continuation
    else:
        prompt, rest = request.text, ""
    return (prompt if isinstance(prompt, str) else subject.render_chat(prompt)) + rest
