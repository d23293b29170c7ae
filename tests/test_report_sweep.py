"""The page of a sweep: self-contained, escaped, and right about which trial lies where."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.report._sweep import NARROW, WIDE, render
from harness.training.sweeping import sweep as sweeping
from harness.training.sweeping import telling
from harness.training.sweeping.outcome import Trial, front, measured, recommended
from harness.training.sweeping.sweep import SweepResult
from tests.sweep_example import PAGE, RATE, result, sweep


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    text = render(PAGE)
    assert "<script" not in text
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text)
    assert "default-src 'none'" in html.unescape(text)
    assert "&lt;script&gt;alert(1)" in text
    assert render(PAGE) == text


def test_every_tag_is_closed() -> None:
    class Balanced(HTMLParser):
        open: list[str] = []  # noqa: RUF012 - one parser

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in ("meta", "link", "wbr"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

        def handle_startendtag(self, tag: str, attrs: Any) -> None:
            pass

    parser = Balanced()
    parser.feed(render(PAGE))
    assert parser.open == []


def _marks(text: str, layout: str) -> dict[int, tuple[float, float]]:
    picture = text.split(f'<svg class="forest sweep {layout}"')[1].split("</svg>")[0]
    found = re.findall(
        r"<title>Trial (\d+):.*?(?:cx=\"([\d.]+)\" cy=\"([\d.]+)\" r=\"6\"|M([\d.]+) ([\d.]+)l8 8)", picture, re.S
    )
    return {int(n): (float(x or a), float(y or b) + (0 if x else 8)) for n, x, y, a, b in found}


@pytest.mark.parametrize("layout", [WIDE, NARROW], ids=lambda layout: layout.name)
def test_more_learned_lies_to_the_right_and_more_forgotten_lies_below(layout: Any) -> None:
    text = render(PAGE)
    marks = _marks(text, layout.name)
    assert set(marks) == {0, 1, 2}, "a failed trial is no point of the plot"
    assert marks[0][0] < marks[1][0] < marks[2][0]
    assert marks[0][1] < marks[1][1] < marks[2][1]
    assert all(layout.left <= x <= layout.right and 0 <= y <= layout.row for x, y in marks.values())
    picture = text.split(f'<svg class="forest sweep {layout.name}"')[1].split("</svg>")[0]
    limit = float(re.search(r'class="margin" d="M[\d.]+ ([\d.]+)H', picture).group(1))  # type: ignore[union-attr]
    assert marks[0][1] < limit < marks[1][1]
    assert picture.count('class="cut') == 1, "one wreck is drawn at the edge, marked as such"


def test_where_nothing_was_measured_or_recommended_the_page_says_so() -> None:
    text = render(replace(PAGE, trials=PAGE.trials[3:], front=(), chosen=None, settings={}, next_step=""))
    assert "No trial is recommended" in text
    assert "No trial was measured" in text
    assert "<svg class" not in text


def _result(tmp_path: Path, outcomes: list[tuple[float, float]]) -> SweepResult:
    trials = []
    for number, (learned, kept) in enumerate(outcomes):
        verdict = result(tmp_path, learned, kept).verdict
        assert verdict is not None
        trials.append(Trial(number, {RATE: 10.0**-number}, measured(verdict)))
    trials.append(Trial(len(trials), {RATE: 1.0}, reason="out of memory"))
    chosen = recommended(trials)
    best = tuple(front([t.values_of for t in trials[:-1]]))
    recipe = None if chosen is None else tmp_path / "recipe-swept.yaml"
    return SweepResult(tuple(trials), best, chosen, recipe, tmp_path, (RATE,), {"new": 3}, {"new": 7})


def test_a_sweep_is_told_as_it_is(tmp_path: Path) -> None:
    found = _result(tmp_path, [(0.1, 0.02), (0.3, -0.02), (0.5, -0.2)])
    columns, rows = telling.table(found)
    assert columns == ["trial", "learning_rate", "learned", "worst loss", "outcome"]
    assert [row[-1] for row in rows] == [
        "no regression, front", "no regression, recommended", "regressed, front", "failed: out of memory",
    ]  # fmt: skip
    assert rows[1][2] == "+30.0 pts [+20.0, +40.0]"
    assert rows[1][3] == "0.40 of the margin (old-skill/exact: −2.0 pts)"
    assert telling.write_report(found, "recipe.yaml").name == "report.html"


@pytest.mark.parametrize(("learned", "code"), [(0.2, 0), (0.0, 3)])
def test_the_exit_code_says_whether_anything_is_recommended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: float, code: int
) -> None:
    loaded = sweep(tmp_path)
    monkeypatch.setattr(sweeping, "run_sweep", lambda *_: _result(tmp_path, [(learned, 0.0)]))
    done = CliRunner().invoke(app, ["sweep", str(loaded.path)], standalone_mode=False)
    assert done.return_value == code, done.output
    assert ("harness train recipe-swept.yaml" in done.stdout) == (code == 0)
