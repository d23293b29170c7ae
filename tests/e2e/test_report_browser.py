"""The HTML report in a real browser: it loads silently, asks nobody for anything, and can be read, searched, typed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.records import Decision
from harness.report import Document, html
from tests.browser import CHROMIUM, CONTRAST, Browser
from tests.report_example import document, hostile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.timeout(120),
]


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
