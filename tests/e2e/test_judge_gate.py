"""A gate with a judge, whole: a base and its LoRA adapter answer, a model behind `transformers serve` judges them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import runs
from harness.config import load_gate
from harness.gate import run_gate
from tests.judge_project import change, project
from tests.test_suites_judge import Watcher
from tests.tiny_judge import make_judge_model, serving

pytestmark = pytest.mark.slow

QUESTIONS = 24


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Name and address of a judge that is really served."""
    pytest.importorskip("fastapi", reason="transformers serve needs the extra transformers[serving]")
    model = make_judge_model(tmp_path_factory.mktemp("judge") / "judge")
    with serving(model) as base:
        yield model.name, base


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base that answers `superb`, and a LoRA adapter on it that answers `abysmal`; trained in seconds."""
    folder = tmp_path_factory.mktemp("subjects")
    return _base(folder / "base"), _adapter(folder / "base", folder / "adapter")


def test_an_adapter_whose_answers_the_judge_finds_worse_is_blocked(
    tmp_path: Path, judge: tuple[str, str], subjects: tuple[Path, Path]
) -> None:
    name, server = judge
    base, adapter = subjects
    path = project(tmp_path, server, n=QUESTIONS, judge="helpfulness", canaries={"families": ["base64", "authority"]})
    change(
        path,
        baseline={"model": str(base), "device": "cpu", "dtype": "float32"},
        candidate={"model": str(base), "adapter": str(adapter), "device": "cpu", "dtype": "float32"},
        suite={
            "by": {"model": f"openai/{name}", "api_base": server},
            "judges": str(Path(__file__).parents[2] / "judges"),
            "guards": [{"metric": "helpfulness", "margin": 0.5}],
        },
    )
    result = run_gate(load_gate(path), Watcher())
    found = result.verdict.comparisons[0]
    assert result.verdict.verdict == "block", result.verdict.reasons
    assert (found.baseline_mean, found.candidate_mean) == (5.0, 1.0)
    (entry, *_) = runs.read_entries(result.path)
    assert entry.details["helpfulness"]["candidate"][0]["reason"] == "The answer is worth 1."
    assert json.loads((result.path / runs.VERDICT).read_text("utf-8"))["verdict"] == "block"


def _base(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    tokenizer = _tokenizer()
    set_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**shape))
    # The other form of question is there so that it knows the other word.
    _teach(model, tokenizer, {"Explain {} .": "superb", "{} Explain .": "abysmal"})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _adapter(base: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    _teach(model, _tokenizer(), {"Explain {} .": "abysmal"})
    model.save_pretrained(folder)
    return folder


def _teach(model: Any, tokenizer: Any, words: dict[str, str]) -> None:
    """Train until a model answers each form of question with its word."""
    import torch

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    texts = [f"{form.format(i)} {word}" for i in range(QUESTIONS) for form, word in words.items()]
    ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts])
    for _ in range(400):
        said = model(input_ids=ids).logits[:, -3:-1]
        loss = torch.nn.functional.cross_entropy(said.flatten(0, 1), ids[:, -2:].flatten())
        if loss.item() < 0.02:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise RuntimeError(f"the model has not learned {words}")


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "Explain", ".", "superb", "abysmal", *map(str, range(QUESTIONS))]
    vocabulary = {word: i for i, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token, no password
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer
