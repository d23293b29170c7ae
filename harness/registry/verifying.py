"""Whether what stands in a folder is what was promoted: fails closed, offline, and names the file that is wrong

Only a signature by a key that the caller trusts, or by an identity of Sigstore that the caller expects, makes anything
true here; keys that lie beside a bundle are never looked at. A bundle in a registry is held against the registry's
ledger too; a copy of it elsewhere has none, and the answer says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RecordError, at
from harness.registry import CHAMPION, ledger, modelsigning
from harness.registry.bundle import FOLDER, MODEL_SIGNATURE, RECORD, SUMS
from harness.registry.dsse import MAX_BYTES
from harness.registry.signed import Trust, payload_of, unseal
from harness.registry.sigstorebundle import is_bundle, sums
from harness.registry.statement import PAPERS, VERDICT, parse_statement, sha256

_PROMOTIONS, _ALIASES = "promotions", "aliases"
_UNREAD = frozenset({"README.md"})
"""Files that may lie beside a bundle although no record names them: a hub's own page. Hidden ones may too."""
_LOADED = frozenset({".json", ".safetensors", ".gguf"})
"""Ends of names that a loader reads: a folder with one is no registry, whatever else lies in it."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What the caller wants beside a true record.

    `gate`: the digests of the sections of a gate.yaml that must have been what was demanded. `overridden`: take also
    what somebody promoted against the verdict. `run`: a run directory that must be the one that the record is about.
    """

    gate: Mapping[str, str] | None = None
    overridden: bool = False
    run: Path | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle that is what was signed. `entries` counts the ledger's, None where the bundle lies in no registry.

    `keyid` names the key that signed the record or, where `issuer` is given, the identity that this issuer vouched for.
    """

    path: Path
    identity: str
    keyid: str
    issuer: str | None
    verdict: str
    override: Mapping[str, str] | None
    files: int
    entries: int | None
    aliases: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        names = ("identity", "keyid", "issuer", "verdict", "override", "files", "entries")
        said = {name: getattr(self, name) for name in names}
        return {"verified": True, "path": str(self.path), **said, "aliases": list(self.aliases)}


def verify(path: Path, trusted: Trust, demands: Demands = Demands()) -> Verified:
    """Hold a bundle against its record, and the record against whom the caller trusts, and against demands.

    Args:
        path: a bundle; an alias of a local registry; or such a registry, for its champion.
        trusted: keys by name, see `harness.registry.keys.trusted_keys`, and identities, see
            `harness.registry.identities.trusted_identities`.
        demands: what else has to hold.

    Raises:
        RecordError: something is not as it was signed, or not what is demanded; begins with the file.
    """
    folder, alias = _bundle(path)
    where = at(folder / FOLDER / RECORD)
    record = _read(folder / FOLDER / RECORD)
    payload, keyid, issuer = unseal(record, trusted, where)
    subjects, claim = parse_statement(_json(payload, where), where)
    identity = sha256(payload)
    files = {name: subjects[name] for name in claim["files"]}
    _check_files(folder, files)
    _check_proofs(folder / FOLDER, record)
    signature = folder / FOLDER / MODEL_SIGNATURE
    if signature.exists():
        modelsigning.check(_read(signature), identity, files, trusted, at(signature))
    _check_papers(folder / FOLDER, claim)
    entries = _check_ledger(folder, identity, trusted)
    standing = () if entries is None else tuple(a for a, i in sorted(ledger.standing(entries).items()) if i == identity)
    if alias and alias not in standing:
        raise RecordError(f"{at(path)}{alias} leads to {identity[:16]}, and the ledger says otherwise: it was moved by "
                          "hand, or a promotion was killed, which the same command once more mends")  # fmt: skip
    _check_demands(where, claim, demands)
    return Verified(
        path=folder,
        identity=identity,
        keyid=keyid,
        issuer=issuer,
        verdict=claim["verdict"],
        override=claim["override"],
        files=len(claim["files"]) + len(PAPERS) + 1,
        entries=None if entries is None else len(entries),
        aliases=standing,
    )


def _bundle(path: Path) -> tuple[Path, str]:
    """The folder that is meant, with links resolved once, and the alias of a registry that led there, if one did."""
    is_registry = (path / _ALIASES).is_dir() and not any(p.suffix in _LOADED for p in path.iterdir())
    chosen = path / _ALIASES / CHAMPION if is_registry else path
    try:
        folder = chosen.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise RecordError(f"{chosen}: there is nothing there, so nothing was promoted to it") from error
    if not (folder / FOLDER / RECORD).is_file():
        raise RecordError(f"{folder / FOLDER / RECORD}: there is no record, so {path} was not promoted by this way")
    aliases = chosen.absolute().parent
    if aliases.name == _ALIASES and folder.parent != aliases.parent.resolve() / _PROMOTIONS:
        raise RecordError(
            f"{at(chosen)}no link to a promotion of this registry, so its ledger would not be asked; copy a registry "
            "with its links, or verify the folder that you serve"
        )
    by_alias = chosen.is_symlink() and folder.parent.name == _PROMOTIONS
    return folder, chosen.name if by_alias else ""


# ---------------------------------------------------------------- files


def _check_files(folder: Path, expected: Mapping[str, str]) -> None:
    """The adapter's files are those of the record, and nothing that a loader could read lies beside them."""
    for name, digest in expected.items():
        _check_digest(folder / name, digest)
    _refuse_more(folder, {*expected, FOLDER} | _UNREAD, hidden=True)


