"""Labelling in a real browser, from the command to the file: by keyboard, blind, silent, readable in light and dark."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import labelled
from tests.browsing import (
    Visit,
    barriers,
    barriers_on_every_screen,
    expect,
    focused,
    keep,
    keyboard_barriers,
    press,
    scrolls_sideways,
)  # fmt: skip
from tests.labelled_run import GRADE, PAIR, make_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
LONG = "The first paragraph explains what a mortgage is.\n\n" + "It then goes on and on about interest rates. " * 40
HOSTILE = "</pre><script>document.title='owned'</script><img src=x onerror=alert(1)>"
ATTACK = dict.fromkeys(range(40), (HOSTILE, LONG))
KINDS = pytest.mark.parametrize("key", [PAIR, GRADE], ids=["pairs", "grades"])


@contextmanager
def labelling(run: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command as a user starts it, and the address that it prints."""
    command = [sys.executable, "-m", "harness", "judge", "label", str(run), "--no-browser", *options]
    started = subprocess.Popen(
        [*command, "--judges", str(ROOT / "judges")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line.startswith("Open http://127.0.0.1:"), line + (started.stderr.read() if started.stderr else "")
        yield line.removeprefix("Open ").strip(), started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def opened(visit: Visit, address: str, **screen: Any) -> Any:
    """The page with its first item on it; before that the bar has no end and keys answer nothing."""
    page = visit.open(address, **screen)
    expect(page.locator("#item")).to_be_visible()
    return page


def answer(page: Any, key: str, count: str) -> None:
    """Press a key, and wait until the page says that so many are done."""
    press(page, key)
    expect(page.locator("#count")).to_have_text(count)


def stored(run: Path, key: tuple[str, str]) -> list[dict[str, Any]]:
    return [row for _, row in labelled.read_rows(labelled.labels_path(run, *key))]


def test_three_pairs_are_labelled_by_keyboard_and_stand_in_the_file(visit: Visit, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with labelling(run, "--labels", "60") as (address, command):
        page = opened(visit, address)
        total = page.evaluate("document.getElementById('progress').max")
        expect(page.locator("#count")).to_have_text(f"0 of {total:.0f}")
        left = page.locator("#left").inner_text()
        for key, done in (("1", 1), ("ArrowDown", 2), ("s", 3), ("u", 2), ("ArrowRight", 3)):
            answer(page, key, f"{done} of {total:.0f}")
        assert focused(page) == "work"
        assert "/open/" not in page.url
        assert visit.complaints() == []
        command.send_signal(signal.SIGINT)
        output, _ = command.communicate(timeout=60)
    assert command.returncode == 0
    assert f"3 of {total:.0f} pairs are labelled, for 60 planned draws." in output
    assert f"harness judge label {run}" in output
    rows = stored(run, PAIR)
    assert [row["label"] for row in rows[1:4]] == ["tie", "cannot tell", "withdrawn"]
    assert rows[0]["label"] == ("first" if left.startswith("old") else "second")
    assert rows[4]["label"] in ("first", "second")
    states = {draw.sample_id: draw.state for draw in labelled.read_run_labels(run)[PAIR].draws}
    assert list(states.values()).count("labelled") == 3


def test_grades_are_given_by_their_number_and_the_end_is_said(visit: Visit, tmp_path: Path) -> None:
    run = make_run(tmp_path, GRADE, count=3)
    with labelling(run) as (address, command):
        page = opened(visit, address)
        expect(page.locator("#count")).to_have_text("0 of 3")
        for number in range(6):
            before = page.locator("#only").inner_text()
            press(page, str(1 + number % 5))
            if number < 5:
                expect(page.locator("#only")).not_to_have_text(before)
        expect(page.locator("#finish")).to_be_focused()
        keep(page, "label-end")
        press(page, "Enter")
        output, _ = command.communicate(timeout=60)
    assert command.returncode == 0
    assert "3 of 3 pairs are labelled, for 20 planned draws.\nRepeat the gate" in output
    assert [row["label"] for row in stored(run, GRADE)] == [1, 2, 3, 4, 5, 1]
    assert labelled.read_run_labels(run)[GRADE].complete


def test_what_models_wrote_stays_text(visit: Visit, tmp_path: Path) -> None:
    run = make_run(tmp_path, outputs=ATTACK)
    with labelling(run) as (address, _):
        page = opened(visit, address)
        expect(page).to_have_title("Label preference")
        expect(page.locator("img, iframe")).to_have_count(0)
        expect(page.locator("#outputs")).to_contain_text("<script>")
        assert visit.complaints() == []


def test_a_key_that_is_held_down_answers_one_item(visit: Visit, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with labelling(run) as (address, _):
        page = opened(visit, address)
        pressed = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: i > 0}))"
        page.evaluate(f"() => {{ for (let i = 0; i < 5; i++) {pressed} }}")
        expect(page.locator("#count")).to_have_text(re.compile("^1 of"))
        page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', ctrlKey: true}))")
        assert visit.complaints() == []
        assert len(stored(run, PAIR)) == 1


def test_help_opens_and_keys_do_nothing_behind_it(visit: Visit, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with labelling(run) as (address, _):
        page = opened(visit, address)
        press(page, "?")
        expect(page.locator("#help")).to_be_visible()
        keep(page, "label-help")
        assert barriers(page) == keyboard_barriers(page) == []
        press(page, "1", "?")
        expect(page.locator("#help")).to_be_hidden()
        page.locator("#open-help").focus()
        press(page, "Enter")
        page.locator("#help button").focus()
        press(page, "Enter")
        expect(page.locator("#help")).to_be_hidden()
        assert not labelled.labels_path(run, *PAIR).exists()


def test_buttons_answer_the_keyboard_as_keys_do(visit: Visit, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with labelling(run) as (address, _):
        page = opened(visit, address)
        page.locator(".choice").nth(1).focus()
        answer(page, "Enter", "1 of 14")
        page.locator("#undo").focus()
        answer(page, "Space", "0 of 14")
    assert [row["label"] for row in stored(run, PAIR)] == ["tie", "withdrawn"]


def test_when_the_command_has_ended_the_page_says_that_nothing_is_stored(visit: Visit, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with labelling(run) as (address, command):
        page = opened(visit, address)
        command.send_signal(signal.SIGTERM)
        assert command.wait(60) == 0
        press(page, "1")
        expect(page.locator("#message")).to_have_text(re.compile("^Not stored"))
        assert "ERR_CONNECTION_REFUSED" in " ".join(visit.complaints())
        visit.heard.clear()


@KINDS
def test_nothing_bars_the_way(visit: Visit, tmp_path: Path, key: tuple[str, str]) -> None:
    run = make_run(tmp_path, key, outputs=ATTACK)
    with labelling(run) as (address, _):
        page = opened(visit, address)
        assert barriers_on_every_screen(page, f"label-{key[1]}") == {}
        assert scrolls_sideways(page, 320, 768, 1280) == []
        assert all(text.strip() for text in page.locator("button").all_text_contents())
        assert page.locator("progress").get_attribute("aria-label")
        expect(page.locator("h1, main, header")).to_have_count(3)
        labelled_by = "[...document.querySelectorAll('[aria-labelledby]')].every((n) => document.getElementById("
        assert page.evaluate(labelled_by + "n.getAttribute('aria-labelledby')))")


@KINDS
def test_tab_reaches_everything_and_shows_where_it_is(visit: Visit, tmp_path: Path, key: tuple[str, str]) -> None:
    run = make_run(tmp_path, key, outputs=dict.fromkeys(range(40), (HOSTILE, LONG[:60])))
    with labelling(run) as (address, _):
        page = opened(visit, address)
        for width, height in ((1280, 900), (1280, 600), (320, 600)):
            page.set_viewport_size({"width": width, "height": height})
            assert (width, height, keyboard_barriers(page)) == (width, height, [])
