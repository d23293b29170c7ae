"""One person's labelling: what is shown next, without a word of which side is which, and what they answered.

Everything is read from the plan and the file of answers before every step, and every answer is appended and synced
before the next item is shown. So several people may label at once, and nothing is lost when one closes the page.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import labelled
from harness.errors import DataError, StorageError
from harness.judging.labelling.texts import Question, Shown
from harness.labelled import CANNOT_TELL, WITHDRAWN, Answer, FramePair, LabelPlan

Key = tuple[str, tuple[str, ...]]

LEFT, TIE, RIGHT = "left", "tie", "right"


@dataclass(frozen=True, slots=True)
class Step:
    """One question on the screen: both outputs of a pair by digest, left first, or one output to be graded."""

    id: str
    pair: FramePair
    sides: tuple[str, ...]

    @property
    def key(self) -> Key:
        """What the answer is stored under: the outputs in the order of the file, the baseline's first."""
        both = (self.pair.baseline, self.pair.candidate)
        return self.pair.sample_id, both if len(self.sides) == 2 else self.sides


class NoAnswerError(DataError):
    """What the page sent is no answer to the question that it shows."""


class Session:
    """The steps of a plan for one annotator.

    Sides and order are drawn by a hash of plan, annotator and sample, so that they are the same after a restart. The
    ids of steps are random and new in every session: nothing that the page receives says anything of either side but
    its text.
    """

    def __init__(self, run: Path, plan: LabelPlan, shown: Mapping[str, Shown], question: Question, annotator: str,
                 *, everyone: bool = False) -> None:  # fmt: skip
        """A session on the plan's items. With `everyone`, also those that another annotator has answered."""
        self.plan = plan
        self.question = question
        self.annotator = annotator
        self._everyone = everyone
        self._path = labelled.labels_path(run, plan.suite, plan.metric)
        self._shown = shown
        self._steps = {step.key: step for pair in plan.items for step in self._steps_of(pair)}

    def state(self) -> dict[str, Any]:
        """What the page shows now: {done, total, undo, item}; `item` is None at the end. JSON-ready."""
        answers = self._answers()
        step = self._next(answers)
        done, total = self.progress(answers)
        item = None if step is None else self._view(step)
        return {"done": done, "total": total, "undo": bool(self._mine(answers)), "item": item}

    def answer(self, identifier: str, said: object) -> bool:
        """Store an answer to the item that is shown; False where another one is by now.

        Raises:
            NoAnswerError: `said` is no answer to this question.
            StorageError: it could not be stored.
        """
        step = self._next(self._answers())
        if step is None or step.id != identifier:
            return False
        self._append(step, self._label(step, said))
        return True

    def undo(self) -> bool:
        """Withdraw this annotator's last answer; False where there is none."""
        mine = self._mine(self._answers())
        if not mine:
            return False
        self._append(self._steps[mine[-1]], WITHDRAWN)
        return True

    def progress(self, answers: Sequence[Answer] | None = None) -> tuple[int, int]:
        """(pairs answered, pairs to be answered)."""
        settled = self._settled(self._answers() if answers is None else answers)
        pairs = self.plan.items
        return sum(pair.sample_id in settled for pair in pairs), len(pairs)

    # ---------------------------------------------------------------- steps

    def _steps_of(self, pair: FramePair) -> list[Step]:
        sides = (pair.baseline, pair.candidate)
        if self._turned(pair):
            sides = sides[::-1]
        groups = [sides] if self.plan.pairwise else [(side,) for side in sides]
        return [Step(secrets.token_urlsafe(9), pair, group) for group in groups]

    def _turned(self, pair: FramePair) -> bool:
        material = "\0".join((self.plan.seed, self.annotator, pair.sample_id))
        return hashlib.sha256(material.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 1

    def _next(self, answers: Sequence[Answer]) -> Step | None:
        settled, mine = self._settled(answers), set(self._mine(answers))
        open_steps = (s for key, s in self._steps.items() if key not in mine and s.pair.sample_id not in settled)
        return next(open_steps, None)

    def _settled(self, answers: Sequence[Answer]) -> set[str]:
        """Samples that need no answer of this annotator any more."""
        needed = 1 if self.plan.pairwise else 2
        counted: dict[tuple[str, str], int] = {}
        for sample_id, _, annotator in labelled.latest(iter(answers)):
            if self._everyone is False or annotator == self.annotator:
                counted[sample_id, annotator] = counted.get((sample_id, annotator), 0) + 1
        return {sample_id for (sample_id, _), count in counted.items() if count == needed}

    def _mine(self, answers: Sequence[Answer]) -> list[Key]:
        """This annotator's answers that hold, in the order in which they were given."""
        given = [a for a in answers if a.annotator == self.annotator]
        held: dict[Key, None] = {}
        for answer in given:
            held.pop((answer.sample_id, answer.outputs), None)
            if not answer.withdrawn:
                held[answer.sample_id, answer.outputs] = None
        return [key for key in held if key in self._steps]

    def _answers(self) -> list[Answer]:
        return labelled.answers(self.plan, self._path)

    # ---------------------------------------------------------------- in and out

    def _view(self, step: Step) -> dict[str, Any]:
        shown = self._shown[step.pair.sample_id]
        return {
            "id": step.id,
            "fields": [list(field) for field in shown.fields],
            "outputs": [list(shown.outputs[side]) for side in step.sides],
        }

    def _label(self, step: Step, said: object) -> str | int:
        """An answer of the page as the file stores it."""
        if said == CANNOT_TELL:
            return CANNOT_TELL
        if not self.plan.pairwise:
            return self._level(said)
        if said == TIE:
            return "tie"
        if said not in (LEFT, RIGHT):
            raise NoAnswerError("no answer to this question")
        chosen = step.sides[0 if said == LEFT else 1]
        return "first" if chosen == step.pair.baseline else "second"

    def _level(self, said: object) -> int:
        known = [level.value for level in self.question.levels]
        if not isinstance(said, int | float) or isinstance(said, bool) or said not in known:
            raise NoAnswerError("no answer to this question")
        return int(said)

    def _append(self, step: Step, label: str | int) -> None:
        sample_id, outputs = step.key
        names = ("first_sha256", "second_sha256") if self.plan.pairwise else ("output_sha256",)
        row = {
            "sample_id": sample_id,
            **dict(zip(names, outputs, strict=True)),
            "label": label,
            "draws": self.plan.positions(step.pair),
            "annotator": self.annotator,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        labelled.append_row(self._path, row)


def check_shown(plan: LabelPlan, shown: Mapping[str, Shown]) -> None:
    """Make sure that the run still holds every output that the plan is about.

    Raises:
        StorageError: it does not.
    """
    for pair in plan.items:
        texts = shown.get(pair.sample_id)
        if texts is None or {pair.baseline, pair.candidate} - set(texts.outputs):
            raise StorageError(
                f"the journal holds other outputs of sample {pair.sample_id!r} than the plan of labels was made for; "
                "it was changed after the plan was written"
            )
