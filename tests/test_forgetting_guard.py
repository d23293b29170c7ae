"""`ForgettingGuard` in trainings of a tiny model: it stops what forgets, and nothing else can tell it was there."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness.errors import ConfigError
from tests.conftest import TinyModels
from tests.forgetting_project import equal, load, own_answers, recorder, rows, trainer, weights

pytestmark = pytest.mark.slow


@pytest.fixture
def base(tiny: TinyModels) -> Path:
    return tiny.model()


@pytest.fixture
def gate(base: Path, tmp_path: Path) -> Path:
    return own_answers(tmp_path, base)


def lora(model: Any, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", **options))


def log(out: Path) -> list[dict[str, Any]]:
    from harness.training.forgetting.guard import read_looks

    return [dict(line) for line in read_looks(out)]


def rising(model: Any, steps: int) -> tuple[Any, Any]:
    """An optimiser whose rate is next to nothing for `steps` steps, and then far too high."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < steps else 2e5)


def test_real_forgetting_ends_the_training_with_the_last_weights_that_had_not_regressed(
    base: Path, gate: Path, tmp_path: Path
) -> None:
    from harness.training import ForgettingGuard

    model, seen = load(base), recorder()
    guard = ForgettingGuard(gate, every=2, cost=10)
    run = trainer(model, base, tmp_path / "out", [seen, guard], max_steps=20, optimizers=rising(model, 7))
    run.train()
    assert guard.regressed is not None
    assert guard.regressed.step == run.state.global_step == 8
    assert guard.kept_step == 6
    assert equal(weights(model), seen.at[6])
    assert not equal(seen.at[6], seen.at[8])
    lines = log(tmp_path / "out")
    assert [line["event"] for line in lines] == ["begin", "look", "look", "look", "look", "end"]
    assert lines[-1]["restored"] == 6
    assert lines[-2]["regressed"] == ["own/exact_match"]


def test_a_training_may_go_on_from_the_kept_weights_at_a_lower_rate(base: Path, gate: Path, tmp_path: Path) -> None:
    from harness.training import ForgettingGuard
    from harness.training.forgetting._rate import FACTOR

    model, before, after = load(base), recorder(), recorder()
    guard = ForgettingGuard(gate, every=2, cost=10, on_regression="lower_rate")
    optimizers = rising(model, 7)
    run = trainer(model, base, tmp_path / "out", [before, guard, after], max_steps=20, optimizers=optimizers)
    run.train()
    assert run.state.global_step == 20
    assert [look.step for look in guard.looks] == list(range(2, 22, 2))
    assert guard.looks[3].regressed
    assert equal(after.at[8], before.at[6])
    assert not equal(before.at[8], before.at[6])
    assert guard.lowered >= 1
    assert optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-7 * 2e5 * FACTOR**guard.lowered)
    assert guard.regressed is None or equal(weights(model), after.at[guard.kept_step])
    lines = log(tmp_path / "out")
    assert [line["event"] for line in lines].count("back") == guard.lowered
    assert lines[-1]["event"] == "end"


def test_a_lower_rate_outlives_an_interruption(base: Path, gate: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    from harness.training import ForgettingGuard

    class Kill(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            control.should_training_stop = state.global_step == 10

    settings = {"max_steps": 16, "save_strategy": "steps", "save_steps": 10}

    def run(out: str, *callbacks: Any, **given: Any) -> tuple[Any, Any]:
        model = load(base)
        guard = ForgettingGuard(gate, every=2, cost=10, on_regression="lower_rate")
        options = {**settings, "optimizers": rising(model, 7)}
        trainer(model, base, tmp_path / out, [*callbacks, guard], **options).train(**given)
        return weights(model), guard

    whole, one = run("whole")
    run("out", Kill())
    resumed, other = run("out", resume_from_checkpoint=True)
    assert one.lowered == other.lowered >= 1
    assert equal(whole, resumed)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant_with_warmup", "reduce_lr_on_plateau"])
def test_a_lowered_schedule_keeps_its_shape(name: str) -> None:
    import torch
    from transformers import get_scheduler

    from harness.training.forgetting._rate import FACTOR, lower

    def rates(at: int | None) -> list[float]:
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([weight], lr=0.1)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=12)
        found = []
        for step in range(12):
            weight.grad = torch.ones(2)
            optimizer.step()
            scheduler.step(*([1.0] if name == "reduce_lr_on_plateau" else []))
            if step == at:
                lower(optimizer, scheduler)
                assert not optimizer.state
            found.append(optimizer.param_groups[0]["lr"])
        return found

    plain, lowered = rates(None), rates(6)
    assert lowered[:6] == plain[:6]
    assert lowered[6:] == pytest.approx([rate * FACTOR for rate in plain[6:]])


def test_a_schedule_of_another_kind_is_refused_before_the_first_step(base: Path, gate: Path, tmp_path: Path) -> None:
    import torch

    from harness.training import ForgettingGuard

    model = load(base)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizers = optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=20)
    guard = ForgettingGuard(gate, on_regression="lower_rate")
    with pytest.raises(ConfigError, match="OneCycleLR"):
        trainer(model, base, tmp_path / "out", [guard], optimizers=optimizers).train()


