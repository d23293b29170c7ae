"""A bundle: the files of a promoted adapter, and beside them `promotion/` with the record and what it vouches for

    adapter_config.json, adapter_model.safetensors, …   as they were evaluated; any loader reads the folder as it is
    promotion/record.json                               the signed statement: an envelope, or a Sigstore bundle
    promotion/model.sig, SHA256SUMS                     see `modelsigning` and `sigstorebundle`, where there are any
    promotion/verdict.json, evidence.parquet, LOCK.yaml what the verdict says, its paired scores, the frozen sets

The journal (prompts and outputs in the clear) and the labels (who said what) stay in the run directory; the record
holds their digests.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

from harness.errors import PromotionError
from harness.registry import Promotion
from harness.registry.signed import Signer
from harness.registry.sigstorebundle import is_bundle, sums

FOLDER, RECORD = "promotion", "record.json"
MODEL_SIGNATURE, SUMS = "model.sig", "SHA256SUMS"
_READ_ONLY = 0o444
_NO_LINKS = {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}
_BLOCK = 2**20


def write(promotion: Promotion, key: Signer, folder: Path, objects: Path | None = None) -> None:
    """Write the bundle into a new folder, durably and read-only.

    With `objects`, a folder of the same file system, a file of the adapter is kept there by its SHA-256 and linked, so
    that an adapter that is promoted again takes no more room.

    Raises:
        PromotionError: a file of the adapter changed while it was copied.
        UsageError, InfrastructureError: the signer cannot sign, see `Signer`.
        OSError: the folder cannot be written; what is half written may be thrown away.
    """
    from harness.registry import modelsigning

    beside = folder / FOLDER
    beside.mkdir(parents=True)
    # Signed first, for copying a large model can take longer than a certificate of Sigstore lives.
    proofs = {RECORD: key.seal(promotion.payload)}
    files = {name: digest for name, (_, digest) in promotion.files.items()}
    signature = modelsigning.signature(promotion.identity, files, key)
    if signature is not None:
        proofs[MODEL_SIGNATURE] = signature
    if is_bundle(proofs[RECORD]):
        proofs[SUMS] = sums(proofs)
    for name, (source, digest) in promotion.files.items():
        _place(source, digest, folder / name, objects)
    for name, content in {**promotion.papers, **proofs}.items():
        _write(beside / name, content)
    for made in (beside, folder):
        sync_folder(made)


def sync_folder(folder: Path) -> None:
    """Make durable which files are in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _place(source: Path, digest: str, target: Path, objects: Path | None) -> None:
    """Put a file where it belongs, by a link to the one copy where that can be."""
    if objects is None:
        _copy(source, digest, target)
        return
    kept = objects / digest
    if not kept.exists():
        unfinished = target.with_name(f".{digest}")
        _copy(source, digest, unfinished)
        os.replace(unfinished, kept)
        sync_folder(objects)
    try:
        os.link(kept, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy(source, digest, target)


def _copy(source: Path, digest: str, target: Path) -> None:
    """Copy a file, and refuse it where what was copied is not what it should be."""
    running = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            running.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    if running.hexdigest() != digest:
        raise PromotionError(f"{source}: changed while it was copied; gate the adapter as it is now")
    target.chmod(_READ_ONLY)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    path.chmod(_READ_ONLY)


def discard(folder: Path) -> None:
    """Remove a folder that nobody needs any more, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
