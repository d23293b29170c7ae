"""What a recipe comes to, checked before anything is computed: plugins, files, frozen sets, impossible pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import plugins
from harness.adapters import weights_hash
from harness.config import LoadedConfig, Part, load_gate
from harness.errors import ConfigError, DataError
from harness.gate import Plan, make_plan
from harness.records import Sample
from harness.subjects import _files
from harness.training import merging
from harness.training.forgetting._looks import watchable
from harness.training.loading import find_base, load_tokenizer, tokenizer_of, tokenizer_sha256
from harness.training.objectives import Objective
from harness.training.recipe import LoadedRecipe, StageSection
from harness.training.scopes import Scope

_LOADED = ("local", "classifier")
"""Kinds of subject whose weights are on this machine, so that they can be held against the base's."""

_PROBE = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage with its objective, and the name of the stage that it goes on from (none: the base)."""

    section: StageSection
    objective: Objective
    starts_from: str | None


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A whole recipe, ready to be trained. `frozen` are the gate's samples by suite: what no row may overlap with."""

    loaded: LoadedRecipe
    gate: LoadedConfig
    gate_plan: Plan
    base: _files.ModelFiles
    base_sha256: str
    tokenizer: Any
    tokenizer_sha256: str
    scope: Scope
    stages: tuple[StagePlan, ...]

    @property
    def out(self) -> Path:
        """The folder that receives a folder for each stage."""
        return self.loaded.folder / self.loaded.recipe.out

    @property
    def frozen(self) -> Mapping[str, Sequence[Sample]]:
        """Samples by the name of their suite; all of them, whichever part of them this plan is judged on."""
        return {state.suite.name: state.suite.samples() for state in self.gate_plan.states}

    def folder(self, stage: str) -> Path:
        """Where a stage leaves what it trained."""
        return self.out / stage


def make_training_plan(loaded: LoadedRecipe, part: Part = "verdict") -> TrainingPlan:
    """Check everything that can be checked without loading weights; `part` is which frozen samples will judge.

    Raises:
        UsageError: the recipe names something that does not exist, does not fit, or cannot be trained together.
        LockError: a golden set of the gate is not frozen, or is not what was frozen.
        SubjectError: the base is not there or is unsafe to load.
    """
    recipe = loaded.recipe
    scope = _scope(loaded)
    stages = tuple(_stages(loaded, scope))
    _refuse_merge(loaded, scope, stages)
    gate = replace(load_gate(loaded.folder / recipe.gate), part=part)
    gate_plan = make_plan(gate)
    _refuse_blind_guard(gate_plan, loaded, stages)
    base = find_base(recipe.base, loaded.folder)
    _refuse_config(loaded, scope, base)
    sha256 = weights_hash(base.folder)
    _same_base(loaded, gate, base, sha256)
    tokenizer = load_tokenizer(recipe.base, base, loaded.folder)
    _same_template(loaded, gate, tokenizer)
    digest = tokenizer_sha256(recipe.base, base, loaded.folder)
    return TrainingPlan(loaded, gate, gate_plan, base, sha256, tokenizer, digest, scope, stages)


def _scope(loaded: LoadedRecipe) -> Scope:
    section, where = loaded.recipe.scope, loaded.where("scope")
    options = plugins.options("training.scopes", section.kind, section.options, where=where)
    try:
        scope: Scope = plugins.load("training.scopes", section.kind).build(options)
    except ImportError as error:
        raise ConfigError(f"{where}: {plugins.missing_extra(f'scope {section.kind!r}', error)}") from error
    return scope


def _stages(loaded: LoadedRecipe, scope: Scope) -> list[StagePlan]:
    planned: list[StagePlan] = []
    for index, section in enumerate(loaded.recipe.stages):
        where = loaded.where("stages", index, "objective")
        chosen = section.objective
        options = plugins.options("training.objectives", chosen.kind, chosen.options, where=where)
        try:
            objective: Objective = plugins.load("training.objectives", chosen.kind).build(options)
        except ImportError as error:
            raise ConfigError(f"{where}: {plugins.missing_extra(f'objective {chosen.kind!r}', error)}") from error
        if refusal := objective.refusal(scope):
            raise ConfigError(f"{where}: {refusal}")
        if section.gate and objective.head == "reward":
            raise ConfigError(
                f"{loaded.where('stages', index, 'gate')}: a reward model answers nothing that a gate could ask; take "
                "gate out here, and gate the stage that learns from its rewards"
            )
        planned.append(StagePlan(section, objective, _before(loaded, index, objective, planned)))
    return planned


