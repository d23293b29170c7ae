"""The model of the benchmark: a Llama of some 23 M parameters, its tokenizer and its adapters, made from a fixed seed.

Nothing is trained but the tokenizer. A small model that has learned for a few minutes repeats one phrase for ever when
it is decoded greedily, and so does one with ordinary random weights: a draft would always be right. With hidden weights
a few times larger, every token depends on all before it and hardly any comes twice. The adapters are random too: how
far they move the model's greedy answers is what matters, so their size is searched for.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine_bench.results import agreement
from harness.records import content_hash


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the model depends on; a change makes a new one."""

    vocabulary: int = 8192
    hidden: int = 384
    layers: int = 8
    heads: int = 6
    intermediate: int = 1280
    context: int = 4096
    """Tokens; the longest five-shot prompt of MMLU has some 3,600 with so small a vocabulary."""
    hidden_gain: float = 2.5
    """What the hidden weights are multiplied with, so that an answer depends on its whole prompt."""
    head_gain: float = 2.5
    """The same for the output layer, so that the likeliest token stands out."""
    rank: int = 16
    seed: int = 0


QUICK = Settings(hidden=128, layers=2, heads=4, intermediate=384)

_PROMPT = 192  # tokens of a prompt that are read in the search for an adapter's size

AGREEING, DISAGREEING, REGRESSING = "agreeing", "disagreeing", "regressing"
_WANTED: dict[str, tuple[float, float] | float] = {AGREEING: (0.82, 0.97), DISAGREEING: (0.0, 0.08), REGRESSING: 0.1}
"""Share of a candidate's greedy tokens that equal the base's at the same position, as searched for; or the scale."""


@dataclass(frozen=True, slots=True)
class Made:
    """Folders: the base, and its adapters by name."""

    base: Path
    adapters: dict[str, Path]


def make(folder: Path, data: Path, settings: Settings, prompts: Sequence[str], new_tokens: int, device: str) -> Made:
    """The model and its adapters from `folder`, or made there.

    Three adapters agree with the base, one says something else from the start, and one is so large that hardly any
    choice stays what it was.
    """
    root = folder / f"model-{content_hash(asdict(settings))[:12]}"
    base = root / "base"
    if not (base / "config.json").is_file():
        _make_base(base, data, settings)
    names = (AGREEING, DISAGREEING, f"{AGREEING}-2", f"{AGREEING}-3", REGRESSING)
    for seed, name in enumerate(names, start=1):
        if not (root / name / "adapter_config.json").is_file():
            wanted = _WANTED.get(name, _WANTED[AGREEING])
            _make_adapter(base, root / name, settings, seed, wanted, Asked(list(prompts), new_tokens, device))
    return Made(base, {name: root / name for name in names})


def _make_base(folder: Path, data: Path, settings: Settings) -> None:
    import torch

    tokenizer = train_tokenizer(list(texts(data)), settings.vocabulary)
    torch.manual_seed(settings.seed)
    model = _model(settings, tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(settings.head_gain if "lm_head" in name else settings.hidden_gain)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)  # last: its config.json says that the folder is complete


def texts(data: Path) -> Iterator[str]:
    """Documents of the benchmark files in the shape of their prompts, for the tokenizer."""
    folder = data / "benchmarks" if (data / "benchmarks").is_dir() else data
    for path in sorted((folder / "mmlu").glob("*/*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            questions = [_mmlu_text(row) for row in csv.DictReader(file)]
        yield from ("\n\n".join(questions[i : i + 6]) for i in range(0, len(questions), 6))
    for row in _jsonl(folder / "gsm8k" / "test.jsonl"):
        yield f"Question: {row['question']}\nAnswer: {row['answer']}"
    for path in sorted((folder / "ifeval").glob("*response*.jsonl")):
        yield from (f"{row['prompt']}\n{row['response']}" for row in _jsonl(path))
    for row in json.loads((folder / "truthfulqa" / "mc_task.json").read_text(encoding="utf-8")):
        yield "\n".join(f"Q: {row['question']}\nA: {choice}" for choice in row["mc1_targets"])


def _mmlu_text(row: dict[str, str]) -> str:
    choices = "\n".join(f"{letter}. {row[f'choice{i}']}" for i, letter in enumerate("ABCD"))
    return f"{row['question'].strip()}\n{choices}\nAnswer: {'ABCD'[int(row['answer'])]}"


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def train_tokenizer(documents: Sequence[str], size: int) -> Any:
    """Byte-level BPE of exactly `size` tokens that puts <s> before a text, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(documents, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    named = {"bos_token": special[0], "eos_token": special[1], "pad_token": special[2]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **named)
    assert len(tokenizer) == size, f"the text gives {len(tokenizer)} tokens only"
    return tokenizer


def _model(settings: Settings, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=settings.hidden, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, num_key_value_heads=settings.heads,
        intermediate_size=settings.intermediate, max_position_embeddings=settings.context,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is decoded greedily to see how far an adapter moves the model."""

    prompts: list[str]
    new_tokens: int
    device: str


def _make_adapter(
    base: Path, folder: Path, settings: Settings, seed: int, wanted: tuple[float, float] | float, asked: Asked
) -> None:
    """A random LoRA whose greedy tokens equal the base's in the `wanted` share of cases, or of a given scale."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(asked.device).eval()
    before = greedy(model, tokenizer, asked)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config).eval()
    matrices = [p for name, p in model.named_parameters() if "lora_B" in name]
    directions = [torch.randn_like(p) for p in matrices]

    def agreement_at(scale: float) -> float:
        with torch.no_grad():
            for parameter, direction in zip(matrices, directions, strict=True):
                parameter.copy_(direction * scale)
        return agreement(before, greedy(model, tokenizer, asked))

    scale, share = (wanted, agreement_at(wanted)) if isinstance(wanted, float) else search(agreement_at, wanted)
    model.save_pretrained(folder)
    card = {"scale": scale, "agreement": share, "seed": seed, "prompts": len(asked.prompts)}
    (folder / "card.json").write_text(json.dumps(card, indent=1), encoding="utf-8")


def search(agreement_at: Callable[[float], float], wanted: tuple[float, float]) -> tuple[float, float]:
    """A scale at which the agreement lies in `wanted`, by bisection on a log scale; what it is there.

    The last call of `agreement_at` is always the one at the scale returned, which it leaves set.
    """
    low, high = 1e-7, 0.1
    scale, share = 0.0, 1.0
    for _ in range(24):
        scale = (low * high) ** 0.5
        share = agreement_at(scale)
        if wanted[0] <= share <= wanted[1]:
            break
        low, high = (low, scale) if share < wanted[0] else (scale, high)
    return scale, share


def greedy(model: Any, tokenizer: Any, asked: Asked) -> list[list[int]]:
    """Greedy tokens after the end of each prompt, in one batch and with nothing to stop them."""
    import torch

    tokenizer.padding_side = "left"
    rows = [ids[-_PROMPT:] for ids in tokenizer(asked.prompts)["input_ids"]]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(asked.device)
    with torch.no_grad():
        made = model.generate(
            **batch, max_new_tokens=asked.new_tokens, min_new_tokens=asked.new_tokens, do_sample=False
        )  # [prompts, length]
    return [row[batch["input_ids"].shape[1] :].tolist() for row in made]
