"""The static pre-flight of an adapter: safe, made for this base, not empty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness import adapters
from harness.errors import AdapterError

LAYER = "model.layers.{}.self_attn.q_proj"


def make_base(folder: Path, *, out: int = 8, into: int = 6, layers: int = 2, prefix: str = "") -> Path:
    folder.mkdir(parents=True)
    tensors = {prefix + LAYER.format(i) + ".weight": np.zeros((out, into), np.float32) for i in range(layers)}
    tensors[f"{prefix}model.embed_tokens.weight"] = np.zeros((10, into), np.float32)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"hidden_size": into, "num_hidden_layers": layers}))
    return folder


def make_adapter(folder: Path, *, made_for: str = "base", value: float = 1.0, **shape: Any) -> Path:
    folder.mkdir(parents=True)
    out, into, layers = shape.get("out", 8), shape.get("into", 6), shape.get("layers", 2)
    tensors = {}
    for i in range(layers):
        key = f"base_model.model.{LAYER.format(i)}"
        tensors[f"{key}.lora_A.weight"] = np.ones((2, into), np.float32)
        tensors[f"{key}.lora_B.weight"] = np.full((out, 2), value, np.float32)
    save_file(tensors | shape.get("more", {}), folder / adapters.WEIGHTS)
    (folder / adapters.CONFIG).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": made_for}))
    return folder


def check(adapter: Path, base: Path, name: str, base_name: str = "org/base") -> Any:
    return next(c for c in adapters.preflight(adapter, base, base_name=base_name) if c.name == name)


def test_an_adapter_of_this_base_passes_every_check(tmp_path: Path) -> None:
    base, adapter = make_base(tmp_path / "base"), make_adapter(tmp_path / "adapter")
    assert [(c.name, c.passed) for c in adapters.preflight(adapter, base, base_name="org/base")] == [
        ("adapter-safetensors", True),
        ("adapter-for-base", True),
        ("adapter-not-empty", True),
    ]


@pytest.mark.parametrize(
    ("shape", "said"),
    [({"into": 4}, "other dimensions"), ({"out": 16}, "other dimensions"), ({"layers": 3}, "do not exist")],
)
def test_the_right_name_does_not_save_an_adapter_of_other_shapes(
    tmp_path: Path, shape: dict[str, int], said: str
) -> None:
    found = check(make_adapter(tmp_path / "a", **shape), make_base(tmp_path / "base"), "adapter-for-base")
    assert not found.passed
    assert said in found.detail


def test_shapes_that_fit_outrank_another_name_and_say_so(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", made_for="someone/renamed")
    found = check(adapter, make_base(tmp_path / "base"), "adapter-for-base")
    assert found.passed
    assert "someone/renamed" in found.detail


def test_prefixes_that_savers_add_or_drop_do_not_matter_but_the_layer_does(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    assert check(adapter, make_base(tmp_path / "base", prefix="language_model."), "adapter-for-base").passed
    tensors = adapters.read_header(adapter / adapters.WEIGHTS)
    one_layer = {"layers.0.self_attn.q_proj.weight": adapters.Tensor("F32", (8, 6), 0, 0)}
    assert adapters.fit(tensors, one_layer).absent == ("model.layers.1.self_attn.q_proj",)


def test_transposed_and_packed_weights_are_understood(tmp_path: Path) -> None:
    tensors = adapters.read_header(make_adapter(tmp_path / "a", layers=1) / adapters.WEIGHTS)
    key = LAYER.format(0) + ".weight"
    assert not adapters.fit(tensors, {key: adapters.Tensor("F32", (6, 8), 0, 0)}).contradicts
    assert not adapters.fit(tensors, {key: adapters.Tensor("U8", (24, 1), 0, 0)}).contradicts


def test_an_embedding_of_another_size_is_found(tmp_path: Path) -> None:
    more = {"base_model.model.model.embed_tokens.weight": np.zeros((12, 6), np.float32)}
    found = check(make_adapter(tmp_path / "a", more=more), make_base(tmp_path / "base"), "adapter-for-base")
    assert not found.passed
    assert "embed_tokens" in found.detail


def test_recorded_base_weights_decide_before_names_and_shapes(tmp_path: Path) -> None:
    base, adapter = make_base(tmp_path / "base"), make_adapter(tmp_path / "a", made_for="elsewhere")
    record = {"base_weights_sha256": adapters.weights_hash(base)}
    (adapter / adapters.RECORD).write_text(json.dumps(record))
    assert check(adapter, base, "adapter-for-base").passed
    save_file({"model.layers.0.self_attn.q_proj.weight": np.ones((8, 6), np.float32)}, base / "model.safetensors")
    found = check(adapter, base, "adapter-for-base")
    assert not found.passed
    assert adapters.RECORD in found.detail


def test_prompt_learning_is_judged_by_its_dimensions(tmp_path: Path) -> None:
    base, adapter = make_base(tmp_path / "base"), tmp_path / "a"
    adapter.mkdir()
    save_file({"prompt_embeddings": np.ones((4, 6), np.float32)}, adapter / adapters.WEIGHTS)

    def says(**config: Any) -> Any:
        (adapter / adapters.CONFIG).write_text(
            json.dumps({"num_virtual_tokens": 4, "base_model_name_or_path": "base", **config})
        )
        return check(adapter, base, "adapter-for-base")

    assert says(peft_type="PROMPT_TUNING", token_dim=6, num_layers=2).passed
    assert "token_dim is 64" in says(peft_type="PROMPT_TUNING", token_dim=64).detail
    assert "num_layers is 9" in says(peft_type="PREFIX_TUNING", token_dim=3, num_layers=9).detail
    assert not says(base_model_name_or_path="another").passed


def test_an_adapter_that_was_never_trained_changes_nothing(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    found = check(make_adapter(tmp_path / "a", value=0.0), base, "adapter-not-empty")
    assert not found.passed
    assert "lora_B is zero" in found.detail
    ia3 = tmp_path / "ia3"
    ia3.mkdir()
    (ia3 / adapters.CONFIG).write_text(json.dumps({"peft_type": "IA3", "base_model_name_or_path": "base"}))
    for value, passed in ((1.0, False), (1.5, True)):
        tensors = {f"base_model.model.{LAYER.format(0)}.ia3_l": np.full((8, 1), value, np.float16)}
        save_file(tensors, ia3 / adapters.WEIGHTS)
        assert check(ia3, base, "adapter-not-empty").passed is passed


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    (adapter / adapters.WEIGHTS).rename(adapter / "adapter_model.bin")
    checks = adapters.preflight(adapter, make_base(tmp_path / "base"), base_name="base")
    assert [c.passed for c in checks] == [False, False, False]
    assert "pickled" in checks[0].detail
    assert "save_pretrained" in checks[0].detail


_HEADER = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-99, 4]}}'
_OUTSIDE = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(4)
_NESTED = (200_000).to_bytes(8, "little") + b"[" * 200_000


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0{}"[:9], b"\x04\0\0\0\0\0\0\0nope", _NESTED, _OUTSIDE]
)
def test_a_file_that_is_not_safetensors_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / adapters.WEIGHTS
    path.write_bytes(content)
    with pytest.raises(AdapterError, match="not a safetensors file"):
        adapters.read_header(path)
    (tmp_path / adapters.RECORD).write_bytes(_NESTED[8:])
    with pytest.raises(AdapterError, match="cannot be read"):
        adapters.as_recorded(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "prefix", "prompt", "p_tuning"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_that_peft_writes_fit_their_own_base_and_no_other(tiny: Any, family: str, method: str) -> None:
    adapter, base = tiny.adapter(family, method), tiny.model(family)
    assert [c for c in adapters.preflight(adapter, base, base_name=str(base)) if not c.passed] == []
    if method in ("lora", "dora", "ia3"):
        other = tiny.model("gpt_neox")
        assert not check(adapter, other, "adapter-for-base", str(other)).passed


@pytest.mark.slow
def test_a_fresh_lora_is_empty(tiny: Any) -> None:
    assert not check(tiny.adapter(scale=0.0), tiny.model(), "adapter-not-empty").passed
