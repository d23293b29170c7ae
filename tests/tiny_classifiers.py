"""Tiny random encoders on disk, as the models of `tests.tiny_models`, and rows of two or three classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_models import make_tokenizer

COLOURS = ("blue", "green", "red")
NUMBERS = ("one two", "three", "four five six", "seven eight", "nine", "ten twelve", "eleven", "zero one two three")


def rows(classes: tuple[str, ...] = COLOURS) -> tuple[list[str], list[str]]:
    """(texts, labels): a text says its class among other words."""
    found = [(f"{numbers} {name} {name}", name) for numbers in NUMBERS for name in classes]
    return [text for text, _ in found], [label for _, label in found]


def make_encoder(folder: Path, family: str = "bert", **config: Any) -> Path:
    """An encoder as masked language models are published: without a pooler and without a classifier."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM, set_seed

    make_tokenizer(folder, bos=True)
    set_seed(0)
    shape = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "dim": 32,
        "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "num_attention_heads": 2, "max_position_embeddings": 64,
        "pad_token_id": 2,
    }  # fmt: skip
    own = {"distilbert": ("dim", "hidden_dim", "n_layers", "n_heads")}.get(family, ())
    others = {"bert": ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    kept = own or others.get(family, others["bert"])
    common = ("vocab_size", "max_position_embeddings", "pad_token_id")
    chosen = {name: shape[name] for name in (*kept, *common)}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **chosen, **config))
    with torch.no_grad():  # larger weights than training would start from, so that answers differ
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    return folder
