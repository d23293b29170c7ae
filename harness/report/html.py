"""A verdict as one page that needs nothing else: no network, no other file, no server.

Everything that the page shows passes through Jinja's autoescaping or through JSON in a data block. A content security
policy allows exactly one script and one style sheet, named by their hashes, and no connection at all: text that
escaped both would still not run. Without JavaScript everything is readable but the search.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

from harness import words
from harness.records import Check, Decision
from harness.report import Document, Item, Reporter, _drift, _forest, _judges, _view
from harness.report._facts import command, facts
from harness.report._text import one_line, visible, without_secrets

FILENAME = "report.html"

_TEMPLATES = Path(__file__).parent / "templates"
_TOTAL_CHARS = 24_000_000  # of all samples together; more would make the page slow to open
_FIRST_REASONS = 5
_PLOTTED = 60
_LEADS: dict[Decision, str] = {
    "promote": "Every required guard passed.",
    "block": "At least one required guard is shown to have regressed.",
    "hold": "The reasons say what is missing.",
}


class Options(BaseModel):
    """Options of the HTML report."""

    model_config = ConfigDict(extra="forbid")

    max_items: int = Field(default=5_000, ge=0, description="Samples in the page, the most urgent first.")
    max_text: int = Field(default=4_000, ge=100, description="Characters of each prompt and output.")
    static_items: int = Field(default=20, ge=0, description="Samples that show without JavaScript.")


def build(options: Options) -> Reporter:
    """The HTML reporter."""
    return _Page(options)


@dataclass(frozen=True, slots=True)
class _Page:
    options: Options

    def render(self, document: Document) -> str:
        records = self._records(document.items)
        style, script = asset("report.css"), asset("report.js")
        template = environment().get_template("report.html.j2")
        return template.render(
            **_summary(document),
            **_evidence(document),
            records=records[: self.options.static_items],
            counts=_counts(records),
            guards=sorted({record["guard"] for record in records}),
            tags=sorted({tag for record in records for tag in record["tags"]}),
            shown=len(records),
            total=len(document.items),
            data=embedded({"items": records}),
            style=Markup(style),  # noqa: S704 - our own file, not a document's text
            script=Markup(script),  # noqa: S704
            policy=content_security_policy(style, script),
        )

    def _records(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        room = _TOTAL_CHARS
        for item in items[: self.options.max_items]:
            record = _view.item_record(item, self.options.max_text)
            room -= _view.record_size(record)
            if room < 0:
                break
            records.append(record)
        return records


def content_security_policy(style: str, script: str) -> str:
    """A policy under which only this style sheet and this script work, and nothing is fetched."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def embedded(value: Any) -> Markup:
    """`value` as JSON that cannot leave a script element: ASCII only, and no character that HTML reads."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - the loop above is the escaping


# ---------------------------------------------------------------- what the template reads


def _summary(document: Document) -> dict[str, Any]:
    verdict = document.verdict
    used, total = words.totals(verdict)
    reasons = [_reason(reason) for reason in verdict.reasons]
    return {
        "title": one_line(document.title, 200),
        "verdict": verdict.verdict,
        "headline": words.HEADLINE[verdict.verdict],
        "lead": _LEADS[verdict.verdict],
        "reasons": reasons[:_FIRST_REASONS],
        "further_reasons": reasons[_FIRST_REASONS:],
        "used": f"{used:,}",
        "samples": f"{total:,}",
        "used_share": round(100 * used / total) if total else 0,
        "tally": words.tally(words.required(verdict)),
        "facts": facts(document.manifest),
        "command": command(document.manifest),
        "manifest": _pretty(document.manifest),
    }


def _evidence(document: Document) -> dict[str, Any]:
    verdict = document.verdict
    shown = [*words.required(verdict), *words.advisory(verdict)]
    plotted = shown[:_PLOTTED]
    return {
        "rows": [_view.guard_row(comparison) for comparison in shown],
        "panels": [_forest.panels(plotted, layout) for layout in (_forest.WIDE, _forest.NARROW)],
        "unplotted": len(shown) - len(plotted),
        "tile_groups": _view.tile_groups(words.slices(verdict)),
        "drift": {"intro": _drift.INTRO, "notes": _drift.NOTES, "rows": _drift.rows(document.drift)},
        "judges": {"intro": _judges.INTRO, "notes": _judges.NOTES, "sections": _judges.sections(document.judges)},
        "checks": sorted((_check(check) for check in verdict.checks), key=lambda check: bool(check["passed"])),
    }


def _check(check: Check) -> dict[str, Any]:
    return {"name": one_line(check.name, 200), "passed": check.passed, "detail": visible(check.detail)}


def _reason(reason: str) -> tuple[str, str]:
    """A reason as its subject, set in bold, and the rest."""
    subject, colon, rest = one_line(reason, 800).partition(": ")
    return (subject, rest) if colon and len(subject) <= 120 else ("", subject + colon + rest)


def _counts(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    counted = [(change, sum(record["change"] == change for record in records)) for change in _view.CHANGES]
    return [(change, count) for change, count in counted if count]


def _pretty(manifest: Mapping[str, Any]) -> str:
    return json.dumps(without_secrets(manifest), indent=2, ensure_ascii=False)


@functools.cache  # several candidates in one run have a page each, and the template takes longer than they do
def environment() -> Environment:
    """Where templates are, and how they are read: everything is escaped, and a missing name is an error."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def asset(name: str) -> str:
    """A file beside the templates."""
    return (_TEMPLATES / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
