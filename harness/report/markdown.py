"""A verdict as a comment on a pull request: GitHub-flavoured Markdown within GitHub's limit.

Names and outputs are untrusted. Names become code spans where that is safe and escaped text where it is not;
outputs are put into fences longer than any run of backticks they hold, where neither HTML nor @mentions work.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from harness import words
from harness.records import Comparison, Decision, worst
from harness.report import Document, Item, Reporter, _drift, _judges, lost_clusters
from harness.report._facts import command, facts
from harness.report._text import clipped, one_line

FILENAME = "report.md"
GITHUB_LIMIT = 65_536
_LEAST = 16_384

_ICON: dict[Decision, str] = {"promote": "✅", "block": "⛔", "hold": "⏸️"}
_ALL = 1_000_000
_CLUSTERS = 8  # named for each regressed guard
# What is given up first when a report is too long: (samples per guard, table rows, characters of each text).
_SIZES = ((_ALL, _ALL, 600), (2, 200, 400), (1, 100, 300), (0, 100, 0), (0, 40, 0), (0, 10, 0))


class Options(BaseModel):
    """Options of the Markdown report."""

    model_config = ConfigDict(extra="forbid")

    items_per_guard: int = Field(default=3, ge=0, description="Lost samples shown for each regressed guard.")
    max_chars: int = Field(default=GITHUB_LIMIT, ge=_LEAST, le=GITHUB_LIMIT, description="Length of the comment.")
    marker: str = Field(
        default="harness-report",
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        description="Name in the hidden comment by which a bot finds the comment it updates.",
    )
    report_url: str = Field(default="", pattern=r"^(https?://[^\s<>()\"]+)?$", description="Where the page lies.")


def build(options: Options) -> Reporter:
    """The Markdown reporter."""
    return _Markdown(options)


def several(documents: Sequence[Document], options: Options) -> str:
    """The reports of several candidates as one comment: a table of their verdicts, then the reports that find room."""
    rows = [
        f"| {_name(d.title)} | {_ICON[d.verdict.verdict]} **{d.verdict.verdict.upper()}** "
        f"| {words.tally(words.required(d.verdict))} |"
        for d in documents[: _SIZES[1][1]]
    ]
    verdict = worst(d.verdict.verdict for d in documents)
    title = f"## {_ICON[verdict]} {verdict.upper()}: {len(documents)} candidates"
    table = "\n".join(["| Candidate | Verdict | Required guards |", "|:--|:--|:--|", *rows])
    text = f"<!-- {options.marker} -->\n\n{title}\n\n{table}\n"
    for document in sorted(documents, key=lambda d: d.verdict.verdict != verdict):
        room = options.max_chars - len(text) - 100
        if room < _LEAST:
            return text + "\nThe other reports are in the job's artifacts.\n"
        report = _Markdown(options.model_copy(update={"max_chars": room})).render(document)
        if len(report) > room:
            return text + "\nThe other reports are in the job's artifacts.\n"
        text += "\n---\n\n" + report.partition("\n\n")[2]
    return text


def refused(message: str, options: Options) -> str:
    """What stands in a report's place where the gate ended with an error: no older verdict may be left standing."""
    lead = "**No decision: the gate ended with an error.** Nothing here says anything about the candidate."
    text = f"<!-- {options.marker} -->\n\n## ⚠️ ERROR\n\n{lead}\n\n{_fence(message, 4_000)}\n"
    return text + (f"\n[The job](<{options.report_url}>)\n" if options.report_url else "")


@dataclass(frozen=True, slots=True)
class _Size:
    """How much of each long part is shown."""

    items: int
    rows: int
    chars: int