def test_with_patience_a_lost_skill_may_come_back(base: Path, gate: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    from harness.training import ForgettingGuard

    class Lose(TrainerCallback):
        """Loses everything after step 2, and finds it again after the step `back`."""

        def __init__(self, back: int) -> None:
            self.back = back

        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step in (2, self.back):
                for layer in given["model"].model.layers:
                    layer.mlp.down_proj.weight.data.mul_(-1)

    ends = {}
    for back in (4, 100):
        model, seen = load(base), recorder()
        guard = ForgettingGuard(gate, every=1, cost=10, patience=3)
        run = trainer(model, base, tmp_path / str(back), [Lose(back), seen, guard], max_steps=6)
        run.train()
        ends[back] = [bool(look.regressed) for look in guard.looks]
        assert equal(weights(model), seen.at[6 if back == 4 else guard.kept_step])
    assert ends[4] == [False, False, True, True, False, False]
    assert ends[100] == [False, False, True, True, True]
    assert guard.kept_step in (1, 2)


def test_without_a_regression_the_weights_are_those_of_an_unguarded_training(
    base: Path, gate: Path, tmp_path: Path
) -> None:
    from harness.training import ForgettingGuard

    ends = []
    for name in ("plain", "guarded"):
        model = load(base)
        guard = ForgettingGuard(gate, every=3, cost=10)
        run = trainer(model, base, tmp_path / name, [guard] if name == "guarded" else [])
        run.train()
        ends.append((weights(model), run.state.log_history[-2]["loss"]))
    assert len(guard.looks) == 4
    assert guard.regressed is None
    assert equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_the_training_cannot_tell_that_it_was_looked_at(base: Path) -> None:
    import numpy as np
    import torch

    from harness.training.forgetting._model import undisturbed

    model = lora(load(base), lora_dropout=0.1)
    model.train()
    model.base_model.model.model.layers[0].eval()  # a part that someone has set apart
    frozen = next(p for n, p in model.named_parameters() if "lora_A" in n)
    frozen.requires_grad_(False)
    before = [(m.training) for m in model.modules()], [p.requires_grad for p in model.parameters()]
    drawn = [(random.random(), np.random.rand(), torch.rand(1).item())]
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    with undisturbed(model), model.disable_adapter():
        assert not model.training
        assert not torch.is_grad_enabled()
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[1] == drawn[2] != drawn[0]
    assert before == ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
    assert model.active_adapter == "default"


def test_the_baseline_of_an_adapter_is_the_model_without_it(base: Path, gate: Path, tmp_path: Path) -> None:
    """An adapter that has forgotten already is held against the base, not against itself."""
    import torch

    from harness.training import ForgettingGuard

    model = lora(load(base))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    guard = ForgettingGuard(gate, every=1, cost=10)
    start = weights(model)
    trainer(model, base, tmp_path / "out", [guard], max_steps=2).train()
    assert guard.regressed is not None
    assert guard.kept_step == 0
    assert equal(weights(model), start)


@pytest.mark.parametrize("method", ["dora", "ia3", "prefix", "prompt", "p_tuning"])
def test_every_kind_of_adapter_is_looked_at_and_left_as_it_was(
    base: Path, gate: Path, tmp_path: Path, method: str
) -> None:
    from peft import get_peft_model

    from harness.training import ForgettingGuard
    from tests.tiny_models import _peft_config

    ends, guard = [], ForgettingGuard(gate, every=1, cost=100, patience=100)
    for callbacks in ([], [guard]):
        model = get_peft_model(load(base), _peft_config(method, base))
        trainer(model, base, tmp_path / "out", callbacks, max_steps=2).train()
        ends.append(weights(model))
    assert len(guard.looks) == 2
    assert guard.looks[0].comparisons[0].n_failed == 0
    if method in ("dora", "ia3"):  # which start as no change; virtual tokens are a change from the start
        assert guard.looks[0].clear
        assert equal(*ends)


def test_the_baseline_is_asked_once_for_all_trainings_of_the_same_start(base: Path, gate: Path, tmp_path: Path) -> None:
    from harness.training import ForgettingGuard

    asked = []
    for number in range(2):
        model = lora(load(base), lora_alpha=8 + number)
        trainer(model, base, tmp_path / str(number), [ForgettingGuard(gate, cost=10)], max_steps=1).train()
        asked.append(log(tmp_path / str(number))[0]["baseline_tokens"])
    other = load(base)
    other.lm_head.weight.data.mul_(1.01)
    trainer(other, base, tmp_path / "other", [ForgettingGuard(gate, cost=10)], max_steps=1).train()
    asked.append(log(tmp_path / "other")[0]["baseline_tokens"])
    assert asked[0] > 0
    assert asked[1] == 0
    assert asked[2] > 0


@pytest.mark.parametrize("cost", [0.15, 0.4])
def test_looks_keep_to_their_share_of_the_compute(base: Path, gate: Path, tmp_path: Path, cost: float) -> None:
    from harness.training import ForgettingGuard

    shares = []
    for number in range(2):
        guard = ForgettingGuard(gate, every=2, cost=cost)
        trainer(load(base), base, tmp_path / str(number), [guard], max_steps=20).train()
        shares.append(guard.share)
    assert guard.looks
    assert 0 < shares[0] <= cost
    assert shares[0] == shares[1]  # tokens are counted, not seconds
    assert log(tmp_path / "1")[-1]["share"] == shares[1]


def test_a_training_too_small_for_a_look_is_told_so(
    base: Path, gate: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from harness.training import ForgettingGuard

    guard = ForgettingGuard(gate, every=2, cost=0.001)
    trainer(load(base), base, tmp_path / "out", [guard], max_steps=4).train()
    assert not guard.looks
    assert "no look can be afforded" in caplog.text
    assert [line["event"] for line in log(tmp_path / "out")] == ["begin", "skipped", "end"]


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_it_looks_where_the_trainer_evaluates_and_keeps_the_lowest_validation_loss(
    base: Path, gate: Path, tmp_path: Path, strategy: str
) -> None:
    from transformers import AutoTokenizer

    from harness.training import ForgettingGuard

    data = rows(AutoTokenizer.from_pretrained(base), 32)
    when = {"eval_steps": 4} if strategy == "steps" else {"num_train_epochs": 3, "max_steps": -1}
    guard = ForgettingGuard(gate, cost=10)
    run = trainer(
        load(base), base, tmp_path / "out", [guard], data=data, eval_dataset=data[:4], eval_strategy=strategy, **when,
    )  # fmt: skip
    run.train()
    validated = {line["step"]: line["eval_loss"] for line in run.state.log_history if "eval_loss" in line}
    assert [look.step for look in guard.looks] == list(validated) == [4, 8, 12]
    assert [look.loss for look in guard.looks] == list(validated.values())
    assert guard.kept_step == min(validated, key=validated.__getitem__)


def test_a_resumed_training_asks_no_baseline_and_keeps_to_its_plan(base: Path, gate: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    from harness.training import ForgettingGuard

    class Kill(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            control.should_training_stop = state.global_step == 4

    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-5}
    guards = [ForgettingGuard(gate, every=2, cost=0.4) for _ in range(2)]
    whole = load(base)
    trainer(whole, base, tmp_path / "whole", [ForgettingGuard(gate, every=2, cost=0.4)], **settings).train()
    trainer(load(base), base, tmp_path / "out", [Kill(), guards[0]], **settings).train()
    again = load(base)
    trainer(again, base, tmp_path / "out", [guards[1]], **settings).train(resume_from_checkpoint=True)
    assert equal(weights(again), weights(whole))
    begins = [line for line in log(tmp_path / "out") if line["event"] == "begin"]
    assert [line["step"] for line in begins] == [0, 4]
    assert begins[1]["baseline_tokens"] == 0
    assert guards[1]._session._plan == guards[0]._session._plan
    assert guards[1].looks[-1].comparisons[0].n_failed == 0

    (tmp_path / "out" / "forgetting-guard" / "state.json").rename(tmp_path / "state.json")
    unwatched = trainer(load(base), base, tmp_path / "out", [ForgettingGuard(gate, every=2)], **settings)
    with pytest.raises(ConfigError, match="began without ForgettingGuard"):
        unwatched.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))

    (tmp_path / "state.json").rename(tmp_path / "out" / "forgetting-guard" / "state.json")
    for file in (tmp_path / ".harness-cache").iterdir():
        file.unlink()
    lost = trainer(load(base), base, tmp_path / "out", [ForgettingGuard(gate, every=2)], **settings)
    with pytest.raises(ConfigError, match="start the training anew"):
        lost.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))


