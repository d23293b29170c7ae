"""A gate that a tiny model passes by answering as it does now, and trainings that do or do not make it forget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.goldens import store

N = 60


def own_answers(folder: Path, base: Path, *, n: int = N, suites: Sequence[str] = ("own",), **policy: Any) -> Path:
    """A gate.yaml whose golden sets hold what the model at `base` answers, so that any change of it can only lose."""
    from harness.records import Generate
    from harness.subjects import SubjectContext, local

    subject = local.build(local.Options(model=str(base), device="cpu"), SubjectContext(folder))
    for number, name in enumerate(suites):
        prompts = [f"{name} {i} + {i + number} =" for i in range(n)]
        asked = [Generate(prompt, max_tokens=4, until=("\n",)) for prompt in prompts]
        said = {i: output.text or "" for batch in subject.answer(asked) for i, output in batch}
        _golden(
            folder, name, [{"id": f"s{i:03}", "prompt": p, "target": said[i] or "x"} for i, p in enumerate(prompts)]
        )
    document = {
        "baseline": {"kind": "local", "model": str(base)},
        "candidate": {"kind": "local", "model": str(base), "adapter": "adapter"},
        "suites": [
            {"kind": "golden", "set": f"{name}@1", "guards": [{"metric": "exact_match", "margin": 0.05}]}
            for name in suites
        ],
        "policy": policy,
    }
    path = folder / "gate.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def _golden(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    golden = folder / "goldensets" / name / "1"
    golden.mkdir(parents=True)
    (golden / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    card = {
        "name": name, "version": "1", "description": name, "licence": "Apache-2.0", "source": "made here",
        "metrics": [{"exact_match": {"strict": True}}], "generation": {"max_tokens": 4, "until": ["\n"]},
    }  # fmt: skip
    (golden / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    store.freeze(folder / "goldensets", name, "1")


def rows(tokenizer: Any, n: int = 64) -> list[dict[str, Any]]:
    """Tokenised rows with labels."""
    encoded = [tokenizer(f"Question: what is {i}? Answer: no")["input_ids"] for i in range(n)]
    return [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids} for ids in encoded]


def trainer(model: Any, base: Path, out: Path, callbacks: Sequence[Any] = (), **arguments: Any) -> Any:
    """A plain Trainer of a causal model, on the CPU, that saves and says nothing."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(base)
    data = arguments.pop("data", None) or rows(tokenizer)
    extra = {key: arguments.pop(key) for key in ("eval_dataset", "compute_loss_func", "optimizers") if key in arguments}
    settings = {
        "max_steps": 12, "per_device_train_batch_size": 8, "learning_rate": 1e-6, "lr_scheduler_type": "constant",
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "seed": 1,
    }  # fmt: skip
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(out), **{**settings, **arguments}),
        train_dataset=data,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=list(callbacks),
        **extra,
    )


def load(base: Path, **config: Any) -> Any:
    """The model at `base`, with dropout so that the random state matters."""
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(1)
    return AutoModelForCausalLM.from_pretrained(base, attention_dropout=0.1, **config)


def weights(model: Any) -> dict[str, Any]:
    """Copies of all parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def equal(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether all are the same, bit for bit."""
    import torch

    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def recorder() -> Any:
    """A callback whose `at` holds the weights after each step, and before the first under 0."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        def __init__(self) -> None:
            self.at: dict[int, dict[str, Any]] = {}

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.at[state.global_step] = weights(given["model"])

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.at[state.global_step] = weights(given["model"])

    return Recorder()
