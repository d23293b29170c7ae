"""The labelling page itself: one document with its own style and script, and a policy that lets nothing else in."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from harness.judging.labelling.session import LEFT, RIGHT, TIE
from harness.judging.labelling.texts import Question
from harness.labelled import CANNOT_TELL, LabelPlan
from harness.report._text import visible
from harness.report.html import asset, content_security_policy, embedded, environment

_OPEN_BELOW = 600  # characters of instructions that are shown unasked
_KEYS = "1234567890"


@dataclass(frozen=True, slots=True)
class Page:
    """The document and the Content-Security-Policy that it is sent with."""

    html: str
    policy: str

    @classmethod
    def of(cls, plan: LabelPlan, question: Question, token: str) -> Page:
        """The page for one plan. `token` has to come back with every answer."""
        style, script = asset("report.css") + asset("label.css"), asset("label.js")
        choices = _preferences() if plan.pairwise else _levels(question)
        sides = ["left", "right"] if plan.pairwise else ["only"]
        sent = [{"answer": c["answer"], "key": c["key"], "arrowKey": c["arrow_key"]} for c in choices]
        html = (
            environment()
            .get_template("label.html.j2")
            .render(
                title=f"Label {visible(plan.metric)}",
                question=visible(question.title),
                instructions=visible(question.instructions),
                open=len(question.instructions) <= _OPEN_BELOW,
                pairwise=plan.pairwise,
                choices=choices,
                data=embedded({"choices": sent, "sides": sides, "token": token}),
                style=Markup(style),  # noqa: S704 - our own file
                script=Markup(script),  # noqa: S704
            )
        )
        policy = content_security_policy(style, script) + "; connect-src 'self'; frame-ancestors 'none'"
        return cls(html, policy)


def _preferences() -> list[dict[str, object]]:
    return [
        _choice(LEFT, "1", "Left is better", arrow="←", arrow_key="ArrowLeft"),
        _choice(TIE, "2", "Equally good", arrow="↓", arrow_key="ArrowDown"),
        _choice(RIGHT, "3", "Right is better", arrow="→", arrow_key="ArrowRight"),
        _choice(CANNOT_TELL, "s", "Cannot tell"),
    ]


def _levels(question: Question) -> list[dict[str, object]]:
    """The levels by the number that they have where that is one key, else by their place."""
    values = [level.value for level in question.levels]
    own = all(0 <= value <= 9 for value in values)
    keys = [str(value) for value in values] if own else list(_KEYS[: len(values)])
    keys += [""] * (len(values) - len(keys))  # beyond ten levels, the pointer
    graded = [
        _choice(
            level.value,
            key,
            visible(level.name if own else f"{level.value} · {level.name}"),
            anchor=visible(level.anchor),
        )
        for key, level in zip(keys, question.levels, strict=True)
    ]
    return [*graded, _choice(CANNOT_TELL, "s", "Cannot tell")]


def _choice(
    answer: str | float, key: str, name: str, *, anchor: str = "", arrow: str = "", arrow_key: str = ""
) -> dict[str, object]:
    shortcut = " ".join(part for part in (key, arrow_key) if part)
    return {"answer": answer, "key": key, "name": name, "anchor": anchor, "arrow": arrow, "arrow_key": arrow_key,
            "shortcut": shortcut}  # fmt: skip
