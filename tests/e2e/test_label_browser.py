"""Labelling in a real browser, from the command to the file: by keyboard, blind, silent, readable in light and dark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import labelled
from tests.browser import CHROMIUM, CONTRAST, Browser
from tests.labelled_run import GRADE, PAIR, make_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.timeout(120),
]
ROOT = Path(__file__).parents[2]
LONG = "The first paragraph explains what a mortgage is.\n\n" + "It then goes on and on about interest rates. " * 40
HOSTILE = "</pre><script>document.title='owned'</script><img src=x onerror=alert(1)>"
ATTACK = dict.fromkeys(range(40), (HOSTILE, LONG))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


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


def wait(browser: Browser, expression: str) -> None:
    """Until an expression holds; ten seconds at most."""
    wanted = f"""new Promise((done) => {{
      const until = Date.now() + 10_000;
      const look = () => ({expression}) || Date.now() > until ? done({expression}) : setTimeout(look, 10);
      look();
    }})"""
    assert browser.value(wanted), expression


def count(browser: Browser, text: str) -> None:
    wait(browser, f"document.getElementById('count').textContent === {json.dumps(text)} && !document.hidden")


def complaints(browser: Browser, address: str) -> list[dict[str, Any]]:
    """Errors, violations of the policy, dialogs, and requests to anybody but the server."""
    browser.value("new Promise((done) => setTimeout(done, 100))")
    noisy = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    loud = [event for event in browser.events if event.get("method") in noisy]
    ours = (address.rpartition("/open/")[0] + "/", "data:,")
    asked = [e for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    return loud + [e for e in asked if not e["params"]["request"]["url"].startswith(ours)]


def stored(run: Path, key: tuple[str, str]) -> list[dict[str, Any]]:
    return [row for _, row in labelled.read_rows(labelled.labels_path(run, *key))]


def test_three_pairs_are_labelled_by_keyboard_and_stand_in_the_file(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with labelling(run, "--labels", "60") as (address, command):
        browser.open(address)
        wait(browser, "document.getElementById('item').hidden === false")  # the bar has no end of its own until then
        total = browser.value("document.getElementById('progress').max")
        count(browser, f"0 of {total:.0f}")
        left = browser.value("document.getElementById('left').textContent")
        browser.press("1")
        count(browser, f"1 of {total:.0f}")
        browser.press("ArrowDown")
        count(browser, f"2 of {total:.0f}")
        browser.press("s")
        count(browser, f"3 of {total:.0f}")
        browser.press("u")
        count(browser, f"2 of {total:.0f}")
        browser.press("ArrowRight")
        count(browser, f"3 of {total:.0f}")
        assert browser.value("document.activeElement.id") == "work"
        assert "/open/" not in browser.value("location.href")
        assert complaints(browser, address) == []
        command.send_signal(signal.SIGINT)
        output, _ = command.communicate(timeout=20)
    assert command.returncode == 0
    assert f"3 of {total:.0f} pairs are labelled, for 60 planned draws." in output
    assert f"harness judge label {run}" in output
    rows = stored(run, PAIR)
    assert [row["label"] for row in rows[1:4]] == ["tie", "cannot tell", "withdrawn"]
    assert rows[0]["label"] == ("first" if left.startswith("old") else "second")
    assert rows[4]["label"] in ("first", "second")
    states = {draw.sample_id: draw.state for draw in labelled.read_run_labels(run)[PAIR].draws}
    assert list(states.values()).count("labelled") == 3


def test_grades_are_given_by_their_number_and_the_end_is_said(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path, GRADE, count=3)
    with labelling(run) as (address, command):
        browser.open(address)
        count(browser, "0 of 3")
        for number in range(6):
            before = browser.value("document.getElementById('only').textContent")
            browser.press(str(1 + number % 5))
            wait(
                browser,
                f"document.getElementById('only').textContent !== {json.dumps(before)}"
                " || !document.getElementById('end').hidden",
            )
        wait(browser, "document.activeElement.id === 'finish'")
        browser.press("Enter")
        output, _ = command.communicate(timeout=20)
    assert command.returncode == 0
    assert "3 of 3 pairs are labelled, for 20 planned draws.\nRepeat the gate" in output
    assert [row["label"] for row in stored(run, GRADE)] == [1, 2, 3, 4, 5, 1]
    assert labelled.read_run_labels(run)[GRADE].complete


def test_what_models_wrote_stays_text(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path, outputs=ATTACK)
    with labelling(run) as (address, _):
        browser.open(address)
        wait(browser, "document.getElementById('item').hidden === false")
        assert browser.value("document.title") == "Label preference"
        assert browser.value("document.querySelectorAll('img, iframe').length") == 0
        assert browser.value("document.getElementById('outputs').textContent.includes('<script>')")
        assert complaints(browser, address) == []


def test_a_key_that_is_held_down_answers_one_item(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with labelling(run) as (address, _):
        browser.open(address)
        wait(browser, "document.getElementById('item').hidden === false")
        pressed = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: i > 0}))"
        browser.value(f"for (let i = 0; i < 5; i++) {pressed}")
        wait(browser, "document.getElementById('count').textContent.startsWith('1 of')")
        browser.value("document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', ctrlKey: true}))")
        assert complaints(browser, address) == []
        assert len(stored(run, PAIR)) == 1


def test_help_opens_and_keys_do_nothing_behind_it(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with labelling(run) as (address, _):
        browser.open(address)
        wait(browser, "document.getElementById('item').hidden === false")
        browser.press("?")
        assert browser.value("document.getElementById('help').open") is True
        browser.press("1")
        browser.press("?")
        assert browser.value("document.getElementById('help').open") is False
        assert not labelled.labels_path(run, *PAIR).exists()


def test_when_the_command_has_ended_the_page_says_that_nothing_is_stored(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with labelling(run) as (address, command):
        browser.open(address)
        wait(browser, "document.getElementById('item').hidden === false")
        command.send_signal(signal.SIGTERM)
        assert command.wait(20) == 0
        browser.press("1")
        wait(browser, "document.getElementById('message').textContent.startsWith('Not stored')")


@pytest.mark.parametrize("key", [PAIR, GRADE], ids=["pairs", "grades"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_can_be_read_and_heard(
    browser: Browser, tmp_path: Path, key: tuple[str, str], dark: bool, look: Callable[[str], None]
) -> None:
    run = make_run(tmp_path, key, outputs=ATTACK)
    with labelling(run) as (address, _):
        browser.open(address, dark=dark)
        wait(browser, "document.getElementById('item').hidden === false")
        assert browser.value(CONTRAST) == []
        for width in (320, 768, 1280):
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
            )
            assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value("[...document.querySelectorAll('button')].every((b) => b.textContent.trim())")
        assert browser.value("document.querySelector('progress').getAttribute('aria-label')")
        assert browser.value("document.querySelectorAll('h1, main, header').length") == 3
        labelled_by = "[...document.querySelectorAll('[aria-labelledby]')].every((n) => document.getElementById("
        assert browser.value(labelled_by + "n.getAttribute('aria-labelledby')))")
        look(f"label-{key[1]}-{'dark' if dark else 'light'}")


@pytest.fixture
def look(browser: Browser) -> Callable[[str], None]:
    """Keeps a screenshot where $HARNESS_SCREENSHOTS names a folder, for people to look at."""

    def keep(name: str) -> None:
        folder = os.environ.get("HARNESS_SCREENSHOTS")
        if folder:
            browser.screenshot(Path(folder) / f"{name}.png")

    return keep