def test_the_gates_own_baseline_can_be_held_against_a_later_stage(base: Path, gate: Path, tmp_path: Path) -> None:
    """A full training that goes on from forgetful weights: nothing is lost since its own start, all since the base."""
    from harness.training import ForgettingGuard

    found = {}
    for baseline in ("start", "gate"):
        model = load(base)
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.data.mul_(-1)
        guard = ForgettingGuard(gate, every=1, cost=10, baseline=baseline)
        trainer(model, base, tmp_path / baseline, [guard], max_steps=1).train()
        found[baseline] = guard.regressed is not None
    assert found == {"start": False, "gate": True}


def test_mixed_precision_asks_under_the_trainers_autocast(base: Path, gate: Path, tmp_path: Path) -> None:
    from harness.training import ForgettingGuard

    model = load(base)
    guard = ForgettingGuard(gate, every=2, cost=10)
    trainer(model, base, tmp_path / "out", [guard], max_steps=2, bf16=True).train()
    assert guard._session._asking.dtype == "bfloat16"
    assert guard.looks[0].comparisons[0].difference == pytest.approx(0.0, abs=0.1)
    assert next(model.parameters()).dtype.itemsize == 4


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [({"deepspeed": "ds.json"}, ""), ({"fsdp": ["full_shard"]}, ""), ({}, "ACCELERATE_USE_FSDP")],
)
def test_a_sharded_model_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], variable: str
) -> None:
    from harness.training.forgetting._model import refuse_sharded

    if variable:
        monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match="splits it"):
        refuse_sharded(SimpleNamespace(**arguments), load(base), "ForgettingGuard")


