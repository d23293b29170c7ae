"""Pre-train the demo's base model from nothing: `python -m harness.demo.pretrain --out harness/demo/model --seed 0`.

A document is a line of questions with their answers, of one skill or of several, so that the model also knows a
few-shot prompt when it sees one. Only answers are learnt from. About eleven minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from harness.demo.answers import accuracy
from harness.demo.frozen import golden_questions
from harness.demo.skills import OLD_SKILLS, Question, training_questions
from harness.demo.tokens import build_tokenizer

IGNORED = -100
"""Label of a token that is not learnt from."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the checkpoint depends on besides the seed; recorded in its card."""

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 352
    context: int = 512
    """Tokens that the model can read; training documents are shorter."""
    document_tokens: int = 64
    documents_per_step: int = 32
    steps: int = 1800
    learning_rate: float = 0.008
    warmup_steps: int = 100
    decay_share: float = 0.4
    """Share of the steps, at the end, over which the learning rate falls to a fiftieth."""
    one_skill_share: float = 0.5
    """Share of the documents that stay with one skill."""
    emphasis: tuple[tuple[str, float], ...] = (("add", 2.0), ("larger", 1.5), ("capitals", 1.5))
    """How much oftener than the others these skills are drawn; they are the slowest to learn."""


Row = tuple[list[int], list[int]]
"""(ids, labels) of one document, both `document_tokens` long."""


def documents(tokenizer: Any, settings: Settings, seed: int) -> Iterator[Row]:
    """An endless stream of documents."""
    rng = Random(seed)  # noqa: S311  # data, not a secret
    streams = [training_questions(skill, rng) for skill in OLD_SKILLS]
    weights = [dict(settings.emphasis).get(skill.name, 1.0) for skill in OLD_SKILLS]
    while True:
        one_skill = rng.random() < settings.one_skill_share
        (stream,) = rng.choices(streams, weights)
        ids, labels = [tokenizer.bos_token_id], [IGNORED]
        while True:
            if not one_skill:
                (stream,) = rng.choices(streams, weights)
            question = next(stream)
            if not _append(ids, labels, question, tokenizer, settings.document_tokens):
                break
        ids[-1] = labels[-1] = tokenizer.eos_token_id
        padding = settings.document_tokens - len(ids)
        yield ids + [tokenizer.pad_token_id] * padding, labels + [IGNORED] * padding


def _append(ids: list[int], labels: list[int], question: Question, tokenizer: Any, limit: int) -> bool:
    """Write `question` and its answer to the end of a document, if they fit."""
    prompt = tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(f" {question.answer}\n", add_special_tokens=False)["input_ids"]
    if len(ids) + len(prompt) + len(answer) > limit:
        return False
    ids += prompt + answer
    labels += [IGNORED] * len(prompt) + answer
    return True


def build_model(tokenizer: Any, settings: Settings) -> Any:
    """A Llama of the wanted size with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 8) * 8,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def _optimisers(model: Any, settings: Settings) -> list[Any]:
    import torch

    from harness.demo.muon import Muon

    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    rate = settings.learning_rate
    return [Muon(hidden, lr=rate), torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]


def _rate(step: int, settings: Settings) -> float:
    """Learning rate: a linear warm-up, a plateau, a linear fall."""
    rising = (step + 1) / settings.warmup_steps
    falling = (1 - step / settings.steps) / settings.decay_share
    return settings.learning_rate * min(1.0, rising, max(0.02, falling))


def pretrain(settings: Settings, seed: int, threads: int = 2) -> tuple[Any, Any]:
    """Train a model and return it with its tokenizer; progress goes to standard error."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, settings)
    stream = documents(tokenizer, settings, seed)
    optimisers = _optimisers(model, settings)
    started = time.monotonic()
    for step in range(settings.steps):
        rows = [next(stream) for _ in range(settings.documents_per_step)]
        loss = _loss(model, torch.tensor([ids for ids, _ in rows]), torch.tensor([labels for _, labels in rows]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = _rate(step, settings)
            optimiser.step()
            optimiser.zero_grad()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return model.eval(), tokenizer


def _loss(model: Any, ids: Any, labels: Any) -> Any:
    """Cross-entropy of the learnt tokens; logits are computed for those alone."""
    import torch

    hidden = model.model(ids).last_hidden_state[:, :-1]  # [documents, tokens - 1, hidden]
    wanted = labels[:, 1:]
    learnt = wanted != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[learnt]), wanted[learnt])


def save(model: Any, tokenizer: Any, out: Path, settings: Settings, seed: int, scores: dict[str, float]) -> None:
    """Write the checkpoint with its card and the hashes of all of it."""
    import torch
    import transformers

    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    card = {
        "made_by": "python -m harness.demo.pretrain",
        "seed": seed,
        "settings": asdict(settings),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "golden_accuracy": scores,
        "made_with": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "licence": "Apache-2.0",
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    files = sorted(path for path in out.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Pre-train the demo's base model.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    settings = Settings()
    model, tokenizer = pretrain(settings, arguments.seed, arguments.threads)
    scores = {skill.name: round(accuracy(model, tokenizer, golden_questions(skill)), 4) for skill in OLD_SKILLS}
    for name, score in scores.items():
        print(f"{name:10} {score:.3f}", file=sys.stderr)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, arguments.out, settings, arguments.seed, scores)


if __name__ == "__main__":
    main()
