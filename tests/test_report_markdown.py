"""The Markdown report: what a pull request shows, within GitHub's limit, with nothing alive in it."""

import dataclasses
import html
import re

import pytest
from markdown_it import MarkdownIt
from pydantic import ValidationError

from harness import plugins
from harness.drift import SuiteDrift
from harness.records import Comparison, Score, Verdict
from harness.report import Document, Item, change_of, markdown
from tests.report_example import HOSTILE, comparison, document, hostile


def render(given: Document, **options: object) -> str:
    return markdown.build(markdown.Options.model_validate(options)).render(given)


def parsed(text: str) -> MarkdownIt:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def test_it_is_a_plugin() -> None:
    assert plugins.load("report", "markdown").FILENAME == "report.md"
    with pytest.raises(ValidationError):
        markdown.Options.model_validate({"marker": "--> <b>"})
    with pytest.raises(ValidationError):
        markdown.Options.model_validate({"colour": "red"})


def test_the_verdict_and_its_reasons_come_first() -> None:
    lines = render(document()).splitlines()
    assert lines[0] == "<!-- harness-report -->"
    assert lines[2].startswith("## ⛔ BLOCK")
    assert "must not be promoted" in lines[4]
    assert lines[6].startswith("- golden/json-tools/schema_valid regressed")


@pytest.mark.parametrize(("decision", "words"), [("promote", "may be promoted"), ("hold", "No decision")])
def test_every_verdict_has_its_own_words(decision: str, words: str) -> None:
    assert words in render(document(decision))  # type: ignore[arg-type]


def test_a_guard_shows_its_numbers_in_points_and_other_metrics_in_their_unit() -> None:
    text = render(document())
    assert (
        "| `golden/json-tools/schema_valid` | 94.8 → 85.4 | −9.4 pts [−13.1, −5.7] | drop < 2.0 pts "
        "| 24 / 4 | 212 of 400 | **✗ Regressed** |"
    ) in text
    assert "| 3.91 → 4.03 | +0.12 [−0.02, +0.26] | drop < 0.20 |" in text
    assert "0.741 → 0.745 (lower is better)" in text
    assert "gain > 5.0 pts" in text


def test_rounding_never_moves_a_number_onto_its_threshold() -> None:
    close = comparison("s", difference=-0.0204, interval=(-0.0208, -0.02004), outcome="regressed")
    text = render(Document(Verdict("block", ("x",), (close,))))
    assert "[−2.080, −2.004]" in text
    assert "drop < 2.000 pts" in text


def test_a_missing_gain_is_not_called_a_regression() -> None:
    short = comparison("s", difference=0.01, must_improve=0.05, outcome="regressed")
    assert "✗ Fell short" in render(Document(Verdict("block", ("x",), (short,))))


def test_a_guard_without_any_pair_shows_dashes() -> None:
    empty = comparison("s", baseline=0.0, outcome="undecided", used=0)
    empty = dataclasses.replace(
        empty, baseline_mean=None, candidate_mean=None, difference=None, interval=None, population_interval=None
    )
    assert "| – → – | – |" in render(Document(Verdict("hold", ("nothing was asked",), (empty,))))


def test_drift_is_one_folded_table_and_absent_without_an_answer() -> None:
    text = render(document())
    assert (
        "| `golden/support-answers` | 380 | 25.5 % | after 14 tokens (6 to 31) | 42.2 % of 21,604 | 0.017 nats "
        "| 12, in 9 of 283 that differ |"
    ) in text
    assert "| `golden/json-tools` | 212 | 100 % | none differs | 100 % of 9,328 | – | 0 |" in text
    assert "decides nothing" in text
    assert "Drift" not in render(dataclasses.replace(document(), drift=()))


def test_a_share_is_rounded_to_all_or_nothing_only_where_it_is() -> None:
    close = SuiteDrift("s", 10_000, 9_999, (0.0, 0.0, 0.0), 1, 99_999, 2e-9, 0, 0)
    assert "| 10,000 | 99.9 % | after 0 tokens (0 to 0) | 0.1 % of 99,999 | < 0.000001 nats |" in render(
        dataclasses.replace(document(), drift=(close,))
    )


def test_failed_checks_are_listed_and_passed_ones_counted() -> None:
    assert "### Failed pre-flight checks (1 of 8)\n\n- ✗ `training overlap`" in render(document("hold"))
    assert "All 7 pre-flight checks passed." in render(document())