def _before(loaded: LoadedRecipe, index: int, objective: Objective, planned: Sequence[StagePlan]) -> str | None:
    """The stage that number `index` goes on from: one with the same head, or what it had learned would be lost."""
    said = loaded.recipe.stages[index].starts_from
    if said == "base" or (said is None and not planned):
        return None
    before = next(stage for stage in reversed(planned) if said in (None, stage.section.name))
    if before.objective.head != objective.head:
        where = loaded.where("stages", index)
        raise ConfigError(
            f"{where}: stage {before.section.name} trains a {before.objective.head} head, which objective "
            f"{objective.name} cannot go on from; say starts_from: base, or the name of another stage"
        )
    return before.section.name


def _refuse_merge(loaded: LoadedRecipe, scope: Scope, stages: Sequence[StagePlan]) -> None:
    section = loaded.recipe.merge
    if section is None:
        return
    heads = {stage.section.name: stage.objective.head for stage in stages}
    if why := merging.refusal(section, scope, loaded.recipe.scope.options, heads):
        raise ConfigError(f"{loaded.where('merge')}: {why}")


def _refuse_blind_guard(plan: Plan, loaded: LoadedRecipe, stages: Sequence[StagePlan]) -> None:
    """Raise where a stage is to be watched, and the gate has nothing that could be looked at."""
    for index, stage in enumerate(stages):
        if stage.objective.head == "language" and stage.section.forgetting.guard is not None:
            try:
                watchable(plan)
            except ConfigError as error:
                where = loaded.where("stages", index, "forgetting")
                raise ConfigError(f"{where}: {error}, or train unwatched with forgetting: {{guard: null}}") from error


def _refuse_config(loaded: LoadedRecipe, scope: Scope, base: _files.ModelFiles) -> None:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base.folder, trust_remote_code=base.remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{loaded.where('base', 'model')}: its config.json cannot be read: {error}") from error
    if refusal := scope.refusal(config):
        raise ConfigError(f"{loaded.where('scope')}: {refusal}")


def _same_base(loaded: LoadedRecipe, gate: LoadedConfig, base: _files.ModelFiles, sha256: str) -> None:
    """What is trained has to be compared with what it was before.

    Raises:
        ConfigError: the gate's baseline is not the recipe's base.
        DataError: the gate asks nothing.
    """
    section = gate.gate.baseline
    model = section.options.get("model")
    if section.kind not in _LOADED or model is None or section.options.get("adapter") is not None:
        raise ConfigError(
            f"{gate.where('baseline')}: the baseline has to be the recipe's base model itself, loaded here and without "
            "an adapter, so that the gate compares the result with what it was made from"
        )
    if section.kind == "local" and not _writes(base):
        raise ConfigError(
            f"{gate.where('baseline')}: {model} is no causal language model, so there is nothing that it could answer; "
            "let the baseline be of kind: classifier, with this model and the head that is in use"
        )
    files = _files.find_model(
        model, section.options.get("revision"), gate.folder, section.options.get("trust_remote_code", ())
    )
    if weights_hash(files.folder) != sha256:
        raise ConfigError(
            f"{loaded.where('base', 'model')}: {loaded.recipe.base.model} has other weights than the baseline of "
            f"{gate.path.name} ({model}); the gate has to compare the result with what it was made from"
        )
    if not gate.gate.suites:
        raise DataError(f"{gate.path}: a gate without suites protects nothing")


def _writes(base: _files.ModelFiles) -> bool:
    """Whether a model was made to write text; one that its own code lays out is taken at its word."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    built = _files._json(base.folder / "config.json").get("architectures") or []
    return base.remote_code or not built or any(name in KNOWN.values() for name in built)


def _same_template(loaded: LoadedRecipe, gate: LoadedConfig, tokenizer: Any) -> None:
    """What is trained on one chat template and asked with another answers worse than it could.

    Raises:
        ConfigError: recipe and gate make different texts of a conversation.
    """
    asked = tokenizer_of(gate.gate.baseline.options, gate.folder)
    if asked is None or not tokenizer.chat_template or not asked.chat_template:
        return
    if _rendered(tokenizer) != _rendered(asked):
        raise ConfigError(
            f"{loaded.where('base')}: the chat template makes other texts than that of the baseline in "
            f"{gate.path.name}; give both the same tokenizer and chat_template"
        )


def _rendered(tokenizer: Any) -> str:
    """A conversation as the template writes it; the template itself where it refuses this one."""
    try:
        return str(tokenizer.apply_chat_template(_PROBE, tokenize=False))
    except Exception:  # a template is code of its author; jinja2 lets its exceptions through
        return str(tokenizer.chat_template)  # two that refuse are alike only where they are the same
