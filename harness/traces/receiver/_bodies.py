"""Bodies of requests, read and decompressed within a limit: what would grow beyond it is refused before it does"""

from __future__ import annotations

import io
import zlib
from typing import Any

from harness.traces.receiver._answers import Refusal

ENCODINGS = ("gzip", "deflate", "zstd")
_MEMBERS = 64  # of gzip, or frames of zstd, in one body: what follows a member is copied, so many would take hours


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """The body without its Content-Encoding.

    Raises:
        Refusal: 413 above `most` bytes, 400 for a damaged body, 415 for an encoding that is none of OTLP's.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        content = body
    elif encoding in ("gzip", "x-gzip"):
        content = _inflate(body, 31, most)
    elif encoding == "deflate":
        content = _inflate(body, 15 if body[:1] and body[0] & 0x0F == 8 else -15, most)
    elif encoding == "zstd":
        content = _unzstd(body, most)
    else:
        raise Refusal(
            415, f"Content-Encoding {encoding[:40]!r} is not read; send one of {', '.join(ENCODINGS)}, or none"
        )
    if len(content) > most:
        raise Refusal(413, f"the body is larger than {most} bytes after decompression; send smaller batches")
    return content


def _inflate(body: bytes, window: int, most: int) -> bytes:
    """Deflate within its wrapping; several gzip members are one body (RFC 1952)."""
    pieces: list[bytes] = []
    left, total = body, 0
    try:
        while left:
            if len(pieces) == _MEMBERS:
                raise Refusal(400, f"the compressed body has more than {_MEMBERS} members; send it as one")
            stream = zlib.decompressobj(window)
            piece = stream.decompress(left, most + 1 - total)
            pieces.append(piece)
            total += len(piece)
            if total > most:
                break
            if not stream.eof:
                raise zlib.error("it ends in the middle")
            left = stream.unused_data
    except zlib.error as error:
        raise Refusal(400, f"the compressed body is damaged: {error}") from None
    return b"".join(pieces)


def _unzstd(body: bytes, most: int) -> bytes:
    import zstandard

    limited: Any = zstandard.ZstdDecompressor(max_window_size=2**27)
    try:
        with limited.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
            content: bytes = reader.read(most + 1)
        if len(content) <= most and not _is_whole(body):
            raise Refusal(400, "the compressed body is damaged: it ends in the middle")
    except zstandard.ZstdError as error:
        raise Refusal(400, f"the compressed body is damaged: {error}") from None
    return content


def _is_whole(body: bytes) -> bool:
    """Whether the last frame is there to its end: the reader says nothing of one that is cut."""
    import zstandard

    for _ in range(_MEMBERS + 1):
        if not body:
            return True
        stream = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
        for start in range(0, len(body), 2**16):
            stream.decompress(body[start : start + 2**16])
            if stream.eof:
                body = stream.unused_data + body[start + 2**16 :]
                break
        else:
            return False
    raise Refusal(400, f"the compressed body has more than {_MEMBERS} frames; send it as one")
