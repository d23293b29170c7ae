"""The folder of a frozen set: samples, card and provenance, written whole or not at all, and locked"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness import __version__, goldens
from harness.errors import StorageError
from harness.goldens.card import CARD_NAME
from harness.goldens.pictures import FOLDER as PICTURES
from harness.goldens.rows import SAMPLES_NAME
from harness.traces.freezing._rows import pictures_of

if TYPE_CHECKING:
    from harness.traces.freezing import FreezeOptions, _Draw

PROVENANCE = "provenance.json"


def write(root: Path, options: FreezeOptions, draw: _Draw) -> Path:
    """Write and lock; returns the folder.

    Raises:
        StorageError: it cannot be written; nothing is left of it.
    """
    target = root / options.name / options.version
    samples = b"".join(item.line for item in draw.kept)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        try:
            (draft / SAMPLES_NAME).write_bytes(samples)
            _copy_pictures(draw, draft)
            (draft / CARD_NAME).write_text(_yaml(_card(options, draw)), encoding="utf-8")
            (draft / PROVENANCE).write_text(_json(_provenance(options, draw, samples)), encoding="utf-8")
            os.rename(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{target}: the set cannot be written: {error}") from error
    try:
        goldens.freeze(root, options.name, options.version)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def _copy_pictures(draw: _Draw, draft: Path) -> None:
    for name in dict.fromkeys(name for item in draw.kept for name in pictures_of(item.row)):
        (draft / PICTURES).mkdir(exist_ok=True)
        shutil.copyfile(draw.album.path(name), draft / name)


def _card(options: FreezeOptions, draw: _Draw) -> dict[str, Any]:
    sessions = len({item.session for item in draw.kept})
    first, last = (_time(item.time_ns)[:10] for item in (draw.kept[0], draw.kept[-1]))
    used = sorted({tag for item in draw.kept for tag in item.row["tags"]})
    return {
        "name": options.name,
        "version": options.version,
        "description": f"{len(draw.kept)} production calls of {sessions} sessions, asked again as they were asked",
        "licence": "not for publication: production data, redacted",
        "source": f"traces from {first} to {last}, drawn as provenance.json says",
        "metrics": [],
        "generation": {"max_tokens": options.max_tokens, "temperature": 0.0},
        "largest_cluster": draw.largest,
        "tags": {tag: f"calls with {tag}" for tag in used},
    }


def _provenance(options: FreezeOptions, draw: _Draw, samples: bytes) -> dict[str, Any]:
    kept = Counter(item.stratum for item in draw.kept)
    lost: Counter[str] = Counter(name for item in draw.kept for name in item.row.get("not_restored", ()))
    liking = {"name": options.liking.name, "at_least": options.liking.at_least}
    return {
        "set": options.reference,
        "frozen_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "harness": __version__,
        "samples_sha256": hashlib.sha256(samples).hexdigest(),
        "drawn_from": {
            "calls": len(draw.table),
            "sha256": _digest(draw.table),
            "tenant": options.tenant,
            "days": options.days,
            "models": list(options.models),
        },
        "drawn_by": {
            "salt": options.salt,
            "by": list(options.by),
            "at_least": options.at_least,
            "per_session": options.per_session,
            "per_user": options.per_user,
            "likeness": options.likeness,
            "training": [str(path) for path in options.training],
            "greedy": options.greedy,
            "liking": liking,
            "images_from": list(options.images_from),
        },
        "pictures": len({name for item in draw.kept for name in pictures_of(item.row)}),
        "left_out": dict(draw.left_out.most_common()),
        "strata": {
            draw.strata.name(code): {"calls": count, "frozen": kept[code]}
            for code, count in sorted(draw.shares.items())
        },
        "not_restored": dict(lost.most_common()),
    }


def _digest(table: Any) -> str:
    """SHA-256 over the ids of all calls that were drawn from, whatever their order."""
    import pyarrow.compute as pc

    ids = table.select(["trace_id", "span_id"])
    ordered = ids.take(pc.sort_indices(ids, [("trace_id", "ascending"), ("span_id", "ascending")])).combine_chunks()
    digest = hashlib.sha256()
    for name in ("trace_id", "span_id"):
        for chunk in ordered[name].chunks:
            digest.update(chunk.buffers()[2] or b"")
    return digest.hexdigest()


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat()


def _yaml(document: Any) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
