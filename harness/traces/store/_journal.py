"""The write-ahead journal: what is appended is on disk before anybody is told that it was taken

Each process appends to a file of its own and holds a lock on it. Whoever waits at the same time shares one fsync. A
file that is full or old enough is closed and renamed, which hands it to the compactor; so is one whose process died.
A record is its length, its CRC-32 and its bytes: a record that was half written when the power went is not read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

from harness.errors import StorageError

Kind = Literal["traces", "logs", "counts"]

_HEADER = b"harness journal 1\n"
_RECORD = struct.Struct("<II")
_FIELDS = struct.Struct("<BQH")
_KINDS: tuple[Kind, ...] = ("traces", "logs", "counts")
_MOST = 2**28  # bytes of a record; a length above it is damage


class JournalFull(StorageError):
    """The disk, or what may wait for the compactor, is full; the same request may succeed later."""


@dataclass(frozen=True, slots=True)
class Record:
    """A redacted export request of a tenant, or counts of what was refused; `received_ns` is since 1970."""

    kind: Kind
    tenant: str
    received_ns: int
    body: bytes

    def pack(self) -> bytes:
        """The bytes of the record."""
        tenant = self.tenant.encode()
        content = _FIELDS.pack(_KINDS.index(self.kind), self.received_ns, len(tenant)) + tenant + self.body
        return _RECORD.pack(len(content), zlib.crc32(content)) + content

    def counts(self) -> dict[str, int]:
        """What a record of counts says."""
        counted: dict[str, int] = json.loads(self.body)
        return counted


def read(path: Path) -> Iterator[Record]:
    """The whole records of a journal file, up to the first that is not whole.

    Raises:
        StorageError: the file cannot be read, or is no journal.
    """
    try:
        with path.open("rb") as file:
            header = file.read(len(_HEADER))
            if not _HEADER.startswith(header):  # a shorter one is that of a file which was never appended to
                raise StorageError(f"{path}: not a journal")
            while (frame := file.read(_RECORD.size)) and len(frame) == _RECORD.size:
                length, checksum = _RECORD.unpack(frame)
                content = file.read(length) if length <= _MOST else b""
                if len(content) != length or zlib.crc32(content) != checksum:
                    return
                yield _unpacked(content)
    except OSError as error:
        raise StorageError(f"{path}: the journal cannot be read: {error}") from error


def _unpacked(content: bytes) -> Record:
    kind, received, size = _FIELDS.unpack_from(content)
    start = _FIELDS.size + size
    return Record(_KINDS[kind], content[_FIELDS.size : start].decode(), received, content[start:])


class Journal:
    """Appends to the journal in `folder`; one thread writes for all.

    `roll_bytes` and `roll_seconds` bound a file; above `most_bytes` waiting for the compactor, or below `spare_bytes`
    free on the disk, nothing is taken.
    """

    def __init__(
        self,
        folder: Path,
        *,
        roll_bytes: int = 32 * 2**20,
        roll_seconds: float = 5.0,
        most_bytes: int = 4 * 2**30,
        spare_bytes: int = 256 * 2**20,
    ) -> None:
        self._folder = folder
        self._roll_bytes, self._roll_seconds = roll_bytes, roll_seconds
        self._most_bytes, self._spare_bytes = most_bytes, spare_bytes
        self._waiting: SimpleQueue[tuple[bytes, Future[None]] | None] = SimpleQueue()
        self._handle, self._path, self._size, self._opened = -1, folder, 0, 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def append(self, *records: Record) -> Future[None]:
        """Append records together; the future is done when they are on disk, and fails when none of them is.

        Its error is JournalFull where there is no room, and StorageError for any other failure of the disk.
        """
        done: Future[None] = Future()
        if self._closed:
            done.set_exception(StorageError(f"{self._folder}: the journal is closed"))
        else:
            self._waiting.put((b"".join(r.pack() for r in records), done))
        return done

    def close(self) -> None:
        """Write what waits, hand the file over, and stop."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
            self._thread.join()

    def roll(self) -> None:
        """Hand what was appended so far to the compactor."""
        done = self.append()
        done.result()

    # ------------------------------------------------------------ the writing thread

    def _run(self) -> None:
        running = True
        while running:
            batch: list[tuple[bytes, Future[None]]] = []
            running = self._collect(batch)
            if batch:
                self._write(batch)
            asked = any(not content for content, _ in batch)
            if asked or not running or self._size >= self._roll_bytes or self._old():
                self._hand_over()
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    def _collect(self, batch: list[tuple[bytes, Future[None]]]) -> bool:
        """Everything that waits now, or the first thing that comes; False once the journal is closed."""
        with contextlib.suppress(Empty):  # nothing came, and the file may have grown old
            item = self._waiting.get(timeout=self._roll_seconds)
            while item is not None:
                batch.append(item)
                if self._waiting.empty():
                    return True
                item = self._waiting.get()
            return False
        return True

    def _write(self, batch: list[tuple[bytes, Future[None]]]) -> None:
        content = b"".join(part for part, _ in batch)
        if not content:
            return
        try:
            self._room(len(content))
            self._open()
            _write_all(self._handle, content)
            os.fdatasync(self._handle)
            self._size += len(content)
        except Exception as error:  # whatever it was, those who wait have to hear of it
            self._take_back()
            for _, done in batch:
                done.set_exception(_failure(self._path, error))

    def _room(self, needed: int) -> None:
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < self._spare_bytes + needed:
            raise JournalFull(f"{self._folder}: less than {self._spare_bytes} bytes are free")
        if self._handle < 0 and backlog(self._folder) > self._most_bytes:
            raise JournalFull(f"{self._folder}: more than {self._most_bytes} bytes wait for the compactor")

    def _open(self) -> None:
        if self._handle >= 0:
            return
        name = f"{time.time_ns():020d}-{os.getpid()}-{threading.get_ident():x}.new"
        self._path = self._folder / name
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_all(self._handle, _HEADER)
        self._path = self._path.rename(self._path.with_suffix(".open"))  # now that it is locked it may be found
        sync_folder(self._folder)
        self._size, self._opened = len(_HEADER), time.monotonic()

    def _old(self) -> bool:
        return self._handle >= 0 and time.monotonic() - self._opened >= self._roll_seconds

    def _take_back(self) -> None:
        """Cut off what was half written. Where even that fails the file is left to its checksums."""
        if self._handle >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
                os.lseek(self._handle, self._size, os.SEEK_SET)
                return
            self._hand_over()

    def _hand_over(self) -> None:
        if self._handle >= 0:
            with contextlib.suppress(OSError):  # it stays `.open`, and is found once the lock is gone
                self._path.rename(self._path.with_suffix(".wal"))
                sync_folder(self._folder)
            os.close(self._handle)
            self._handle = -1


def ready(folder: Path) -> list[Path]:
    """Journal files that no process appends to any more, oldest first; those of dead processes are taken over."""
    for path in folder.glob("*.open"):
        with contextlib.suppress(OSError):  # locked: its process lives; gone: somebody else has taken it over
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.rename(path.with_suffix(".wal"))
            finally:
                os.close(handle)
    return sorted(folder.glob("*.wal"))


def backlog(folder: Path) -> int:
    """Bytes in the journal that are not in a segment yet."""
    total = 0
    for path in folder.iterdir() if folder.exists() else ():
        with contextlib.suppress(OSError):  # compacted in between
            total += path.stat().st_size
    return total


def oldest_ns(folder: Path) -> int | None:
    """When the oldest journal file that is left was begun (nanoseconds since 1970), or None where there is none."""
    begun = [int(path.name.partition("-")[0]) for path in folder.glob("*-*.*")]
    return min(begun, default=None)


def sync_folder(folder: Path) -> None:
    """Make the names of files in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _failure(path: Path, error: Exception) -> StorageError:
    if isinstance(error, StorageError):
        return error
    return JournalFull(f"{path}: the journal cannot be written: {error}")
