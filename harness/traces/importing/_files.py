"""Files as records with their lines, whatever they are packed in; what is unpacked is bounded"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from harness.errors import PluginError, TraceError, at
from harness.plugins import missing_extra
from harness.traces._limits import LIMITS, parse_json

Records = Iterator[tuple[int, Any]]
"""(line, row or frame, counted from 1; the decoded record, or the bytes of a frame in protobuf)."""

MOST_BYTES = 64 * 2**30
"""How much one file may unpack to."""
_MOST_LINE = LIMITS.body_bytes
_MOST_DOCUMENT = 512 * 2**20
_MOST_RATIO = 1000
_ZSTD = b"\x28\xb5\x2f\xfd"
_PARQUET = b"PAR1"
_ROWS = 1024


def records(path: Path, on_damage: Callable[[str], None] | None = None) -> Records:
    """Every record of a file; blank lines are none. A line that is no JSON goes to `on_damage`, or is an error.

    Raises:
        TraceError: there is no such file, it is damaged, unpacks to too much, or (without `on_damage`) a line is.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise TraceError(f"{at(path)}cannot be read: {error.strerror or error}") from error
    if head.startswith(_PARQUET):
        yield from _parquet(path)
    elif _is_framed(head):
        yield from _frames(path)
    else:
        yield from _json(path, head, on_damage)


# ---------------------------------------------------------------- JSON, plain or compressed


def _json(path: Path, head: bytes, on_damage: Callable[[str], None] | None) -> Records:
    try:
        with _unpacked(path, head) as stream:
            yield from _lines(path, stream, on_damage)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise TraceError(f"{at(path)}damaged or cut off while it is unpacked: {error}") from error
    except OSError as error:
        raise TraceError(f"{at(path)}cannot be read: {error}") from error


def _unpacked(path: Path, head: bytes) -> IO[bytes]:
    if head.startswith(b"\x1f\x8b"):
        return io.BufferedReader(_Bounded(path, gzip.open(path, "rb")))
    if head.startswith(_ZSTD):
        return io.BufferedReader(_Bounded(path, _Zstd(path)))
    return path.open("rb")


class _Zstd:
    """Unpacks one frame after the other; unlike the library's own stream, it notices a frame that is cut off."""

    _CHUNK = 2048  # a bomb unpacks this to at most some sixty megabytes, and then meets the bound

    def __init__(self, path: Path) -> None:
        self._decompressor = _zstandard().ZstdDecompressor(max_window_size=2**27)
        self._file = path.open("rb")
        self._frame: Any = None
        self._packed = b""
        self._plain = memoryview(b"")

    def read(self, size: int) -> memoryview | bytes:
        """At most `size` bytes, none at the end; EOFError where the file ends inside a frame."""
        while not self._plain:
            self._packed = self._packed or self._file.read(self._CHUNK)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a frame")
                return b""
            self._frame = self._frame or self._decompressor.decompressobj()
            # A view, because what a few bytes unpack to is taken in thousands of pieces.
            self._plain = memoryview(self._frame.decompress(self._packed))
            self._packed = self._frame.unused_data
            self._frame = None if self._frame.eof else self._frame
        piece, self._plain = self._plain[:size], self._plain[size:]
        return piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise PluginError(missing_extra("reading zstd", error)) from error
    return zstandard


