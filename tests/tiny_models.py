"""Tiny random models, tokenizers and adapters on disk, made in a second: they prove plumbing, not language.

Torch is imported inside the functions, so that the fast tests can import this file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = [
    "The quick brown fox jumps over the lazy dog.",
    "Question: What is 2 + 3?\nAnswer: 5\n\nQuestion: What is 12 - 4?\nAnswer: 8",
    "A. red B. green C. blue D. yellow\nAnswer: A",
    "def add(a, b):\n    return a + b\n\nclass Point:\n    pass",
    "Once upon a time there was a model that had learned nothing at all, and it was happy.",
] * 4

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

FAMILIES = ("llama", "qwen2", "gpt_neox", "gpt2", "gemma", "mistral")
METHODS = ("lora", "dora", "ia3", "prefix", "prompt", "p_tuning")
_LORA_BUT: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "tokens": {"trainable_token_indices": [20, 40]},
    "head": {"modules_to_save": ["lm_head", "embed_tokens"]},
}


def make_tokenizer(folder: Path, *, bos: bool) -> None:
    """A byte-level BPE tokenizer of 320 entries; with `bos` it puts <s> before a text, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>", "<|endoftext|>"],  # Qwen2's class adds the last one if it is absent
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(TEXT, trainer)
    if bos:
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
    special = {"eos_token": "</s>", "pad_token": "<pad>", **({"bos_token": "<s>"} if bos else {})}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=256, **special)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def make_model(folder: Path, family: str = "llama", *, seed: int = 0, context: int = 256) -> Path:
    """A random model of a family with its tokenizer: hidden 64, two layers, 320 tokens, float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    make_tokenizer(folder, bos=family in ("llama", "gemma", "mistral"))
    set_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **_shape(family, context)))
    with torch.no_grad():  # larger weights than training would start from, so that answers differ
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    return folder


def _shape(family: str, context: int) -> dict[str, Any]:
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": 320}
    if family == "gpt2":
        return {**ids, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": context}
    shape = {
        **ids, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": context,
    }  # fmt: skip
    if family == "gemma":
        shape["head_dim"] = 16
    return shape if family == "gpt_neox" else {**shape, "num_key_value_heads": 2}


def make_any_model(folder: Path, kind: str, **config: Any) -> Path:
    """A random model of any kind that transformers knows, of a Llama's shape where the kind has one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    make_tokenizer(folder, bos=True)
    set_seed(0)
    shape = {**_shape("llama", 256), "head_dim": 16, **config}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, method: str = "lora", *, seed: int = 1, scale: float = 1.0) -> Path:
    """A random adapter of a PEFT method; `scale` 0 leaves LoRA as it is initialised, which changes nothing."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), _peft_config(method, base))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if scale and parameter.requires_grad:
                spread = 0.5 if method == "ia3" else 0.2 if "magnitude" not in name else 0.05
                parameter.add_(torch.randn_like(parameter) * spread * scale)
    model.save_pretrained(folder)
    return folder


def _peft_config(method: str, base: Path) -> Any:
    import peft

    common: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if method in ("lora", "dora", "lora_bias", "alora"):
        bias = "all" if method == "lora_bias" else "none"
        sets_in = _ids(base, "Answer:") if method == "alora" else None  # an activated LoRA changes what follows these
        return peft.LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", use_dora=method == "dora", bias=bias,
            alora_invocation_tokens=sets_in, **common,
        )  # fmt: skip
    if method in _LORA_BUT:
        return peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **_LORA_BUT[method], **common)
    if method == "ia3":
        return peft.IA3Config(**common, **_ia3_targets(base))
    if method == "prefix":
        return peft.PrefixTuningConfig(num_virtual_tokens=4, **common)
    if method == "prompt":
        return peft.PromptTuningConfig(num_virtual_tokens=4, **common)
    return peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=32, **common)


def _ids(base: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(base).encode(text, add_special_tokens=False)
    return ids


def _ia3_targets(base: Path) -> dict[str, Any]:
    family = json.loads((base / "config.json").read_text())["model_type"]
    if family == "qwen2":  # PEFT knows the targets of the other families
        return {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    return {}


def merged(base: Path, adapter: Path, folder: Path) -> Path:
    """The base with an adapter folded in, saved as a model of its own."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    model.merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
