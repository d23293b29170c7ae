"""Our PEFT methods, held against what they are said to compute."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest


def test_nothing_heavy_is_loaded_before_registering() -> None:
    code = "import sys, harness.tuners; print('torch' in sys.modules, 'peft' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "False"]


def base(tiny: Any, family: str = "gpt2") -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny.model(family))


def ids() -> Any:
    import torch

    return torch.arange(3, 20)[None]


def shake(model: Any, seed: int = 0) -> None:
    """Give every trainable parameter a random value."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)


def adapted(tiny: Any, kind: str, seed: int = 0) -> Any:
    from peft import get_peft_model

    from harness import tuners

    tuners.register()
    from harness.tuners.bitfit import BitFitConfig
    from harness.tuners.bottleneck import BottleneckConfig

    if kind == "bitfit":
        config = BitFitConfig(
            task_type="CAUSAL_LM", target_modules=["c_attn", "c_proj", "c_fc", "ln_1", "ln_2", "ln_f"]
        )
    else:
        config = BottleneckConfig(task_type="CAUSAL_LM", size=8, target_modules=["attn.c_proj", "mlp.c_proj"])
    model = get_peft_model(base(tiny), config)
    shake(model, seed)
    return model.eval()


@pytest.mark.slow
def test_bitfit_is_the_model_with_other_biases(tiny: Any) -> None:
    import torch

    model, other = adapted(tiny, "bitfit"), base(tiny)
    changes = {n: p for n, p in model.named_parameters() if "bitfit_change" in n}
    assert {n.split("bitfit_change")[0] for n in changes} == {
        f"base_model.model.{n.removesuffix('bias')}" for n, _ in other.named_parameters() if n.endswith("bias")
    }
    for name, parameter in other.named_parameters():
        if name.endswith("bias"):
            parameter.data += changes[f"base_model.model.{name.removesuffix('bias')}bitfit_change.default.weight"].data
    with torch.no_grad():
        torch.testing.assert_close(model(ids()).logits, other(ids()).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_change_of_a_bias_has_the_gradient_of_the_bias(tiny: Any) -> None:
    import torch

    from harness.training.scopes import bitfit

    plain = base(tiny).eval()
    plain(ids(), labels=ids()).loss.backward()
    model = bitfit.build(bitfit.Options()).apply(base(tiny), "language").eval()
    model(input_ids=ids(), labels=ids()).loss.backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in plain.named_parameters():
        if name.endswith("bias"):
            ours = trained.pop(f"base_model.model.{name.removesuffix('bias')}bitfit_change.default.weight")
            torch.testing.assert_close(ours, parameter.grad, atol=1e-5, rtol=1e-4)
    assert not trained


@pytest.mark.slow
def test_a_bottleneck_is_what_its_docstring_says(tiny: Any) -> None:
    import torch

    model = adapted(tiny, "bottleneck")
    layer = model.base_model.model.transformer.h[1].mlp.c_proj
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    x = torch.randn(2, 5, 256)
    y = layer.base_layer(x)
    inner = torch.nn.functional.gelu(y @ down.weight.T + down.bias)
    torch.testing.assert_close(layer(x), y + inner @ up.weight.T + up.bias)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bitfit", "bottleneck"])
def test_two_adapters_on_one_base_are_kept_apart(tiny: Any, kind: str, tmp_path: Any) -> None:
    import torch

    first, second = adapted(tiny, kind, 1), adapted(tiny, kind, 2)
    second.save_pretrained(tmp_path)
    with torch.no_grad():
        one, two = first(ids()).logits, second(ids()).logits
        first.load_adapter(str(tmp_path), adapter_name="second")
        first.set_adapter("second")
        assert torch.equal(first(ids()).logits, two)
        first.set_adapter("default")
        assert torch.equal(first(ids()).logits, one)
        first.delete_adapter("second")
        assert torch.equal(first(ids()).logits, one)
        with first.disable_adapter():
            assert torch.equal(first(ids()).logits, base(tiny)(ids()).logits)


@pytest.mark.slow
def test_merging_biases_and_taking_them_out_again(tiny: Any) -> None:
    import torch

    model = adapted(tiny, "bitfit")
    with torch.no_grad():
        before = model(ids()).logits
        model.merge_adapter(safe_merge=True)
        torch.testing.assert_close(model(ids()).logits, before, atol=1e-4, rtol=1e-4)
        model.unmerge_adapter()
        torch.testing.assert_close(model(ids()).logits, before, atol=1e-4, rtol=1e-4)
        model.base_model.model.transformer.ln_f.bitfit_change["default"].weight[0] = float("nan")
        with pytest.raises(ValueError, match="not finite"):
            model.merge_adapter(safe_merge=True)


@pytest.mark.slow
def test_a_bottleneck_is_not_merged(tiny: Any) -> None:
    with pytest.raises(ValueError, match="not linear"):
        adapted(tiny, "bottleneck").merge_and_unload()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["q_proj", "embed_tokens"])
def test_a_module_without_a_bias_is_no_target_of_bitfit(tiny: Any, target: str) -> None:
    from peft import get_peft_model

    from harness import tuners

    tuners.register()
    from harness.tuners.bitfit import BitFitConfig

    with pytest.raises(ValueError, match="has no bias"):
        get_peft_model(base(tiny, "llama"), BitFitConfig(task_type="CAUSAL_LM", target_modules=[target]))


@pytest.mark.slow
def test_a_method_is_registered_once_and_never_over_one_of_pefts() -> None:
    from peft import PeftType

    from harness import tuners
    from harness.tuners import _registration

    tuners.register()
    tuners.register()
    assert {PeftType(name).name for name in tuners.TYPES} == set(tuners.TYPES)
    assert all(getattr(PeftType, name) in list(PeftType) for name in tuners.TYPES)
    with pytest.raises(KeyError, match="of its own"):
        _registration.add_method("lora", object, object)


@pytest.mark.slow
def test_adapters_in_a_wider_type_leave_the_type_of_the_base(tiny: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from harness.training.scopes import bitfit, bottleneck

    for module in (bitfit, bottleneck):
        small = AutoModelForCausalLM.from_pretrained(tiny.model("gpt2"), dtype=torch.bfloat16)
        model = module.build(module.Options()).apply(small, "language")
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        assert model(ids()).logits.dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["additive_bias", "bitfit", "bottleneck", "ia3", "lora", "prefix"])
def test_a_reference_is_a_copy_of_what_was_trained_before(tiny: Any, scope: str) -> None:
    """As in preference training behind a first stage; TRL's own copy leaves out IA3 and added biases."""
    import torch

    from harness import plugins, tuners
    from harness.errors import AdapterError

    module = plugins.load("training.scopes", scope)
    model = module.build(module.Options()).apply(base(tiny, "qwen2"), "language")
    shake(model)
    with pytest.raises(AdapterError, match="cannot be made its copy"):
        tuners.copy_adapter(model)
    model.add_adapter("ref", model.peft_config["default"])
    tuners.copy_adapter(model)
    model.eval()
    with torch.no_grad():
        expected = model(ids()).logits
        model.set_adapter("ref")
        assert torch.equal(model(ids()).logits, expected)
        for name, parameter in model.named_parameters():
            if "ref" in name.split("."):
                parameter.add_(1)
        assert not torch.equal(model(ids()).logits, expected)
        model.set_adapter("default")
        assert torch.equal(model(ids()).logits, expected)