def test_a_model_that_writes_nothing_and_a_trainer_without_tokenizer_are_refused(
    base: Path, gate: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    from harness.training import ForgettingGuard

    judge = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    with pytest.raises(ConfigError, match="no language head"):
        trainer(judge, base, tmp_path / "a", [ForgettingGuard(gate)]).train()
    run = trainer(load(base), base, tmp_path / "b", [ForgettingGuard(gate)])
    run.processing_class = run.callback_handler.processing_class = None
    with pytest.raises(ConfigError, match="processing_class"):
        run.train()


def test_a_gate_with_nothing_to_look_at_is_refused_where_the_guard_is_made(gate: Path) -> None:
    from harness.training import ForgettingGuard

    document = yaml.safe_load(gate.read_text(encoding="utf-8"))
    document["suites"][0]["guards"][0] = {"metric": "exact_match", "must_improve": 0.1}
    gate.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ConfigError, match="nothing that ForgettingGuard could look at"):
        ForgettingGuard(gate)


def test_a_four_bit_base_is_looked_at_without_harm_to_its_gradients(base: Path, gate: Path, tmp_path: Path) -> None:
    """On some CPUs bitsandbytes repacks 4-bit weights at the first evaluation, and later gradients are wrong."""
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed

    from harness.training import ForgettingGuard

    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    guard, ends = ForgettingGuard(gate, every=1, cost=10), []
    for callbacks in ([], [guard]):
        set_seed(1)
        loaded = AutoModelForCausalLM.from_pretrained(
            base, quantization_config=quantization, device_map={"": "cpu"}, dtype=torch.float32
        )
        model = lora(prepare_model_for_kbit_training(loaded), lora_dropout=0.1)
        trainer(model, base, tmp_path / "out", callbacks, max_steps=3).train()
        ends.append(weights(model))
    assert [look.clear for look in guard.looks] == [True] * 3
    # Nor is a layer left in the state in which it would repack itself.
    assert not any(getattr(m, "support_avx512bf16_for_cpu", False) for m in model.modules())
    assert equal(*ends)


def test_naming_the_guard_is_what_loads_transformers() -> None:
    import subprocess
    import sys

    code = (
        "import sys, harness.training, harness.training.forgetting, harness.training.forgetting.axolotl;"
        "assert 'transformers' not in sys.modules;"
        "from harness.training import ForgettingGuard;"
        "assert 'transformers' in sys.modules and 'trl' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
