"""Pre-flight checks that ask two subjects, of whatever kind: is the candidate different, and are they comparable?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import Check, LogLikelihood, Output, Request
from harness.subjects import Subject
from harness.subjects.prompted import unprompted

_PROBES: Sequence[tuple[str, str]] = (
    ("The capital of France is", " Paris, on the river Seine."),
    ("Question: What is 17 + 25?\nAnswer:", " 42"),
    ("def add(a, b):\n", "    return a + b\n"),
    ("Dear Sir or Madam,\n\n", "I am writing to complain about the delay."),
    ("User: Tell me a joke.\nAssistant:", " Why did the chicken cross the road?"),
    ("{\"name\": \"Ada\", \"age\":", " 36}"),
)  # fmt: skip


def not_the_baseline(baseline: Subject, candidate: Subject) -> Check:
    """Check "not-the-baseline": equal fingerprints mean equal answers, so that a gate would find no regression.

    It is asked of local subjects only: recorded answers that are alike say nothing of what gave them.
    """
    name = "not-the-baseline"
    if baseline.fingerprint != candidate.fingerprint:
        return Check(name, True, "candidate and baseline differ in their weights, adapter, tokenizer or settings")
    detail = (
        f"{candidate.name} answers exactly as {baseline.name} does because it is the same model with the same settings;"
        " name the adapter or checkpoint that was trained"
    )
    return Check(name, False, detail)


def adapter_active(baseline: Subject, candidate: Subject) -> Check:
    """Check "adapter-active": whether any log-likelihood of a fixed probe differs between the two subjects.

    An adapter whose keys do not match the model's is skipped by its loader with a warning at most; the gate would
    then compare the base with itself and find no regression. A baseline behind a prompt is asked without it, because
    the prompt alone would make a difference.
    """
    baseline = unprompted(baseline)
    requests = [LogLikelihood(context, continuation) for context, continuation in _PROBES]
    ours, theirs = _answers(baseline, requests), _answers(candidate, requests)
    gaps = [
        abs(a.logprob - b.logprob)
        for a, b in zip(ours, theirs, strict=True)
        if a.logprob is not None and b.logprob is not None
    ]
    if not gaps:
        reason = next((o.failure for o in (*ours, *theirs) if o.failure), "no log-likelihoods")
        return Check("adapter-active", False, f"the probe could not be answered: {reason}")
    if max(gaps) == 0.0:
        return Check(
            "adapter-active",
            False,
            f"{candidate.name} answers {len(gaps)} probes exactly as {baseline.name} does: the adapter is not applied, "
            "or it changes nothing",
        )
    return Check("adapter-active", True, f"log-likelihoods of {len(gaps)} probes differ by up to {max(gaps):.3g} nats")


def same_tokenizer(baseline: Subject, candidate: Subject, *, said_otherwise: bool = False) -> Check:
    """Check "same-tokenizer", by the hash of the tokenizer's files; `said_otherwise` accepts a difference."""
    ours, theirs = (s.describe().get("tokenizer_sha256") for s in (baseline, candidate))
    if ours is None or theirs is None:
        return Check("same-tokenizer", True, "not known for a subject that does not show its tokenizer")
    return _same("same-tokenizer", "tokenizer", ours == theirs, said_otherwise)


def same_chat_template(baseline: Subject, candidate: Subject, *, said_otherwise: bool = False) -> Check:
    """Check "same-chat-template", by the subjects' chat fingerprints; `said_otherwise` accepts a difference."""
    same = baseline.chat_fingerprint == candidate.chat_fingerprint
    return _same("same-chat-template", "chat template", same, said_otherwise)


def _same(name: str, what: str, same: bool, said_otherwise: bool) -> Check:
    if same:
        return Check(name, True, f"both subjects have the same {what}")
    if said_otherwise:
        return Check(name, True, f"the {what}s differ, as the configuration says they may")
    key = what.replace(" ", "_")
    way_out = f"if that is meant, name the candidate's in gate.yaml with the key {key!r}"
    return Check(name, False, f"the {what}s differ, so the two subjects are not asked the same thing; {way_out}")


def _answers(subject: Subject, requests: Sequence[Request]) -> list[Output]:
    pairs = [pair for batch in subject.answer(requests) for pair in batch]
    return [output for _, output in sorted(pairs, key=lambda pair: pair[0])]
