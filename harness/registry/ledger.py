"""The ledger: which alias came to stand for which promotion, when and signed by whom; appended only

`ledger.jsonl` holds one line an entry, canonical JSON. Each holds the SHA-256 of the whole line before it and a
signature over everything else in it, so that an entry can be neither changed, nor taken out of the middle, nor put in
by somebody without a key. The last signature vouches for the whole chain. That lines were cut off at the end shows
only to somebody who remembers a later one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import InfrastructureError, PromotionError, RecordError, at
from harness.registry import chain, sigstorebundle
from harness.registry.dsse import canonical, pae
from harness.registry.signed import check_signature

if TYPE_CHECKING:
    from harness.registry import Promotion
    from harness.registry.signed import Signer, Trust

FILE = "ledger.jsonl"
KIND = "application/vnd.promotion-harness.ledger-entry+json"
Action = Literal["promote", "rollback"]
ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SKEW = timedelta(seconds=60)  # by which the clocks of two machines may differ


@dataclass(frozen=True, slots=True)
class Entry:
    """One move of an alias. `at` is UTC, ISO 8601; `adapter` one SHA-256 for the adapter's files.

    `by` and `reason` are those of an override, else empty. `keyid` names the key that signed; it is `sigstore` where
    none did, and `signature` a Sigstore bundle. Signatures are in base64.
    """

    number: int
    previous: str
    at: str
    action: Action
    alias: str
    promotion: str
    adapter: str
    run: str
    verdict: str
    by: str
    reason: str
    keyid: str
    signature: str

    def as_json(self) -> dict[str, Any]:
        """What the line holds."""
        return asdict(self)

    @property
    def signer(self) -> str:
        """The key's name, or the identity that the signature's certificate names: unproved, for a listing."""
        if self.keyid != sigstorebundle.KEYID:
            return self.keyid
        try:
            return sigstorebundle.claimed(base64.b64decode(self.signature))
        except ValueError:
            return self.keyid

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        said = asdict(self)
        del said["signature"]
        return pae(KIND, canonical(said))


def read(path: Path, *, strict: bool = False) -> list[Entry]:
    """Every entry, oldest first; none where there is no ledger yet. Signatures are not looked at, see `check`.

    `strict` refuses a last line without its end, which otherwise is still being written.

    Raises:
        RecordError: a line is not what was written, with its number.
        StorageError: the file cannot be read.
    """
    rows = chain.read(path, strict=strict)
    return [_entry(at(path, number), row) for number, row in enumerate(rows, start=1)]


def check(path: Path, trusted: Trust) -> list[Entry]:
    """Every entry of a ledger whose chain is whole and whose last entry somebody trusted has signed.

    Raises:
        RecordError: it is not; or there is no ledger, or an empty one.
    """
    entries = read(path, strict=True)
    if not entries:
        raise RecordError(f"{at(path)}there is no entry: the ledger was lost or cut off")
    check_entry(path, entries[-1], trusted)
    for number, (before, entry) in enumerate(pairwise(entries), start=2):
        if entry.at < before.at:
            raise RecordError(f"{at(path, number)}is older than the entry before it")
    return entries


def check_entry(path: Path, entry: Entry, trusted: Trust) -> None:
    """Hold one entry of a ledger against its own signature.

    Raises:
        RecordError: nobody who is trusted has signed it.
    """
    where = at(path, entry.number)
    check_signature(entry.signed, _signature(where, entry), entry.keyid, trusted, where)


def histories(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """For each alias the promotions that a rollback leads through, the one that it stands for last.

    Raises:
        RecordError: an alias was rolled back that stood for nothing, which no writer does.
    """
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        stack = found.setdefault(entry.alias, [])
        if entry.action == "promote":
            stack.append(entry)
        elif stack:
            stack.pop()
        else:
            raise RecordError(f"{FILE}: entry {entry.number} goes back where nothing was promoted: it was put there")
    return found


def standing(entries: Sequence[Entry]) -> dict[str, str]:
    """Alias → identity of the promotion that it stands for."""
    return {alias: stack[-1].promotion for alias, stack in histories(entries).items() if stack}


def promoted(entries: Sequence[Entry], promotion: Promotion, alias: str, key: Signer, now: datetime) -> Entry:
    """The entry that says that `alias` now stands for `promotion`.

    Raises:
        InfrastructureError: the clock is behind the last entry.
    """
    claim = promotion.claim
    override = claim["override"] or {"by": "", "reason": ""}
    said = {"promotion": promotion.identity, "adapter": claim["adapter"], "run": claim["run"]}
    return _signed(
        entries, {**said, "action": "promote", "alias": alias, "verdict": claim["verdict"], **override}, key, now
    )


def rolled_back(entries: Sequence[Entry], alias: str, key: Signer, now: datetime) -> Entry:
    """The entry that says that `alias` stands again for what it stood for before.

    Raises:
        PromotionError: it stands for nothing, or stood for nothing before.
        InfrastructureError: the clock is behind the last entry.
    """
    stack = histories(entries).get(alias, [])
    if len(stack) < 2:
        what = "is its first promotion" if stack else "stands for nothing"
        raise PromotionError(f"{alias} {what}, so there is nothing to go back to; harness registry log shows what was")
    before = stack[-2]
    kept = ("promotion", "adapter", "run", "verdict", "by", "reason")
    said = {name: getattr(before, name) for name in kept}
    return _signed(entries, {**said, "action": "rollback", "alias": alias}, key, now)


def append(path: Path, entry: Entry) -> None:
    """Add an entry durably; the caller holds the registry's lock."""
    chain.append(path, entry.as_json())


def _signed(entries: Sequence[Entry], said: Mapping[str, Any], key: Signer, now: datetime) -> Entry:
    previous = chain.digest(entries[-1].as_json()) if entries else chain.GENESIS
    moment = _moment(entries, now)
    place = {"number": len(entries) + 1, "previous": previous, "at": moment, "keyid": key.identity}
    row: dict[str, Any] = {**place, **said, "signature": ""}
    unsigned = Entry(**row)
    return replace(unsigned, signature=base64.b64encode(key.sign(unsigned.signed)).decode("ascii"))


def _moment(entries: Sequence[Entry], now: datetime) -> str:
    """Now, and never before the last entry."""
    said = now.astimezone(UTC).isoformat(timespec="seconds")
    if not entries or said >= entries[-1].at:
        return said
    last = datetime.fromisoformat(entries[-1].at)
    if last - now > _SKEW:
        raise InfrastructureError(
            f"this machine's clock says {said}, and the ledger's last entry is of {entries[-1].at}: set the clock, "
            "then repeat the command; nothing was changed"
        )
    return entries[-1].at


def _entry(where: str, row: Mapping[str, Any]) -> Entry:
    try:
        entry = Entry(**row)
        if not isinstance(entry.number, int) or any(not isinstance(v, str) for k, v in row.items() if k != "number"):
            raise TypeError("a value is not of its type")
        if entry.action not in ("promote", "rollback"):
            raise ValueError(f"{entry.action!r} is no action")
        # Both are names of files, in a ledger that nobody need have signed.
        if not (ALIAS.fullmatch(entry.alias) and _DIGEST.fullmatch(entry.promotion)):
            raise ValueError("its alias or its promotion is none")
        datetime.fromisoformat(entry.at)
    except (TypeError, ValueError) as error:
        raise RecordError(f"{where}not an entry of a ledger: {error}") from error
    return entry


def _signature(where: str, entry: Entry) -> bytes:
    try:
        return base64.b64decode(entry.signature, validate=True)
    except ValueError as error:
        raise RecordError(f"{where}the signature is not base64: {error}") from error
