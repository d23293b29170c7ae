"""L2-SP and EWC: their gradients are those that autograd gives for the formula, once an optimiser step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import ConfigError, DataError
from tests.conftest import TinyModels
from tests.forgetting_project import equal, load, trainer, weights

pytestmark = pytest.mark.slow

ROWS = [{"text": f"row {i} says {i * i}"} for i in range(6)]


@pytest.fixture
def base(tiny: TinyModels) -> Path:
    return tiny.model()


def lora(model: Any, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    settings = {"task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 12, "target_modules": "all-linear", **options}
    return get_peft_model(model, LoraConfig(**settings))


def begin(penalty: Any, model: Any, out: Path, tokenizer: Any = None) -> None:
    """What a trainer does with a callback before the first step."""
    args = SimpleNamespace(output_dir=str(out), optim="adamw_torch", save_strategy="no", deepspeed=None, fsdp=None)
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)
    penalty.on_train_begin(args, state, None, model=model, processing_class=tokenizer)


def pulled(penalty: Any, model: Any) -> tuple[dict[str, Any], float]:
    """The gradients that the penalty adds to given ones, and its value."""
    import torch

    torch.manual_seed(5)
    given = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
            given[name] = parameter.grad.clone()
    penalty.on_pre_optimizer_step(None, None, None, model=model)
    return {n: p.grad - given[n] for n, p in model.named_parameters() if p.requires_grad}, float(penalty._last)


def disturb(model: Any, spread: float = 0.1) -> None:
    import torch

    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * spread)


def changes(model: Any) -> dict[str, Any]:
    """The effective weights that training moves, differentiable: s·BA by layer, and parameters themselves."""
    from peft.tuners.lora.layer import LoraLayer

    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            if "default" in layer.lora_embedding_A:
                a, b = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
            else:
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            found[name] = layer.scaling["default"] * (b @ a)
    direct = {n: p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
    return found | direct


def by_autograd(model: Any, start: dict[str, Any], strength: float, fisher: Any) -> tuple[dict[str, Any], float]:
    """Value and gradients of ½ λ Σ f (w − w₀)² by autograd on the effective weights."""
    import torch

    now = changes(model)
    value = sum(
        0.5 * strength * (fisher(name, weight) * (weight - start[name]) ** 2).sum() for name, weight in now.items()
    )
    moving = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value, list(moving.values()))
    return dict(zip(moving, found, strict=True)), float(value.detach())


def assert_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    import torch

    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


SCOPES = {
    "full": lambda model: model,
    "lora": lora,
    "rslora": lambda model: lora(model, use_rslora=True),
    "with embeddings": lambda model: lora(model, target_modules=["embed_tokens", "q_proj"]),
    "with a saved module": lambda model: lora(model, target_modules=["q_proj"], modules_to_save=["lm_head"]),
}


@pytest.mark.parametrize("scope", list(SCOPES))
@pytest.mark.parametrize("later", [False, True], ids=["fresh", "trained further"])
def test_l2_sp_adds_the_gradient_of_its_formula(base: Path, tmp_path: Path, scope: str, later: bool) -> None:
    import torch

    from harness.training.forgetting import L2SP

    model = SCOPES[scope](load(base))
    if later:
        disturb(model)
    penalty = L2SP(0.3)
    begin(penalty, model, tmp_path)
    start = {name: weight.detach().clone() for name, weight in changes(model).items()}
    disturb(model, 0.2)
    expected, value = by_autograd(model, start, 0.3, lambda name, weight: torch.ones_like(weight))
    found, said = pulled(penalty, model)
    assert_close(found, expected)
    assert said == pytest.approx(value, rel=1e-4)
    assert value > 0


def test_the_effective_change_is_what_peft_merges(tiny: TinyModels) -> None:
    """Also for GPT-2, whose weights lie the other way round."""
    import torch
    from peft.tuners.lora.layer import LoraLayer
    from transformers import AutoModelForCausalLM

    from harness.training.forgetting._terms import LowRank, terms_of

    model = lora(AutoModelForCausalLM.from_pretrained(tiny.model("gpt2")), target_modules=["c_attn"])
    disturb(model)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    terms = [term for term in terms_of(model, "l2_sp") if isinstance(term, LowRank)]
    assert len(terms) == len(layers) > 0
    for term in terms:
        merged = layers[term.name].get_delta_weight("default")
        ours = term.scaling * (term.b @ term.a)
        torch.testing.assert_close(ours.T if merged.shape != ours.shape else ours, merged)


def brute_force_fisher(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Mean over rows of the squared gradient of log p(row), row by row, on weights that are unfrozen for it."""
    import torch
    from peft.tuners.lora.layer import LoraLayer

    lora_layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    of = {n: m.get_base_layer().weight for n, m in lora_layers.items()}
    of |= {n: p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
    frozen = [p for p in of.values() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    model.eval()
    total = {name: torch.zeros_like(parameter) for name, parameter in of.items()}
    for row in ROWS:
        ids = tokenizer(row["text"], return_tensors="pt")["input_ids"]
        log_p = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).sum()
        for name, gradient in zip(of, torch.autograd.grad(log_p, list(of.values())), strict=True):
            total[name] += gradient**2 / len(ROWS)
    for parameter in frozen:
        parameter.requires_grad_(False)
    transposed = {n for n, m in lora_layers.items() if type(m).__name__ == "Embedding"}
    return {n: t.T if n in transposed else t for n, t in total.items()}


@pytest.mark.parametrize("scope", [s for s in SCOPES if s != "rslora"])
def test_ewc_is_the_fisher_diagonal_times_the_effective_change(base: Path, tmp_path: Path, scope: str) -> None:
    from transformers import AutoTokenizer

    from harness.training.forgetting import Ewc

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = SCOPES[scope](load(base))
    model.train()
    penalty = Ewc(50.0, ROWS, samples=100)
    begin(penalty, model, tmp_path, tokenizer)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert penalty.estimate is not None
    assert (penalty.estimate.rows, penalty.estimate.available, penalty.estimate.kind) == (6, 6, "empirical")

    expected_fisher = brute_force_fisher(model, tokenizer)
    assert_close(dict(penalty._fishers), expected_fisher)
    start = {name: weight.detach().clone() for name, weight in changes(model).items()}
    disturb(model)
    expected, value = by_autograd(model, start, 50.0, lambda name, weight: expected_fisher[name])
    found, said = pulled(penalty, model)
    scale = max(float(g.abs().max()) for g in expected.values())
    assert_close({n: g / scale for n, g in found.items()}, {n: g / scale for n, g in expected.items()})
    assert said == pytest.approx(value, rel=1e-4)


def test_the_true_fisher_is_the_expectation_under_the_model(base: Path) -> None:
    """Of one scored token the expectation is a sum over the vocabulary, which 300 draws have to come near."""
    import torch

    from harness.training.forgetting._fisher import estimate
    from harness.training.forgetting._terms import terms_of

    model = load(base)
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    row = {"input_ids": [5, 9, 30, 7], "labels": [-100, -100, -100, 7]}
    terms = terms_of(model, "ewc")
    settings = {"samples": 300, "seed": 0, "max_length": 64}
    known, found = estimate(model, terms, [row] * 300, None, kind="true", **settings)
    _, empirical = estimate(model, terms, [row] * 2, None, kind="empirical", **settings)
    model.eval()
    hidden = model.model(torch.tensor([row["input_ids"]])).last_hidden_state[0, 2].detach()
    p = model.lm_head(hidden).softmax(-1).detach()
    # ∇ log p(y) by row v of the head is ((v == y) − p_v) h, so its expected square is p_v (1 − p_v) h².
    exact = (p * (1 - p))[:, None] * hidden**2
    ours = found["lm_head.weight"]
    assert known.tokens == 300
    assert float(ours.sum()) == pytest.approx(float(exact.sum()), rel=0.15)
    likely = p.topk(10).indices  # the rows that are drawn often enough to be compared
    assert float(ours[likely].sum()) == pytest.approx(float(exact[likely].sum()), rel=0.3)
    own = 7  # of the row's own token the empirical one says far more, since it is always the one
    assert float(empirical["lm_head.weight"][own].sum()) > 5 * float(exact[own].sum())
    assert float(ours[own].sum()) < 5 * float(exact[own].sum())


def no_task(outputs: Any, labels: Any, **_: Any) -> Any:
    """A loss that teaches nothing, so that only the penalty moves the weights."""
    return outputs.logits.sum() * 0.0


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2), (2, 4), (1, 3)])
def test_a_step_pulls_once_whatever_the_accumulation(base: Path, tmp_path: Path, batch: int, accumulation: int) -> None:
    """Plain gradient descent on the penalty alone shrinks the distance by 1 − rate·λ a step, exactly that often."""
    import torch
    from transformers import TrainerCallback

    from harness.training.forgetting import L2SP

    class Push(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            with torch.no_grad():
                given["model"].lm_head.weight.add_(0.5)

    model = load(base)
    start = weights(model)
    run = trainer(
        model, base, tmp_path, [L2SP(0.5), Push()], max_steps=3, per_device_train_batch_size=batch, optim="sgd",
        gradient_accumulation_steps=accumulation, learning_rate=0.4, compute_loss_func=no_task, max_grad_norm=1e-3,
    )  # fmt: skip
    run.train()
    left = model.lm_head.weight.detach() - start["lm_head.weight"]
    torch.testing.assert_close(left, torch.full_like(left, 0.5 * (1 - 0.4 * 0.5) ** 3), rtol=1e-4, atol=1e-5)
    logged = [line["l2_sp"] for line in run.state.log_history if "l2_sp" in line]
    assert logged == pytest.approx([0.5 * 0.5 * 0.25 * 0.64**step * left.numel() for step in range(3)], rel=1e-3)


def test_a_resumed_training_is_pulled_to_where_it_first_started(base: Path, tmp_path: Path) -> None:
    from harness.training.forgetting import Ewc

    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    whole, first, second = (lora(load(base), init_lora_weights=False) for _ in range(3))
    trainer(whole, base, tmp_path / "a", [Ewc(1e3, ROWS, samples=3)], **settings).train()
    trainer(first, base, tmp_path / "b", [Ewc(1e3, ROWS, samples=3)], **{**settings, "save_steps": 3}).train()
    disturb(second)  # a resumed process loads the checkpoint over whatever is there
    again = Ewc(1e3, [{"text": "other rows"}])
    run = trainer(second, base, tmp_path / "b", [again], **settings)
    run.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3"))
    assert equal(weights(second), weights(whole))
    assert again.estimate is None

    (tmp_path / "b" / "penalties" / "ewc.safetensors").unlink()
    with pytest.raises(ConfigError, match="is not there"):
        trainer(second, base, tmp_path / "b", [Ewc(1e3, ROWS)], **settings).train(
            resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3")
        )


def test_a_penalty_holds_the_weights_back(base: Path, tmp_path: Path) -> None:
    from harness.training.forgetting import L2SP

    moved = {}
    for name, callbacks in (("free", []), ("held", [L2SP(100.0)])):
        model = lora(load(base))
        trainer(model, base, tmp_path / name, callbacks, max_steps=10, learning_rate=1e-3).train()
        moved[name] = sum(float((w.detach() ** 2).sum()) for w in changes(model).values()) ** 0.5
    assert moved["held"] < 0.6 * moved["free"]


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("dora", "not s·BA but depends on the weight"), ("ia3", "does not add s·BA"), ("prefix", "changes no weight"),
        ("lora_bias_b", "lora_bias"),
    ],
)  # fmt: skip
def test_where_no_effective_change_is_defined_it_is_refused(
    base: Path, tmp_path: Path, method: str, reason: str
) -> None:
    from peft import get_peft_model

    from harness.training.forgetting import L2SP
    from tests.tiny_models import _peft_config

    if method == "lora_bias_b":
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(base, attention_bias=True)
        model = lora(AutoModelForCausalLM.from_config(config), target_modules=["q_proj"], lora_bias=True)
    else:
        model = get_peft_model(load(base), _peft_config(method, base))
    with pytest.raises(ConfigError, match=reason):
        begin(L2SP(1.0), model, tmp_path)


