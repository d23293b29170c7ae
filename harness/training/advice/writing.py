"""Advice as a recipe.yaml that `load_recipe` reads, with a comment wherever the reader has to fill something in."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from harness.training.advice.deciding import Advice, StagePlan, TrainingPlan
from harness.training.advice.rules import enough_judgements, enough_rows
from harness.training.advice.situation import Situation
from harness.training.advice.sources import SOURCES

_WIDTH = 96  # of a comment above a key


@dataclass(frozen=True, slots=True)
class Places:
    """What the user named: the model, the rows of each kind, broader rows for replay, the gate. None: to fill in."""

    model: str | None = None
    revision: str | None = None
    data: str | None = None
    feedback_data: str | None = None
    replay: str | None = None
    gate: str | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """A value with the comment that stands behind it."""

    value: Any
    comment: str


_ROWS = {
    "sft": "one JSON object a line: prompt and completion, or messages",
    "classify": "one JSON object a line: text and label",
    "dpo": "one JSON object a line: prompt, chosen and rejected",
    "kto": "one JSON object a line: prompt, completion and label (true: wanted)",
    "grpo": "one JSON object a line: prompt, and what the reward reads",
}
_FILES = {"dpo": "preferences.jsonl", "kto": "judgements.jsonl", "grpo": "prompts.jsonl"}
_REWARD = "FILL IN: name the reward that checks an answer, as the options of this objective say"


def recipe_text(advice: Advice, now: Situation, places: Places) -> str:
    """The whole file.

    Args:
        advice: with a plan.
        now: the situation that was asked about.
        places: what the user named already.

    Raises:
        ValueError: the advice has no plan.
    """
    if advice.plan is None:
        raise ValueError(f"advice to {advice.course!r} has no recipe")
    return "".join(line + "\n" for line in (*_head(advice), *_lines(_document(advice.plan, now, places))))


def _head(advice: Advice) -> Iterator[str]:
    yield "# Made by `harness advise`. What is marked FILL IN is yours to say; the rest can stay for a first run."
    if advice.course == "prompt first":
        yield "# Measure prompting first (harness advise --try-prompts): this training is for a gap that it leaves."
    if advice.plan is not None:
        scope = advice.plan.reasons[0]
        yield from _comment(f"Scope {scope.value}: {scope.because} ({_cited(scope.sources)}).", "")


def _cited(sources: tuple[str, ...]) -> str:
    return "; ".join(SOURCES[s].title if s == "no source" else s for s in sources)


def _document(plan: TrainingPlan, now: Situation, places: Places) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": places.model or Noted("MODEL", "FILL IN: a folder, or the name of a hub repository")
    }
    if places.revision is not None:
        base["revision"] = places.revision
    if plan.scope == "full":
        base["dtype"] = Noted("float32", "weights that are all trained need it; 16 bits would lose small steps")
    gate = places.gate or Noted("gate.yaml", "FILL IN: the gate that decides, with golden sets frozen before")
    return {
        "base": base,
        "scope": {"kind": plan.scope, **plan.options},
        "stages": [_stage(plan, stage, now, places) for stage in plan.stages],
        "gate": gate,
        "seed": 0,
    }


def _stage(plan: TrainingPlan, stage: StagePlan, now: Situation, places: Places) -> dict[str, Any]:
    kind: Any = Noted("grpo", _REWARD) if stage.objective == "grpo" else stage.objective
    data: dict[str, Any] = {"train": [{"path": _rows(stage, now, places)}]}
    if stage.replay:
        broader = places.replay or Noted(
            "replay.jsonl", "FILL IN: broader rows, of the kind that must not be forgotten"
        )
        data["replay"] = {"sources": [{"path": broader}], "share": stage.replay}
    data["validation"] = stage.validation
    return {"name": stage.objective, "objective": {"kind": kind}, "data": data, "settings": _settings(plan, stage, now)}


def _rows(stage: StagePlan, now: Situation, places: Places) -> Any:
    judged = stage.objective in ("dpo", "kto")
    given = places.feedback_data if judged else places.data
    if judged and not enough_judgements(now):
        made, given = "pairs that the stronger model has labelled; ", None
    elif stage.objective == "sft" and not enough_rows(now):
        made, given = "answers that the stronger model has written to your prompts; ", None
    else:
        made = ""
    return given or Noted(_FILES.get(stage.objective, "train.jsonl"), f"FILL IN: {made}{_ROWS[stage.objective]}")


def _settings(plan: TrainingPlan, stage: StagePlan, now: Situation) -> dict[str, Any]:
    if plan.scope == "features":
        return {"max_length": now.length}
    why = {reason.what: reason for reason in stage.reasons}
    memory = Noted(stage.batch, f"what fits; with accumulation {stage.batch * stage.accumulation} rows a step")
    settings = {
        "epochs": _noted(stage.epochs, why["epochs"]),
        "learning_rate": _noted(stage.learning_rate, why["learning_rate"]),
        "scheduler": "cosine",
        "warmup_steps": stage.warmup_steps,
        "batch_size": memory,
        "gradient_accumulation": stage.accumulation,
        "max_length": now.length,
        "activation_checkpointing": plan.load.checkpointing,
    }
    if stage.objective != "grpo":  # a reward is no validation loss
        settings["patience"] = 3
    if plan.load.optimizer == "adamw-8bit":
        settings["optimizer"] = Noted("adamw_bnb_8bit", "its state in 8 bits, because 32 do not fit")
    return settings


def _noted(value: Any, reason: Any) -> Noted:
    return Noted(value, f"{reason.because} ({_cited(reason.sources)})")


def _lines(value: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Block-style YAML of a mapping; a comment that is too long for its line stands above it."""
    for key, item in value.items():
        yield from _entry(f"{'  ' * depth}{key}:", item, depth)


def _entry(opening: str, item: Any, depth: int) -> Iterator[str]:
    comment = item.comment if isinstance(item, Noted) else ""
    plain = item.value if isinstance(item, Noted) else item
    if isinstance(plain, Mapping):
        yield opening
        yield from _lines(plain, depth + 1)
    elif isinstance(plain, list):
        yield opening
        for part in plain:
            yield from _item(list(_lines(part, depth + 2)), "  " * (depth + 1))
    else:
        line = f"{opening} {_scalar(plain)}"
        if comment and len(line) + len(comment) > _WIDTH:
            yield from _comment(comment, "  " * depth)
            yield line
        else:
            yield f"{line}  # {comment}" if comment else line


def _item(lines: list[str], indent: str) -> Iterator[str]:
    """The lines of a mapping as an item of a list; a comment above its first key stays above it."""
    start = next(i for i, line in enumerate(lines) if not line.lstrip().startswith("#"))
    yield from lines[:start]
    yield f"{indent}- {lines[start].lstrip()}"
    yield from lines[start + 1 :]


def _comment(text: str, indent: str) -> list[str]:
    lead = f"{indent}# "
    return textwrap.wrap(text, _WIDTH + len(lead), initial_indent=lead, subsequent_indent=lead, break_long_words=False)


def _scalar(value: Any) -> str:
    """A scalar that YAML reads back as the same: `yaml` writes 1e-05, which it would read as a text."""
    if isinstance(value, float):
        return json.dumps(value) if "e" not in repr(value) else f"{value:.10f}".rstrip("0")
    return str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)).split("\n", 1)[0]