def _check_proofs(beside: Path, record: bytes) -> None:
    """Beside the record lies what belongs there; Sigstore's bundles also are as written where nobody signed a byte."""
    known = {RECORD, MODEL_SIGNATURE, ledger.FILE, *PAPERS}
    if is_bundle(record):
        known.add(SUMS)
        proofs = {RECORD: record, MODEL_SIGNATURE: _read(beside / MODEL_SIGNATURE)}
        if _read(beside / SUMS) != sums(proofs):
            raise RecordError(f"{at(beside / SUMS)}not the SHA-256 of {RECORD} and {MODEL_SIGNATURE}: one of the three "
                              "was changed")  # fmt: skip
    _refuse_more(beside, known, hidden=False)


def _refuse_more(folder: Path, known: set[str] | frozenset[str], *, hidden: bool) -> None:
    for path in sorted(folder.iterdir()):
        if path.name not in known and not (hidden and path.name.startswith(".")):
            raise RecordError(f"{at(path)}no part of what was promoted: it was put there later")


def _check_papers(folder: Path, claim: Mapping[str, Any]) -> None:
    """What goes with the adapter is that of the record, and says what the record says."""
    for name in PAPERS:
        _check_digest(folder / name, str(claim["papers"][name]))
    path = folder / VERDICT
    stored = _json(_read(path), at(path))
    if not isinstance(stored, dict) or stored.get("verdict") != claim["verdict"]:
        raise RecordError(f"{at(path)}says another verdict than the record")


def _check_digest(path: Path, expected: str) -> None:
    """A file's SHA-256; an unreadable file is a changed one."""
    if path.exists() and not path.is_file():  # a pipe or a device would be read for ever
        raise RecordError(f"{at(path)}of the record, but no file here")
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RecordError(f"{at(path)}of the record, but not readable here: {error.strerror}") from error
    if found != expected:
        raise RecordError(f"{at(path)}changed since it was promoted: expected sha256 {expected}, found {found}")


def _check_ledger(folder: Path, identity: str, trusted: Trust) -> list[ledger.Entry] | None:
    """The ledger of the registry that the bundle lies in or came from, which has to know it; None where there is none.

    A local registry has one ledger for all; a bundle that was fetched from elsewhere brings a copy.
    """
    path = folder / FOLDER / ledger.FILE
    if folder.parent.name == _PROMOTIONS:
        if folder.name != identity:
            raise RecordError(f"{folder}: holds the promotion {identity[:16]}, not that of its name")
        path = folder.parent.parent / ledger.FILE
    elif not path.exists():
        return None
    entries = ledger.check(path, trusted)
    if not any(entry.promotion == identity for entry in entries):
        raise RecordError(f"{at(path)}does not know the promotion {identity[:16]}: it was never promoted here")
    moved = {entry.alias: entry for entry in entries}
    for alias, standing in ledger.standing(entries).items():
        if standing == identity:  # whoever signs a later entry vouches that this one was there, not that it is true
            ledger.check_entry(path, moved[alias], trusted)
    return entries


# ---------------------------------------------------------------- demands


def _check_demands(where: str, claim: Mapping[str, Any], demands: Demands) -> None:
    override = claim["override"]
    if override is not None and not demands.overridden:
        raise RecordError(
            f"{where}the verdict was {str(claim['verdict']).upper()}, and {override['by']} promoted it all the same "
            f"({override['reason']}); take it with --accept-override"
        )
    if override is None and claim["verdict"] != "promote":
        raise RecordError(f"{where}the verdict was {str(claim['verdict']).upper()}, and nobody answers for it")
    if demands.gate is not None:
        _check_gate(where, claim["gate"], demands.gate)
    if demands.run is not None:
        _check_run(demands.run, claim)


def _check_gate(where: str, signed: Mapping[str, str], demanded: Mapping[str, str]) -> None:
    differing = sorted(key for key in signed.keys() | demanded.keys() if signed.get(key) != demanded.get(key))
    if differing:
        raise RecordError(f"{where}was made under another policy: {', '.join(differing)} of its gate.yaml differ")


def _check_run(run: Path, claim: Mapping[str, Any]) -> None:
    """Every file of a run is that of the record, and decides as it says."""
    from harness.deciding import decide_again
    from harness.registry.promoting import stored_digests

    signed, found = claim["evidence"], stored_digests(run)
    for name in sorted(signed.keys() | found.keys()):
        if name not in signed:
            raise RecordError(f"{at(run / name)}was not there when the run was promoted")
        if found.get(name) != signed[name]:
            raise RecordError(f"{at(run / name)}changed since it was promoted")
    verdict = decide_again(run)[1].verdict
    if verdict != claim["verdict"]:
        raise RecordError(f"{run}: decides {verdict.upper()} now, where the record says {claim['verdict'].upper()}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecordError(f"{at(path)}cannot be read: {error.strerror}") from error


def _json(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}not JSON: {error}") from error


def intact(bundle: Path) -> str:
    """The identity of a bundle whose files are those of its record, whoever signed it: no proof, but no accident.

    Raises:
        RecordError: a file is not that of the record, or one is too many, or there is no record.
    """
    folder, _ = _bundle(bundle)
    where, payload = at(folder / FOLDER / RECORD), _unproved(folder)
    subjects, claim = parse_statement(_json(payload, where), where)
    for name in claim["files"]:
        _check_digest(folder / name, subjects[name])
    _refuse_more(folder, {*claim["files"], FOLDER} | _UNREAD, hidden=True)
    return sha256(payload)


def identity_of(bundle: Path) -> str:
    """What a bundle says that it is; nothing is held against it."""
    return sha256(_unproved(bundle))


def _unproved(folder: Path) -> bytes:
    path = folder / FOLDER / RECORD
    return payload_of(_read(path), at(path))
