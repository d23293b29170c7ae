"""The axolotl plugin: its shape by itself, and its behaviour under axolotl's own manager where axolotl is installed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.training.forgetting.axolotl import ForgettingGuardPlugin
from tests.scripted_project import project

NAME = "harness.training.forgetting.axolotl.ForgettingGuardPlugin"


def test_the_model_of_our_keys_is_where_axolotl_looks() -> None:
    module, _, name = ForgettingGuardPlugin().get_input_args().rpartition(".")
    model = getattr(importlib.import_module(module), name)
    assert model.model_validate({}).forgetting_guard is None
    assert model.model_validate({"forgetting_guard": {"gate": "g.yaml"}}).forgetting_guard.samples == 64


def test_a_plugin_that_is_told_no_gate_says_so() -> None:
    with pytest.raises(ConfigError, match="forgetting_guard"):
        ForgettingGuardPlugin().add_callbacks_pre_trainer({}, None)


@pytest.mark.slow
def test_it_gives_axolotl_the_guard(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    from harness.training import ForgettingGuard

    cfg = {"forgetting_guard": {"gate": str(project(tmp_path)), "every": 5, "samples": 32, "cost": 0.1}}
    (callback,) = ForgettingGuardPlugin().add_callbacks_pre_trainer(cfg, None)
    assert isinstance(callback, ForgettingGuard)
    assert isinstance(callback, TrainerCallback)
    assert callback._every == 5


@pytest.mark.slow
def test_axolotls_own_manager_loads_it_by_the_name_in_the_yaml(tmp_path: Path) -> None:
    reason = "axolotl is not installed: it pins other versions of torch's libraries than we do"
    base = pytest.importorskip("axolotl.integrations.base", reason=reason, exc_type=ImportError)
    from axolotl.utils.dict import DictDefault

    from harness.training import ForgettingGuard

    manager = base.PluginManager.get_instance()
    manager.register(NAME)
    assert isinstance(manager.plugins[NAME], base.BasePlugin)
    assert manager.get_input_args() == ["harness.training.forgetting.axolotl.ForgettingGuardArgs"]
    cfg = DictDefault({"plugins": [NAME], "forgetting_guard": {"gate": str(project(tmp_path))}})
    (callback,) = manager.add_callbacks_pre_trainer(cfg, None)
    assert isinstance(callback, ForgettingGuard)
    # Every other hook is axolotl's own, so a manager that calls all of them on all plugins finds them.
    manager.pre_model_load(cfg)
    assert manager.get_trainer_cls(cfg) is None
    assert manager.add_callbacks_post_trainer(cfg, None) == []
