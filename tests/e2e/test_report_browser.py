"""The HTML report in a real browser: it loads silently, asks nobody for anything, and can be read, searched, typed."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.records import Decision
from harness.report import Document, html
from tests.report_example import document, hostile

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.timeout(120),
]


class Browser:
    """A headless Chromium driven by its DevTools protocol over two pipes; no port is opened."""

    def __init__(self, profile: Path) -> None:
        read_end, self._write = os.pipe()
        self._read, write_end = os.pipe()

        def as_3_and_4() -> None:  # the numbers that --remote-debugging-pipe expects
            os.setsid()
            spare = os.dup(write_end), os.dup(read_end)
            os.dup2(spare[1], 3)
            os.dup2(spare[0], 4)

        flags = (
            "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync "
            "--disable-component-update --disable-dev-shm-usage --remote-debugging-pipe --hide-scrollbars"
        )
        self._process = subprocess.Popen(
            [str(CHROMIUM), *flags.split(), f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=as_3_and_4,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_end)
        os.close(write_end)
        self._ids = itertools.count(1)
        self._buffer = b""
        self._session = ""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t for t in targets if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(
        self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True
    ) -> None:
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
            codes = {"Enter": 13, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38}
            extra = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **(text if kind == "keyDown" else {}), **extra)

    def screenshot(self, path: Path, *, top: int = 0, height: int | None = None) -> None:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "height": height or size["height"] - top, "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _next(self, seconds: float = 30.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


def page(folder: Path, given: Document, **options: object) -> Path:
    path = folder / "report.html"
    path.write_text(html.build(html.Options.model_validate(options)).render(given), "utf-8")
    return path


def complaints(browser: Browser) -> list[dict[str, Any]]:
    """Errors in the console, exceptions, violations of the policy, and requests to anything but the page itself."""
    browser.value("new Promise((done) => setTimeout(done, 100))")
    noisy = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    loud = [e for e in browser.events if e.get("method") in noisy]
    for event in browser.events:
        if event.get("method") == "Network.requestWillBeSent":
            url = event["params"]["request"]["url"]
            if not url.startswith(("file://", "data:,")):
                loud.append(event)
    return loud


@pytest.mark.parametrize("decision", ["promote", "block", "hold"])
def test_it_loads_without_a_complaint(browser: Browser, tmp_path: Path, decision: Decision) -> None:
    browser.open(page(tmp_path, document(decision)))
    assert complaints(browser) == []
    assert browser.value("document.querySelector('h1 .word').textContent") == decision.upper()
    assert browser.value("getComputedStyle(document.querySelector('.verdict')).borderTopWidth") == "5px"
    assert browser.value("document.querySelectorAll('#items .item').length") == 25


def test_the_verdict_and_its_reasons_are_on_the_first_screen(browser: Browser, tmp_path: Path) -> None:
    for width, height in ((1280, 720), (375, 667)):
        browser.open(page(tmp_path, document()), width=width, height=height)
        assert browser.value("document.querySelector('.reasons li').getBoundingClientRect().bottom") < height


def test_an_attack_changes_nothing(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path, hostile()))
    assert complaints(browser) == []
    assert browser.value("document.querySelectorAll('script').length") == 2
    assert (
        browser.value("document.querySelectorAll('img, iframe, object, link[href^=http], a[href*=evil]').length") == 0
    )
    browser.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert complaints(browser) == []
    assert browser.value(
        "[...document.querySelectorAll('#items pre')].some((p) => p.textContent.includes('<img src=x'))"
    )


@pytest.mark.parametrize("width", [320, 375, 390, 768, 1024])
@pytest.mark.parametrize("given", [document(), hostile()], ids=["example", "hostile"])
def test_nothing_scrolls_sideways(browser: Browser, tmp_path: Path, width: int, given: Document) -> None:
    browser.open(page(tmp_path, given), width=width, height=700)
    browser.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_without_javascript_everything_but_the_search_is_there(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path, document()), scripts=False)
    root = browser.call("DOM.getDocument")["root"]["nodeId"]

    def count(selector: str) -> int:
        return len(browser.call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"])

    assert count("#items > .item") == 20
    assert count("#filters[hidden]") == count("#pager[hidden]") == 1
    assert count(".forest .decision") > 0
    assert count("#guards tbody tr") == 10


def test_search_filters_and_pages(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path, document()))
    found = "document.getElementById('found').textContent"
    assert browser.value(found) == "400 of 400 samples"
    browser.value("document.getElementById('next').click()")
    assert browser.value("document.getElementById('place').textContent") == "Page 2 of 16"
    browser.value("document.querySelector('input[value=lost]').click()")
    lost = int(browser.value(found).split()[0])
    assert 0 < lost < 400
    assert browser.value("document.getElementById('place').textContent").startswith("Page 1 of")
    kinds = browser.value("[...new Set([...document.querySelectorAll('.item .change')].map((c) => c.textContent))]")
    assert kinds == ["Lost"]
    browser.value("q = document.getElementById('query'); q.value = 'DUCKS bakery'; q.dispatchEvent(new Event('input'))")
    browser.value("new Promise((done) => setTimeout(done, 150))")
    assert 0 < int(browser.value(found).split()[0]) < lost
    browser.value("q.value = 'nowhere at all'; q.dispatchEvent(new Event('input'))")
    browser.value("new Promise((done) => setTimeout(done, 150))")
    assert browser.value(found).startswith("No sample matches")
    assert complaints(browser) == []


def test_a_slice_leads_to_its_samples(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path, document()))
    browser.value("document.querySelector('.tile[data-tag=nested]').click()")
    assert browser.value("document.getElementById('tag').value") == "nested"
    assert browser.value("document.getElementById('guard').value") == "golden/json-tools/schema_valid"
    tags = browser.value("[...new Set([...document.querySelectorAll('.item .tags')].map((t) => t.textContent))]")
    assert tags == ["nested"]


def test_the_keyboard_is_enough(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path, document()))
    browser.press("/")
    assert browser.value("document.activeElement.id") == "query"
    browser.value("document.querySelector('#items summary').focus()")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    browser.press("ArrowUp")
    summaries = "[...document.querySelectorAll('#items summary')].indexOf(document.activeElement)"
    assert browser.value(summaries) == 1
    browser.press("Enter")
    assert browser.value("document.activeElement.parentElement.open") is True
    assert browser.value("document.querySelectorAll('a.tile:not([tabindex=\"-1\"])').length") == 27


def test_what_differs_is_marked(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path, document()))
    browser.value("document.querySelector('input[value=lost]').click()")
    browser.value("document.getElementById('guard').value = 'capability/gsm8k/exact_match'")
    browser.value("document.getElementById('guard').dispatchEvent(new Event('change'))")
    marked = browser.value("document.querySelector('.item .candidate mark').textContent")
    assert "rolls are lost" in marked
    assert "There are" not in marked


def test_five_thousand_samples_are_searched_and_shown_a_page_at_a_time(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path, document(count=5_000)))
    search = (
        "(() => { document.getElementById('query').value = '{term}';"
        "document.getElementById('guard').dispatchEvent(new Event('change'));"
        "return document.querySelectorAll('#items .item').length; })()"
    )
    assert browser.value(search.replace("{term}", "no such sample")) == 0
    browser.value(search.replace("{term}", ""))
    assert browser.value("document.querySelectorAll('#items .item').length") == 25


CONTRAST = """
(() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (node) => {
    for (let n = node; n; n = n.parentElement) {
      const colour = rgb(getComputedStyle(n).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || !node.checkVisibility() || node.closest("script, style, button[disabled]")) continue;
    const style = getComputedStyle(node);
    const colour = rgb(node.closest("svg") ? style.fill : style.color);
    const pair = [light(colour), light(ground(node))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) low.push([ratio.toFixed(2), node.outerHTML.slice(0, 60), text.slice(0, 40)]);
  }
  return low;
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("decision", ["promote", "block", "hold"])
def test_every_text_has_enough_contrast(browser: Browser, tmp_path: Path, dark: bool, decision: Decision) -> None:
    browser.open(page(tmp_path, document(decision)), dark=dark)
    browser.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.value(CONTRAST) == []


def test_landmarks_headings_and_names(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path, document()))
    assert browser.value("document.querySelectorAll('main, header, nav, footer').length") == 4
    assert browser.value("document.querySelectorAll('h1').length") == 1
    unnamed = (
        "[...document.querySelectorAll('input, select, button, [role=img]')]"
        ".filter((n) => !n.labels?.length && !n.textContent.trim() && !n.getAttribute('aria-labelledby')).length"
    )
    assert browser.value(unnamed) == 0
    ids = "[...document.querySelectorAll('[id]')].map((n) => n.id)"
    assert browser.value(f"{ids}.length === new Set({ids}).size") is True
