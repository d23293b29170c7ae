"""The nouns that everything else passes around. Plain frozen records: no file, no model, no drawing.

A subject answers a sample's requests with outputs; a metric turns outputs into a score; two scores of one sample
make a pair; a suite's pairs under one metric are evidence; a guard looks at evidence and gives a comparison; the
comparisons together give the verdict.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from harness.messages import Message as Message
from harness.messages import Picture as Picture

Estimand = Literal["frozen", "population"]
Outcome = Literal["pass", "regressed", "undecided"]
Decision = Literal["promote", "block", "hold"]
ScoreState = Literal["scored", "tied", "abstained", "failed"]
"""`tied` stands on both sides of a pair whose outputs are the same: the difference is 0, and nobody asked the value."""


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# ---------------------------------------------------------------- what is asked


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask for text. A tuple of messages goes through the subject's chat template, a string does not.

    `tools` (definitions as OpenAI's API takes them), `tool_choice` and `response_format` are canonical JSON, or empty;
    they go with messages only. No tool is ever run.
    """

    prompt: str | tuple[Message, ...]
    until: tuple[str, ...] = ()
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    tools: str = ""
    tool_choice: str = ""
    response_format: str = ""


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """Ask for log p(continuation | context), in nats, summed over the continuation's tokens."""

    context: str | tuple[Message, ...]
    continuation: str


@dataclass(frozen=True, slots=True)
class RollingLogLikelihood:
    """Ask for log p(text), in nats, with windows of the model's context length."""

    text: str


Request = Generate | LogLikelihood | RollingLogLikelihood


def request_hash(request: Request) -> str:
    """Content hash of a request; with a subject's fingerprint it is the key of the output cache."""
    # By hand, because `asdict` copies every prompt and takes longer than all the rest.
    values = {name: getattr(request, name) for name in request.__slots__}
    for name, value in list(values.items()):
        if isinstance(value, tuple) and value and isinstance(value[0], Message):
            values[name] = [m.as_json() for m in value]
        elif value == "" and name in _ONLY_IF_GIVEN:  # what was asked before there were these keeps its hash
            del values[name]
    return content_hash({"kind": type(request).__name__, **values})


_ONLY_IF_GIVEN = ("tools", "tool_choice", "response_format")


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a suite. `id` is unique in the suite; an empty `cluster` means the sample stands alone."""

    id: str
    prompt: str
    targets: tuple[str, ...] = ()
    cluster: str = ""
    tags: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    choices: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- what comes back


@dataclass(frozen=True, slots=True)
class Output:
    """What a subject answered to one request; `failure` is set instead of an answer, never beside one.

    `text` answers Generate; `logprob` (nats, ≤ 0) answers the two likelihood requests; `is_greedy` says whether
    the continuation is what greedy decoding would have produced. `tokens` counts the tokens generated or scored.

    A local model also leaves the token `ids` that it generated (an end token included), the log-probability in nats
    that it gave each (`logprobs`, of equal length), and `near_ties`, how many choices were so close that float noise
    could have turned them. They serve drafts and drift, never a score. A served one leaves `tool_calls` (canonical
    JSON, see `Message`; `text` may then be empty), the word with which the server said that it was done, and
    `seconds`, how long the answer took, and `read`, the tokens that it counted in what was asked.
    """

    text: str | None = None
    logprob: float | None = None
    is_greedy: bool | None = None
    tokens: int = 0
    truncated: bool = False
    failure: str | None = None
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    near_ties: int = 0
    tool_calls: str = ""
    finish: str = ""
    seconds: float = 0.0
    read: int = 0

    @property
    def spoken(self) -> str | None:
        """The text, then each tool call in a Hermes block: all that a metric, a judge or a reader goes by."""
        if not self.tool_calls:
            return self.text
        calls = [json.dumps({"name": c["name"], "arguments": c["arguments"]}) for c in json.loads(self.tool_calls)]
        return "\n".join([*filter(None, [self.text]), *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)])

    def as_json(self) -> dict[str, Any]:
        """The fields that are not at their defaults, JSON-ready; a run stores some hundred thousand of these."""
        said = ((name, getattr(self, name), default) for name, default in _OUTPUT_DEFAULTS)
        return {name: value for name, value, default in said if value != default}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Output:
        """The output that `as_json` or `asdict` wrote; raises TypeError or ValueError for anything else."""
        listed = {key: tuple(record[key]) for key in ("ids", "logprobs") if key in record}
        return cls(**{**record, **listed})

    def __post_init__(self) -> None:
        answered = self.text is not None or self.logprob is not None
        if answered == (self.failure is not None):
            raise ValueError("an output holds either an answer or a failure")
        if self.logprob is not None and not math.isfinite(self.logprob):
            raise ValueError("a log-likelihood must be finite; report a failure instead")


_OUTPUT_DEFAULTS = [(f.name, f.default) for f in fields(Output)]


@dataclass(frozen=True, slots=True)
class Draft:
    """A guess at an answer, to be verified instead of generated: another subject's answer to the same request.

    `ids` are tokens of the tokenizer whose file hash is `tokenizer`; for any other tokenizer only `text` counts.
    """

    text: str
    ids: tuple[int, ...] = ()
    tokenizer: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """One metric on one output. There is a value exactly when the state is `scored`; anything else says why."""

    state: ScoreState
    value: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.state == "scored") != (self.value is not None):
            raise ValueError(f"a {self.state} score with value {self.value!r}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError("a score must be finite")
        if self.state != "scored" and not self.reason:
            raise ValueError(f"a {self.state} score needs a reason")

    @classmethod
    def of(cls, value: float | bool) -> Score:
        """The ordinary case: an observation."""
        return cls("scored", float(value))

    @classmethod
    def tied(cls) -> Score:
        """Both subjects said the same, so that their difference is known without asking what it is worth."""
        return cls("tied", None, "both subjects gave the same output, so it was not judged")

    @classmethod
    def failed(cls, reason: str) -> Score:
        """The observation could not be made."""
        return cls("failed", None, reason)

    @classmethod
    def abstained(cls, reason: str) -> Score:
        """The metric or judge declined to say."""
        return cls("abstained", None, reason)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric declares: its name, its direction, its bounds and what guessing earns, in score points."""

    name: str
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    chance: float = 0.0

    @property
    def span(self) -> float:
        """Width of the scale; no oriented difference exceeds it in size."""
        return self.bounds[1] - self.bounds[0]

    def checked(self, score: Score) -> Score:
        """`score`, or a failed score where its value lies outside the declared bounds."""
        low, high = self.bounds
        if score.value is None or low <= score.value <= high:
            return score
        return Score.failed(f"{self.name} gave {score.value:g}, outside its bounds [{low:g}, {high:g}]")


