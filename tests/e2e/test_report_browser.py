"""The HTML report in a real browser: it loads silently, asks nobody for anything, and can be read, searched, typed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from harness.records import Decision
from harness.report import Document, html
from tests.browsing import (
    Visit,
    barriers,
    barriers_on_every_screen,
    expect,
    faint,
    focused,
    keep,
    keyboard_barriers,
    press,
    scrolls_sideways,
    unfold,
)  # fmt: skip
from tests.report_example import document, hostile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def page(folder: Path, given: Document, **options: object) -> Path:
    path = folder / "report.html"
    path.write_text(html.build(html.Options.model_validate(options)).render(given), "utf-8")
    return path


@pytest.mark.parametrize("decision", ["promote", "block", "hold"])
def test_it_loads_without_a_complaint(visit: Visit, tmp_path: Path, decision: Decision) -> None:
    shown = visit.open(page(tmp_path, document(decision)))
    expect(shown.locator("h1 .word")).to_have_text(decision.upper())
    expect(shown.locator(".verdict")).to_have_css("border-top-width", "5px")
    expect(shown.locator("#items .item")).to_have_count(25)
    assert visit.complaints() == []


def test_the_verdict_and_its_reasons_are_on_the_first_screen(visit: Visit, tmp_path: Path) -> None:
    for width, height in ((1280, 720), (375, 667)):
        shown = visit.open(page(tmp_path, document()), width=width, height=height)
        box = shown.locator(".reasons li").first.bounding_box()
        assert box["y"] + box["height"] < height


def test_an_attack_changes_nothing(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, hostile()))
    assert visit.complaints() == []
    expect(shown.locator("script")).to_have_count(2)
    expect(shown.locator("img, iframe, object, link[href^=http], a[href*=evil]")).to_have_count(0)
    unfold(shown)
    assert visit.complaints() == []
    assert shown.locator("#items pre", has_text="<img src=x").count() > 0


@pytest.mark.parametrize("given", [document(), hostile()], ids=["example", "hostile"])
def test_nothing_scrolls_sideways(visit: Visit, tmp_path: Path, given: Document) -> None:
    shown = visit.open(page(tmp_path, given), width=320)
    unfold(shown)
    assert scrolls_sideways(shown, 320, 375, 390, 768, 1024) == []


def test_without_javascript_everything_but_the_search_is_there(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, document()), scripts=False)
    expect(shown.locator("#items > .item")).to_have_count(20)
    expect(shown.locator("#filters[hidden]")).to_have_count(1)
    expect(shown.locator("#pager[hidden]")).to_have_count(1)
    assert shown.locator(".forest .decision").count() > 0
    expect(shown.locator("#guards tbody tr")).to_have_count(10)


def found(shown: Any) -> int:
    """How many samples the page says that it has found."""
    return int(shown.locator("#found").inner_text().split()[0].replace(",", ""))


def test_search_filters_and_pages(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, document()))
    expect(shown.locator("#found")).to_have_text("400 of 400 samples")
    shown.locator("#next").click()
    expect(shown.locator("#place")).to_have_text("Page 2 of 16")
    shown.locator("label", has=shown.locator("input[value=lost]")).click()
    expect(shown.locator("#place")).to_have_text(re.compile("^Page 1 of"))
    lost = found(shown)
    assert 0 < lost < 400
    assert set(shown.locator(".item .change").all_inner_texts()) == {"Lost"}
    shown.locator("#query").fill("DUCKS bakery")
    expect(shown.locator("#found")).not_to_have_text(f"{lost} of 400 samples")
    assert 0 < found(shown) < lost
    shown.locator("#query").fill("nowhere at all")
    expect(shown.locator("#found")).to_have_text(re.compile("^No sample matches"))
    assert visit.complaints() == []


def test_a_slice_leads_to_its_samples(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, document()))
    shown.locator(".tile[data-tag=nested]").click()
    expect(shown.locator("#tag")).to_have_value("nested")
    expect(shown.locator("#guard")).to_have_value("golden/json-tools/schema_valid")
    assert set(shown.locator(".item .tags").all_text_contents()) == {"nested"}


def test_what_differs_is_marked(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, document()))
    shown.locator("label", has=shown.locator("input[value=lost]")).click()
    shown.locator("#guard").select_option("capability/gsm8k/exact_match")
    marked = shown.locator(".item .candidate mark").first
    expect(marked).to_contain_text("rolls are lost")
    expect(marked).not_to_contain_text("There are")


def test_five_thousand_samples_are_searched_and_shown_a_page_at_a_time(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, document(count=5_000)))
    shown.locator("#query").fill("no such sample")
    expect(shown.locator("#items .item")).to_have_count(0)
    shown.locator("#query").fill("")
    expect(shown.locator("#items .item")).to_have_count(25)
    expect(shown.locator("#found")).to_have_text("5,000 of 5,000 samples")


# ---------------------------------------------------------------- for everyone


def test_nothing_bars_the_way(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, document()))
    assert barriers_on_every_screen(shown, "report") == {}
    unfold(shown)
    assert barriers(shown, contrast=False) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("decision", ["promote", "hold"])
def test_every_text_has_enough_contrast(visit: Visit, tmp_path: Path, dark: bool, decision: Decision) -> None:
    shown = visit.open(page(tmp_path, document(decision)), dark=dark)
    keep(shown, f"report-{decision}-{'dark' if dark else 'light'}")
    unfold(shown)
    assert faint(shown) == []


def test_landmarks_headings_and_names(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, document()))
    expect(shown.locator("main, header, nav, footer")).to_have_count(4)
    expect(shown.locator("h1")).to_have_count(1)
    unnamed = (
        "[...document.querySelectorAll('input, select, button, [role=img]')]"
        ".filter((n) => !n.labels?.length && !n.textContent.trim() && !n.getAttribute('aria-labelledby')).length"
    )
    assert shown.evaluate(unnamed) == 0


@pytest.mark.parametrize(("width", "opened"), [(1280, False), (320, True)], ids=["wide-folded", "narrow-unfolded"])
def test_tab_reaches_everything_and_shows_where_it_is(visit: Visit, tmp_path: Path, width: int, opened: bool) -> None:
    shown = visit.open(page(tmp_path, document()), width=width)
    if opened:
        unfold(shown)
    assert keyboard_barriers(shown) == []


def test_the_keyboard_is_enough(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, document()))
    press(shown, "/")
    assert focused(shown) == "query"
    shown.locator("#items summary").first.focus()
    press(shown, "ArrowDown", "ArrowDown", "ArrowUp")
    expect(shown.locator("#items summary").nth(1)).to_be_focused()
    press(shown, "Enter")
    expect(shown.locator("#items .item > details").nth(1)).to_have_attribute("open", "")
    expect(shown.locator('a.tile:not([tabindex="-1"])')).to_have_count(27)


def test_samples_are_found_and_paged_by_keys_alone(visit: Visit, tmp_path: Path) -> None:
    shown = visit.open(page(tmp_path, document()))
    press(shown, "/", "Tab", "ArrowDown")
    guard = shown.locator("#guard option").nth(1).inner_text()
    expect(shown.locator("#guard")).to_have_value(guard)
    press(shown, "Tab", "Tab", "ArrowRight")
    expect(shown.locator("input[value=lost]")).to_be_checked()
    assert 0 < found(shown) < 400
    shown.locator("input[value='']").focus()
    press(shown, "Space")
    shown.locator("#guard").select_option("")
    shown.locator("#next").focus()
    press(shown, "Enter")
    expect(shown.locator("#place")).to_have_text("Page 2 of 16")
    expect(shown.locator("#items summary").first).to_be_focused()
    shown.locator(".tile[data-tag=nested]").focus()
    press(shown, "Enter")
    expect(shown.locator("#tag")).to_have_value("nested")
