"""The HTML report: one file, no network, nothing untrusted alive, the same bytes each time."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness import plugins
from harness.records import Score, Verdict
from harness.report import Document, Item, _forest, _view, html
from tests.report_example import HOSTILE, comparison, comparisons, document, hostile, items


class Parsed(HTMLParser):
    """Elements, attributes, and the text of each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.raw: list[tuple[str, str]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._inside = tag if tag in ("script", "style") else ""
        if self._inside:
            self.raw.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw[-1] = (self.raw[-1][0], self.raw[-1][1] + data)
        else:
            self.text += data


def render(given: Document, **options: object) -> str:
    return html.build(html.Options.model_validate(options)).render(given)


def data(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return list(json.loads(found[1])["items"])


@pytest.fixture(scope="module")
def page() -> str:
    return render(document())


@pytest.fixture(scope="module")
def attacked() -> str:
    return render(hostile())


def test_it_is_a_plugin() -> None:
    assert plugins.load("report", "html").FILENAME == "report.html"
    with pytest.raises(ValidationError):
        html.Options.model_validate({"theme": "blue"})


def test_no_helper_is_taken_for_a_plugin() -> None:
    assert plugins.names("report") == ["html", "junit", "markdown"]


def test_the_policy_names_exactly_what_the_page_holds(page: str) -> None:
    parsed = Parsed(page)
    policy = next(value for tag, name, value in parsed.attributes if (tag, name) == ("meta", "content"))
    assert policy.startswith("default-src 'none';")
    for directive, kind, index in (("style-src", "style", 0), ("script-src", "script", -1)):
        texts = [text for tag, text in parsed.raw if tag == kind]
        digest = base64.b64encode(hashlib.sha256(texts[index].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert "connect-src" not in policy  # default-src 'none' forbids it


@pytest.mark.parametrize("given", [document("block"), document("hold"), document("promote")])
def test_nothing_is_fetched(given: Document) -> None:
    text = render(given)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    parsed = Parsed(text)
    assert {value for _, name, value in parsed.attributes if name in ("src", "href")} <= {
        "data:,", "#main", "#guards", "#slices", "#drift", "#checks", "#samples", "#compared",
    }  # fmt: skip
    assert not any(name == "style" or name.startswith("on") for _, name, _ in parsed.attributes)


def test_hostile_text_is_text(attacked: str) -> None:
    parsed, safe = Parsed(attacked), Parsed(render(document()))
    assert set(parsed.tags) <= set(safe.tags)
    assert parsed.tags.count("script") == 2
    assert {name for _, name, _ in parsed.attributes} <= {name for _, name, _ in safe.attributes}
    for text in HOSTILE[:2]:
        assert text in parsed.text
    assert "49" not in re.findall(r"\{\{7\*7\}\}|\b49\b", parsed.text)


def test_the_data_block_cannot_be_left(attacked: str) -> None:
    block = next(text for tag, text in Parsed(attacked).raw if tag == "script")
    assert block.isascii()
    assert not set("<>&") & set(block)
    assert any(record["prompt"] == HOSTILE[0] for record in data(attacked))


def test_the_file_holds_no_control_characters_and_is_utf_8(attacked: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e]", attacked)
    assert attacked.encode("utf-8")


def test_the_same_document_gives_the_same_page(page: str) -> None:
    assert render(document()) == page


def test_secrets_of_the_manifest_are_withheld(page: str) -> None:
    assert "hf_not_for" not in page
    assert "(withheld)" in page


def test_a_manifest_may_hold_anything() -> None:
    odd = {"policy": {"at": float("nan"), "path": Path("a/b"), "raw": b"x", "set": {1}}, "seed": 0, "baseline": None}
    assert "a/b" in render(dataclasses.replace(document(), manifest=odd))


def test_the_first_words_are_the_verdict_and_the_reasons(page: str) -> None:
    body = " ".join(Parsed(page).text.split())
    start = body.index("BLOCK support-lora-r16 against Qwen3-0.6B", body.index("Skip to"))
    assert body.index("The candidate must not be promoted.") > start
    assert body.index("golden/json-tools/schema_valid regressed: 0.948") < body.index("Samples used")


def test_many_reasons_are_folded() -> None:
    text = render(Document(Verdict("hold", tuple(f"reason {i}" for i in range(9)), ())))
    assert "4 more reasons" in text
    assert "No guard was evaluated." in text
    assert "No sample changed or failed." in text
    assert Parsed(text).tags.count("script") == 0


def test_some_samples_are_there_without_javascript(page: str) -> None:
    body, _, template = page.partition('<template id="sample">')
    assert body.count('<li class="item">') == 20
    assert template.count('<li class="item">') == 1


def test_what_is_left_out_is_counted() -> None:
    text = render(document(), max_items=100)
    assert len(data(text)) == 100
    assert "300 more are in the run directory only" in " ".join(text.split())


def test_huge_outputs_do_not_make_a_huge_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "_TOTAL_CHARS", 200_000)
    long = "word " * 100_000
    item = Item("s", "m", "1", (), long, long, long, long + "end", Score.of(1), Score.of(0), "lost")
    text = render(Document(Verdict("block", ("x",), ()), {}, [item] * 100))
    assert len(text) < 1_000_000
    assert 5 < len(data(text)) < 50
    assert "496,000 more characters" in data(text)[0]["prompt"]


def test_drift_has_a_section_of_its_own_or_none(page: str) -> None:
    section = page[page.index('<section id="drift"') : page.index('<section id="checks"')]
    assert section.count('<tr role="row" class="advisory">') == 3
    assert "in 9 of 283 that differ" in section
    without = render(dataclasses.replace(document(), drift=()))
    assert "#drift" not in without
    assert '<section id="drift"' not in without


# ---------------------------------------------------------------- what differs


def parts(baseline: str, candidate: str, limit: int = 4000) -> tuple[list[str], list[str]]:
    item = dataclasses.replace(items(1)[0], baseline_output=baseline, candidate_output=candidate)
    record = _view.item_record(item, limit)
    return record["baseline"], record["candidate"]


def test_the_differing_words_are_found_whole() -> None:
    assert parts("the answer is 41.", "the answer is 42.") == (
        ["the answer is ", "41", "."],
        ["the answer is ", "42", "."],
    )
    assert parts("same", "same") == (["same", "", ""], ["same", "", ""])
    assert parts("", "new") == (["", "", ""], ["", "new", ""])
    assert parts("a a", "a a a") == (["a a", "", ""], ["a a", " a", ""])


@pytest.mark.parametrize(("one", "two"), [("abc def", "abc xyz def"), ("x", ""), ("1 2 3", "1 3"), ("é\r\n", "é\n ")])
def test_the_parts_make_up_the_whole(one: str, two: str) -> None:
    first, second = parts(one, two)
    assert "".join(first) == one.replace("\r\n", "\n")
    assert "".join(second) == two


def test_a_late_difference_in_a_long_output_is_still_shown() -> None:
    same = "same " * 3_000
    baseline, candidate = parts(same + "41 " + same, same + "42 " + same, limit=400)
    assert (baseline[1], candidate[1]) == ("41", "42")
    assert "characters alike" in baseline[0]
    assert len("".join(baseline)) < 1_000


# ---------------------------------------------------------------- forest plot and heat map


def test_every_guard_is_plotted_where_it_belongs() -> None:
    shown = [c for c in comparisons() if c.slice is None]
    for layout in (_forest.WIDE, _forest.NARROW):
        panels = _forest.panels(shown, layout)
        assert [panel.unit == "points" for panel in panels] == [True, False, False, False]
        for panel in panels:
            for row in panel.rows:
                assert row.decision
                assert row.population
                assert row.point
                assert row.threshold
                assert layout.left < row.decision.start <= row.point <= row.decision.end < layout.right
                assert (row.decision.start > row.threshold) == (row.outcome == "pass")
                if row.outcome == "regressed":
                    assert row.decision.end < row.threshold


def test_a_wide_interval_is_cut_and_marked() -> None:
    wild = comparison("s", difference=0.0, interval=(-0.9, 0.9), outcome="undecided", population_interval=None)
    (panel,) = _forest.panels([wild, comparison("t")], _forest.WIDE)
    decision = panel.rows[0].decision
    assert decision is not None
    assert (decision.cut_start, decision.cut_end) == (True, True)
    assert panel.rows[1].decision is not None
    assert not panel.rows[1].decision.cut_end
    assert "cut" in render(Document(Verdict("hold", ("x",), (wild,))))


@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_nothing_but_zeros_can_be_plotted(margin: float) -> None:
    flat = comparison("s", difference=0.0, half=0.0, margin=margin)
    empty = dataclasses.replace(flat, difference=None, interval=None, population_interval=None, baseline_mean=None)
    text = render(Document(Verdict("hold", ("x",), (flat, empty))))
    assert "no pair is complete" in text
    assert "nan" not in text.lower().split("<script")[0].replace("finance", "")


def test_the_plot_is_described_in_words(page: str) -> None:
    assert page.count('role="img"') == 8
    assert "golden/json-tools/schema_valid: −9.4 pts, interval [−13.1, −5.7], drop &lt; 2.0 pts, regressed" in page


def test_shades_measure_harm_in_margins() -> None:
    def shade(difference: float, margin: float = 0.02) -> str:
        (group,) = _view.tile_groups([comparison("s", slice="a", difference=difference, margin=margin)])
        return group.tiles[0].shade

    assert [shade(d) for d in (-0.5, -0.02, -0.01, -0.001, 0.02, 0.5)] == ["n4", "n2", "n1", "z", "p2", "p4"]
    assert shade(-0.02, margin=0.0) == "n2"


def test_slices_are_grouped_with_the_worst_first(page: str) -> None:
    groups = _view.tile_groups(c for c in comparisons() if c.slice)
    assert groups[0].label == "golden/support-answers/exact_match"
    numbers = [tile.number for tile in groups[1].tiles]
    assert numbers == ["−12.4", "−8.0", "−4.9", "−4.6"]
    assert page.count('class="tile ') == 27
