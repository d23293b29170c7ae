"""The history in a real browser: silent, readable, driven by keys, and quick to use with 50,000 samples."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.history import site
from harness.history.samples import TEXTS
from tests.browser import CHROMIUM, CONTRAST, Browser
from tests.history_example import GUARDS, make_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.timeout(180),
]

ATTACK = "</script><script>document.title='caught'</script><img src=x onerror=\"document.title='caught'\">"
FOUND = "document.getElementById('found').textContent"
MANY = 50_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> site.Built:
    folder = tmp_path_factory.mktemp("history")
    for day in range(9):
        make_run(folder / "runs", f"adapter-{day}", gain=0.02 * day, seed=day, day=day, said=f" {ATTACK}")
    return site.build([folder / "runs"], folder / "site")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> site.Built:
    """A run of few samples whose columns are repeated, so that the page has 50,000 and the test has seconds."""
    folder = tmp_path_factory.mktemp("large")
    for seed in range(2):
        make_run(folder / "runs", f"adapter-{seed}", seed=seed, day=seed, n=500, guards=GUARDS[:1])
    made = site.build([folder / "runs"], folder / "site")
    for run in made.runs:
        file = folder / "site" / "data" / f"{run.key}.js"
        key, payload = json.loads(f"[{file.read_text('ascii').strip()[len('harnessRun(') : -2]}]")
        columns = json.loads(payload)
        for name in ("excerpts", "tags", "before", "after", "guard", "change"):
            columns[name] = columns[name] * (MANY // 500)
        columns["ids"] = [f"support@1-{i:05}" for i in range(MANY)]
        columns["of"] = list(range(MANY))
        file.write_text(f"harnessRun({json.dumps(key)},{json.dumps(json.dumps(columns))});\n", "ascii")
    return made


def complaints(browser: Browser) -> list[dict[str, Any]]:
    """Errors in the console, exceptions, violations of the policy, and requests to anything but the site."""
    browser.value("new Promise((done) => setTimeout(done, 150))")
    noisy = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    loud = [e for e in browser.events if e.get("method") in noisy]
    for event in browser.events:
        if event.get("method") == "Network.requestWillBeSent":
            url = event["params"]["request"]["url"]
            if not url.startswith(("file://", "data:,", "http://127.0.0.1:")):
                loud.append(event)
    return loud


def compare(browser: Browser, built: site.Built, *places: int, base: str = "", **screen: Any) -> None:
    """Open the page of one run, or two, by their places in the history, and wait for their samples."""
    address = "&".join(f"{name}={built.runs[place].key}" for name, place in zip("ab", places, strict=False))
    browser.open("about:blank")
    page = base or built.index.parent.as_uri()
    browser.open(f"{page}/compare.html#{address}", **screen)
    look = f"const look = () => /rows|No sample/.test({FOUND}) ? done() : setTimeout(look, 10)"
    browser.value(f"new Promise((done) => {{ {look}; look(); }})")


def test_the_index_loads_without_a_complaint_and_holds_every_run(browser: Browser, built: site.Built) -> None:
    browser.open(built.index)
    assert complaints(browser) == []
    assert browser.value("document.querySelectorAll('#rows tr').length") == 9
    assert browser.value("document.querySelectorAll('.trend.wide .dots').length") > 2
    assert browser.value("document.title") == "History: 9 runs"


def test_runs_are_searched_filtered_and_chosen_for_comparison(browser: Browser, built: site.Built) -> None:
    browser.open(built.index)
    browser.press("/")
    assert browser.value("document.activeElement.id") == "query"
    browser.value("q = document.getElementById('query'); q.value = 'adapter-3'; q.dispatchEvent(new Event('input'))")
    assert browser.value(FOUND) == "1 of 9 runs"
    browser.value("q.value = ''; q.dispatchEvent(new Event('input'))")
    browser.value("[2, 5, 7].forEach((i) => document.querySelectorAll('#rows input')[i].click())")
    href = browser.value("document.getElementById('compare').getAttribute('href')")
    assert href == f"compare.html#a={built.runs[7].key}&b={built.runs[5].key}", "the last two chosen, the older first"
    browser.value("document.querySelector('input[value=block]').click()")
    verdicts = browser.value(
        "[...new Set([...document.querySelectorAll('#rows tr:not([hidden])')].map((r) => r.dataset.verdict))]"
    )
    assert verdicts == ["block"]


def test_two_runs_are_compared_down_to_the_sample_by_the_keyboard(browser: Browser, built: site.Built) -> None:
    compare(browser, built, 8, 0)
    assert browser.value("document.getElementById('change').value") == "t"
    kinds = browser.value(
        "[...new Set([...document.querySelectorAll('.row .change')].map((c) => c.textContent))].sort()"
    )
    assert kinds == ["Better", "Worse"]
    browser.value("document.getElementById('list').focus()")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    browser.press("ArrowUp")
    chosen = browser.value(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).ariaPosInSet"
    )
    assert chosen == "2"
    browser.press("Enter")
    browser.value("new Promise((done) => setTimeout(done, 250))")
    sample = browser.value("document.querySelector('.row[aria-selected=true] .id').textContent")
    assert browser.value("document.getElementById('detail-title').textContent") == sample
    assert ATTACK in browser.value("document.getElementById('detail-body').textContent")
    assert complaints(browser) == []
    assert browser.value("document.title") == "History: samples"
    assert browser.value("document.querySelectorAll('#guard-rows tr').length") == 2


def test_what_the_address_names_is_loaded_only_if_the_page_knows_it(browser: Browser, built: site.Built) -> None:
    browser.open("about:blank")
    browser.open(f"{(built.index.parent / 'compare.html').as_uri()}#a=../../evil&b=%3Cimg%3E")
    browser.value("new Promise((done) => setTimeout(done, 300))")
    assert browser.value("document.getElementById('a').value") == built.runs[0].key
    assert browser.value("[...document.scripts].filter((s) => s.src.includes('evil')).length") == 0


def test_a_file_that_is_missing_is_said_and_not_swallowed(browser: Browser, built: site.Built, tmp_path: Path) -> None:
    copy = tmp_path / "site"
    shutil.copytree(built.index.parent, copy)
    (copy / "data" / f"{built.runs[0].key}.js").unlink()
    browser.open("about:blank")
    browser.open(f"{(copy / 'compare.html').as_uri()}#a={built.runs[0].key}")
    browser.value("new Promise((done) => setTimeout(done, 300))")
    assert "cannot be read" in browser.value("document.getElementById('alarm').textContent")


def test_it_works_from_a_web_server_too(browser: Browser, built: site.Built) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(built.index.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        compare(browser, built, 1, base=f"http://127.0.0.1:{server.server_port}")
        assert browser.value(FOUND) == "240 of 240 rows"
        assert complaints(browser) == []
        browser.open("about:blank")
        server.shutdown()


def test_fifty_thousand_samples_are_drawn_a_screen_at_a_time(browser: Browser, large: site.Built) -> None:
    compare(browser, large, 0)
    assert browser.value(FOUND) == f"{MANY:,} of {MANY:,} rows"
    assert browser.value("document.querySelectorAll('.row').length") < 100
    browser.value("document.getElementById('list').focus()")
    browser.press("End")
    browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    last = browser.value("document.querySelector('.row[aria-selected=true] .id').textContent")
    assert last == f"support@1-{MANY - 1:05}"
    browser.value("document.getElementById('query').value = '49999'")
    browser.value("document.getElementById('guard').dispatchEvent(new Event('change'))")
    assert browser.value(FOUND) == f"1 of {MANY:,} rows"
    compare(browser, large, 0, 1)
    assert browser.value(FOUND).endswith(f"of {MANY:,} rows")
    assert complaints(browser) == []


def test_texts_are_loaded_only_when_a_sample_is_read(browser: Browser, large: site.Built) -> None:
    compare(browser, large, 0)
    loaded = "[...document.scripts].filter((s) => /data.*\\/\\d+\\.js$/.test(s.src)).length"
    assert browser.value(loaded) == 0
    browser.value(f"list = document.getElementById('list'); list.focus(); list.scrollTop = {TEXTS} * 36")
    browser.press("Enter")
    browser.value("new Promise((done) => setTimeout(done, 250))")
    assert browser.value(loaded) == 1


@pytest.mark.parametrize("width", [320, 390, 768, 1024])
def test_nothing_scrolls_sideways(browser: Browser, built: site.Built, width: int) -> None:
    browser.open(built.index, width=width, height=700)
    browser.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.value("document.documentElement.scrollWidth") <= width
    compare(browser, built, 8, 0, width=width, height=700)
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_without_javascript_the_index_is_whole(browser: Browser, built: site.Built) -> None:
    browser.open(built.index, scripts=False)
    root = browser.call("DOM.getDocument")["root"]["nodeId"]

    def count(selector: str) -> int:
        return len(browser.call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"])

    assert count("#rows tr") == 9
    assert count("#filters[hidden]") == 1
    assert count(".trend .bars") > 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_has_enough_contrast(browser: Browser, built: site.Built, dark: bool) -> None:
    browser.open(built.index, dark=dark)
    browser.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.value(CONTRAST) == []
    compare(browser, built, 8, 0, dark=dark)
    assert browser.value(CONTRAST) == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, from npm into a folder of the test's own; it is part of nothing that we ship."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine")
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer")
    if done.returncode != 0:
        pytest.skip(f"axe-core does not install: {done.stderr[-200:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("page", ["index", "compare"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, built: site.Built, axe: str, page: str, dark: bool) -> None:
    if page == "index":
        browser.open(built.index, dark=dark)
    else:
        compare(browser, built, 8, 0, dark=dark)
        browser.value("document.getElementById('list').focus()")
        browser.press("Enter")
        browser.value("new Promise((done) => setTimeout(done, 250))")
    browser.value(f"{axe};0")
    found = browser.value(
        "axe.run().then((r) => r.violations.map((v) => [v.impact, v.id, v.nodes[0].html.slice(0, 160)]))"
    )
    assert [one for one in found if one[0] in ("serious", "critical")] == []