@dataclass(frozen=True, slots=True)
class _Markdown:
    options: Options

    def render(self, document: Document) -> str:
        text = ""
        for items, rows, chars in _SIZES:
            text = self._compose(document, _Size(min(items, self.options.items_per_guard), rows, chars))
            if len(text) <= self.options.max_chars:
                break
        return text

    def _compose(self, document: Document, size: _Size) -> str:
        parts = [
            f"<!-- {self.options.marker} -->",
            _headline(document),
            _required(document, size),
            _checks(document, size),
            _lost(document, size),
            _folded("Advisory guards", words.advisory(document.verdict), size),
            _folded("Slices", words.slices(document.verdict), size),
            _judged(document, size),
            _drifted(document, size),
            _reproduce(document, self.options.report_url),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"


# ---------------------------------------------------------------- parts


def _headline(document: Document) -> str:
    verdict = document.verdict
    reasons = [f"- {_inline(reason, 600)}" for reason in verdict.reasons[:20]]
    hidden = len(verdict.reasons) - len(reasons)
    if hidden > 0:
        reasons.append(f"- … and {hidden} more reasons")
    used, total = words.totals(verdict)
    title = f"## {_ICON[verdict.verdict]} {verdict.verdict.upper()}: {_inline(document.title, 120)}"
    lead = f"**{words.HEADLINE[verdict.verdict]}**"
    samples = f"{used:,} of {total:,} samples used · required guards: {words.tally(words.required(verdict))}"
    return "\n\n".join(part for part in (title, lead, "\n".join(reasons), samples) if part)


def _required(document: Document, size: _Size) -> str:
    guards = words.required(document.verdict)
    return "### Required guards\n\n" + _table(guards, size) if guards else "No required guard was evaluated."


def _folded(title: str, comparisons: Sequence[Comparison], size: _Size) -> str:
    if not comparisons:
        return ""
    summary = f"<summary>{title}: {words.tally(comparisons)}</summary>"
    return f"<details>\n{summary}\n\n{_table(comparisons, size)}\n\n</details>"


def _table(comparisons: Sequence[Comparison], size: _Size) -> str:
    lines = [
        f"| Guard | Baseline → candidate | Difference{_level(comparisons)} | Margin | Lost / won | Samples | Outcome |",
        "|:--|:--|:--|:--|--:|--:|:--|",
        *(_row(comparison) for comparison in comparisons[: size.rows]),
    ]
    if len(comparisons) > size.rows:
        lines += ["", f"Showing {size.rows} of {len(comparisons)} guards; the HTML report has all of them."]
    return "\n".join(lines)


def _level(comparisons: Sequence[Comparison]) -> str:
    levels = {words.level(comparison) for comparison in comparisons}
    return f" [{levels.pop()} interval]" if len(levels) == 1 else " [interval]"


def _row(comparison: Comparison) -> str:
    means = [words.mean(m, comparison) for m in (comparison.baseline_mean, comparison.candidate_mean)]
    direction = "" if comparison.higher_is_better else " (lower is better)"
    mark = f"{words.MARK[comparison.outcome]} {words.outcome_word(comparison)}"
    cells = (
        _name(comparison.label),
        " → ".join(means) + direction,
        f"{words.difference(comparison)} {words.interval(comparison)}".strip(),
        words.margin(comparison),
        f"{comparison.lost:,} / {comparison.won:,}",
        words.used(comparison) + (f" ({comparison.n_failed:,} failed)" if comparison.n_failed else ""),
        f"**{mark}**" + (" (fragile)" if comparison.fragile else ""),
    )
    return f"| {' | '.join(cells)} |"


def _checks(document: Document, size: _Size) -> str:
    failed = words.failed_checks(document.verdict)
    total = len(document.verdict.checks)
    if not failed:
        return f"All {total} pre-flight checks passed." if total else ""
    lines = [f"- ✗ {_name(check.name)}: {_inline(check.detail, 400)}" for check in failed[: size.rows]]
    if len(failed) > len(lines):
        lines.append(f"- … and {len(failed) - len(lines)} more")
    return f"### Failed pre-flight checks ({len(failed)} of {total})\n\n" + "\n".join(lines)


def _lost(document: Document, size: _Size) -> str:
    regressed = [c for c in words.required(document.verdict) if c.outcome == "regressed"]
    sections = (_lost_of(comparison, document.items, size) for comparison in regressed[: size.rows])
    return "\n\n".join(section for section in sections if section)


def _lost_of(comparison: Comparison, items: Sequence[Item], size: _Size) -> str:
    lost = [item for item in items if item.change == "lost" and item.belongs_to(comparison)]
    shown = lost[: size.items]
    if not lost:
        return ""
    if not shown:
        return f"{len(lost):,} lost samples of {_name(comparison.label)} are in the HTML report."
    summary = f"<summary>Lost samples of {_html(comparison.label)}: {len(shown)} of {len(lost):,} shown</summary>"
    clusters = _clusters(lost_clusters(items, comparison))
    parts = ["<details>\n" + summary, *clusters, *(_item(item, size.chars) for item in shown), "</details>"]
    return "\n\n".join(parts)


def _clusters(lost: Sequence[tuple[str, int]]) -> list[str]:
    """One line on where the losses are, when samples come in clusters."""
    if not lost:
        return []
    shown = ", ".join(f"{_name(cluster)} ({count})" for cluster, count in lost[:_CLUSTERS])
    more = f" and {len(lost) - _CLUSTERS:,} more" if len(lost) > _CLUSTERS else ""
    return [f"Clusters that lost samples: {shown}{more}"]


def _item(item: Item, chars: int) -> str:
    scores = f"{words.score(item.baseline_score)} → {words.score(item.candidate_score)}"
    blocks = (
        ("Prompt", item.prompt),
        ("Expected", item.target),
        ("Baseline", item.baseline_output),
        ("Candidate", item.candidate_output),
    )
    fenced = [f"{title}:\n{_fence(text, chars)}" for title, text in blocks if text or title != "Expected"]
    cluster = f" · cluster {_name(item.cluster)}" if item.cluster else ""
    return "\n\n".join([f"**{_name(item.sample_id)}**{cluster} · score {scores}", *fenced])


def _judged(document: Document, size: _Size) -> str:
    if not document.judges:
        return ""
    parts = ["<details>", f"<summary>Judges ({len(document.judges)})</summary>", "", _judges.INTRO]
    for section in _judges.sections(document.judges)[: size.rows]:
        lines = (f"- {'⚠️ ' if concern else ''}{name}: {_inline(value, 300)}" for name, value, concern in section.lines)
        parts += ["", f"**{_name(section.title)}**", "", *lines]
    return "\n".join([*parts, "", "</details>"])


def _drifted(document: Document, size: _Size) -> str:
    if not document.drift:
        return ""
    rows = _drift.rows(document.drift)
    lines = [
        "| Suite | Answers | Alike | First difference | Candidate tokens before it | Divergence | Near-ties |",
        "|:--|--:|--:|:--|--:|--:|:--|",
        *(_drift_row(row) for row in rows[: size.rows]),
    ]
    if len(rows) > size.rows:
        lines += ["", f"Showing {size.rows} of {len(rows)} suites; the HTML report has all of them."]
    head = f"<details>\n<summary>Drift (advisory): {_drift.summary(document.drift)}</summary>"
    return "\n\n".join([head, _drift.INTRO, "\n".join(lines), *_drift.NOTES, "</details>"])


def _drift_row(row: _drift.Row) -> str:
    first = f"{row.first} ({row.range})" if row.range else row.first
    ties = f"{row.ties}, {row.doubt}" if row.doubt else row.ties
    cells = (_name(row.suite), row.answers, row.alike, first, row.before, row.divergence, ties)
    return f"| {' | '.join(cells)} |"


def _reproduce(document: Document, report_url: str) -> str:
    lines = ["<details>", "<summary>What was compared, and how to reproduce it</summary>", ""]
    for fact in facts(document.manifest):
        parts = [_name(part) for part in (fact.name, fact.short) if part]
        lines.append(f"- {fact.label}: {' · '.join(parts)}")
    lines += ["", _fence(command(document.manifest), 400, "sh"), "", "</details>"]
    if report_url:
        lines += ["", f"[Full report](<{report_url}>)"]
    return "\n".join(lines)


# ---------------------------------------------------------------- escaping

_PLAIN = re.compile(r"[A-Za-z0-9_./:+=\[\] -]+")
_MARKUP = re.compile(r"([\\`*\[\]<>|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
# A zero-width space after the character that would start a mention, an issue link or a bare URL.
_LIVE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"@"), "@\u200b"),
    (re.compile(r"://"), ":\u200b//"),
    (re.compile(r"(?i)\b(www)\."), "\\1\u200b."),
    (re.compile(r"#(?=\d)"), "#\u200b"),
    (re.compile(r"(?i)\b(GH)-(?=\d)"), "\\1\u200b-"),
)
_OPENING = re.compile(r"^(?:([-+=#])|(\d+)([.)]))")  # what would start a list, a rule or a heading


def _name(text: str) -> str:
    """A name as a code span when it is made of harmless characters only, else as escaped text."""
    line = one_line(text, 120)
    return f"`{line}`" if _PLAIN.fullmatch(line) and line.strip() else _inline(line, 120)


def _inline(text: str, limit: int) -> str:
    """Text that Markdown shows literally: no markup, no HTML, no link, no mention."""
    escaped = _MARKUP.sub(r"\\\1", _quiet(one_line(text, limit)))
    return _OPENING.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", escaped)


def _html(text: str) -> str:
    """Text inside a raw HTML element; entities keep it literal whether or not Markdown is read there."""
    line = _quiet(one_line(text, 120))
    return "".join(c if c.isalnum() or c in " /.-" else f"&#{ord(c)};" for c in line)


def _quiet(line: str) -> str:
    for pattern, replacement in _LIVE:
        line = pattern.sub(replacement, line)
    return line


def _fence(text: str, chars: int, language: str = "text") -> str:
    body = clipped(text, chars)
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"
