"""Advice in words, for a terminal, and as a document, for a program."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from harness.training.advice.deciding import Advice, Reason, TrainingPlan, sparing, usable
from harness.training.advice.machine import human_bytes
from harness.training.advice.memory import GIB
from harness.training.advice.rules import Course
from harness.training.advice.settings import ADAPTERS
from harness.training.advice.shapes import human_count
from harness.training.advice.situation import Situation
from harness.training.advice.sources import SOURCES

HEADLINES: dict[Course, str] = {
    "prompt": "Do not fine-tune: keep the prompt.",
    "prompt first": "Do not fine-tune yet: search a prompt first, and measure it.",
    "retrieve": "Do not fine-tune: retrieve.",
    "collect": "Do not fine-tune yet: collect rows first.",
    "too large": "Do not fine-tune this model on this machine: it does not fit.",
    "fine-tune": "Fine-tune.",
}


def tell(advice: Advice, now: Situation, assumed: tuple[str, ...] = (), width: int = 100) -> str:
    """The advice with its reasons, the memory, what was assumed, and the sources in full."""
    return "\n".join(_Page(width).lines(advice, now, assumed)) + "\n"


class _Page:
    """Lines no wider than `width`, with hanging indents."""

    def __init__(self, width: int) -> None:
        self._width = max(40, width)

    def lines(self, advice: Advice, now: Situation, assumed: tuple[str, ...]) -> Iterator[str]:
        yield HEADLINES[advice.course]
        yield from self._because(advice.reason)
        if advice.course == "prompt first":
            yield "  → harness advise --try-prompts gate.yaml --candidates ROWS.jsonl"
        if advice.course == "too large":
            yield from self._too_large(now)
        if advice.plan is not None:
            yield ""
            yield "If a searched prompt falls short:" if advice.course == "prompt first" else "How:"
            yield from self._plan(advice.plan)
            yield ""
            yield from self._memory(advice.plan, now)
        yield from self._list("Also possible", [f"{what}: {when} [{source}]" for what, when, source in advice.others])
        yield from self._list("Note", list(advice.notes))
        yield from self._list("Assumed, because it was not said", [" ".join(assumed)] if assumed else [])
        yield from self._list("Sources", list(_references(advice)))

    def _because(self, reason: Reason, indent: str = "  ") -> Iterator[str]:
        yield from self._wrap(f"{reason.because} [{'; '.join(reason.sources)}]", indent, indent)

    def _plan(self, plan: TrainingPlan) -> Iterator[str]:
        for reason in plan.reasons:
            yield from self._reason(reason)
        for number, stage in enumerate(plan.stages, 1):
            if len(plan.stages) > 1:
                yield f"  stage {number}, {stage.objective}"
            for reason in stage.reasons:
                yield from self._reason(reason)

    def _reason(self, reason: Reason) -> Iterator[str]:
        name = {"learning_rate": "learning rate", "batch": "rows a step"}.get(reason.what, reason.what)
        lead = f"  {name:<14} {_shown(reason):<10} "
        yield from self._wrap(f"{reason.because} [{'; '.join(reason.sources)}]", lead, " " * 28)

    def _memory(self, plan: TrainingPlan, now: Situation) -> Iterator[str]:
        share = f"{plan.memory.trainable / now.shape.parameters:.2g}".rstrip(".")
        free = f"{human_bytes(now.machine.free)} free ({now.machine.name})"
        yield f"Memory, estimated: {human_bytes(plan.memory.total)} of {free}"
        trained = f"{human_count(plan.memory.trainable)} of {human_count(now.shape.parameters)} parameters"
        yield from self._wrap(f"trains {trained} (a share of {share})", "  ", "  ")
        for part in plan.memory.parts:
            lead = f"  {part.name:<14} {human_bytes(part.bytes):<10} "
            yield from self._wrap(f"{part.how} [{part.source}]", lead, " " * 28)

    def _too_large(self, now: Situation) -> Iterator[str]:
        needed = sparing(now).total
        free = f"{human_bytes(now.machine.free)} free ({now.machine.name})"
        yield from self._wrap(
            f"needed at least, one row of {now.length:,} tokens at a time: {human_bytes(needed)}; to be used: "
            f"{human_bytes(usable(now.machine.free))} of {free}. A smaller model, shorter rows or more memory helps.",
            "  ",
            "  ",
        )

    def _list(self, title: str, items: list[str]) -> Iterator[str]:
        if items:
            yield ""
            yield f"{title}:"
            for item in items:
                yield from self._wrap(item, "  - ", "    ")

    def _wrap(self, text: str, first: str, then: str) -> list[str]:
        return textwrap.wrap(
            text,
            self._width,
            initial_indent=first,
            subsequent_indent=then,
            break_long_words=False,
            break_on_hyphens=False,
        )


def _shown(reason: Reason) -> str:
    if reason.what == "replay":
        return f"{reason.value:.0%}" if reason.value else "none"
    return f"{reason.value:g}" if isinstance(reason.value, float) else str(reason.value)


def _references(advice: Advice) -> Iterator[str]:
    """Every source that was named, in full, by name."""
    named = set(advice.reason.sources) | {source for _, _, source in advice.others}
    if advice.plan is not None:
        reasons = [*advice.plan.reasons, *(r for s in advice.plan.stages for r in s.reasons)]
        named |= {source for reason in reasons for source in reason.sources}
        named |= {part.source for part in advice.plan.memory.parts}
    for short in sorted(named, key=lambda s: (s == "no source", s)):
        source = SOURCES[short]
        yield f"{short}: {source.title}" + ("" if short == "no source" else f", {source.where}")


def as_document(advice: Advice, now: Situation, assumed: tuple[str, ...]) -> dict[str, Any]:
    """Everything that `tell` says, JSON-ready; sizes in bytes."""
    plan = advice.plan
    return {
        "course": advice.course,
        "train": advice.trains,
        "reason": asdict(advice.reason),
        "plan": None if plan is None else _plan_document(plan),
        "others": [{"what": what, "when": when, "source": source} for what, when, source in advice.others],
        "notes": list(advice.notes),
        "situation": asdict(now),
        "assumed": list(assumed),
        "sources": {short: asdict(SOURCES[short]) for short in sorted(_named(advice))},
    }


def _named(advice: Advice) -> set[str]:
    return {line.split(":", 1)[0] for line in _references(advice)}


def _plan_document(plan: TrainingPlan) -> dict[str, Any]:
    return {
        "scope": plan.scope,
        "options": plan.options if plan.scope in ADAPTERS else {},
        "stages": [asdict(stage) for stage in plan.stages],
        "load": asdict(plan.load),
        "memory": {"total": plan.memory.total, "gib": round(plan.memory.total / GIB, 2), **asdict(plan.memory)},
        "reasons": [asdict(reason) for reason in plan.reasons],
    }
