"""A warning where judge and candidate are of one family: models favour answers that sound like their own

Self-preference has been measured for judges of many families (Panickssery et al. 2024, "LLM Evaluators Recognize and
Favor Their Own Generations"; Zheng et al. 2023, section 3.3). A family is told by the name, as people write it, and for
a folder on this machine by its config.json. What is not recognised gets no warning, which is no promise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST = 1 << 20  # bytes of a config.json; real ones have a few thousand
_PROVIDERS = frozenset({
    "openai", "azure", "azure_ai", "anthropic", "gemini", "vertex_ai", "bedrock", "hosted_vllm", "vllm", "ollama",
    "ollama_chat", "openrouter", "together_ai", "groq", "huggingface", "text-completion-openai", "litellm_proxy",
})  # fmt: skip
_FAMILIES: Mapping[str, str] = {
    "Llama": r"llama|vicuna|alpaca|tulu",
    "Qwen": r"qwen|qwq",
    "Mistral": r"mistral|mixtral|ministral|magistral|codestral|zephyr",
    "Gemma": r"gemma",
    "Gemini": r"gemini",
    "GPT": r"(?:chat)?gpt(?![-_]?(?:neo|j(?![a-z])))|davinci|o[134](?=$|-mini|-preview|-pro)",
    "GPT-Neo": r"gpt[-_]?(?:neox?|j(?![a-z]))|pythia",
    "Claude": r"claude",
    "Phi": r"phi(?=$|[-_.\d])",
    "DeepSeek": r"deepseek",
    "Yi": r"yi(?=$|[-_.\d])",
    "Command": r"command[-_]?r|c4ai|cohere|aya",
    "Falcon": r"falcon",
    "OLMo": r"olmo",
    "SmolLM": r"smollm",
    "GLM": r"(?:chat)?glm",
    "InternLM": r"internlm",
    "Granite": r"granite",
    "Nemotron": r"nemotron",
    "Kimi": r"kimi|moonshot",
    "Grok": r"grok",
    "MiniMax": r"minimax",
}
# A family's name begins a word: `aya` is not found in `malaya`, nor `phi` in `dolphin`.
_PATTERNS = {family: re.compile(rf"(?<![a-z])(?:{names})") for family, names in _FAMILIES.items()}


def families(name: str, folder: Path | None = None) -> frozenset[str]:
    """The families that a model belongs to, by its name and, where it is a folder (relative to `folder`), its config.

    A distillation belongs to two: `DeepSeek-R1-Distill-Qwen-7B` is of DeepSeek and of Qwen. Of litellm's names the
    provider says nothing: `openai/NAME` is how any server is named that speaks OpenAI's API.
    """
    found = _named(_without_provider(name))
    place = (folder or Path()) / name
    if place.is_dir():
        for said in _configured(place):
            found |= _named(said)
    return frozenset(found)


def models_of(description: Mapping[str, Any]) -> list[str]:
    """The models that a judge's own description names: its own, and those of a jury's judges."""
    own = description.get("model")
    jurors = [name for juror in description.get("judges", ()) for name in models_of(juror)]
    return [*([own] if isinstance(own, str) else []), *jurors]


def warning(judge: str, candidate: str, folder: Path | None = None) -> str | None:
    """A sentence where both models are of one family, else None."""
    shared = sorted(families(judge, folder) & families(candidate, folder))
    if not shared:
        return None
    return (
        f"judge {judge} and candidate {candidate} are both of the {' and '.join(shared)} family, and models tend to "
        "favour answers like their own; calibrate the judge on this candidate's outputs, or take one of another family"
    )


def _without_provider(name: str) -> str:
    parts = name.split("/")
    while len(parts) > 1 and parts[0].lower() in _PROVIDERS:
        parts = parts[1:]
    return "/".join(parts)


def _named(name: str) -> set[str]:
    lowered = name.lower()
    return {family for family, pattern in _PATTERNS.items() if pattern.search(lowered)}


def _configured(folder: Path) -> list[str]:
    """What a model's or an adapter's own files say of its kind and of where it comes from."""
    keys = {"config.json": ("model_type", "_name_or_path"), "adapter_config.json": ("base_model_name_or_path",)}
    said = [_json(folder / name).get(key) for name, wanted in keys.items() for key in wanted]
    return [value for value in said if isinstance(value, str)]


def _json(path: Path) -> dict[str, Any]:
    """A small JSON object, or nothing: a warning is not worth an error that the loading of the model will raise."""
    try:
        if path.stat().st_size > _MOST:
            return {}
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
