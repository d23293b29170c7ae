"""The guard as an axolotl plugin, for its YAML to name:

    plugins:
      - harness.training.forgetting.axolotl.ForgettingGuardPlugin
    forgetting_guard:
      gate: gate.yaml
      samples: 64

axolotl imports this module by that name and calls every hook of every plugin, so the class inherits axolotl's own
`BasePlugin`. Paths are relative to where axolotl is started. Written against axolotl 0.19.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ConfigError

try:
    from axolotl.integrations.base import BasePlugin  # type: ignore[import-not-found]  # not among our extras
except ImportError:  # axolotl loads this module; without axolotl there is nobody to call the other hooks
    BasePlugin = object

_PLUGIN = "harness.training.forgetting.axolotl.ForgettingGuardPlugin"


class GuardKeys(BaseModel):
    """The keys under `forgetting_guard`; they mean what `ForgettingGuard`'s arguments mean."""

    model_config = ConfigDict(extra="forbid")

    gate: str = Field(description="the gate.yaml whose frozen samples are looked at")
    every: int | None = Field(None, ge=1, description="steps between looks; default: at every evaluation")
    samples: int = Field(64, ge=1, description="frozen samples of a suite at a look, at most")
    cost: float = Field(0.15, gt=0, description="most of the training's compute that looks may take")
    patience: int = Field(1, ge=1, description="looks in a row that must show a regression before training stops")
    on_regression: Literal["stop", "lower_rate"] = Field(
        "stop", description="lower_rate: go on from the kept weights at a third of the learning rate"
    )


class ForgettingGuardArgs(BaseModel):
    """What the plugin adds to axolotl's configuration."""

    forgetting_guard: GuardKeys | None = None


class ForgettingGuardPlugin(BasePlugin):  # type: ignore[misc]  # a class of another package, or `object`
    """See the module."""

    def get_input_args(self) -> str:
        """Where axolotl finds the model of our keys."""
        return f"{__name__}.{ForgettingGuardArgs.__name__}"

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        """The guard, for every trainer that axolotl builds.

        Raises:
            ConfigError: the plugin is named but not told which gate.
        """
        given = cfg.get("forgetting_guard")
        if not given:
            raise ConfigError(
                f"axolotl's YAML names the plugin {_PLUGIN} but has no `forgetting_guard: {{gate: FILE}}`"
            )
        keys = given if isinstance(given, GuardKeys) else GuardKeys.model_validate(dict(given))
        from harness.training.forgetting.guard import ForgettingGuard  # loads transformers

        return [ForgettingGuard(Path(keys.gate), **keys.model_dump(exclude={"gate"}))]