def test_lost_samples_are_shown_for_regressed_guards_only() -> None:
    text = render(document(), items_per_guard=2)
    assert len(re.findall(r"\*\*`json-tools-\d+`\*\*", text)) == 2
    assert "support-answers-" not in text
    assert "2 of 75 shown" in text


def test_a_regressed_slice_shows_only_its_own_samples() -> None:
    sliced = comparison("s", slice="a", outcome="regressed")
    made = [
        Item("s", "exact_match", f"id-{tag}", (tag,), "p", "t", "b", "c", Score.of(1), Score.of(0), "lost")
        for tag in ("a", "b")
    ]
    text = render(Document(Verdict("block", ("x",), (sliced,)), {}, made))
    assert "id-a" in text
    assert "id-b" not in text


def test_the_same_document_gives_the_same_text() -> None:
    assert render(document()) == render(document())


@pytest.mark.slow
@pytest.mark.parametrize("length", [40, 4_000, 40_000])
@pytest.mark.parametrize("guards", [3, 800])
def test_it_fits_a_comment_and_says_what_it_left_out(length: int, guards: int) -> None:
    long = "ab`* " * (length // 5)
    regressed = tuple(comparison(f"suite-{i}", long, outcome="regressed", reason=long) for i in range(guards))
    lost = [
        Item(c.suite, c.metric, long, (), long, long, long, long[1:], Score.of(1), Score.of(0), "lost")
        for c in regressed
    ]
    text = render(Document(Verdict("block", (long,) * guards, regressed), {"command": long}, lost, long))
    assert len(text) <= markdown.GITHUB_LIMIT
    if guards == 800:
        assert re.search(r"Showing \d+ of 800 guards", text)
        assert "… and 780 more reasons" in text


def test_a_smaller_limit_is_kept_too() -> None:
    many: tuple[Comparison, ...] = tuple(comparison(f"s{i}", required=i % 2 == 0) for i in range(500))
    assert len(render(Document(Verdict("hold", ("x",) * 50, many)), max_chars=16_384)) <= 16_384


def test_hostile_text_stays_text() -> None:
    text = render(hostile(), items_per_guard=100)
    kinds = set()
    for token in parsed(text):
        for inner in [token, *(token.children or [])]:
            kinds.add(inner.type)
            if inner.type in ("html_block", "html_inline"):
                allowed = r"\s*(<!-- harness-report -->|</?details>|<summary>[^<>]*</summary>|\s)*\s*"
                assert re.fullmatch(allowed, inner.content), inner.content
    assert not kinds & {"link_open", "image", "s_open", "em_open"}


def test_nothing_mentions_links_or_closes_a_fence_outside_code() -> None:
    prose = []
    for token in parsed(render(hostile(), items_per_guard=100)):
        if token.type == "html_block":
            prose.append(html.unescape(token.content))
        prose += [c.content for c in token.children or [] if c.type == "text"]
    alive = re.compile(r"@\w|://|www\.|#\d|GH-\d", re.IGNORECASE)
    assert not [line for line in prose if alive.search(line)]


def test_control_characters_are_shown_not_sent() -> None:
    text = render(hostile(), items_per_guard=100)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e]", text)
    assert "␛[31mred" in text
    text.encode("utf-8")


def test_secrets_are_withheld_and_the_command_is_quoted() -> None:
    given = dataclasses.replace(document(), manifest={"command": ["harness", "gate", "my gate.yaml"]})
    assert "harness gate 'my gate.yaml'" in render(given)
    assert "hf_not_for" not in render(document())


def test_the_report_address_is_linked_when_given() -> None:
    assert "[Full report](<https://ci.example/1/report.html>)" in render(
        document(), report_url="https://ci.example/1/report.html"
    )


def test_what_happened_to_a_sample() -> None:
    one, zero, failed = Score.of(1), Score.of(0), Score.failed("no answer")
    assert [change_of(one, zero), change_of(zero, one), change_of(one, one)] == ["lost", "won", "changed"]
    assert change_of(one, failed) == change_of(Score.abstained("unsure"), one) == "failed"
    assert change_of(one, zero, higher_is_better=False) == "won"


def test_hostile_texts_cover_every_report_field() -> None:
    assert len(HOSTILE) == len(hostile().verdict.reasons)
