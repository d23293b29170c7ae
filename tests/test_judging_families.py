"""Which family a model is of, by name and by its files, and when that is worth a warning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.judging.families import families, models_of, warning


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", {"Llama"}),
        ("openai/qwen2.5-7b-instruct", {"Qwen"}),
        ("Qwen/QwQ-32B", {"Qwen"}),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {"DeepSeek", "Qwen"}),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", {"Mistral"}),
        ("HuggingFaceH4/zephyr-7b-beta", {"Mistral"}),
        ("google/gemma-2-9b-it", {"Gemma"}),
        ("gemini/gemini-2.0-flash", {"Gemini"}),
        ("gpt-4o-mini", {"GPT"}),
        ("openai/gpt-oss-20b", {"GPT"}),
        ("azure/chatgpt-4o", {"GPT"}),
        ("o3-mini", {"GPT"}),
        ("EleutherAI/gpt-neox-20b", {"GPT-Neo"}),
        ("EleutherAI/gpt-j-6b", {"GPT-Neo"}),
        ("anthropic/claude-sonnet-4", {"Claude"}),
        ("bedrock/anthropic.claude-3-haiku", {"Claude"}),
        ("microsoft/phi-4", {"Phi"}),
        ("microsoft/Phi-3.5-mini-instruct", {"Phi"}),
        ("cognitivecomputations/dolphin-2.9", set()),
        ("openai/m", set()),
        ("malaya-base", set()),
        ("", set()),
    ],
)
def test_the_family_is_told_by_the_name(name: str, expected: set[str]) -> None:
    assert families(name) == expected


def test_the_models_of_a_jury_are_those_of_its_judges() -> None:
    jurors = [{"model": "openai/a"}, {"kind": "jury", "judges": [{"model": "b"}, {"model": None}]}]
    assert models_of({"model": "c", "judges": jurors}) == ["c", "openai/a", "b"]
    assert models_of({}) == []


def test_a_server_that_speaks_openais_api_says_nothing_of_the_family() -> None:
    assert warning("openai/my-judge", "gpt-4o") is None


def test_a_folder_is_told_by_its_config_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "Qwen/Qwen2.5-0.5B"})
    )
    assert families("ours", tmp_path) == {"Llama"}
    assert families("adapter", tmp_path) == {"Qwen"}
    said = warning("vicuna-13b", "ours", tmp_path)
    assert said is not None
    assert "both of the Llama family" in said
    assert warning("qwen3-8b", "ours", tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"model_type": 3}', "[" * 100_000])
def test_a_config_that_cannot_be_read_is_no_family_and_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(text)
    assert families("m", tmp_path) == frozenset()
