"""The pages: an index of runs with trends, lineage and what turned, and a page that shows any two runs side by side

    index.html                  runs, trends, learned against forgotten, lineage, what turned, wear
    compare.html                one run's samples, or two runs' side by side; loads from data/
    data/<run>.js, data/<run>/  samples by column, and their texts a hundred at a time
    reports/<run>.html          the run's own report, as the run left it
    history.csv, .parquet       every comparison of every run
    .harness-history/           what was decided before, by the hashes of the runs' files

Everything that the pages show passes through Jinja's autoescaping or is set as text by their script. Their policy
allows one inline script and style sheet, named by hash, and scripts that lie beside them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness import runs as run_files
from harness import words
from harness.errors import ConfigError, StorageError
from harness.history import flips, lineage, plots, tables
from harness.history.reading import CACHE, Run, Unread, find_runs, read_runs
from harness.history.samples import write_samples
from harness.history.wearing import Wearing, worn_sets
from harness.records import Decision
from harness.report import html
from harness.report._text import one_line

INDEX, COMPARE, DATA, REPORTS = "index.html", "compare.html", "data", "reports"
_DECISIONS: tuple[Decision, ...] = ("promote", "block", "hold")
_OUTCOME = {"promote": "pass", "block": "regressed", "hold": "undecided"}
_MARK = {"promote": "✓", "block": "✗", "hold": "?"}
_FLIPS = 20  # listed in the index; the page of two runs has all
_GUARDS = 12  # required guards named in a run's row
_OPEN = 12  # trends that are drawn open


@dataclass(frozen=True, slots=True)
class Built:
    """What was written: the page to open, the runs in it, and those that could not be read."""

    index: Path
    runs: tuple[Run, ...]
    unread: tuple[Unread, ...]


def build(
    places: Sequence[Path],
    out: Path,
    *,
    moves: Sequence[lineage.Move] | None = None,
    title: str = "History",
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> Built:
    """Write the site of all runs at or below `places` into `out`; what is up to date there is left as it is.

    Args:
        places: run directories, or folders that hold them.
        out: the site's folder; it is made.
        moves: a registry's ledger, oldest first; without it a run with the verdict PROMOTE counts as promoted.
        title: what the pages are called.
        progress: told how many runs of how many are done.

    Raises:
        StorageError: there is no run, or a file cannot be written.
        ConfigError: `out` holds something that is no history.
    """
    paths = find_runs(places)
    _refuse_foreign(out)
    try:
        (out / REPORTS).mkdir(parents=True, exist_ok=True)
        read, unread = read_runs(paths, out)
        for number, run in enumerate(read, start=1):
            write_samples(run, out / DATA)
            _copy_report(run, out / REPORTS / f"{run.key}.html")
            progress(number, len(read))
        _forget(out, {run.key for run in read})
        tables.write_tables(read, out)
        run_files.write_text(out / COMPARE, _compare(read, title))
        run_files.write_text(out / INDEX, _index(read, unread, moves, out, title))
    except OSError as error:
        raise StorageError(f"{error.filename or out}: {error.strerror or error}") from error
    return Built(out / INDEX, tuple(read), tuple(unread))


def _refuse_foreign(out: Path) -> None:
    """A site is made in an empty folder or in its own: what is out of date in it is taken away."""
    if out.exists() and not (out.is_dir() and ((out / CACHE).is_dir() or not any(out.iterdir()))):
        raise ConfigError(f"{out}: holds something that is no history; name an empty folder, or one that is not there")


def _copy_report(run: Run, target: Path) -> None:
    """The report as the run left it, behind a policy: whoever made the run could have written any script into it."""
    source = run.path / "report.html"
    if source.is_symlink() or not source.is_file():
        target.unlink(missing_ok=True)
        return
    said, policy = source.stat(), _report_policy().encode()
    size = said.st_size + len(policy)
    if not target.is_file() or (said.st_mtime_ns, size) != (target.stat().st_mtime_ns, target.stat().st_size):
        target.write_bytes(policy + source.read_bytes())
        os.utime(target, ns=(said.st_atime_ns, said.st_mtime_ns))


def _report_policy() -> str:
    """The head of a page that forbids what follows every script but our report's; styles can do no harm there."""
    policy = html.content_security_policy("", html.asset("report.js")).replace(html._hash(""), "unsafe-inline")
    return f'<!doctype html>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'


def _forget(out: Path, keys: set[str]) -> None:
    """Take away what belongs to runs that are not in the history any more."""
    for path in (*(out / DATA).glob("*.js"), *(out / REPORTS).glob("*.html"), *(out / CACHE).glob("*.json")):
        if path.stem not in keys:
            path.unlink()
            if path.parent.name == DATA:
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)


# ---------------------------------------------------------------- the index


