"""Dialects: vocabularies in which spans say that a model was asked; one file each, found by its name.

A plugin holds `Options` (no dialect has any so far) and `build(options) -> Dialect`. A dialect says how sure it is that
a span is one request to a model in its vocabulary, and reads such a span; it has no part in what all vocabularies share
(ids, times, errors, sessions, whether the call can be asked again), which `harness.traces.normal` adds. Reading never
fails: what makes no sense is a loss, named in the reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from harness.traces._reading import Reading
from harness.traces._trace import Trace
from harness.traces.records import Obstacle, Span


class NoOptions(BaseModel):
    """A dialect without options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One vocabulary.

    `version` changes when the same span would be read otherwise. `recognise` gives 0 for a span that is no request to a
    model in this vocabulary, otherwise how sure that is, up to 1; the surest dialect reads the span. `carries` are the
    parameters (of `records.PARAMETERS`) that are recorded whenever they are set: only for these does "not there" mean
    "not set". `settings` says for each obstacle which setting of the instrumented service would lift it.
    """

    name: str
    version: str
    recognise: Callable[[Span], float]
    read: Callable[[Span, Trace], Reading]
    carries: frozenset[str]
    settings: Mapping[Obstacle, str] = field(default_factory=dict)
