"""The diagonal of the Fisher information of a model's weights, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from harness.errors import DataError
from harness.training.forgetting._model import undisturbed
from harness.training.forgetting._terms import Direct, LowRank, Term

_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an estimate rests on: `rows` of `available` ones, their scored tokens, and how many rows were cut."""

    kind: Literal["empirical", "true"]
    rows: int
    available: int
    tokens: int
    cut: int
    seed: int


def estimate(
    model: Any,
    terms: Sequence[Term],
    rows: Sequence[Mapping[str, Any]],
    processing: Any,
    *,
    samples: int,
    kind: Literal["empirical", "true"],
    seed: int,
    max_length: int,
) -> tuple[Estimate, dict[str, Any]]:
    """Mean over rows of the squared gradient of a row's log-likelihood, by the terms' names, in float32.

    The model is run in evaluation mode, in its own precision, and left as it was; no gradient is left behind.

    Raises:
        DataError: a row has nothing to score, or is of no known form.
    """
    import torch

    chosen = sorted(Random(seed).sample(range(len(rows)), min(samples, len(rows))))  # noqa: S311  # no secret
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    totals: dict[str, Any] = {}
    tokens = cut = 0
    with undisturbed(model), torch.enable_grad():
        for index in chosen:
            ids, labels = encode(rows[index], processing, where=f"ewc: row {index}")
            cut += len(ids) > max_length
            ids, labels = ids[:max_length], labels[:max_length]
            tokens += _count(labels, index)
            batch = torch.tensor([ids], device=device), torch.tensor([labels], device=device)
            for name, gradient in _gradients(model, terms, *batch, generator if kind == "true" else None).items():
                square = gradient.float() ** 2
                totals[name] = totals[name].add_(square) if name in totals else square
    known = Estimate(kind, len(chosen), len(rows), tokens, cut, seed)
    return known, {term.name: totals[term.name] / len(chosen) for term in terms if term.name in totals}


def encode(row: Mapping[str, Any], processing: Any, *, where: str) -> tuple[list[int], list[int]]:
    """Token ids of a row and its labels, −100 where a token is not scored.

    Raises:
        DataError: the row is of no known form, or needs a tokenizer that is not there.
    """
    if "input_ids" in row:
        ids = [int(i) for i in row["input_ids"]]
        return ids, [int(i) for i in row.get("labels", ids)]
    tokenizer = getattr(processing, "tokenizer", processing)
    if tokenizer is None:
        raise DataError(f"{where}: text rows need the trainer's tokenizer: give it processing_class=tokenizer")
    if "messages" in row:
        ids = list(tokenizer.apply_chat_template(list(row["messages"]), tokenize=True, return_dict=False))
        return ids, ids
    if "prompt" in row and "completion" in row:
        return _completion(row["prompt"], row["completion"], tokenizer)
    if "text" in row:
        ids = list(tokenizer(row["text"])["input_ids"])
        return ids, ids
    raise DataError(
        f"{where} has the columns {', '.join(sorted(row))}; text, messages, or prompt and completion are known"
    )


def _completion(prompt: Any, completion: Any, tokenizer: Any) -> tuple[list[int], list[int]]:
    if isinstance(prompt, str):
        head = list(tokenizer(prompt)["input_ids"])
        ids = [*head, *tokenizer(completion, add_special_tokens=False)["input_ids"]]
    else:
        head = list(
            tokenizer.apply_chat_template(list(prompt), tokenize=True, return_dict=False, add_generation_prompt=True)
        )
        ids = list(tokenizer.apply_chat_template([*prompt, *completion], tokenize=True, return_dict=False))
    return ids, [_IGNORED] * len(head) + ids[len(head) :]


def _count(labels: Sequence[int], index: int) -> int:
    scored = sum(label != _IGNORED for label in labels[1:])
    if not scored:
        raise DataError(f"ewc: row {index} has no token that is scored")
    return scored


def _gradients(model: Any, terms: Sequence[Term], ids: Any, labels: Any, generator: Any) -> dict[str, Any]:
    """The gradient of one row's log-likelihood by term; `generator` draws the scored tokens from the model."""
    import torch

    direct = [term for term in terms if isinstance(term, Direct)]
    low_rank = [term for term in terms if isinstance(term, LowRank)]
    with _watched(low_rank) as caught:
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()  # [1, length − 1, vocabulary]
        targets = labels[:, 1:].clone()  # [1, length − 1]
        if generator is not None:
            drawn = torch.multinomial(logits[0].detach().softmax(-1).cpu(), 1, generator=generator)[:, 0]
            targets = torch.where(targets == _IGNORED, targets, drawn.to(targets.device)[None])
        loss = torch.nn.functional.cross_entropy(logits[0], targets[0], ignore_index=_IGNORED, reduction="sum")
        moving = [term.parameter for term in direct] + [p for t in low_rank for p in (t.a, t.b) if p.requires_grad]
        found = torch.autograd.grad(loss, moving, allow_unused=True)
    gradients = {t.name: g for t, g in zip(direct, found, strict=False) if g is not None}
    return gradients | caught


@contextmanager
def _watched(terms: Sequence[LowRank]) -> Iterator[dict[str, Any]]:
    """Filled during a backward pass with the gradients (out, in) of the weights that LoRA layers change.

    With x the layer's input and δ the gradient of its output, the gradient of its weight is δᵀx. It is taken from these
    two, because the weight itself is frozen, and under quantisation holds no numbers that could have a gradient.
    """
    caught: dict[str, Any] = {}

    def hook(term: LowRank) -> Any:
        def run(module: Any, arguments: tuple[Any, ...], output: Any) -> None:
            given = arguments[0].detach()

            def backward(delta: Any) -> None:
                gradient = _outer(delta, given, int(term.a.shape[1]))
                caught[term.name] = caught[term.name] + gradient if term.name in caught else gradient

            output.register_hook(backward)

        return term.layer.register_forward_hook(run)

    handles = [hook(term) for term in terms]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _outer(delta: Any, given: Any, width: int) -> Any:
    """δᵀx as (out, in); for an embedding x is token ids, and its rows are one-hot."""
    import torch

    delta = delta.detach().reshape(-1, delta.shape[-1]).float()
    if given.dtype in (torch.long, torch.int):
        gradient = torch.zeros(width, delta.shape[-1], device=delta.device)
        return gradient.index_add_(0, given.reshape(-1), delta).T
    return delta.T @ given.reshape(-1, given.shape[-1]).float()
