"""The registry: which adapter stands behind `champion`, by which evidence, and what stood there before.

    promoting     a finished run → decided again, held against what it recorded → a `Promotion`
    statement     what is signed: an in-toto Statement with the test-result predicate
    dsse, keys    how it is signed: a DSSE envelope, Ed25519 keys; `modelsigning` for OpenSSF's tool besides
    keyless       how it is signed without a key, by Sigstore; `identities` proves that, `sigstorebundle` is its file
    signed        a signature of either kind, and whom a caller trusts
    bundle        what is handed on: the adapter's files, and `promotion/` beside them; `card` for a hub's page
    chain, ledger who moved which alias when: appended only, each entry signed and chained to the one before
    verifying     whether a bundle is what was signed, and whether that is what is wanted
    reference     `registry:champion` in a gate.yaml
    wear          how often a frozen set was looked at

A backend plugin (`harness.registry.backends`) keeps promotions somewhere: its `build(options)` returns a `Registry`.
Nothing here loads a model, and nothing here believes a stored verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.registry.ledger import Entry
    from harness.registry.signed import Signer

CHAMPION, CANDIDATE = "champion", "candidate"
_MOST = 2000  # characters of an override


@dataclass(frozen=True, slots=True)
class Override:
    """Who promoted a run that the gate did not, and why; it stands in the record for good."""

    by: str
    reason: str

    def __post_init__(self) -> None:
        if not self.by.strip() or not self.reason.strip():
            raise ConfigError("an override needs both a name (--override NAME) and a reason (--reason TEXT)")
        if not (self.by.isprintable() and self.reason.isprintable()):
            raise ConfigError("name and reason of an override are one line each, without control characters")
        if len(self.by) + len(self.reason) > _MOST:
            raise ConfigError(f"name and reason of an override have {len(self.by) + len(self.reason)} characters; "
                              f"{_MOST} may be given")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Promotion:
    """A run that may be promoted, before it is signed.

    `statement` is what will be signed, and `identity` the SHA-256 (hex) of its bytes, so that the same run gives the
    same promotion. `files` maps the adapter's file names to where they are now and to their SHA-256; `papers` maps the
    names of what goes beside them to its content.
    """

    identity: str
    statement: Mapping[str, Any]
    payload: bytes
    files: Mapping[str, tuple[Path, str]]
    papers: Mapping[str, bytes]

    @property
    def claim(self) -> Mapping[str, Any]:
        """Our own part of the predicate: verdict, policy, evidence, versions."""
        claim: Mapping[str, Any] = self.statement["predicate"]["harness"]
        return claim


@dataclass(frozen=True, slots=True)
class Outcome:
    """What moving an alias came to. `entry` is the ledger's, an old one where nothing had to be `changed`."""

    entry: Entry
    changed: bool
    place: str


class Registry(Protocol):
    """Keeps promotions and says which one an alias stands for. Every call leaves all of it done, or nothing.

    Raises:
        StorageError: the registry cannot be reached, read or written.
        RecordError: its ledger is damaged.
    """

    def promote(self, promotion: Promotion, alias: str, key: Signer) -> Outcome:
        """Store a promotion and let `alias` stand for it; where it does already, nothing changes."""
        ...

    def rollback(self, alias: str, key: Signer) -> Outcome:
        """Let `alias` stand again for what it stood for before; raises PromotionError where that is nothing."""
        ...

    def aliases(self) -> Mapping[str, str]:
        """Alias → identity of the promotion that it stands for."""
        ...

    def log(self) -> Sequence[Entry]:
        """Every entry of the ledger, oldest first."""
        ...

    def fetch(self, alias: str, folder: Path) -> Path | None:
        """A local folder with the bundle that `alias` stands for, under `folder` where it has to be downloaded.

        None where the registry is there, and nothing has been promoted to the alias yet.
        """
        ...


def open_registry(where: str, folder: Path = Path()) -> Registry:
    """The registry at a folder (relative to `folder`), `mlflow+http://HOST/MODEL` or `hf://OWNER/NAME`.

    Raises:
        PluginError: no backend of that name, or its extra is not installed.
        ConfigError: the address is none.
    """
    from harness import plugins

    scheme, separator, rest = where.partition("://")
    kind, address = (
        (scheme.partition("+")[0], where) if separator else ("local", str(folder / Path(where).expanduser()))
    )
    if separator and not rest:
        raise ConfigError(f"{where}: not the address of a registry")
    kind = _SCHEMES.get(kind, kind)
    options = plugins.options("registry.backends", kind, {"address": address}, where=where)
    try:
        registry: Registry = plugins.load("registry.backends", kind).build(options)
    except ImportError as error:
        raise ConfigError(plugins.missing_extra(f"registry {where}", error)) from error
    return registry


_SCHEMES = {"hf": "hub", "file": "local"}
