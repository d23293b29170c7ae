"""`recipe.yaml` as pydantic models: what is trained on what, in which stages, and the gate that decides.

Paths in the file are relative to the file. Scopes and objectives are narrowed by their plugins' own `Options`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.config import Lines, OpenSection, Section, nearest_line, read_model
from harness.errors import at

Share = Annotated[float, Field(gt=0, lt=1)]


class BaseSection(Section):
    """The model that is trained, loaded as a local subject would be."""

    model: str = Field(description="folder relative to the recipe, or the name of a hub repository")
    revision: str | None = Field(None, description="branch, tag or commit of a hub repository")
    tokenizer: str | None = Field(None, description="folder or hub repository (default: the model's)")
    chat_template: str | None = Field(None, description="file with a Jinja chat template (default: the tokenizer's)")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: str = Field("auto", description="auto is cuda, then mps, then cpu")
    trust_remote_code: tuple[str, ...] = Field((), description="models, by exact name, whose own code may run")


class ScopeSection(OpenSection):
    """What moves; `kind` is the plugin."""

    kind: str = "lora"


class ObjectiveSection(OpenSection):
    """Towards what; `kind` is the plugin."""

    kind: str = "sft"


class SourceSection(Section):
    """Rows: a file (.jsonl, .json, .parquet), a folder of them, or a Hugging Face dataset by name."""

    path: str | None = Field(None, description="file or folder, relative to the recipe")
    dataset: str | None = Field(None, description="name of a dataset on the hub, or a folder that `datasets` saved")
    subset: str | None = Field(None, description="configuration of the dataset")
    split: str = "train"
    revision: str | None = None
    weight: float = Field(1.0, gt=0, description="share of this source among the task's sources, before normalising")
    columns: dict[str, str] = Field(default_factory=dict, description="our column: the source's column")

    @model_validator(mode="after")
    def _one_place(self) -> SourceSection:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give path or dataset, one of them")
        if self.path is not None and (self.subset or self.revision or self.split != "train"):
            raise ValueError("subset, split and revision belong to a dataset, and path names files")
        return self


class ReplaySection(Section):
    """Broader rows mixed in against forgetting; 5 to 20 % is usual."""

    sources: Annotated[tuple[SourceSection, ...], Field(min_length=1)]
    share: Share = Field(0.1, description="of all training rows")
    repeat: bool = Field(False, description="where rows are too few for the share: repeat them, instead of fewer")


class DataSection(Section):
    """The rows of a stage and what is done with them before anything is trained."""

    train: Annotated[tuple[SourceSection, ...], Field(min_length=1)]
    replay: ReplaySection | None = None
    mixture: Literal["as-is", "weighted"] = Field(
        "as-is", description="weighted: sources, replay's too, are sampled by weight"
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="share of rows, whole clusters only")
    near_duplicates: float | None = Field(0.85, gt=0, le=1, description="Jaccard similarity; null: exact only")
    redact: Literal["off", "report", "replace"] = Field("report", description="personal data and secrets in the rows")
    presidio: bool = Field(False, description="also let Presidio look for personal data (extra: presidio)")
    contaminated: Literal["refuse", "drop"] = Field("refuse", description="rows that overlap with a frozen set")
    allow_contaminated: tuple[str, ...] = Field(
        (), description="overlapping rows that may stay, as the error names them: FILE:LINE, or DATASET[INDEX]"
    )


class SettingsSection(Section):
    """How it is trained; the same words for every objective."""

    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1, description="optimiser steps; outranks epochs")
    learning_rate: float | None = Field(None, gt=0, description="default: 2e-4 for adapters, 1e-5 for all weights")
    scheduler: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    batch_size: int = Field(8, ge=1, description="rows on the device at a time")
    gradient_accumulation: int = Field(1, ge=1, description="batches an optimiser step")
    max_length: int | None = Field(1024, ge=2, description="tokens of a row; null: the model's context")
    too_long: Literal["refuse", "drop", "cut"] = Field("refuse", description="rows longer than max_length")
    optimizer: str | None = Field(None, description="transformers' name of it; default: adamw_torch, paged for QLoRA")
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, ge=0)
    activation_checkpointing: bool = Field(False, description="less memory, a third more time")
    eval_every: int | None = Field(None, ge=1, description="steps between evaluations; default: ten in a training")
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints; default: eval_every")
    patience: int | None = Field(None, ge=1, description="evaluations without a lower validation loss before it stops")


class EwcSection(Section):
    """Elastic weight consolidation (Kirkpatrick et al. 2017)."""

    strength: float = Field(gt=0)
    samples: int = Field(256, ge=1, description="rows of the Fisher estimate")
    fisher: Literal["empirical", "true"] = Field("empirical", description="true: of tokens that the base itself draws")
    rows: tuple[SourceSection, ...] = Field((), description="where they are from (default: the replay rows)")


class GuardingSection(Section):
    """`ForgettingGuard` at work while training."""

    every: int | None = Field(None, ge=1, description="steps between looks; default: at every evaluation")
    samples: int = Field(64, ge=1, description="frozen samples of a suite at a look, at most")
    cost: float = Field(0.15, gt=0, description="most of the training's compute that looks may take")
    patience: int = Field(1, ge=1, description="looks in a row that must show a regression before training stops")
    on_regression: Literal["stop", "lower_rate"] = Field(
        "stop", description="lower_rate: go on from the kept weights at a third of the learning rate"
    )


class ForgettingSection(Section):
    """What keeps old skills while a new one is learned."""

    guard: GuardingSection | None = GuardingSection()
    l2_sp: float | None = Field(None, gt=0, description="strength of the pull to the starting weights (Li et al. 2018)")
    ewc: EwcSection | None = None


class StageSection(Section):
    """One training. It goes on from what the stage before left, unless it says otherwise."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    objective: ObjectiveSection = ObjectiveSection()
    data: DataSection
    settings: SettingsSection = SettingsSection()
    forgetting: ForgettingSection = ForgettingSection()
    starts_from: str | None = Field(None, description="an earlier stage, or base; default: the stage before")
    gate: bool = Field(False, description="gate this stage's result, and stop where it is not promoted")


