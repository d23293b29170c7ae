"""Presidio (Microsoft), where it is installed: names, places, dates of birth and other things that no pattern knows."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from harness import plugins
from harness.errors import PluginError
from harness.redaction import Finder, Span

_LEAST_SCORE = 0.5  # Presidio's confidence, 0 to 1; below are patterns without context, such as any eight digits


def finder(language: str = "en") -> Finder:
    """A finder for `redaction.find`, with Presidio's own recognisers and the language model that it is set up with.

    Raises:
        PluginError: Presidio or its language model is not installed.
    """
    try:
        analyzer = importlib.import_module("presidio_analyzer")
    except ImportError as error:
        raise PluginError(plugins.missing_extra("presidio: true", error)) from error
    try:
        engine = analyzer.AnalyzerEngine()
    except (Exception, SystemExit) as error:  # without its language model it tries to download it, and ends the program
        raise PluginError(f"presidio: true: Presidio does not start: {error}; install its language model") from error

    def found(text: str) -> Iterable[Span]:
        results = engine.analyze(text=text, language=language)
        return [Span(r.start, r.end, r.entity_type.lower()) for r in results if r.score >= _LEAST_SCORE]

    return found
