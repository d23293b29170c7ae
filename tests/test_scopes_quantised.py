"""Training on a 4-bit base: gradients are right whatever came before, and a fresh load answers the same."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.errors import ConfigError
from harness.subjects import SubjectContext, local
from harness.subjects._weights import WeightsSpec, load_base
from harness.training.scopes import Scope, share_of

NOT_INSTALLED = find_spec("bitsandbytes") is None  # importing it here would load torch into every test process
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NOT_INSTALLED, reason="the extra qlora is not installed"),
]

SMALL: dict[str, dict[str, Any]] = {"qlora": {"rank": 4}, "lora": {"rank": 4}, "bottleneck": {"size": 8}}


def build(name: str) -> Scope:
    scope: Scope = plugins.load("training.scopes", name).build(
        plugins.options("training.scopes", name, SMALL.get(name, {}), where="scope")
    )
    return scope


SCOPES = {name: build(name) for name in plugins.names("training.scopes")}
QUANTISED = [name for name, scope in SCOPES.items() if scope.traits.quantised]


def unguarded(folder: Path) -> Any:
    """A 4-bit base as transformers loads it, without the guard of our own loader."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)


def ours(folder: Path) -> Any:
    """A 4-bit base as the local subject loads it."""
    return load_base(WeightsSpec(folder, "float32", "cpu", "4bit", remote_code=False))


def ids() -> Any:
    import torch

    return (torch.arange(1, 17) * 7 % 320)[None]


def logits(model: Any) -> Any:
    import torch

    model.eval()
    with torch.no_grad():
        return model(input_ids=ids(), use_cache=False).logits.clone()


def gradients(model: Any) -> dict[str, Any]:
    model.train()
    model.zero_grad()
    model(input_ids=ids(), labels=ids()).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def dequantised(folder: Path) -> Any:
    """The same rounded weights in float32."""
    return unguarded(folder).dequantize()


def shake(model: Any) -> None:
    """Values at which every part of an adapter has a gradient."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)


def test_asking_a_4_bit_base_before_training_does_not_spoil_its_gradients(tiny: Any) -> None:
    """Where the processor has AVX512-BF16 this fails without the guard: by half, and without a word."""
    import torch

    folder = tiny.model()
    reference = build("lora").apply(dequantised(folder), "language")
    shake(reference)
    model = build("qlora").apply(unguarded(folder), "language")
    shake(model)
    logits(model)
    for (name, found), expected in zip(gradients(model).items(), gradients(reference).values(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("name", QUANTISED)
def test_a_base_that_has_packed_its_weights_is_refused(name: str, tiny: Any) -> None:
    model = unguarded(tiny.model("qwen2"))
    model.model.layers[0].mlp.up_proj.weight.quant_state.packing_format_for_cpu = True  # as a first question leaves it
    with pytest.raises(ConfigError, match="without a gradient; load it afresh"):
        build(name).apply(model, "language")


@pytest.mark.parametrize("name", QUANTISED)
def test_what_trains_on_a_4_bit_base_loads_on_one_and_comes_off_again(name: str, tiny: Any, tmp_path: Path) -> None:
    import torch

    folder = tiny.model("qwen2")
    before = logits(ours(folder))
    model = SCOPES[name].apply(ours(folder), "language")
    assert torch.equal(logits(model), before)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        gradients(model)
        optimizer.step()
    after = logits(model)
    assert not torch.allclose(after, before, atol=1e-3)
    SCOPES[name].save(model, tmp_path)
    assert torch.equal(logits(SCOPES[name].resume(ours(folder), tmp_path, "language")), after)
    pool: dict[Any, Any] = {}
    options = {"model": str(folder), "device": "cpu", "quantization": "4bit"}
    baseline = local.build(local.Options.model_validate(options), SubjectContext(tmp_path, pool))
    candidate = local.build(
        local.Options.model_validate({**options, "adapter": str(tmp_path)}), SubjectContext(tmp_path, pool)
    )
    assert baseline._weights is candidate._weights
    with candidate._weights.using(candidate._switched) as found:
        assert torch.equal(logits(found), after)
    with candidate._weights.using(None) as found:
        assert torch.equal(logits(found), before)


def test_qlora_asks_for_4_bits_and_a_paged_optimiser_and_counts_packed_numbers(tiny: Any) -> None:
    scope = SCOPES["qlora"]
    assert scope.quantization == "4bit"
    assert scope.defaults["optim"].startswith("paged")
    with pytest.raises(ConfigError, match="needs a base in 4 bits"):
        scope.apply(load_base(WeightsSpec(tiny.model(), "float32", "cpu", "none", remote_code=False)), "language")
    packed = share_of(scope.apply(ours(tiny.model()), "language"))
    plain = share_of(build("lora").apply(dequantised(tiny.model()), "language"))
    assert packed == plain


@pytest.mark.parametrize("name", sorted(set(SCOPES) - set(QUANTISED)))
def test_other_scopes_refuse_a_4_bit_base(name: str, tiny: Any) -> None:
    head = "language" if "language" in SCOPES[name].traits.heads else "classes"
    with pytest.raises(ConfigError, match="cannot train a quantised base"):
        SCOPES[name].apply(ours(tiny.model()), head)
