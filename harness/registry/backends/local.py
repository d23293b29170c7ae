"""A registry in a folder: promotions by content, one ledger, and aliases that are links, moved in one step

    promotions/<identity>/   bundles, read-only, named by the SHA-256 of their statement
    objects/<sha256>         the adapters' files, each kept once, of which the bundles hold links
    aliases/champion         link to a promotion: `aliases/champion` itself is a folder that any loader reads
    ledger.jsonl             every move of an alias, signed and chained: this is what counts
    staging/                 what is being made; empty while nobody promotes

Writers take turns by a lock that ends with their process. A bundle is made whole, then named; then the ledger is
written; then the alias is moved. A writer that is killed leaves at most a bundle that no entry names, which the next
one takes away, or an alias behind the ledger, which the next one moves; until then it stands for what it stood for.
A reader needs no lock: it should follow an alias once and then stay with what it found.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ConfigError, StorageError
from harness.registry import Outcome, Promotion, bundle, ledger
from harness.registry.ledger import Entry
from harness.registry.signed import Signer

_PATIENCE = 600.0  # seconds to wait for another writer, who may be copying a large model
_FOLDERS = ("promotions", "objects", "aliases", "staging")


class Options(BaseModel):
    """Where the registry is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(description="folder of the registry; it is made by the first promotion")


def build(options: Options) -> LocalRegistry:
    """The backend plugin contract; nothing is written."""
    return LocalRegistry(Path(options.address.removeprefix("file://")))


class LocalRegistry:
    """See the module and `harness.registry.Registry`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ledger = root / ledger.FILE

    def create(self) -> None:
        """Make an empty registry; one that is there stays as it is."""
        with self._writing():
            pass

    def promote(self, promotion: Promotion, alias: str, key: Signer) -> Outcome:
        """See `Registry.promote`."""
        check_alias(alias)
        with self._writing() as entries:
            stack = ledger.histories(entries).get(alias, [])
            if stack and stack[-1].promotion == promotion.identity:
                return Outcome(stack[-1], False, str(self._place(alias)))
            entry = ledger.promoted(entries, promotion, alias, key, _now())
            staged = self.root / "staging" / promotion.identity
            self._store(promotion, key, staged)
            ledger.append(self._ledger, entry)
            self._point(alias, promotion.identity)
            bundle.discard(staged)
        return Outcome(entry, True, str(self._place(alias)))

    def rollback(self, alias: str, key: Signer) -> Outcome:
        """See `Registry.rollback`."""
        check_alias(alias)
        self._there()
        with self._writing() as entries:
            entry = ledger.rolled_back(entries, alias, key, _now())
            if not (self.root / "promotions" / entry.promotion).is_dir():
                raise StorageError(f"{self.root}: the promotion {entry.promotion[:16]} is not kept any more")
            ledger.append(self._ledger, entry)
            self._point(alias, entry.promotion)
        return Outcome(entry, True, str(self._place(alias)))

    def aliases(self) -> Mapping[str, str]:
        """See `Registry.aliases`; what readers see, which a killed writer may have left behind the ledger."""
        self._there()
        links = sorted((self.root / "aliases").glob("[a-z]*"))
        return {link.name: Path(os.readlink(link)).name for link in links if link.is_symlink()}

    def log(self) -> Sequence[Entry]:
        """See `Registry.log`."""
        self._there()
        return ledger.read(self._ledger)

    def fetch(self, alias: str, folder: Path) -> Path | None:
        """See `Registry.fetch`: the promotion itself, by what the ledger says and not by a link."""
        self._there()
        check_alias(alias)
        identity = ledger.standing(self.log()).get(alias)
        if identity is None:
            return None
        found = (self.root / "promotions" / identity).resolve()
        if not found.is_dir():
            raise StorageError(f"{found}: {alias} stands for this promotion, and it is not kept any more")
        return found

    # ------------------------------------------------------------ writing

    def _place(self, alias: str) -> Path:
        return self.root / "aliases" / alias

    def _there(self) -> None:
        if not (self.root / "aliases").is_dir():
            raise ConfigError(f"{self.root}: there is no registry here; make an empty one with: harness registry init")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[list[Entry]]:
        """The ledger's entries, while nobody else writes; what a killed writer left is put right before."""
        try:
            for name in _FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            with _locked(self.root / ".lock"):
                entries = ledger.read(self._ledger)
                self._mend(entries)
                yield entries
        except OSError as error:
            said = error.strerror or error
            raise StorageError(f"{error.filename or self.root}: {said}; the registry stays as it was") from error

    def _store(self, promotion: Promotion, key: Signer, staged: Path) -> None:
        """Make a bundle whole, then give it its name; one that is there already is the same by its name."""
        target = self.root / "promotions" / promotion.identity
        if target.exists():
            return
        staged.mkdir()
        try:
            bundle.write(promotion, key, staged / "bundle", self.root / "objects")
            os.replace(staged / "bundle", target)
            bundle.sync_folder(target.parent)
        except BaseException:
            bundle.discard(target)
            bundle.discard(staged)
            raise

    def _point(self, alias: str, identity: str) -> None:
        """Move an alias in one step: whoever follows it meanwhile finds the old promotion or the new one."""
        link = self._place(alias)
        fresh = link.with_name(f".{alias}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("..") / "promotions" / identity, target_is_directory=True)
        os.replace(fresh, link)
        bundle.sync_folder(link.parent)

    def _mend(self, entries: Sequence[Entry]) -> None:
        """Finish or undo what a killed writer left half done; the ledger says which of the two."""
        known = {entry.promotion for entry in entries}
        left = sorted((self.root / "staging").iterdir())
        for staged in left:
            if staged.name not in known:
                bundle.discard(self.root / "promotions" / staged.name)
            bundle.discard(staged)
        if left:
            self._drop_unused_objects()
        for unfinished in (self.root / "aliases").glob(".*"):
            unfinished.unlink()
        for alias, identity in ledger.standing(entries).items():
            link = self._place(alias)
            if not link.is_symlink() or Path(os.readlink(link)).name != identity:
                self._point(alias, identity)

    def _drop_unused_objects(self) -> None:
        """Files that no bundle links to; a file system without links keeps none here."""
        for path in (self.root / "objects").iterdir():
            if path.stat().st_nlink == 1:
                path.unlink()


def check_alias(alias: str) -> None:
    """Refuse a name that could lead out of a folder or be no branch."""
    if not ledger.ALIAS.fullmatch(alias):
        raise ConfigError(f"alias {alias!r}: lower-case letters, digits, - and _ only, beginning with a letter")


def _now() -> datetime:
    return datetime.now(UTC)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the writers' lock, which the system takes back when the process ends in whatever way."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise StorageError(f"{path}: another promotion has been under way for {_PATIENCE:.0f} s") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)
