"""The JUnit report: the display of a CI server is green exactly when the verdict is PROMOTE."""

import re
from xml.etree import ElementTree as ET

import pytest

from harness import plugins
from harness.records import Check, Decision, Verdict
from harness.report import Document, junit
from tests.report_example import checks, comparison, document, hostile

# The structure that Jenkins, GitLab and GitHub Actions have in common: allowed children and attributes.
_CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase", "system-out", "system-err"},
    "properties": {"property"},
    "testcase": {"skipped", "error", "failure", "system-out", "system-err"},
}
_ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
}
_NEEDED = {"testsuite": {"name", "tests"}, "testcase": {"name", "classname"}, "property": {"name", "value"}}


def render(given: Document) -> ET.Element:
    text = junit.build(junit.Options()).render(given)
    return ET.fromstring(text.encode("utf-8"))  # noqa: S314


def case(root: ET.Element, name: str) -> ET.Element:
    return next(c for c in root.iter("testcase") if c.get("name") == name)


def bad(root: ET.Element) -> int:
    return int(root.get("failures", "")) + int(root.get("errors", ""))


def test_it_is_a_plugin() -> None:
    assert plugins.load("report", "junit").FILENAME == "junit.xml"


@pytest.mark.parametrize("given", [document("block"), document("hold"), document("promote"), hostile()])
def test_it_has_the_common_structure(given: Document) -> None:
    root = render(given)
    assert root.tag == "testsuites"
    for element in root.iter():
        assert {child.tag for child in element} <= _CHILDREN.get(element.tag, set())
        assert set(element.attrib) <= _ATTRIBUTES.get(element.tag, set())
        assert _NEEDED.get(element.tag, set()) <= set(element.attrib)
    for suite in [*root, root]:
        assert int(suite.get("tests", "")) == len(list(suite.iter("testcase")))
        assert int(suite.get("failures", "")) == len(list(suite.iter("failure")))
        assert int(suite.get("errors", "")) == len(list(suite.iter("error")))


def test_one_case_a_guard_and_a_check() -> None:
    given = document()
    root = render(given)
    assert len(list(root.iter("testcase"))) == 1 + len(given.verdict.checks) + len(given.verdict.comparisons)


def test_regressed_fails_undecided_errs_and_advisory_does_neither() -> None:
    root = render(document())
    regressed = case(root, "golden/json-tools/schema_valid")
    assert "−9.4 pts [−13.1, −5.7]" in (regressed.find("failure").attrib["message"])  # type: ignore[union-attr]
    assert "lost sample json-tools-" in (regressed.find("failure").text or "")  # type: ignore[union-attr]
    assert "31 of 775 pairs failed" in case(root, "shadow/production/preferred").find("error").attrib["message"]  # type: ignore[union-attr]
    assert bad(root) == 3
    advisory = next(suite for suite in root if suite.get("name") == "harness.advisory")
    assert bad(advisory) == 0
    assert int(advisory.get("skipped", "")) > 0


def test_a_failed_check_errs() -> None:
    assert case(render(document("hold")), "training overlap").find("error") is not None


@pytest.mark.parametrize("decision", ["promote", "block", "hold"])
@pytest.mark.parametrize("outcome", ["pass", "regressed", "undecided"])
@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("required", [False, True])
def test_the_display_is_red_whenever_the_verdict_is_not_promote(
    decision: Decision, outcome: str, failed: bool, required: bool
) -> None:
    guard = comparison("s", outcome=outcome, required=required)
    given = Document(Verdict(decision, ("because",), (guard,), (Check("c", not failed, "d"),)))
    red = bad(render(given)) > 0
    explained = failed or (required and outcome != "pass")
    assert red == (explained or decision != "promote")


def test_an_empty_verdict_is_valid() -> None:
    assert bad(render(Document(Verdict("hold", ("nothing was asked",), ())))) == 1
    assert bad(render(Document(Verdict("promote", (), (), checks()[:-1])))) == 0


def test_control_characters_are_not_in_the_file() -> None:
    text = junit.build(junit.Options()).render(hostile())
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", text)
    assert "␛[31mred" in text


def test_the_same_document_gives_the_same_text_without_secrets() -> None:
    reporter = junit.build(junit.Options())
    assert reporter.render(document()) == reporter.render(document())
    assert "hf_not_for" not in reporter.render(document())