class _Bounded(io.RawIOBase):
    """A stream that refuses to unpack to more than a file of traces can hold."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path, self._stream = path, stream
        self._most = min(MOST_BYTES, max(_MOST_RATIO * path.stat().st_size, 64 * 2**20))
        self._seen = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase` has it; TraceError past the bound, or for a damaged zstd stream."""
        try:
            piece = self._stream.read(len(buffer))
        except (EOFError, OSError, zlib.error):
            raise
        except Exception as error:  # zstandard raises a class of its own, which is not imported here
            raise TraceError(f"{at(self._path)}damaged zstd: {error}") from error
        self._seen += len(piece)
        if self._seen > self._most:
            raise TraceError(f"{at(self._path)}unpacks to more than {self._most} bytes; it may be a decompression bomb")
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close the packed file too."""
        self._stream.close()
        super().close()


def _lines(path: Path, stream: IO[bytes], on_damage: Callable[[str], None] | None) -> Records:
    number = 0
    while raw := stream.readline(_MOST_LINE + 1):
        number += 1
        if len(raw) > _MOST_LINE:
            raise TraceError(f"{at(path, number)}a line longer than {_MOST_LINE // 2**20} MiB")
        if not raw.strip():
            continue
        try:
            value = parse_json(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            if number == 1 and _opens_a_document(raw):
                rest = stream.read(_MOST_DOCUMENT + 1)
                if not _is_line(rest.lstrip().partition(b"\n")[0]):
                    yield from _document(path, raw + rest)
                    return
                stream = io.BytesIO(rest)  # JSON lines after all, of which the first is damaged
            message = f"{at(path, number)}not valid JSON: {error}"
            if on_damage is None:
                raise TraceError(message) from error
            on_damage(message)
        else:
            yield from _listed(value) if number == 1 and _is_list(value) else [(number, value)]


def _opens_a_document(first: bytes) -> bool:
    """Whether a first line that is no JSON may be the start of a document over several lines."""
    stripped = first.strip().lstrip(b"\xef\xbb\xbf")
    return stripped in (b"[", b"{") or (stripped.startswith((b"[", b"{")) and not stripped.endswith(b"}"))


def _is_line(second: bytes) -> bool:
    try:
        return isinstance(parse_json(second), dict)
    except ValueError:  # which a wrong encoding is too
        return False


def _document(path: Path, raw: bytes) -> Records:
    if len(raw) > _MOST_DOCUMENT:
        raise TraceError(f"{at(path)}a document of more than {_MOST_DOCUMENT // 2**20} MiB; write JSON lines instead")
    try:
        value = parse_json(raw.decode("utf-8-sig"))
    except (ValueError, UnicodeDecodeError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise TraceError(f"{at(path, line)}not valid JSON: {error}") from error
    yield from _listed(value) if _is_list(value) else [(1, value)]


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and isinstance(value.get("data"), list))


def _listed(value: Any) -> Iterable[tuple[int, Any]]:
    """The items of a list, or of the page of an API (`{"data": [], "meta": {}}`), counted from 1."""
    return enumerate(value if isinstance(value, list) else value["data"], 1)


# ---------------------------------------------------------------- Parquet


def _parquet(path: Path) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in pa.table(_plain_times(batch)).to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TraceError(f"{at(path, number + 1)}not a Parquet file that can be read: {error}") from error


def _plain_times(batch: Any) -> dict[str, Any]:
    """Columns by name, with times as nanoseconds since 1970, which Python's own times could not hold."""
    import pyarrow as pa

    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, column in columns.items():
        if pa.types.is_timestamp(column.type):
            columns[name] = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
    return columns


# ---------------------------------------------------------------- frames of the Collector's file exporter


def _is_framed(head: bytes) -> bool:
    """Four bytes of length (big-endian), then a message, compressed or in protobuf: no text begins with a NUL."""
    return len(head) == 8 and head[0] == 0


def _frames(path: Path) -> Records:
    number = 0
    with path.open("rb") as file:
        while prefix := file.read(4):
            number += 1
            length = struct.unpack(">I", prefix)[0] if len(prefix) == 4 else 0
            body = file.read(length) if 0 < length <= _MOST_LINE else b""
            if not body or len(body) != length:
                raise TraceError(f"{at(path, number)}a frame is cut off, empty or longer than {_MOST_LINE} bytes")
            yield number, _frame(path, number, body)


def _frame(path: Path, number: int, body: bytes) -> Any:
    if body.startswith(_ZSTD):
        body = _inflated(path, number, body)
    if not body.lstrip().startswith(b"{"):
        return body
    try:
        return parse_json(body)
    except (ValueError, UnicodeDecodeError) as error:
        raise TraceError(f"{at(path, number)}a frame holds no JSON: {error}") from error


def _inflated(path: Path, number: int, body: bytes) -> bytes:
    zstandard = _zstandard()
    try:
        with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(body, read_across_frames=True) as stream:
            plain = bytes(stream.read(_MOST_LINE + 1))
    except zstandard.ZstdError as error:
        raise TraceError(f"{at(path, number)}damaged zstd: {error}") from error
    if len(plain) > _MOST_LINE:
        raise TraceError(f"{at(path, number)}a frame unpacks to more than {_MOST_LINE} bytes")
    return plain
