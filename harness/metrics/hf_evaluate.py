"""Any metric of the Hugging Face `evaluate` library, computed sample by sample.

Direction, bounds and chance are what the user declares; a value outside the bounds is a failed score. **A metric of
that library is a Python script, and building this metric runs it, unconfined.** So only what the user's own gate.yaml
names is loaded, and a golden set's card may not name one. Offline, a bare name such as `rouge` is found only if its
script is in the library's cache already; give `path`, a folder or file of yours, to need no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from harness.errors import ConfigError
from harness.metrics._options import MetricOptions
from harness.metrics._text import answer_and_targets
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"
LOADS_CODE = True


class Options(MetricOptions):
    """Options of `hf_evaluate`; the metric is called what `result_key` says unless it is given a name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metric": "exact_match", "result_key": "exact_match"}]})

    metric: str | None = Field(None, pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$", description="name on the Hugging Face hub")
    path: Path | None = Field(None, description="local folder or file with the metric's script, instead of a name")
    config: str | None = Field(None, description="configuration name, where the metric has several")
    result_key: str = Field(min_length=1, description="key of the result that is the score")
    bounds: tuple[float, float] = Field((0.0, 1.0), description="smallest and largest possible score")
    higher_is_better: bool = True
    chance: float = 0.0
    references: Literal["first", "all"] = Field("first", description="pass the first target, or the list of all")
    arguments: dict[str, Any] = Field(default_factory=dict, description="further arguments of compute()")

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if (self.metric is None) == (self.path is None):
            raise ValueError("give metric or path, one of the two")
        if not all(map(math.isfinite, self.bounds)) or self.bounds[0] >= self.bounds[1]:
            raise ValueError("bounds must be two finite numbers, the smaller one first")
        if not self.bounds[0] <= self.chance <= self.bounds[1]:
            raise ValueError("chance must lie within the bounds")
        return self


class HfEvaluate:
    """See the module."""

    def __init__(self, options: Options, module: Any) -> None:
        self._options, self._module = options, module
        self.spec = MetricSpec(
            options.named(options.result_key), options.higher_is_better, options.bounds, options.chance
        )

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """`result_key` of the metric's result for this one sample; failed when there is no finite number there."""
        asked = answer_and_targets(sample, outputs)
        if isinstance(asked, Score):
            return asked
        text, targets = asked
        reference = list(targets) if self._options.references == "all" else targets[0]
        try:
            result = self._module.compute(predictions=[text], references=[reference], **self._options.arguments)
        except Exception as error:  # someone else's code: whatever it raises, there is no observation
            return Score.failed(f"{self.spec.name} raised {type(error).__name__}: {error}")
        return self.spec.checked(self._number(result))

    def _number(self, result: Any) -> Score:
        key = self._options.result_key
        if not isinstance(result, dict) or key not in result:
            keys = sorted(map(str, result)) if isinstance(result, dict) else result
            return Score.failed(f"the result holds no {key!r}: {keys}")
        value = result[key]
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        try:
            number = float(value)
        except (TypeError, ValueError):
            return Score.failed(f"{key} is no number: {value!r}")
        return Score.of(number) if math.isfinite(number) else Score.failed(f"{key} is {number}")


def build(options: Options) -> HfEvaluate:
    """The metric; needs evaluate, and runs the script that the options name.

    Raises:
        ConfigError: the script cannot be found or loaded.
    """
    import evaluate

    where = str(options.path) if options.path is not None else str(options.metric)
    if options.path is not None and not options.path.exists():
        raise ConfigError(f"hf_evaluate: {where}: no such file or folder")
    try:
        module = evaluate.load(where, config_name=options.config, keep_in_memory=True)
    except ImportError as error:
        raise ConfigError(f"hf_evaluate: {where} needs a package that is not installed: {error}") from error
    except Exception as error:  # evaluate reports a missing script by any of half a dozen exceptions
        hint = "" if options.path else "; offline, save its folder (with its .py file) and name that as path"
        raise ConfigError(f"hf_evaluate: {where} cannot be loaded: {str(error).splitlines()[0]}{hint}") from error
    return HfEvaluate(options, module)
