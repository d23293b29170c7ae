"""JSON: whether the output parses, satisfies a schema, or which share of the expected fields it gets right.

Bounds 0 to 1, higher is better, chance 0. The whole output must be one JSON document, alone or in one Markdown fence.
The schema is the option `schema`, the file `schema_file`, or the field `schema` of the row; it is JSON Schema as its
`$schema` says, else draft 2020-12. A `$ref` is followed inside the schema only, never over the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from harness.errors import ConfigError, at
from harness.metrics._json import MISSING, PATTERN_SECONDS, SCHEMA_SECONDS, TooSlow, equal, parse, validator
from harness.metrics._options import MetricOptions
from harness.metrics._text import answer, references
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"


class Options(MetricOptions):
    """Options of `json`; the metric is called json_parses, json_schema or json_fields unless it is given a name."""

    model_config = ConfigDict(populate_by_name=True)

    mode: Literal["parses", "schema", "fields"] = "parses"
    fence: bool = Field(True, description="accept the document in a Markdown code fence")
    inline_schema: dict[str, Any] | None = Field(None, alias="schema", description="with mode schema: for all samples")
    schema_file: Path | None = Field(None, description="the same, in a file")
    count_extra: bool = Field(False, description="with mode fields: a field that was not expected counts as wrong")

    @model_validator(mode="after")
    def _fits_mode(self) -> Options:
        if self.inline_schema is not None and self.schema_file is not None:
            raise ValueError("give schema or schema_file, not both")
        if self.mode != "schema" and (self.inline_schema is not None or self.schema_file is not None):
            raise ValueError("a schema needs mode: schema")
        if self.mode != "fields" and self.count_extra:
            raise ValueError("count_extra needs mode: fields")
        return self


class Json:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._validator: Any = None
        self.spec = MetricSpec(options.named(f"json_{options.mode}"))
        schema = _schema_of(options)
        if options.mode == "schema":
            checked = validator({} if schema is None else schema)  # a missing package is noticed here, not at scoring
            self._validator = None if schema is None else checked

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """0 for an output that is no JSON, else by `mode`; failed without the schema or the expected fields."""
        text = answer(outputs)
        if isinstance(text, Score):
            return text
        document = parse(text, self._options.fence)
        if self._options.mode == "schema":
            return self._against_schema(sample, document)
        if self._options.mode == "fields":
            return self._fields(sample, document)
        return Score.of(document is not MISSING)

    def _against_schema(self, sample: Sample, document: Any) -> Score:
        try:
            applied = self._validator or validator(sample.data.get("schema", MISSING))
        except ConfigError as error:
            return Score.failed(f"sample {sample.id!r}: {error}")
        if document is MISSING:
            return Score.of(0)
        try:
            return Score.of(applied.is_valid(document))
        except TooSlow:
            return Score.failed(
                f"the schema took longer than {SCHEMA_SECONDS:g} s, or a pattern of it than {PATTERN_SECONDS:g} s"
            )
        except Exception as error:  # an unresolvable $ref and other faults of the schema, by any of its libraries
            return Score.failed(f"the schema cannot be applied: {type(error).__name__}: {error}")

    def _fields(self, sample: Sample, document: Any) -> Score:
        targets = references(sample)
        if isinstance(targets, Score):
            return targets
        expected = [parse(t, fence=False) for t in targets]
        if any(not isinstance(e, dict | list) or not e for e in expected):
            return Score.failed(f"a target of sample {sample.id!r} is no JSON object or list with fields in it")
        given = {} if document is MISSING else dict(_leaves(document))
        return Score.of(max(self._share(given, dict(_leaves(e))) for e in expected))

    def _share(self, given: dict[str, Any], expected: dict[str, Any]) -> float:
        right = sum(equal(given.get(place, MISSING), value) for place, value in expected.items())
        return right / len(given.keys() | expected if self._options.count_extra else expected)


def _schema_of(options: Options) -> Any:
    if options.schema_file is None:
        return options.inline_schema
    try:
        return json.loads(options.schema_file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{at(options.schema_file)}not a JSON schema: {error}") from error


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(JSON pointer, value) of everything in `value` that holds nothing itself; empty containers are such."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{place}/{index}")
    else:
        yield place, value


def build(options: Options) -> Json:
    """The metric; mode `schema` needs jsonschema.

    Raises:
        ConfigError: the schema is missing, unreadable or no JSON schema.
    """
    return Json(options)
