"""What every objective plugin keeps to; a new one is found and covered without an edit here."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest

from harness import plugins
from harness.errors import ConfigError
from harness.training.objectives import RowKind
from harness.training.scopes import Head

NAMES = plugins.names("training.objectives")
NEEDED: dict[str, dict[str, Any]] = {
    name: {"rewards": [{"metric": "exact_match"}]} for name in ("grpo", "rloo")
}  # what has no default


def built(name: str, **options: Any) -> Any:
    chosen = plugins.options("training.objectives", name, {**NEEDED.get(name, {}), **options}, where="recipe.yaml")
    return plugins.load("training.objectives", name).build(chosen)


def test_all_objectives_are_there() -> None:
    assert set(NAMES) >= {
        "classify", "cpo", "dpo", "grpo", "ipo", "kto", "orpo", "reward", "rloo", "sft", "simpo"
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_is_an_objective_of_its_name(name: str) -> None:
    made = built(name)
    assert made.name == name
    assert made.rows
    assert made.rows <= set(get_args(RowKind))
    assert made.head in get_args(Head)
    assert callable(made.refusal)
    assert callable(made.trainer)


@pytest.mark.parametrize("name", NAMES)
def test_its_options_are_described_and_unknown_ones_are_refused(name: str) -> None:
    module = plugins.load("training.objectives", name)
    assert module.__doc__
    assert module.Options.__doc__
    self_explaining = {"max_new_tokens", "temperature", "top_p"}
    bare = [n for n, field in module.Options.model_fields.items() if not field.description]
    assert set(bare) <= self_explaining
    with pytest.raises(ConfigError, match="no_such_option"):
        built(name, no_such_option=1)


@pytest.mark.slow
def test_options_are_read_without_a_heavy_library() -> None:
    heavy = "torch", "transformers", "trl", "peft", "datasets", "litellm"
    script = (
        "import sys\nfrom harness import plugins\n"
        f"for name in {NAMES!r}:\n    plugins.load('training.objectives', name)\n"
        "import harness.training.objectives._distill, harness.training.objectives._label_pairs\n"
        f"print(*(m for m in {heavy!r} if m in sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""
