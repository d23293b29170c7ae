"""Tables and a chart of the results, as text. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.engine_bench.results import Row, Spread

Cells = Sequence[str]

_COLUMNS = (
    "alternative", "seconds", "cpu s", "× lm-eval", "× in cpu s", "of allowed", "candidate s",
    "candidate × no drafts", "tokens, M", "TFLOP", "peak, MiB", "max Δ log p", "picks differ (ties)", "texts differ",
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
        spread(row.seconds, number),
        spread(row.cpu_seconds, number),
        spread(row.ratio, "{:.2f}".format),
        spread(row.cpu_ratio, "{:.2f}".format),
        spread(row.share, "{:.0%}".format),
        spread(row.candidate_seconds, number),
        spread(row.drafting, "{:.2f}".format),
        f"{row.tokens / 1e6:.3g}",
        f"{row.flops / 1e12:.3g}",
        mib(row.peak_bytes),
        "–" if gap is None else f"{gap.logprob:.1e}",
        "–" if gap is None else f"{gap.picks} ({gap.ties})",
        "–" if gap is None else str(gap.texts),
    ]


def spread(found: Spread | None, shown: Callable[[float], str]) -> str:
    """Median (smallest–largest); one round is its figure alone."""
    if found is None:
        return "–"
    if len(found.known) == 1:
        return shown(found.median)
    return f"{shown(found.median)} ({shown(found.low)}–{shown(found.high)})"


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def mib(count: int) -> str:
    """Bytes in MiB."""
    return f"{count / 2**20:.0f}"


_LEFT, _WIDTH, _BAR, _GAP = 330, 420, 16, 34  # pixels: labels, the longest bar, a bar with its space, between groups


def chart(groups: Mapping[str, Sequence[Row]], caption: str) -> str:
    """Bars of the median ratio to lm-eval with whiskers over its range, one group a workload, as SVG."""
    drawn = [(title, [row for row in rows if row.ratio is not None]) for title, rows in groups.items()]
    longest = max((row.ratio.high for _, rows in drawn for row in rows if row.ratio is not None), default=1.0)
    scale, y, parts = _WIDTH / max(longest, 1.0), 40, []
    for title, rows in drawn:
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{escape(title)}</text>')
        y += 8
        for row in rows:
            parts += _bar(row, y, scale)
            y += _BAR + 3
        y += _GAP - _BAR
    line = _LEFT + scale
    parts.append(
        f'<line x1="{line:.1f}" y1="30" x2="{line:.1f}" y2="{y - 10}" stroke="#c53030" stroke-dasharray="4 3"/>'
    )
    height = y + 30
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 70}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="18">Times faster than lm-eval run twice (line: lm-eval), both subjects together; '
        "median of the rounds, whiskers: their range</text>",
        *parts,
        f'<text x="10" y="{height - 10}" fill="#555">{escape(caption)}</text>',
        "</svg>",
        "",
    ])  # fmt: skip


def _bar(row: Row, y: int, scale: float) -> list[str]:
    """Name, bar, whisker and figure of one alternative, the bar's top at `y`."""
    ratio = row.ratio
    assert ratio is not None
    end, low, high = (_LEFT + value * scale for value in (ratio.median, ratio.low, ratio.high))
    colour = "#9a9a9a" if ratio.median <= 1.0 else "#2b6cb0"
    middle, text = y + (_BAR - 3) / 2, y + _BAR - 4
    parts = [
        f'<text x="{_LEFT - 8}" y="{text}" text-anchor="end">{escape(row.alternative)}</text>',
        f'<rect x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR - 3}" fill="{colour}"/>',
    ]
    if high - low >= 1.0:  # pixels; a shorter one could not be seen
        path = f"M{low:.1f} {middle - 4}v8m0-4H{high:.1f}m0-4v8"
        parts.append(f'<path d="{path}" fill="none" stroke="#1a202c" stroke-width="1.5"/>')
    parts.append(f'<text x="{max(end, high) + 6:.1f}" y="{text}">{ratio.median:.1f}×</text>')
    return parts


def facts(meta: Mapping[str, Any]) -> str:
    """How the figures were made, as a list."""
    return "\n".join(f"- {key}: {value}" for key, value in meta.items())
