"""JSON that a model wrote: parsed strictly, compared as JSON, held against a schema that can do no harm."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from harness.errors import ConfigError
from harness.metrics._patterns import compile_bounded

MISSING = object()
"""Stands for a document that is none, because every value of JSON may be meant."""

PATTERN_SECONDS = 1.0
SCHEMA_SECONDS = 2.0  # of processor time, for one document

_FENCE = re.compile(r"\s*```[a-zA-Z]*[ \t]*\r?\n(.*?)\r?\n?[ \t]*```\s*", re.DOTALL)


class TooSlow(Exception):
    """Matching a schema's pattern, or the schema as a whole, took too long."""


class Limited:
    """A validator that gives up: definitions that name each other twice are a short schema and endless steps."""

    def __init__(self) -> None:
        self.inner: Any = None
        self._clock = threading.local()

    def is_valid(self, document: Any) -> bool:
        """Whether a document fits; raises TooSlow."""
        self._clock.until = time.thread_time() + SCHEMA_SECONDS
        return bool(self.inner.is_valid(document))

    def watched(self, check: Callable[..., Any]) -> Callable[..., Any]:
        """A keyword's check, which is not begun any more once the time is up."""

        def step(*given: Any) -> Any:
            if time.thread_time() > self._clock.until:
                raise TooSlow
            return check(*given)

        return step


def parse(text: str, fence: bool) -> Any:
    """The document in `text`, or `MISSING`. NaN and Infinity are not JSON, whatever Python's parser thinks."""
    match = _FENCE.fullmatch(text) if fence else None
    try:
        return json.loads(match[1] if match else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return MISSING


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def equal(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, true and 1 are not, and the order of keys says nothing."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def validator(schema: Any) -> Limited:
    """A validator that neither fetches a `$ref` nor lets a pattern, or the schema as a whole, run for ever."""
    import jsonschema
    import referencing
    from jsonschema.validators import extend, validator_for

    if schema is MISSING:
        raise ConfigError("there is no schema, neither in the options nor in the row")
    if not isinstance(schema, dict | bool):
        raise ConfigError("the schema must be an object")
    base: Any = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        base.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"not a valid JSON schema: {error.message}") from error
    if "patternProperties" in json.dumps(schema):
        raise ConfigError("patternProperties is not supported: its matching cannot be limited in time")
    make: Any = extend  # ships without types
    limited = Limited()
    steps = {name: limited.watched(check) for name, check in base.VALIDATORS.items()}
    extended = make(base, {**steps, "pattern": _limited_pattern})
    limited.inner = extended(schema, registry=referencing.Registry())
    return limited


def _limited_pattern(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    import jsonschema

    if not validator.is_type(instance, "string"):
        return
    try:
        found = compile_bounded(pattern).search(instance, timeout=PATTERN_SECONDS)
    except TimeoutError as error:
        raise TooSlow from error
    if not found:
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")
