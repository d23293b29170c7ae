"""Whether a judge has earned the right to block: its agreement with people, stored, looked up and held to the policy

**κ decides on a bound, not on the estimate**: the lower end of the two-sided 90 % interval, which is a one-sided 95 %
bound. For a preference or two levels it is Cohen's κ; for a longer scale the one with quadratic weights, which is an
intraclass correlation (Fleiss & Cohen 1973) and so speaks of means, and it is means that a guard compares. Both are
always reported.

A calibration holds for one judge, by its fingerprint, and one set of labels, by their digest: when either has changed
it is void, and the message says what has changed. How one is made: `harness.judging.calibrating`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import StorageError
from harness.judging.labels import digest_of
from harness.judging.records import Judge
from harness.judging.rubric import Rubric
from harness.plugins import explain
from harness.records import Check, content_hash
from harness.runs import read_json, write_json

CONFIDENCE = 0.9
"""Two-sided level of every interval here; its lower end alone is a one-sided 95 % bound."""

FOLDER = "calibration"
CHECK = "judge-calibrated"
_MOST_NAMED = 3  # changes named in a message


class Stored(BaseModel):
    """Base of what a calibration's file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(Stored):
    """An estimate with its interval at `CONFIDENCE`; the limits are None where too few items say anything."""

    estimate: float
    low: float | None = None
    high: float | None = None


class Agreement(Stored):
    """How judge and people agree on `n` items.

    `confusion[i][j]` counts the items that people put on level i and the judge on level j. `auc` tells how well the
    judge's value separates the items on level `cut` or better (for pairs: those where the second output is better) from
    the others (where the first is); None where there is only one kind.
    """

    n: int
    accuracy: Figure
    kappa: Figure
    quadratic_kappa: Figure
    auc: Figure | None
    confusion: tuple[tuple[int, ...], ...]


class Calibration(Stored):
    """One judge held against one file of labels.

    `rubric` names the judge's files; `judge`, `fingerprint` and `described` say who applied it. `held_out` counts
    the held-out items, of which `scored` have a value from the judge, and `failed` and `abstained` have none. `untold`
    items no person could tell, `identical` pairs show the same output twice: neither says anything of a judge.
    `development` is the agreement on the rows of `split: dev`, which earns nothing. `mapped` is true where the judge's
    values were mapped to levels. `ceiling` is Krippendorff's α between people, where several labelled the same items.
    """

    rubric: str
    judge: str
    fingerprint: str
    described: dict[str, Any]
    labels: str
    labels_digest: str
    pairwise: bool
    levels: tuple[float, ...]
    cut: float
    held_out: int
    scored: int
    failed: int
    abstained: int
    untold: int
    identical: int
    annotators: int
    mapped: bool
    whole: Agreement | None
    development: Agreement | None
    slices: dict[str, Agreement]
    ceiling: Figure | None

    @property
    def deciding(self) -> Figure | None:
        """The κ that decides; see the module. None where the judge gave no held-out item a value."""
        if self.whole is None:
            return None
        return self.whole.kappa if self.pairwise or len(self.levels) == 2 else self.whole.quadratic_kappa

    def summary(self) -> dict[str, Any]:
        """What a manifest and a report say of it."""
        kappa = self.deciding
        return {
            "kappa": None if kappa is None else kappa.estimate,
            "kappa_low": None if kappa is None else kappa.low,
            "labels": self.scored,
            "fingerprint": self.fingerprint,
            "labels_digest": self.labels_digest,
        }


class _File(Stored):
    """A whole judges/calibration/<rubric>.json: one record for each judge that was calibrated."""

    calibrations: tuple[Calibration, ...]


# ---------------------------------------------------------------- storing


@dataclass(frozen=True, slots=True)
class Found:
    """A calibration that holds, or why there is none that does."""

    calibration: Calibration | None
    why: str = ""


def calibration_path(folder: Path, rubric: str) -> Path:
    """Where the calibrations of a rubric's judges are stored, in the folder of the labels."""
    return folder / f"{rubric}.json"


def store(calibration: Calibration, folder: Path) -> Path:
    """Write a calibration beside those of other judges with the same rubric; that of the same judge is replaced.

    Raises:
        StorageError: the file cannot be written, or what is there is no file of calibrations.
    """
    path = calibration_path(folder, calibration.rubric)
    others = [c for c in _read(path) if c.fingerprint != calibration.fingerprint] if path.exists() else []
    kept = sorted([*others, calibration], key=lambda c: c.fingerprint)
    write_json(path, _File(calibrations=tuple(kept)).model_dump(mode="json"))
    return path


