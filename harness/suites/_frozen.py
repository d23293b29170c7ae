"""What suites over golden sets share: how a row is asked, and the checks that its set is what was frozen"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import contamination, goldens
from harness.errors import DataError, LockError
from harness.goldens import Generation, GoldenSet
from harness.records import Check, Generate, Message, Sample

_SHOWN = 5


def asked(sample: Sample, *, chat: bool) -> str | tuple[Message, ...]:
    """What a row asks: its messages, its prompt as it stands, or with `chat` the prompt as a user's message."""
    if sample.messages:
        return sample.messages
    return (Message("user", sample.prompt),) if chat else sample.prompt


def request(sample: Sample, generation: Generation, *, chat: bool) -> Generate:
    """What asks for a row's text: as the card says, but for what the row's own `parameters` and `tools` say."""
    own = {key: value for key, value in sample.data.get("parameters", {}).items() if value is not None}
    spelled = {key: canonical(own.pop(key)) for key in ("tool_choice", "response_format") if key in own}
    if sample.data.get("tools"):
        spelled["tools"] = canonical(sample.data["tools"])
    settings = generation.model_dump() | own | spelled
    settings["until"] = tuple(settings["until"])
    return Generate(asked(sample, chat=chat or bool(spelled)), **settings)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values are equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def locked(golden: GoldenSet) -> dict[str, Any]:
    """What a manifest says of a set: its entry in the lock."""
    files = dict(golden.locked.files)
    return {"locked": {"set": golden.reference, "samples": golden.locked.samples, "files": files}}


def without_pictures(golden: GoldenSet, asked: Sequence[Sample]) -> list[Check]:
    """What is said of rows that are not asked for their pictures; nothing where all are."""
    left_out, total = len(golden.samples) - len(asked), len(golden.samples)
    if not left_out:
        return []
    detail = f"{left_out} of {total} samples of {golden.reference} hold pictures, and nothing is claimed about them"
    return [Check("without-pictures", True, detail)]


def lock_check(golden: GoldenSet) -> Check:
    """Whether the set's files are those that were frozen."""
    try:
        goldens.verify(golden.folder.parents[1], [golden.reference])
    except (LockError, DataError) as error:
        return Check("golden-lock", False, str(error))
    return Check("golden-lock", True, f"{golden.reference} is as it was frozen")


def training_check(files: Sequence[Path], samples: Sequence[Sample], reference: str) -> Check:
    """Whether no sample of `reference` is in the training data."""
    found = contamination.find(files, samples)
    ids = {f.sample_id for f in found}
    if not found:
        detail = f"none of the {len(samples)} samples of {reference} is in the training data"
        return Check("no-training-row", True, detail)
    shown = "; ".join(str(f) for f in found[:_SHOWN]) + ("; …" if len(found) > _SHOWN else "")
    return Check(
        "no-training-row",
        False,
        f"{len(ids)} of {len(samples)} samples of {reference} are in the training data, so this set cannot tell "
        "learning from remembering; take those rows out and train again, or make a new version of the set without "
        f"them: {shown}",
    )
