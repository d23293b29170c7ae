"""The live page in a real browser: numbers without JavaScript, new ones with it, nothing from elsewhere, as text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.traces.receiver import add_token, read_tokens
from tests.browser import CHROMIUM, CONTRAST, Browser
from tests.loopback_model import LoopbackModel, wait_for
from tests.mirroring import Mirroring, chat, settings, verdict_of
from tests.receiving import Receiving
from tests.trace_requests import traces

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.timeout(180),
]
HOSTILE = "</pre><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirroring]:
    """A mirror that has blocked a candidate which refuses every third question."""

    def careless(messages: object) -> str:
        text = str(messages)
        return "I'm sorry, but I can't help with that." if "parcel" in text else f"yes {HOSTILE}"

    with LoopbackModel(lambda m: f"Of course. {HOSTILE}") as champion, LoopbackModel(careless) as candidate:
        config = settings(champion.base, candidate.base)
        config["guards"] = [{"metric": "complied", "margin": 0.05}, {"metric": "finished", "margin": 0.05}]
        with Mirroring(tmp_path_factory.mktemp("mirror"), config) as made:
            for i in range(90):
                made.post(
                    chat(f"Where is my {'parcel' if i % 3 == 0 else 'refund'} {i}? {HOSTILE} jane.doe@example.com")
                )
            assert wait_for(lambda: verdict_of(made.loaded).get("verdict") == "block", 90)
            yield made


def text(browser: Browser) -> str:
    return str(browser.value("document.body.innerText"))


def test_everything_can_be_read_without_javascript_and_refreshes_by_itself(browser: Browser, mirror: Mirroring) -> None:
    browser.open(mirror.url, scripts=False)
    shown = text(browser)
    for expected in ("BLOCK", "complied regressed", "eligible calls were compared", "Newest disagreements", "EMAIL_"):
        assert expected in shown
    assert "jane.doe" not in shown
    assert browser.value("document.querySelectorAll('svg.sequence').length") == 2
    assert browser.value("document.querySelector('noscript meta, meta[http-equiv=refresh]') !== null")


def test_hostile_texts_are_texts_and_nothing_else_is_asked_for(browser: Browser, mirror: Mirroring) -> None:
    browser.open(mirror.url)
    assert browser.value("document.title") == "Harness mirror"
    assert HOSTILE[:20] in text(browser)
    assert browser.value("document.querySelectorAll('main img, main script').length") == 0
    addresses = {
        e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"
    }
    assert all(address.startswith((mirror.url, "data:")) for address in addresses), addresses
    problems = [e for e in browser.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert not problems, problems


def test_new_numbers_come_without_a_reload(browser: Browser, mirror: Mirroring) -> None:
    browser.open(mirror.url)
    browser.value("window.mark = 1, document.body.dataset.seconds")
    mirror.post(chat("one more"))
    wanted = """new Promise((done) => {
      const until = Date.now() + 20000;
      const there = () => document.body.innerText.includes("91") || Date.now() > until;
      const look = () => (there() ? done(true) : setTimeout(look, 200));
      look();
    })"""
    browser.value(wanted)
    assert "91" in text(browser)
    assert browser.value("window.mark") == 1
    assert browser.value("document.title") == "Harness mirror"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_readable_in_light_and_dark_wide_and_narrow(
    browser: Browser, mirror: Mirroring, dark: bool, width: int
) -> None:
    browser.open(mirror.url, dark=dark, width=width)
    assert browser.value(CONTRAST) == []
    assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.value("[...document.querySelectorAll('svg[role=img]')].every((s) => s.getAttribute('aria-label'))")
    if width == 1280 and not dark and (folder := os.environ.get("LIVE_SCREENSHOT")):
        browser.screenshot(Path(folder) / "live.png", height=1500)


def test_the_receivers_page_shows_each_tenant_its_own_part(tmp_path: Path) -> None:
    shop, bank = add_token(tmp_path / "tokens", "shop"), add_token(tmp_path / "tokens", "bank")
    with Receiving(tmp_path / "store", read_tokens(tmp_path / "tokens")) as receiver:
        receiver.post(traces(*[{}] * 3).SerializeToString(), authorization=f"Bearer {shop}")
        receiver.compacted()
        assert receiver.request("GET", "/").status == 401
        ours = receiver.request("GET", "/", headers={"authorization": f"Bearer {shop}"})
        theirs = receiver.request("GET", "/", headers={"authorization": f"Bearer {bank}"})
    assert (ours.status, theirs.status) == (200, 200)
    assert "default-src 'none'" in ours.headers["content-security-policy"]
    assert "<dt>spans</dt><dd>3</dd>" in ours.body.decode()
    assert "<dt>spans</dt><dd>0</dd>" in theirs.body.decode()
