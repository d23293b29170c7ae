"""The page of a sweep in a real browser: silent without a script, readable by everyone, usable by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.report._sweep import render
from tests.browsing import Visit, barriers_on_every_screen, expect, keyboard_barriers, press
from tests.sweep_example import PAGE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render(PAGE), "utf-8")
    return path


def test_what_a_failed_trial_said_stays_text(visit: Visit, page: Path) -> None:
    shown = visit.open(page)
    expect(shown.locator("#trials")).to_contain_text("<script>alert(1)</script> out of memory")
    expect(shown.locator("script")).to_have_count(0)
    assert visit.complaints() == []


def test_nothing_bars_the_way(visit: Visit, page: Path) -> None:
    assert barriers_on_every_screen(visit.open(page), "sweep") == {}


@pytest.mark.parametrize("width", [1280, 320])
def test_tab_reaches_everything_and_shows_where_it_is(visit: Visit, page: Path, width: int) -> None:
    assert keyboard_barriers(visit.open(page, width=width)) == []


def test_the_keyboard_skips_to_the_result(visit: Visit, page: Path) -> None:
    shown = visit.open(page)
    press(shown, "Tab", "Enter")
    assert shown.url.endswith("#main")
    press(shown, "Tab")
    expect(shown.locator("pre.command")).to_be_focused()
