"""The live page in a real browser: numbers without JavaScript, new ones with it, nothing from elsewhere, as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.traces.receiver import add_token, read_tokens
from tests.browsing import Visit, barriers_on_every_screen, expect, keep, keyboard_barriers
from tests.loopback_model import LoopbackModel, wait_for
from tests.mirroring import Mirroring, chat, settings, verdict_of
from tests.receiving import Receiving
from tests.trace_requests import traces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
HOSTILE = "</pre><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirroring]:
    """A mirror that has blocked a candidate which refuses every third question."""

    def careless(messages: object) -> str:
        text = str(messages)
        return "I'm sorry, but I can't help with that." if "parcel" in text else f"yes {HOSTILE}"

    with LoopbackModel(lambda m: f"Of course. {HOSTILE}") as champion, LoopbackModel(careless) as candidate:
        config = settings(champion.base, candidate.base)
        config["candidate"]["timeout"] = 60  # a busy machine is no failure of the candidate
        config["guards"] = [{"metric": "complied", "margin": 0.05}, {"metric": "finished", "margin": 0.05}]
        with Mirroring(tmp_path_factory.mktemp("mirror"), config) as made:
            for i in range(90):
                made.post(
                    chat(f"Where is my {'parcel' if i % 3 == 0 else 'refund'} {i}? {HOSTILE} jane.doe@example.com")
                )
            assert wait_for(lambda: verdict_of(made.loaded).get("verdict") == "block", 240), verdict_of(made.loaded)
            yield made


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Receiving, str]]:
    """A receiver that has taken spans of one tenant, and this tenant's token."""
    folder = tmp_path_factory.mktemp("receiver")
    token = add_token(folder / "tokens", "shop")
    with Receiving(folder / "store", read_tokens(folder / "tokens")) as made:
        made.post(traces(*[{}] * 3).SerializeToString(), authorization=f"Bearer {token}")
        made.compacted()
        yield made, token


def test_everything_can_be_read_without_javascript_and_refreshes_by_itself(visit: Visit, mirror: Mirroring) -> None:
    page = visit.open(mirror.url, scripts=False)
    shown = page.locator("body").inner_text()
    for expected in ("BLOCK", "complied regressed", "eligible calls were compared", "Newest disagreements", "EMAIL_"):
        assert expected in shown
    assert "jane.doe" not in shown
    expect(page.locator("svg.sequence")).to_have_count(2)
    assert page.locator("noscript meta, meta[http-equiv=refresh]").count() > 0


def test_hostile_texts_are_texts_and_nothing_else_is_asked_for(visit: Visit, mirror: Mirroring) -> None:
    page = visit.open(mirror.url)
    expect(page).to_have_title("Harness mirror")
    assert HOSTILE[:20] in page.locator("body").inner_text()
    expect(page.locator("main img, main script")).to_have_count(0)
    assert visit.complaints() == []


def test_new_numbers_come_without_a_reload(visit: Visit, mirror: Mirroring) -> None:
    page = visit.open(mirror.url)
    received = page.locator(".figures div", has_text="calls received").locator("dd")
    before = int(received.inner_text())
    page.evaluate("window.mark = 1")
    mirror.post(chat("one more"))
    expect(received).to_have_text(str(before + 1))
    assert page.evaluate("window.mark") == 1
    expect(page).to_have_title("Harness mirror")


def opened(visit: Visit, mirror: Mirroring, receiver: tuple[Receiving, str], page: str, **screen: Any) -> Any:
    """One of the two live pages; the receiver's asks for a token."""
    if page == "mirror":
        return visit.open(mirror.url, **screen)
    return visit.open(receiver[0].url, password=receiver[1], **screen)


PAGES = pytest.mark.parametrize("page", ["mirror", "receiver"])


@PAGES
def test_nothing_bars_the_way(visit: Visit, mirror: Mirroring, receiver: tuple[Receiving, str], page: str) -> None:
    shown = opened(visit, mirror, receiver, page)
    if page == "mirror":
        keep(shown, "live", height=1500)  # docs/img/live.png
    assert barriers_on_every_screen(shown, f"live-{page}") == {}
    assert all(one.get_attribute("aria-label") for one in shown.locator("svg[role=img]").all())


@PAGES
@pytest.mark.parametrize("width", [1280, 320])
def test_tab_reaches_everything_and_shows_where_it_is(
    visit: Visit, mirror: Mirroring, receiver: tuple[Receiving, str], page: str, width: int
) -> None:
    assert keyboard_barriers(opened(visit, mirror, receiver, page, width=width)) == []


def test_a_browser_says_the_token_as_its_password(visit: Visit, receiver: tuple[Receiving, str]) -> None:
    page = visit.open(receiver[0].url, password=receiver[1])
    expect(page).to_have_title("Harness receiver · shop")
    expect(page.locator(".figures div", has_text="spans").locator("dd")).to_have_text("3")
    assert visit.complaints() == []


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
