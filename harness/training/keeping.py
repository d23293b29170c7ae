"""A result folder that is there whole or not at all, and what a full disk or full memory is told as."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.engine._batches import out_of_memory
from harness.errors import ConfigError, InfrastructureError, StorageError

WORK = ".work"
"""Folder beside the results: checkpoints, and results that are being written."""

_DISK = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG,
})  # fmt: skip
"""Not every OSError is the disk's: a judge that cannot be reached is one, too."""

_WRITERS = ("PytorchStreamWriter", "inline_container")  # in the RuntimeErrors of torch.save


def keep(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder, and move it to its place when all of it is on the disk.

    Raises:
        ConfigError: something is there already.
        StorageError: it cannot be written; nothing is there then.
    """
    part = folder.parent / WORK / f"{folder.name}.part"
    with storing(folder):
        if folder.exists():
            raise ConfigError(f"{folder} is there already; move it away, or name another folder in the recipe's out")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        for path in (*part.iterdir(), part):
            _flush(path)
        part.rename(folder)
        _flush(folder.parent)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """No other process trains into `out` meanwhile: two would go on from each other's checkpoints.

    The system lets go of the lock when a process ends, however it ends.

    Raises:
        InfrastructureError: one does.
    """
    make_folder(out / WORK)
    with (out / WORK / "lock").open("w", encoding="utf-8") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InfrastructureError(
                f"another harness train is at work in {out}; wait for it, or name another folder in the recipe's out"
            ) from error
        except (ImportError, OSError):
            pass  # Windows, or a file system without locks
        yield


def make_folder(folder: Path) -> None:
    """A folder, with those above it.

    Raises:
        StorageError: it cannot be made.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """What fails inside because of the disk becomes a StorageError that says how to go on."""
    try:
        yield
    except Exception as error:  # safetensors and torch have errors of their own for a full disk
        if not _of_the_disk(error):
            raise
        raise StorageError(
            f"{folder} cannot be written: {error}. Free space or mend the folder, then repeat the command: what is "
            "finished is kept, and a training goes on from its last checkpoint"
        ) from error


@contextmanager
def fitting_in_memory(stage: str) -> Iterator[None]:
    """Memory that runs out inside becomes an InfrastructureError that says what takes less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InfrastructureError(
            f"{stage}: memory ran out: {error}. A smaller batch_size with more gradient_accumulation, "
            "activation_checkpointing, a shorter max_length or scope qlora take less"
        ) from error


def _of_the_disk(error: Exception) -> bool:
    from safetensors import SafetensorError

    if isinstance(error, OSError):
        return error.errno in _DISK
    if isinstance(error, SafetensorError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _WRITERS)


def _flush(path: Path) -> None:
    """Have the disk hold what was written: a file, or a folder's list of files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