def test_an_optimiser_that_steps_in_the_backward_pass_is_refused(base: Path, tmp_path: Path) -> None:
    from harness.training.forgetting import L2SP

    args = SimpleNamespace(output_dir=str(tmp_path), optim="galore_adamw_layerwise", save_strategy="no")
    with pytest.raises(ConfigError, match="during the backward pass"):
        L2SP(1.0).on_train_begin(args, SimpleNamespace(global_step=0), None, model=load(base))


def test_rows_that_say_nothing_are_refused(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from harness.training.forgetting import Ewc
    from harness.training.forgetting._fisher import encode

    tokenizer = AutoTokenizer.from_pretrained(base)
    with pytest.raises(ConfigError, match="no rows"):
        Ewc(1.0, [])
    with pytest.raises(ConfigError, match="larger than 0"):
        Ewc(0.0, ROWS)
    with pytest.raises(DataError, match="row 0 has no token that is scored"):
        begin(Ewc(1.0, [{"input_ids": [5, 6], "labels": [5, -100]}]), load(base), tmp_path)
    with pytest.raises(DataError, match="columns chosen, prompt"):
        begin(Ewc(1.0, [{"prompt": "a", "chosen": "b"}]), load(base), tmp_path, tokenizer)
    with pytest.raises(DataError, match="processing_class"):
        begin(Ewc(1.0, ROWS), load(base), tmp_path)
    ids, labels = encode({"prompt": "2 + 2 =", "completion": " 4"}, tokenizer, where="")
    scored = [i for i in labels if i != -100]
    assert tokenizer.decode(scored) == " 4"
    assert ids[-len(scored) :] == scored
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert encode({"messages": talk}, tokenizer, where="")[0]
    _, labels = encode({"prompt": talk[:1], "completion": talk[1:]}, tokenizer, where="")
    assert tokenizer.decode([i for i in labels if i != -100]).strip() == "Ho"