@dataclass(frozen=True, slots=True)
class PairedScore:
    """Both scores of one sample under one metric; both are None while the sample has not been asked."""

    sample_id: str
    cluster: str = ""
    tags: tuple[str, ...] = ()
    baseline: Score | None = None
    candidate: Score | None = None

    @property
    def asked(self) -> bool:
        """Whether the pair was observed at all, successfully or not."""
        return self.baseline is not None and self.candidate is not None

    @property
    def complete(self) -> bool:
        """Whether the difference is known; only complete pairs enter the statistics."""
        return self.difference is not None

    @property
    def difference(self) -> float | None:
        """Candidate less baseline in score points: 0 for a tie; None when a side is missing."""
        if self.values is not None:
            return self.values[1] - self.values[0]
        sides = (self.baseline, self.candidate)
        return 0.0 if all(side is not None and side.state == "tied" for side in sides) else None

    @property
    def values(self) -> tuple[float, float] | None:
        """(baseline, candidate) in score points, or None when a side is not scored."""
        if self.baseline is None or self.candidate is None:
            return None
        if self.baseline.value is None or self.candidate.value is None:
            return None
        return self.baseline.value, self.candidate.value


@dataclass(frozen=True, slots=True)
class HumanDraw:
    """One draw of a pair for people to judge, and what they said of it.

    `difference` is candidate less baseline in the metric's score points, oriented so that up is better. It is None
    where nobody could tell, and where nobody has answered yet (`open`).
    """

    sample_id: str
    difference: float | None = None
    open: bool = False


