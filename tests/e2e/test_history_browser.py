"""The history in a real browser: silent, readable, driven by keys, and quick to use with 50,000 samples."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.history import site
from harness.history.samples import TEXTS
from tests.browsing import (
    Visit,
    barriers_on_every_screen,
    expect,
    faint,
    focused,
    keyboard_barriers,
    press,
    scrolls_sideways,
    unfold,
)  # fmt: skip
from tests.history_example import GUARDS, make_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ATTACK = "</script><script>document.title='caught'</script><img src=x onerror=\"document.title='caught'\">"
LOADED = re.compile("rows|No sample")
MANY = 50_000


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


def compare(visit: Visit, built: site.Built, *places: int, base: str = "", **screen: Any) -> Any:
    """The page of one run, or two, by their places in the history, once their samples are there."""
    address = "&".join(f"{name}={built.runs[place].key}" for name, place in zip("ab", places, strict=False))
    shown = visit.open(f"{base or built.index.parent.as_uri()}/compare.html#{address}", **screen)
    expect(shown.locator("#found")).to_have_text(LOADED)
    return shown


def read(shown: Any) -> None:
    """Read the sample that is chosen in the list, by keyboard, and wait until it is there."""
    shown.locator("#list").focus()
    press(shown, "Enter")
    expect(shown.locator("#detail-title")).to_have_text(shown.locator(".row[aria-selected=true] .id").inner_text())


def test_the_index_loads_without_a_complaint_and_holds_every_run(visit: Visit, built: site.Built) -> None:
    shown = visit.open(built.index)
    assert visit.complaints() == []
    expect(shown.locator("#rows tr")).to_have_count(9)
    assert shown.locator(".trend.wide .dots").count() > 2
    expect(shown).to_have_title("History: 9 runs")


def test_runs_are_searched_filtered_and_chosen_for_comparison(visit: Visit, built: site.Built) -> None:
    shown = visit.open(built.index)
    press(shown, "/")
    assert focused(shown) == "query"
    shown.keyboard.type("adapter-3")
    expect(shown.locator("#found")).to_have_text("1 of 9 runs")
    shown.locator("#query").fill("")
    for place in (2, 5, 7):
        shown.locator("#rows input").nth(place).click()
    expect(shown.locator("#rows input:checked")).to_have_count(2)
    href = shown.locator("#compare").get_attribute("href")
    assert href == f"compare.html#a={built.runs[7].key}&b={built.runs[5].key}", "the last two chosen, the older first"
    shown.locator("label", has=shown.locator("input[value=block]")).click()
    rows = shown.locator("#rows tr:not([hidden])")
    expect(rows).not_to_have_count(9)
    assert {row.get_attribute("data-verdict") for row in rows.all()} == {"block"}


def test_two_runs_are_compared_down_to_the_sample_by_the_keyboard(visit: Visit, built: site.Built) -> None:
    shown = compare(visit, built, 8, 0)
    expect(shown.locator("#change")).to_have_value("t")
    assert set(shown.locator(".row .change").all_inner_texts()) == {"Better", "Worse"}
    shown.locator("#list").focus()
    press(shown, "ArrowDown", "ArrowDown", "ArrowUp")
    chosen = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).ariaPosInSet"
    assert shown.evaluate(chosen) == "2"
    read(shown)
    expect(shown.locator("#detail-body")).to_contain_text(ATTACK)
    assert visit.complaints() == []
    expect(shown).to_have_title("History: samples")
    expect(shown.locator("#guard-rows tr")).to_have_count(2)
    names = [cell.get_attribute("data-label") for cell in shown.locator("#guard-rows tr").first.locator("td").all()]
    assert names == ["adapter-0", "adapter-8"], "what a narrow screen shows in the place of the table's head"


def test_runs_are_compared_from_the_index_without_a_mouse(visit: Visit, built: site.Built) -> None:
    shown = visit.open(built.index)
    for place in (0, 8):
        shown.locator("#rows input").nth(place).focus()
        press(shown, "Space")
    shown.locator("#compare").focus()
    press(shown, "Enter")
    expect(shown.locator("#found")).to_have_text(LOADED)
    expect(shown.locator("#a")).to_have_value(built.runs[8].key)
    expect(shown.locator("#b")).to_have_value(built.runs[0].key)
    press(shown, "/")
    assert focused(shown) == "query"
    press(shown, "Tab", "Tab", "End")
    expect(shown.locator("#change")).to_have_value("")
    expect(shown.locator("#found")).to_have_text("240 of 240 rows")
    press(shown, "Tab", "End")
    read(shown)


def test_what_the_address_names_is_loaded_only_if_the_page_knows_it(visit: Visit, built: site.Built) -> None:
    shown = visit.open(f"{(built.index.parent / 'compare.html').as_uri()}#a=../../evil&b=%3Cimg%3E")
    expect(shown.locator("#found")).to_have_text(LOADED)
    expect(shown.locator("#a")).to_have_value(built.runs[0].key)
    assert shown.evaluate("[...document.scripts].filter((s) => s.src.includes('evil')).length") == 0


def test_a_file_that_is_missing_is_said_and_not_swallowed(visit: Visit, built: site.Built, tmp_path: Path) -> None:
    copy = tmp_path / "site"
    shutil.copytree(built.index.parent, copy)
    (copy / "data" / f"{built.runs[0].key}.js").unlink()
    shown = visit.open(f"{(copy / 'compare.html').as_uri()}#a={built.runs[0].key}")
    expect(shown.locator("#alarm")).to_contain_text("cannot be read")
    assert "ERR_FILE_NOT_FOUND" in " ".join(visit.complaints())
    visit.heard.clear()


def test_it_works_from_a_web_server_too(visit: Visit, built: site.Built) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(built.index.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shown = compare(visit, built, 1, base=f"http://127.0.0.1:{server.server_port}")
        expect(shown.locator("#found")).to_have_text("240 of 240 rows")
        assert visit.complaints() == []
        shown.goto("about:blank")
        server.shutdown()


def test_fifty_thousand_samples_are_drawn_a_screen_at_a_time(visit: Visit, large: site.Built) -> None:
    shown = compare(visit, large, 0)
    expect(shown.locator("#found")).to_have_text(f"{MANY:,} of {MANY:,} rows")
    assert shown.locator(".row").count() < 100
    shown.locator("#list").focus()
    press(shown, "End")
    expect(shown.locator(".row[aria-selected=true] .id")).to_have_text(f"support@1-{MANY - 1:05}")
    shown.locator("#query").fill("49999")
    expect(shown.locator("#found")).to_have_text(f"1 of {MANY:,} rows")
    shown = compare(visit, large, 0, 1)
    expect(shown.locator("#found")).to_have_text(re.compile(f"of {MANY:,} rows$"))
    assert visit.complaints() == []


def test_texts_are_loaded_only_when_a_sample_is_read(visit: Visit, large: site.Built) -> None:
    shown = compare(visit, large, 0)
    loaded = "[...document.scripts].filter((s) => /data.*\\/\\d+\\.js$/.test(s.src)).length"
    assert shown.evaluate(loaded) == 0
    shown.locator("#list").evaluate(f"list => {{ list.scrollTop = {TEXTS} * 36; }}")
    row = shown.locator(f"#o{TEXTS}")
    row.click()
    expect(shown.locator("#detail-title")).to_have_text(row.locator(".id").inner_text())
    assert shown.evaluate(loaded) == 1


def test_nothing_scrolls_sideways(visit: Visit, built: site.Built) -> None:
    shown = visit.open(built.index, width=320)
    unfold(shown)
    assert scrolls_sideways(shown, 320, 390, 768, 1024) == []
    shown = compare(visit, built, 8, 0, width=320)
    assert scrolls_sideways(shown, 320, 390, 768, 1024) == []


def test_without_javascript_the_index_is_whole(visit: Visit, built: site.Built) -> None:
    shown = visit.open(built.index, scripts=False)
    expect(shown.locator("#rows tr")).to_have_count(9)
    expect(shown.locator("#filters[hidden]")).to_have_count(1)
    assert shown.locator(".trend .bars").count() > 0


# ---------------------------------------------------------------- for everyone


def opened(visit: Visit, built: site.Built, page: str, **screen: Any) -> Any:
    """A page as people see it in the middle of their work."""
    if page == "index":
        return visit.open(built.index, **screen)
    shown = compare(visit, built, *((8, 0) if page == "two" else (8,)), **screen)
    read(shown)
    return shown


@pytest.mark.parametrize("page", ["index", "one", "two"])
def test_nothing_bars_the_way(visit: Visit, built: site.Built, page: str) -> None:
    shown = opened(visit, built, page)
    assert barriers_on_every_screen(shown, f"history-{page}") == {}
    unfold(shown)
    assert faint(shown) == []


@pytest.mark.parametrize("page", ["index", "two"])
@pytest.mark.parametrize("width", [1280, 320])
def test_tab_reaches_everything_and_shows_where_it_is(visit: Visit, built: site.Built, page: str, width: int) -> None:
    shown = opened(visit, built, page, width=width)
    unfold(shown)
    assert keyboard_barriers(shown) == []
