"""A rubric from one sentence, for whoever has no file: what a good answer is"""

from __future__ import annotations

from harness.judging.rubric import Level, Rubric, RubricFile

DEFAULT = "It is correct, it answers what was asked, and it says no more than that."
"""What a good answer is where nothing else is said."""

_LEVELS = (
    ("worthless", "It has nothing of what a good answer is."),
    ("poor", "It has little of it; what is missing or wrong outweighs the rest."),
    ("fair", "It has part of it; a reader would have to mend it."),
    ("good", "It has most of it; something of lesser weight is missing or wrong."),
    ("excellent", "It is all that a good answer is; nothing could be better."),
)
_SEES = ("conversation", "reference")
_SHOWN = "The conversation:\n\n{{conversation}}\n\nA right answer, where there is one:\n\n{{reference}}\n\n"


def by_criterion(criterion: str = DEFAULT, *, pairwise: bool = False) -> Rubric:
    """A rubric with one criterion: levels 0 to 4, or which of two answers is better.

    Raises:
        pydantic.ValidationError: the criterion is empty.
    """
    mode, outputs = ("pairwise", ("output_a", "output_b")) if pairwise else ("pointwise", ("output",))
    levels = tuple(Level(value=i, name=name, anchor=anchor) for i, (name, anchor) in enumerate(_LEVELS))
    file = RubricFile.model_validate(
        {
            "name": "criterion",
            "version": 1,
            "description": "Whether the answer is a good one.",
            "mode": mode,
            "sees": _SEES,
            "optional": _SEES[1:],
            "criteria": (criterion,),
            "scale": () if pairwise else levels,
        }
    )
    titles = ("The first answer", "The second answer") if pairwise else ("The answer to be judged",)
    shown = "\n\n".join(f"{title}:\n\n{{{{{output}}}}}" for title, output in zip(titles, outputs, strict=True))
    return Rubric(file, _SHOWN + shown)