@dataclass(frozen=True, slots=True)
class HumanLabels:
    """What people said of pairs drawn for them: `draws` with replacement in their committed order.

    `probabilities` holds every pair that could be drawn with its probability in one draw; they sum to 1.
    """

    probabilities: Mapping[str, float]
    draws: tuple[HumanDraw, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All samples of one suite under one metric, in the committed order; the unasked ones are at the end.

    `sizes` counts all samples of those clusters of a frozen suite that the metric concerns in part, as its order did.
    """

    suite: str
    metric: MetricSpec
    pairs: tuple[PairedScore, ...]
    human: HumanLabels | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    def slice(self, tag: str | None) -> tuple[PairedScore, ...]:
        """The pairs that carry `tag`, in order; all of them for None."""
        return self.pairs if tag is None else tuple(p for p in self.pairs if tag in p.tags)


# ---------------------------------------------------------------- what is decided


@dataclass(frozen=True, slots=True)
class Guard:
    """One (suite, metric, slice) with what it tolerates. `margin` and `must_improve` are in score points.

    With `must_improve` the guard asks for a gain of more than that instead of tolerating a drop of `margin`. With
    `labels` it is about what people think: so many pairs are drawn for them, and the judge's difference is corrected by
    theirs. A guard with a `veto` that is not required blocks when it has regressed, and otherwise changes nothing.
    `largest_cluster` bounds the clusters of a stream (0: the data do).
    """

    @property
    def decides(self) -> bool:
        """Whether it can block."""
        return self.required or self.veto

    suite: str
    metric: str
    slice: str | None = None
    margin: float = 0.02
    must_improve: float | None = None
    alpha: float = 0.05
    estimand: Estimand = "frozen"
    required: bool = True
    max_failures: float = 0.02
    labels: int = 0
    veto: bool = False
    largest_cluster: int = 0

    @property
    def tolerated(self) -> float:
        """The δ of the test "mean D > −δ": the margin, or minus the demanded improvement."""
        return self.margin if self.must_improve is None else -self.must_improve

    @property
    def label(self) -> str:
        """`suite/metric` or `suite/metric[slice]`, as every message and report names it."""
        return f"{self.suite}/{self.metric}" + (f"[{self.slice}]" if self.slice else "")


@dataclass(frozen=True, slots=True)
class Correction:
    """How people's labels corrected a judge's difference, all of it in score points.

    `judged` is the judge's own mean difference; `reliance` λ in [0, 1] says how much of the estimate rests on it;
    `labels` counts the draws that people decided, `planned` all that were drawn, `distinct` the pairs among the labels.
    """

    judged: float
    reliance: float
    labels: int
    planned: int
    distinct: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A guard's result. Means, difference, interval and margin are in score points; D is oriented (up is better).

    `difference` is the mean D over the `n_used` complete pairs; `interval` is the confidence sequence that the decision
    rests on (level 1−2α); `population_interval` treats the samples as a draw from a wider stream and is not adjusted
    for early stopping. `lost` and `won` count the pairs that got worse and better. Means and intervals are None when no
    pair is complete. `n_tied` counts the used pairs of identical outputs, which no judge was shown: they enter the
    difference as 0, and neither mean. With a `correction`, `difference` and `interval` are the corrected ones. Of a
    `withheld` one only outcome, counts of samples and reason are told: the numbers that it lacks, and `lost` and `won`,
    are not known to whoever reads it. Neither of the two has e-values; None is infinity.
    """

    suite: str
    metric: str
    slice: str | None
    estimand: Estimand
    outcome: Outcome
    n: int
    n_used: int
    n_failed: int
    baseline_mean: float | None
    candidate_mean: float | None
    difference: float | None
    interval: tuple[float, float] | None
    margin: float
    alpha: float
    lost: int
    won: int
    required: bool = True
    must_improve: float | None = None
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    population_interval: tuple[float, float] | None = None
    fragile: bool = False
    forgetting: float | None = None
    smallest_detectable_drop: float | None = None
    mcnemar_p: float | None = None
    log_e_pass: float | None = 0.0
    log_e_block: float | None = 0.0
    reason: str = ""
    n_tied: int = 0
    veto: bool = False
    correction: Correction | None = None
    withheld: bool = False

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Comparison:
        """The comparison that `dataclasses.asdict` turned into `said`, after its way through JSON."""
        ends = ("interval", "population_interval", "bounds")  # JSON has no tuples
        pairs = {name: tuple(said[name]) for name in ends if said.get(name) is not None}
        correction = said.get("correction")
        return cls(**{**said, **pairs, "correction": None if correction is None else Correction(**correction)})

    def as_json(self) -> dict[str, Any]:
        """JSON-ready; e-values that there are none of are left out, since 0 and null would both say something."""
        return {k: v for k, v in asdict(self).items() if self.has_e_values or k not in ("log_e_pass", "log_e_block")}

    @property
    def has_e_values(self) -> bool:
        """Whether bets decide it, and their wealth is told."""
        return self.correction is None and not self.withheld

    @property
    def blocks(self) -> bool:
        """Whether this alone makes the verdict BLOCK."""
        return self.outcome == "regressed" and (self.required or self.veto)

    @property
    def standing(self) -> str:
        """`required`, `veto` or `advisory`: what its outcome means for the verdict."""
        return "required" if self.required else "veto" if self.veto else "advisory"

    @property
    def label(self) -> str:
        """`suite/metric` or `suite/metric[slice]`."""
        return f"{self.suite}/{self.metric}" + (f"[{self.slice}]" if self.slice else "")


@dataclass(frozen=True, slots=True)
class Check:
    """One pre-flight check: passed, or not and then why and what to do."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says, with its reasons; `comparisons` holds required guards first, then advisory ones."""

    verdict: Decision
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    checks: tuple[Check, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The document that `--json` prints and `verdict.json` stores."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "comparisons": [c.as_json() for c in self.comparisons],
            "checks": [asdict(c) for c in self.checks],
        }


EXIT_CODES: Mapping[Decision, int] = {"promote": 0, "block": 1, "hold": 3}
_BY_CONCERN: tuple[Decision, ...] = ("promote", "hold", "block")


def worst(decisions: Iterable[Decision]) -> Decision:
    """The verdict on several candidates together: block before hold, hold before promote."""
    return max(decisions, key=_BY_CONCERN.index)
