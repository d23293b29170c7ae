"""The pictures of a sample: taken from the data URLs that hold them, or fetched from hosts that are allowed, once each

They become files of the frozen set, named by their content and locked with it, so that a replay asks both subjects the
same and needs no network. That is why they are fetched when a set is frozen and never when it is replayed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote_to_bytes

from harness.errors import StorageError
from harness.goldens.pictures import FOLDER, MOST_BYTES, name_of
from harness.traces.freezing._fetching import Fetcher, Host, NotFetched
from harness.traces.records import Part

_MOST_OF_A_SET = 2 * 2**30  # bytes; a folder that nobody wants to move is no golden set
_LONGEST_DATA = 2 * MOST_BYTES  # characters of a data URL
_UNSAID = ("", "application/octet-stream")


class LeftOut(Exception):
    """A call that cannot become a row; the text is the reason under which it is counted."""


def is_picture(part: Part) -> bool:
    """Whether a part of a message is a picture, or says that it is one."""
    said = part.mime_type.lower().startswith("image/") or part.reference[:11].lower() == "data:image/"
    return part.kind == "image" or (part.kind == "file" and said)


class Album:
    """Keeps pictures in `folder` until the set is written; nothing is fetched from any host but `hosts`.

    An address is asked once, however often it occurs.
    """

    def __init__(self, folder: Path, hosts: Iterable[Host] = (), most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most = folder, most_bytes
        self._fetcher = Fetcher(tuple(hosts), most_bytes)
        self._sizes: dict[str, int] = {}
        self._at: dict[str, str | LeftOut] = {}
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)

    def add(self, part: Part) -> str:
        """The file of a part's picture, relative to the set.

        Raises:
            LeftOut: there is no picture, and why.
            StorageError: it cannot be kept.
        """
        if part.reference[:5].lower() == "data:":
            return self._keep(self._held(part))
        if part.reference not in self._at:
            try:
                self._at[part.reference] = self._keep(self._fetched(part))
            except LeftOut as reason:
                self._at[part.reference] = reason
        found = self._at[part.reference]
        if isinstance(found, LeftOut):
            raise LeftOut(str(found))
        return found

    def _keep(self, content: bytes) -> str:
        name = name_of(content)
        if name is None:
            raise LeftOut("a picture in a format that is not taken, or none at all")
        if name not in self._sizes:
            if sum(self._sizes.values()) + len(content) > _MOST_OF_A_SET:
                raise LeftOut(f"pictures of more than {_MOST_OF_A_SET >> 30} GiB in one set")
            try:
                (self._folder / name).write_bytes(content)
            except OSError as error:
                raise StorageError(f"{self._folder}: a picture cannot be kept: {error}") from error
            self._sizes[name] = len(content)
        return name

    def path(self, name: str) -> Path:
        """Where a picture is kept until then."""
        return self._folder / name

    def _fetched(self, part: Part) -> bytes:
        try:
            return self._fetcher.get(part.reference)
        except NotFetched as reason:
            raise LeftOut(f"a picture that was not fetched: {reason}") from None

    def _held(self, part: Part) -> bytes:
        """What a data URL (RFC 2397) holds."""
        head, comma, data = part.reference.partition(",")
        kind = head[5:].partition(";")[0].strip().lower()
        if len(data) > _LONGEST_DATA:
            raise LeftOut("a picture that is too large")
        if not comma or not (kind in _UNSAID or kind.startswith("image/")):
            raise LeftOut("a picture in a format that is not taken, or none at all")
        raw = unquote_to_bytes(data)
        try:
            content = base64.b64decode(b"".join(raw.split()), validate=True) if ";base64" in head.lower() else raw
        except (binascii.Error, ValueError):
            raise LeftOut("a picture whose data are damaged") from None
        if len(content) > self._most:
            raise LeftOut("a picture that is too large")
        return content
