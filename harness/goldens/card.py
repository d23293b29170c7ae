"""`card.yaml`: what a golden set is, how its samples are asked, and by which metrics the answers are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.config import read_yaml
from harness.errors import ConfigError, DataError, at
from harness.plugins import explain

CARD_NAME = "card.yaml"


@dataclass(frozen=True, slots=True)
class MetricUse:
    """A metric plugin's id with the options that the user gave it."""

    id: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any) -> MetricUse:
        """From `exact_match` or `{exact_match: {strict: true}}`; ValueError for anything else."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value:
            return cls(value)
        if isinstance(value, dict) and len(value) == 1:
            ((name, options),) = value.items()
            if isinstance(name, str) and (options is None or isinstance(options, dict)):
                return cls(name, options or {})
        raise ValueError("write a metric as its id, or as {id: {option: value}}")


class Generation(BaseModel):
    """How text is asked for; the same for both subjects."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_tokens: int = Field(256, gt=0, description="tokens of the answer at most")
    until: tuple[str, ...] = Field((), strict=False, description="strings that end the answer; not part of it")
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False, strict=False, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, strict=False)
    seed: int = 0

    @field_validator("until", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("until")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty string would end every answer at once")
        return value


class Parameters(BaseModel):
    """How one row is asked, where that differs from its card: what a recorded request was asked with."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_tokens: int | None = Field(None, gt=0)
    until: tuple[str, ...] | None = Field(None, strict=False)
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False, strict=False)
    top_p: float | None = Field(None, gt=0, le=1, strict=False)
    seed: int | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class Card(BaseModel):
    """A whole card.yaml. `name` and `version` repeat the folders, so that a copied folder is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str
    version: str
    description: Annotated[str, Field(min_length=1)]
    licence: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1, description="where the samples come from")]
    metrics: tuple[MetricUse, ...] = Field(description="ids, or {id: options}; [] for a set that only judges score")
    generation: Generation = Generation()
    cluster_key: str | None = Field(None, description="field of a row whose value names the sample's cluster")
    largest_cluster: Annotated[int, Field(ge=0)] = Field(
        0, description="most samples that any cluster of the stream could give when the set was drawn; 0: not known"
    )
    tags: dict[str, str] = Field(default_factory=dict, description="every tag that a row may carry, and its meaning")

    @field_validator("metrics", mode="before")
    @classmethod
    def _parse_metrics(cls, value: Any) -> Any:
        return tuple(MetricUse.parse(v) for v in value) if isinstance(value, list) else value

    @field_validator("version", mode="before")
    @classmethod
    def _whole_version(cls, value: Any) -> Any:
        if isinstance(value, bool | float):
            raise ValueError(f'YAML reads this as {value!r}; put the version in quotes, for example "1.0"')
        return str(value) if isinstance(value, int) else value


def load_card(folder: Path) -> Card:
    """The card in `folder`.

    Raises:
        DataError: it is missing, or its name or version is not that of its folders.
        ConfigError: it is not YAML, a key is unknown (the nearest is named), missing or wrong.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise DataError(f"{at(path)}no such file; every version of a golden set has a card")
    document, lines = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{at(path)}expected a mapping with name, version, metrics …")
    try:
        card = Card.model_validate(document)
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        model = Generation if len(place) > 1 and place[0] == "generation" else Card
        raise ConfigError(f"{at(path, lines.get(place) or lines.get(place[:1]))}{explain(error, model)}") from error
    expected = (folder.parent.name, folder.name)
    if (card.name, card.version) != expected:
        raise DataError(f"{at(path)}the card says {card.name}@{card.version}, its folder {expected[0]}@{expected[1]}")
    return card
