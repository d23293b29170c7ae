"""Tables and a chart of the results, as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.engine_bench.results import Row

Cells = Sequence[str]

_COLUMNS = (
    "alternative", "seconds", "× lm-eval", "of allowed", "candidate s", "tokens, M", "TFLOP", "peak, MiB",
    "max Δ log p", "picks differ (ties)", "texts differ",
)  # fmt: skip


def table(header: Cells, rows: Sequence[Cells]) -> str:
    """A Markdown table; all columns but the first are to the right."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def comparison(rows: Sequence[Row]) -> str:
    """The table of one workload; a column that says nothing for any alternative is left out."""
    cells = [_cells(row) for row in rows]
    used = [i for i in range(len(_COLUMNS)) if i < 2 or any(line[i] != "–" for line in cells)]
    text = table([_COLUMNS[i] for i in used], [[line[i] for i in used] for line in cells])
    notes = [f"- {row.alternative}: {row.note}" for row in rows if row.note]
    return "\n".join([text, *(["", *notes] if notes else [])])


def _cells(row: Row) -> list[str]:
    if row.seconds is None:
        return [row.alternative, "failed", *["–"] * (len(_COLUMNS) - 2)]
    gap = row.disagreement
    return [
        row.alternative,
        number(row.seconds),
        "–" if row.ratio is None else f"{row.ratio:.2f}",
        "–" if row.share is None else f"{row.share:.0%}",
        "–" if row.candidate_seconds is None else number(row.candidate_seconds),
        f"{row.tokens / 1e6:.3g}",
        f"{row.flops / 1e12:.3g}",
        mib(row.peak_bytes),
        "–" if gap is None else f"{gap.logprob:.1e}",
        "–" if gap is None else f"{gap.picks} ({gap.ties})",
        "–" if gap is None else str(gap.texts),
    ]


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def mib(count: int) -> str:
    """Bytes in MiB."""
    return f"{count / 2**20:.0f}"


def chart(groups: Mapping[str, Sequence[Row]], caption: str) -> str:
    """Bars of the ratio to lm-eval, one group a workload, as SVG; the line is lm-eval itself."""
    drawn = [(title, [row for row in rows if row.ratio is not None]) for title, rows in groups.items()]
    longest = max((row.ratio or 0.0 for _, rows in drawn for row in rows), default=1.0)
    left, width, bar, gap = 330, 420, 16, 34
    scale, y, parts = width / max(longest, 1.0), 40, []
    for title, rows in drawn:
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{escape(title)}</text>')
        y += 8
        for row in rows:
            ratio = row.ratio or 0.0
            colour = "#9a9a9a" if ratio <= 1.0 else "#2b6cb0"
            parts += [
                f'<text x="{left - 8}" y="{y + bar - 4}" text-anchor="end">{escape(row.alternative)}</text>',
                f'<rect x="{left}" y="{y}" width="{ratio * scale:.1f}" height="{bar - 3}" fill="{colour}"/>',
                f'<text x="{left + ratio * scale + 6:.1f}" y="{y + bar - 4}">{ratio:.1f}×</text>',
            ]
            y += bar + 3
        y += gap - bar
    line = left + scale
    parts.append(
        f'<line x1="{line:.1f}" y1="30" x2="{line:.1f}" y2="{y - 10}" stroke="#c53030" stroke-dasharray="4 3"/>'
    )
    height = y + 30
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 70}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="18">Times faster than lm-eval run twice (line: lm-eval), both subjects together</text>',
        *parts,
        f'<text x="10" y="{height - 10}" fill="#555">{escape(caption)}</text>',
        "</svg>",
        "",
    ])  # fmt: skip


def facts(meta: Mapping[str, Any]) -> str:
    """How the figures were made, as a list."""
    return "\n".join(f"- {key}: {value}" for key, value in meta.items())