def look_up(rubric: Rubric, judge: Judge, rubrics: Path) -> Found:
    """The calibration of this very judge, on labels that are what they were; or what has changed.

    Args:
        rubric: what the judge applies.
        judge: who is to be trusted.
        rubrics: the folder `judges/`, in whose `calibration/` it is looked for.

    Raises:
        StorageError: the file is no file of calibrations.
    """
    folder = rubrics / FOLDER
    path = calibration_path(folder, rubric.name)
    if not path.exists():
        return Found(None, f"it was never calibrated (there is no {path})")
    known = _read(path)
    mine = next((c for c in known if c.fingerprint == judge.fingerprint), None)
    if mine is None:
        return Found(None, _other_judge(known, judge.describe()))
    labels = folder / mine.labels
    if not labels.is_file():
        return Found(None, f"the labels that it was calibrated on are not there any more: {labels}")
    if digest_of(labels) != mine.labels_digest:
        return Found(None, f"the labels in {labels} have changed since it was calibrated")
    return Found(mine)


def stored(rubric: Rubric, judge: Judge, rubrics: Path) -> Calibration | None:
    """The calibration that holds for this judge, if there is one; see `look_up`."""
    return look_up(rubric, judge, rubrics).calibration


def _read(path: Path) -> tuple[Calibration, ...]:
    try:
        return _File.model_validate(read_json(path)).calibrations
    except ValidationError as error:
        raise StorageError(
            f"{path}: {explain(error, _File)}; it is no file of calibrations. Remove it and calibrate again"
        ) from error


def _other_judge(known: Sequence[Calibration], described: Mapping[str, Any]) -> str:
    """What tells this judge from the calibrated one that is most like it."""
    now = _flat(described)
    changes = [_changes(_flat(c.described), now) for c in known]
    least = min(changes, key=len, default=[])
    if not least:
        return "it was calibrated as another judge, with something else in its prompt or settings"
    more = f", and {len(least) - _MOST_NAMED} more" if len(least) > _MOST_NAMED else ""
    return f"it has changed since it was calibrated: {', '.join(least[:_MOST_NAMED])}{more}"


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [f"{name} was {before.get(name, 'not there')}, is {now.get(name, 'not there')}" for name in names]


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Leaves of nested JSON by dotted name, short enough for a message; a fingerprint says nothing to people."""
    listed = enumerate(value) if isinstance(value, list | tuple) else None
    inner = value.items() if isinstance(value, Mapping) else listed
    if inner is not None:
        parts = (_flat(part, f"{name}.{key}".lstrip(".")) for key, part in inner if key != "fingerprint")
        return {key: text for part in parts for key, text in part.items()}
    text = str(value)
    return {name: text if len(text) <= 60 else f"{content_hash(text)[:8]}…"}


# ---------------------------------------------------------------- standing


def standing(
    calibration: Calibration | None, *, kappa: float = 0.4, labels: int = 100, name: str = "the judge", why: str = ""
) -> Check:
    """Whether a judge has earned the right to block.

    Args:
        calibration: the one that holds, or None.
        kappa: what the lower bound of the deciding κ must reach (one-sided, 95 %).
        labels: held-out labels that it must rest on, the judge's failures not counted.
        name: what to call a judge without a calibration.
        why: why it has none (`Found.why`).
    """
    if calibration is None:
        detail = f"{name} may not be required: {why or 'it was never calibrated'}. {_WAY_OUT}"
        return Check(CHECK, False, detail)
    figures = f"{calibration.rubric} by {calibration.judge}: {_in_words(calibration)}"
    short = labels - calibration.scored
    if short > 0:
        missing = f"{labels} held-out labels are needed, {short} more"
        return Check(CHECK, False, f"{figures}; {missing}. {_WAY_OUT}")
    found = calibration.deciding
    if found is None or found.low is None or found.low < kappa:
        return Check(CHECK, False, f"{figures}; κ must be at least {kappa:g} with 95 % confidence. {_WAY_OUT}")
    return Check(CHECK, True, f"{figures} (demanded: {kappa:g} on {labels})")


def look_up_standing(rubric: Rubric, judge: Judge, rubrics: Path, *, kappa: float, labels: int) -> Check:
    """`standing` of whatever calibration holds for a judge, with the reason where none does."""
    found = look_up(rubric, judge, rubrics)
    name = f"{rubric.name} by {judge.name}"
    return standing(found.calibration, kappa=kappa, labels=labels, name=name, why=found.why)


_WAY_OUT = (
    "Label outputs and run `harness judge calibrate`; or make its guards advisory (required: false); or say in "
    "gate.yaml why it need not be (judges.uncalibrated). See docs/judges.md"
)


def _in_words(calibration: Calibration) -> str:
    found = calibration.deciding
    lost = calibration.failed + calibration.abstained
    silent = f" ({lost} more it could not judge)" if lost else ""
    if found is None:
        return f"no held-out label to hold it against{silent}"
    bound = "" if found.low is None else f", at least {found.low:.2f} with 95 % confidence"
    return f"κ {found.estimate:.2f}{bound}, on {calibration.scored} held-out labels{silent}"
