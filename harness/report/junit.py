"""A verdict as JUnit XML, the format that CI servers turn into a list of tests.

One test case a pre-flight check and one a guard. A CI display must not be green unless the verdict is PROMOTE, so:
a regressed required guard is a *failure* (the candidate is wrong), an undecided required guard and a failed check
are an *error* (the test itself could not be done: the verdict is HOLD), and an advisory guard is never either; what
it found is in its `system-out`, and an undecided one counts as *skipped*. A HOLD or BLOCK that no case explains, such
as a run that ran out of budget, adds an error on the case `verdict`, which is always there.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

from pydantic import BaseModel, ConfigDict, Field

from harness import words
from harness.records import Check, Comparison
from harness.report import Document, Item, Reporter
from harness.report._facts import facts
from harness.report._text import clipped, one_line

FILENAME = "junit.xml"
_NAME = 300
_TEXT = 2_000


class Options(BaseModel):
    """Options of the JUnit report."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="harness", pattern=r"^[\w.-]+$", description="Prefix of the test suites' names.")
    items_per_guard: int = Field(default=3, ge=0, description="Lost samples in a regressed guard's message.")


def build(options: Options) -> Reporter:
    """The JUnit reporter."""
    return _JUnit(options)


@dataclass(frozen=True, slots=True)
class _JUnit:
    options: Options

    def render(self, document: Document) -> str:
        root = ET.Element("testsuites", name=f"{self.options.name}: {one_line(document.title, _NAME)}")
        groups = {
            "verdict": [_verdict_case(document)],
            "preflight": [_check_case(check) for check in document.verdict.checks],
            "required": [self._guard_case(c, document) for c in document.verdict.comparisons if c.required or c.blocks],
            "advisory": [
                self._guard_case(c, document) for c in document.verdict.comparisons if not c.required and not c.blocks
            ],
        }
        for name, cases in groups.items():
            if cases:
                _add_suite(root, f"{self.options.name}.{name}", cases)
        _add_properties(root[0], document)
        _count(root)
        ET.indent(root)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"

    def _guard_case(self, comparison: Comparison, document: Document) -> ET.Element:
        case = _case(comparison.suite, comparison.label)
        lost = [i for i in document.items if i.change == "lost" and i.belongs_to(comparison)]
        body = "\n\n".join([_numbers(comparison), *map(_item_text, lost[: self.options.items_per_guard])])
        message = f"{words.outcome_word(comparison)}: {_summary(comparison)}"
        if comparison.blocks:
            _add_result(case, "failure", message, body)
        elif comparison.required and comparison.outcome == "undecided":
            _add_result(case, "error", message, body)
        else:
            if comparison.outcome == "undecided":
                ET.SubElement(case, "skipped", message=one_line(message, _NAME))
            ET.SubElement(case, "system-out").text = body
        return case


def _verdict_case(document: Document) -> ET.Element:
    """The verdict itself: an error only where no other case would turn the display red."""
    verdict = document.verdict
    case = _case("verdict", "verdict")
    reasons = "\n".join(one_line(reason, _TEXT) for reason in verdict.reasons)
    open_guards = [c for c in words.required(verdict) if c.outcome != "pass"]
    if verdict.verdict != "promote" and not open_guards and not words.failed_checks(verdict):
        _add_result(case, "error", f"{verdict.verdict.upper()}: {words.HEADLINE[verdict.verdict]}", reasons)
    else:
        ET.SubElement(case, "system-out").text = f"{verdict.verdict.upper()}\n{reasons}"
    return case


def _check_case(check: Check) -> ET.Element:
    case = _case("preflight", check.name)
    if check.passed:
        ET.SubElement(case, "system-out").text = clipped(check.detail, _TEXT)
    else:
        _add_result(case, "error", check.detail, check.detail)
    return case


# ---------------------------------------------------------------- text


def _summary(comparison: Comparison) -> str:
    if comparison.reason:
        return comparison.reason
    numbers = f"{words.difference(comparison)} {words.interval(comparison)}".strip()
    return f"{numbers}, {words.margin(comparison)}, {words.used(comparison)} samples"


def _numbers(comparison: Comparison) -> str:
    lines = {
        "baseline": words.mean(comparison.baseline_mean, comparison),
        "candidate": words.mean(comparison.candidate_mean, comparison),
        "difference": words.difference(comparison),
        f"{words.level(comparison)} interval": words.interval(comparison) or words.MISSING,
        "margin": words.margin(comparison),
        "estimand": comparison.estimand + (" (fragile)" if comparison.fragile else ""),
        "samples": f"{words.used(comparison)} used, {comparison.n_failed:,} failed",
        "lost / won": f"{comparison.lost:,} / {comparison.won:,}",
    }
    text = "\n".join(f"{name}: {value}" for name, value in lines.items())
    return text + (f"\n{one_line(comparison.reason, _TEXT)}" if comparison.reason else "")


def _item_text(item: Item) -> str:
    parts = (
        ("prompt", item.prompt),
        ("expected", item.target),
        ("baseline", item.baseline_output),
        ("candidate", item.candidate_output),
    )
    cluster = f" of cluster {one_line(item.cluster, _NAME)}" if item.cluster else ""
    lines = [f"lost sample {one_line(item.sample_id, _NAME)}{cluster}"]
    return "\n".join(lines + [f"  {name}: {one_line(text, 400)}" for name, text in parts])


# ---------------------------------------------------------------- elements


def _case(classname: str, name: str) -> ET.Element:
    # No clock in a report: a case took no time that it could tell.
    return ET.Element("testcase", classname=one_line(classname, _NAME), name=one_line(name, _NAME), time="0")


def _add_result(case: ET.Element, kind: str, message: str, body: str) -> None:
    result = ET.SubElement(case, kind, message=one_line(message, _NAME), type=f"harness.{kind}")
    result.text = clipped(body, 4 * _TEXT)


def _add_suite(root: ET.Element, name: str, cases: list[ET.Element]) -> None:
    suite = ET.SubElement(root, "testsuite", name=name)
    suite.extend(cases)


def _add_properties(suite: ET.Element, document: Document) -> None:
    properties = ET.Element("properties")
    ET.SubElement(properties, "property", name="verdict", value=document.verdict.verdict)
    for fact in facts(document.manifest):
        value = " ".join(part for part in (fact.name, fact.full) if part)
        ET.SubElement(properties, "property", name=fact.label, value=value)
    suite.insert(0, properties)


def _count(root: ET.Element) -> None:
    for element in (*root, root):
        element.set("tests", str(sum(1 for _ in element.iter("testcase"))))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            if element is not root or attribute != "skipped":  # the common schema has no total of skipped cases
                element.set(attribute, str(sum(1 for _ in element.iter(tag))))
        element.set("time", "0")
