"""`StopOnNaN`: the step that would break the weights is not made, and weights that are broken already are put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TinyModels
from tests.forgetting_project import equal, load, recorder, trainer, weights

pytestmark = pytest.mark.slow


@pytest.fixture
def base(tiny: TinyModels) -> Path:
    return tiny.model()


class Breaking:
    """A loss that is not a number from its `at`-th call on."""

    def __init__(self, at: int, value: float) -> None:
        self.calls, self.at, self.value = 0, at, value

    def __call__(self, outputs: Any, labels: Any, **_: Any) -> Any:
        self.calls += 1
        return outputs.logits.float().pow(2).mean() * (self.value if self.calls >= self.at else 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training_and_says_the_step(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    from harness.training.forgetting import StopOnNaN

    model, seen, stop = load(base), recorder(), StopOnNaN(every=2)
    run = trainer(
        model, base, tmp_path, [seen, stop], compute_loss_func=Breaking(8, value), learning_rate=1e-4,
        gradient_accumulation_steps=1,
    )  # fmt: skip
    run.train()
    assert stop.stopped_at == 8
    assert stop.kept_step == 6  # of the weights that are known to give a finite loss, the last that were copied
    assert equal(weights(model), seen.at[6])
    assert equal(seen.at[7], seen.at[8])  # the eighth step was not made
    assert "step 8" in caplog.text
    assert "weights of step 6" in caplog.text
    assert not (tmp_path / "last-good.safetensors").exists()


def test_weights_that_are_broken_already_are_put_back(base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import TrainerCallback

    from harness.training.forgetting import StopOnNaN

    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 5:
                given["model"].lm_head.weight.data.fill_(float("inf"))

    model, stop = load(base), StopOnNaN(every=1)
    trainer(model, base, tmp_path, [stop, Break()], learning_rate=1e-4).train()
    assert stop.stopped_at == 6
    assert stop.kept_step == 4
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_start_that_gives_no_number_trains_nothing(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from harness.training.forgetting import StopOnNaN

    model, stop = load(base), StopOnNaN()
    start = weights(model)
    trainer(model, base, tmp_path, [stop], compute_loss_func=Breaking(1, float("nan"))).train()
    assert stop.stopped_at == 1
    assert equal(weights(model), start)
    assert "Nothing was trained" in caplog.text


def test_a_sound_training_is_left_alone(base: Path, tmp_path: Path) -> None:
    from harness.training.forgetting import StopOnNaN

    ends = []
    for callbacks in ([], [StopOnNaN(every=1)]):
        model = load(base)
        trainer(model, base, tmp_path, callbacks, learning_rate=1e-4).train()
        ends.append(weights(model))
    assert equal(*ends)
