"""Jobs for the tests of objectives: tiny models, scopes with small options, and rows of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import plugins
from harness.training.objectives import Intake, Job, Objective, Row, RowKind
from harness.training.recipe import SettingsSection
from harness.training.scopes import Head, Scope

MARKED = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A chat template with everything that training asks of one."""

UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
"""The same without the marks around the assistant's turns."""


SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4}, "qlora": {"rank": 4}, "bottleneck": {"size": 4}, "prefix": {"tokens": 4},
    "prompt": {"tokens": 4}, "ptuning": {"tokens": 4},
}  # fmt: skip
"""Options of scopes that suit a tiny model."""


def scope(name: str, **options: Any) -> Scope:
    module = plugins.load("training.scopes", name)
    chosen = plugins.options("training.scopes", name, {**SMALL.get(name, {}), **options}, where="recipe.yaml: scope")
    made: Scope = module.build(chosen)
    return made


TEXTS = ["The quick brown fox", "jumps over the lazy dog", "A. red B. green", "Once upon a time", "def add(a, b):"]


def rows(kind: RowKind, count: int = 8) -> list[dict[str, Any]]:
    """Rows whose texts differ in length and content."""
    return [_row(kind, n) for n in range(count)]


def _row(kind: RowKind, n: int) -> dict[str, Any]:
    prompt, good, bad = f"Question {n}: {TEXTS[n % 5]}?", " yes" * (1 + n % 3), f" no {n}"
    if kind == "text":
        return {"text": prompt + good}
    if kind == "messages":
        turns = [("user", prompt), ("assistant", good), ("user", "Sure?"), ("assistant", "Yes.")]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}
    if kind == "completion":
        return {"prompt": prompt, "completion": good}
    if kind == "preference":
        return {"prompt": prompt, "chosen": good, "rejected": bad}
    if kind == "labelled":
        return {"prompt": prompt, "completion": good if n % 2 else bad, "label": bool(n % 2)}
    if kind == "prompt":
        return {"prompt": prompt, "target": good.strip()}
    return {"text": prompt + good, "label": ("yes", "no", "maybe")[n % 3]}


def chat(row: Row) -> dict[str, Any]:
    """A row of texts as one of messages."""
    role = {"prompt": "user"}
    return {
        key: [{"role": role.get(key, "assistant"), "content": value}] if isinstance(value, str) else value
        for key, value in row.items()
    }


def load(folder: Path, head: Head = "language", *, classes: Sequence[str] = ("maybe", "no", "yes")) -> Any:
    import transformers

    if head == "language":
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    names = {"label2id": {n: i for i, n in enumerate(classes)}, "id2label": dict(enumerate(classes))}
    transformers.set_seed(0)
    chosen = {"num_labels": 1} if head == "reward" else names
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32", **chosen)


def tokenizer(folder: Path, template: str | None = None) -> Any:
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(folder)
    if template:
        made.chat_template = template
    return made


def objective(kind: str, **options: Any) -> Objective:
    module = plugins.load("training.objectives", kind)
    made: Objective = module.build(plugins.options("training.objectives", kind, options, where="recipe.yaml"))
    return made


def job(
    base: Path,
    folder: Path,
    made: Objective,
    kind: RowKind,
    *,
    by: Scope | None = None,
    train: Sequence[Row] | None = None,
    validation: Sequence[Row] = (),
    model: Any = None,
    template: str | None = None,
    told: list[Intake] | None = None,
    callbacks: Sequence[Any] = (),
    **settings: Any,
) -> Job:
    """A job of two steps of four rows, on CPU."""
    from transformers import set_seed

    chosen = by or scope("lora")
    set_seed(0)
    return Job(
        model=chosen.apply(load(base, made.head), made.head) if model is None else model,
        tokenizer=tokenizer(base, template),
        scope=chosen,
        kind=kind,
        train=rows(kind) if train is None else train,
        validation=validation,
        settings=SettingsSection(**{"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, **settings}),
        folder=folder,
        seed=0,
        device="cpu",
        callbacks=callbacks,
        on_intake=(lambda _: None) if told is None else told.append,
    )


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained(model: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