def _index(
    runs: Sequence[Run], unread: Sequence[Unread], moves: Sequence[lineage.Move] | None, out: Path, title: str
) -> str:
    steps = lineage.steps(runs, moves)
    promoted = frozenset(step.run.key for step in steps if step.run is not None and step.recorded)
    trends = plots.trends(runs, promoted)
    trade_offs = plots.trade_offs(runs)
    return _render(
        "history.html.j2", "history.js", title,
        rows=[_row(run, run.key in promoted, out) for run in runs],
        counts=[(d, sum(run.verdict == d for run in runs)) for d in _DECISIONS],
        unread=[(one_line(str(u.path), 300), one_line(u.reason, 400)) for u in unread],
        trends=trends,
        open_trends=_OPEN,
        planes=[plots.plane(trade_offs, layout) for layout in plots.PLANE] if trade_offs else [],
        plotted=len(trade_offs),
        steps=[_step(step) for step in steps],
        recorded=moves is not None,
        turned=_turned(runs, steps),
        first=runs[-1].when[:10] if runs else "",
        last=runs[0].when[:10] if runs else "",
        tables=(tables.CSV, tables.PARQUET),
        wear=[_worn(one) for one in worn_sets(runs)],
    )  # fmt: skip


def _row(run: Run, promoted: bool, out: Path) -> dict[str, Any]:
    named = sorted(run.required, key=lambda c: ("regressed", "undecided", "pass").index(c.outcome))
    return {
        "key": run.key,
        "when": run.when.replace("T", " ").removesuffix("+00:00"),
        "name": one_line(run.path.name, 120),
        "candidate": one_line(run.candidate.name, 120),
        "baseline": one_line(run.baseline.name, 120),
        "verdict": run.verdict,
        "outcome": _OUTCOME[run.verdict],
        "mark": _MARK[run.verdict],
        "promoted": promoted,
        "sweep": run.part == "sweep",
        "tally": words.tally(run.required),
        "guards": [
            (words.MARK[c.outcome], c.outcome, one_line(c.label, 80), words.difference(c)) for c in named[:_GUARDS]
        ],
        "more": max(0, len(named) - _GUARDS),
        "report": (out / REPORTS / f"{run.key}.html").is_file(),
        "reason": one_line(next(iter(run.reasons), ""), 240) if run.verdict != "promote" else "",
    }


def _step(step: lineage.Step) -> dict[str, Any]:
    return {
        "at": step.at.replace("T", " ").removesuffix("+00:00"),
        "action": step.action,
        "alias": one_line(step.alias, 64),
        "name": one_line(step.name, 120),
        "over": one_line(step.over, 120),
        "key": None if step.run is None else step.run.key,
        "verdict": one_line(step.verdict, 20),
        "override": one_line(f"{step.by}: {step.reason}", 400) if step.by else "",
        "tried": ", ".join(f"{step.tried[d]} {d}" for d in _DECISIONS if d in step.tried),
    }


def _worn(found: Wearing) -> dict[str, Any]:
    return {
        "suite": one_line(found.version, 160),
        "digest": found.digest,
        "looks": found.looks,
        "luck": found.luck,
        "worn": bool(found.warning),
        "advice": one_line(found.warning, 600) or "in use",
    }


def _turned(runs: Sequence[Run], steps: Sequence[lineage.Step]) -> dict[str, Any] | None:
    """What turned from the candidate that was promoted last to the newest one; None where there is nothing to say."""
    step = lineage.standing(steps)
    if step is None or not runs:
        return None
    if step.run is None:
        return {"absent": one_line(step.name, 120)}
    promoted, newest = step.run, runs[0]
    said = {"absent": "", "before": _arm(promoted), "after": _arm(newest), "same": promoted.key == newest.key}
    if promoted.key == newest.key:
        return {**said, "guards": [], "apart": [], "flips": [], "more": 0}
    guards, apart = flips.turned(promoted, newest)
    listed = [flip for guard in guards for flip in guard.flips]
    return {
        **said,
        "guards": [(one_line(g.guard, 160), g.common, g.worse, len(g.flips) - g.worse) for g in guards],
        "apart": [one_line(reason, 300) for reason in apart],
        "flips": [
            (f.worse, one_line(f.sample_id, 120), one_line(f.guard, 120), f"{f.before:.4g}", f"{f.after:.4g}")
            for f in sorted(listed, key=lambda flip: not flip.worse)[:_FLIPS]
        ],
        "more": max(0, len(listed) - _FLIPS),
    }


def _arm(run: Run) -> dict[str, str]:
    return {"key": run.key, "name": one_line(run.candidate.name, 120), "when": run.when[:10]}


# ---------------------------------------------------------------- two runs side by side


def _compare(runs: Sequence[Run], title: str) -> str:
    return _render("compare.html.j2", "compare.js", title, data=html.embedded({"runs": [_choice(r) for r in runs]}))


def _choice(run: Run) -> dict[str, Any]:
    """A run as the page of two runs offers it, with its guards in words."""
    return {
        "key": run.key,
        "name": one_line(run.candidate.name, 80),
        "over": one_line(run.baseline.name, 80),
        "when": run.when[:16].replace("T", " "),
        "verdict": run.verdict,
        "guards": [
            [one_line(c.label, 120), c.outcome, words.outcome_word(c), words.difference(c), words.interval(c),
             words.margin(c), c.standing]
            for c in run.comparisons
        ],
    }  # fmt: skip


def _render(template: str, script: str, title: str, **values: Any) -> str:
    style, code = html.asset("report.css") + html.asset("history.css"), html.asset(script)
    given: Mapping[str, Any] = {
        "title": one_line(title, 200),
        "style": Markup(style),  # noqa: S704 - our own files, not a run's text
        "script": Markup(code),  # noqa: S704
        "policy": html.content_security_policy(style, code, beside=True),
        **values,
    }
    return html.environment().get_template(template).render(given)