class MergeSection(Section):
    """Several adapters into one, by PEFT's add_weighted_adapter."""

    stages: Annotated[tuple[str, ...], Field(min_length=2)]
    method: Literal["linear", "ties", "dare_linear", "dare_ties"] = "ties"
    weights: tuple[float, ...] = Field((), description="one a stage; default: equal, summing to 1")
    density: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="kept share of each delta (ties, dare)")


class Recipe(Section):
    """A whole recipe.yaml."""

    base: BaseSection
    scope: ScopeSection = ScopeSection()
    stages: Annotated[tuple[StageSection, ...], Field(min_length=1)]
    merge: MergeSection | None = None
    gate: str = Field(description="the gate.yaml that decides; its golden sets are frozen before anything is trained")
    out: str = Field("adapters", description="folder that receives a folder for each stage")
    seed: int = 0

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        seen = ["base"]
        for stage in self.stages:
            if stage.name == "merged":
                raise ValueError("merged is the folder of a merge, so no stage has that name")
            if stage.name in seen:
                raise ValueError(f"a second stage named {stage.name!r}" if stage.name != "base" else "no stage is base")
            if stage.starts_from is not None and stage.starts_from not in seen:
                raise ValueError(f"stage {stage.name} starts from {stage.starts_from!r}, which is no earlier stage")
            seen.append(stage.name)
        for name in self.merge.stages if self.merge else ():
            if name not in seen[1:]:
                raise ValueError(f"merge: there is no stage {name!r}")
        return self


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe with where it came from."""

    recipe: Recipe
    path: Path
    lines: Lines

    @property
    def folder(self) -> Path:
        """Folder of the file, where its relative paths start."""
        return self.path.parent

    def where(self, *keys: str | int) -> str:
        """`file:line: key.path` of a place in the file, for an error that is found later."""
        return at(self.path, nearest_line(self.lines, keys)) + ".".join(str(k) for k in keys)


def load_recipe(path: Path) -> LoadedRecipe:
    """Read a recipe.yaml.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest known one is named) or a wrong value.
    """
    recipe, lines = read_model(path, Recipe, "base, stages and gate")
    return LoadedRecipe(recipe, path.resolve(), lines)


def json_schema() -> dict[str, Any]:
    """JSON schema of recipe.yaml, for editors."""
    return Recipe.model_json_schema()
