"""`verify`: any change to any byte is refused and names the file; keys, overrides, policies and runs are demanded."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.errors import ConfigError, RecordError, UsageError
from harness.registry import Override, ledger
from harness.registry.backends.local import LocalRegistry
from harness.registry.dsse import canonical
from harness.registry.keys import PublicKey, new_key, read_signing_key, trusted_keys
from harness.registry.promoting import prepare
from harness.registry.verifying import Demands, intact, verify
from tests.promotion_example import gated


@dataclass
class Place:
    """A registry with two promotions, the run of the second, and the key that signed both."""

    root: Path
    run: Path
    trusted: Mapping[str, PublicKey]
    key: Path

    @property
    def champion(self) -> Path:
        return (self.root / "aliases" / "champion").resolve()


@pytest.fixture(scope="module", params=["ed25519", "p256"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("original")
    key = new_key(folder / "signing.pem", request.param)
    made = [gated(folder / str(seed), seed=seed) for seed in range(2)]
    for run in made:
        LocalRegistry(folder / "registry").promote(prepare(run), "champion", key)
    return Place(folder / "registry", made[1], {key.identity: key.public}, folder / "signing.pem")


@pytest.fixture
def place(original: Place, tmp_path: Path) -> Place:
    root = Path(shutil.copytree(original.root, tmp_path / "registry", symlinks=True))
    return Place(root, original.run, original.trusted, original.key)


def targets(place: Place) -> list[Path]:
    """Every file that verify reads: adapter, verdict, evidence, lock, record and ledger."""
    return [*sorted(p for p in place.champion.rglob("*") if p.is_file()), place.root / "ledger.jsonl"]


def test_what_was_promoted_verifies_by_registry_alias_and_folder(place: Place) -> None:
    for path in (place.root, place.root / "aliases" / "champion", place.champion):
        found = verify(path, place.trusted)
        assert (found.verdict, found.entries, found.aliases) == ("promote", 2, ("champion",))


def test_any_changed_byte_is_refused_and_names_its_file(place: Place) -> None:
    rng = random.Random(20260307)
    files = targets(place)
    assert {"record.json", "verdict.json", "evidence.parquet", "LOCK.yaml", "ledger.jsonl"} <= {p.name for p in files}
    for _ in range(120):
        path = rng.choice(files)
        content = path.read_bytes()
        spot = rng.randrange(len(content))
        changed = bytearray(content)
        changed[spot] ^= rng.randrange(1, 256)
        path.unlink()  # a copy of the tree holds links no more, but a registry's files would be linked
        path.write_bytes(changed)
        with pytest.raises(RecordError) as raised:
            verify(place.root, place.trusted)
        assert path.name in str(raised.value), (path.name, spot, str(raised.value))
        path.write_bytes(content)
    verify(place.root, place.trusted)


def test_a_file_that_is_cut_off_missing_or_added_is_named(place: Place) -> None:
    for path in targets(place):
        if path.name == "model.sig":  # a second signature for another tool; the record does without it
            continue
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(RecordError, match=path.name):
            verify(place.champion, place.trusted)
        path.write_bytes(content[:-1])
        with pytest.raises(RecordError, match=path.name):
            verify(place.champion, place.trusted)
        path.write_bytes(content)
    for name in ("adapter_model.bin", "modeling.py", "promotion/extra.json"):
        (place.champion / name).write_bytes(b"x")
        with pytest.raises(RecordError, match=f"{name}: no part of what was promoted"):
            verify(place.champion, place.trusted)
        (place.champion / name).unlink()
    (place.champion / "sub").mkdir()
    with pytest.raises(RecordError, match="sub: no part"):
        verify(place.champion, place.trusted)


def test_a_copy_elsewhere_verifies_without_a_ledger_and_says_so(place: Place, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(place.champion, tmp_path / "served"))
    found = verify(copy, place.trusted)
    assert (found.entries, found.aliases) == (None, ())


def test_only_keys_that_the_caller_trusts_count(place: Place, tmp_path: Path) -> None:
    other = new_key(tmp_path / "other.pem")
    with pytest.raises(RecordError, match=r"record\.json: signed by .* no key that you trust"):
        verify(place.root, {other.identity: other.public})
    assert verify(place.root, {other.identity: other.public, **place.trusted}).entries == 2


def test_somebody_without_the_key_cannot_promote_something_else(place: Place, tmp_path: Path) -> None:
    thief = new_key(tmp_path / "thief.pem")
    LocalRegistry(place.root).promote(prepare(gated(tmp_path / "evil", seed=9)), "champion", thief)
    with pytest.raises(RecordError, match="no key that you trust"):
        verify(place.root, place.trusted)


def test_a_bundle_under_the_name_of_another_and_one_that_was_never_promoted_are_refused(
    place: Place, tmp_path: Path
) -> None:
    first, second = sorted((place.root / "promotions").iterdir())
    aside = first.rename(tmp_path / "aside")
    shutil.copytree(second, first)
    with pytest.raises(RecordError, match="not that of its name"):
        verify(first, place.trusted)
    shutil.rmtree(first)
    aside.rename(first)
    key = read_signing_key(place.key)
    elsewhere = LocalRegistry(tmp_path / "elsewhere")
    elsewhere.promote(prepare(gated(tmp_path / "other", seed=5)), "champion", key)
    strange = elsewhere.fetch("champion", Path())
    assert strange is not None
    shutil.copytree(strange, place.root / "promotions" / strange.name)
    with pytest.raises(RecordError, match=r"ledger\.jsonl: does not know"):
        verify(place.root / "promotions" / strange.name, place.trusted)


def test_a_folder_that_a_loader_reads_is_not_taken_for_a_registry(place: Place, tmp_path: Path) -> None:
    """Something else in the clear, and a true promotion where the registry's champion would be."""
    decoy = tmp_path / "adapter"
    shutil.copytree(place.champion, decoy / "aliases" / "champion")
    (decoy / "adapter_config.json").write_text("{}", encoding="utf-8")
    (decoy / "adapter_model.safetensors").write_bytes(b"something else")
    with pytest.raises(RecordError, match="there is no record"):
        verify(decoy, place.trusted)
    shutil.copytree(place.champion / "promotion", decoy / "promotion")
    with pytest.raises(RecordError, match="adapter"):
        verify(decoy, place.trusted)


@pytest.mark.parametrize("linked", [True, False])
def test_an_alias_that_leads_around_the_ledger_is_refused(place: Place, tmp_path: Path, linked: bool) -> None:
    """An older promotion is as well signed as a newer one: only the ledger tells them apart."""
    older = next(p for p in (place.root / "promotions").iterdir() if p != place.champion)
    alias = place.root / "aliases" / "champion"
    alias.unlink()
    if linked:
        alias.symlink_to(shutil.copytree(older, tmp_path / "elsewhere"))
    else:
        shutil.copytree(older, alias)
    for path in (place.root, alias):
        with pytest.raises(RecordError, match="champion: no link to a promotion of this registry"):
            verify(path, place.trusted)


def test_an_entry_of_a_stranger_moves_nothing_even_once_somebody_has_signed_a_later_one(
    place: Place, tmp_path: Path
) -> None:
    path, thief = place.root / "ledger.jsonl", new_key(tmp_path / "thief.pem")
    entries = ledger.read(path)
    older = entries[0]
    forged = ledger._signed(
        entries,
        {name: getattr(older, name) for name in ("promotion", "adapter", "run", "verdict", "by", "reason")}
        | {"action": "promote", "alias": "champion"},
        thief,
        datetime.now(UTC),
    )
    ledger.append(path, forged)
    LocalRegistry(place.root).promote(prepare(place.run), "candidate", read_signing_key(place.key))
    assert place.champion.name == older.promotion
    with pytest.raises(RecordError, match=r"ledger\.jsonl:3: signed by .* no key that you trust"):
        verify(place.root, place.trusted)
    assert verify(place.root / "aliases" / "candidate", place.trusted).aliases == ("candidate",)


def test_what_a_ledger_says_is_no_way_out_of_the_registry(place: Place, tmp_path: Path) -> None:
    path, key = tmp_path / "ledger.jsonl", read_signing_key(place.key)
    good = {"promotion": "0" * 64, "adapter": "", "run": "r", "verdict": "promote", "by": "", "reason": ""}
    for said in (
        {"action": "promote", "alias": "../../x"},
        {"action": "promote", "alias": "champion", "promotion": "../../../etc"},
    ):
        path.unlink(missing_ok=True)
        ledger.append(path, ledger._signed([], {**good, **said}, key, datetime.now(UTC)))
        with pytest.raises(RecordError, match=r"ledger\.jsonl:1: not an entry"):
            ledger.read(path)
    back = ledger._signed([], {**good, "action": "rollback", "alias": "champion"}, key, datetime.now(UTC))
    with pytest.raises(RecordError, match="entry 1 goes back where nothing was promoted"):
        ledger.standing([back])


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_read(place: Place) -> None:
    path = place.champion / "tokenizer.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RecordError, match=r"tokenizer\.json: .*no file here"):
        verify(place.root, place.trusted)


def test_a_baseline_is_not_read_with_a_file_that_its_record_does_not_name(place: Place) -> None:
    assert intact(place.champion) == place.champion.name
    (place.champion / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    with pytest.raises(RecordError, match=r"chat_template\.jinja: no part"):
        intact(place.champion)


def test_an_envelope_has_no_more_signatures_than_can_be_tried(place: Place) -> None:
    path = place.champion / "promotion" / "record.json"
    envelope = json.loads(path.read_bytes())
    envelope["signatures"] *= 65
    path.unlink()
    path.write_bytes(canonical(envelope) + b"\n")
    with pytest.raises(RecordError, match="more than 64 signatures"):
        verify(place.champion, place.trusted)


def test_an_override_is_taken_only_by_whoever_says_so(tmp_path: Path) -> None:
    key = new_key(tmp_path / "signing.pem")
    registry = LocalRegistry(tmp_path / "registry")
    registry.promote(
        prepare(gated(tmp_path / "p", lost=range(60)), override=Override("Ada", "a demo")), "champion", key
    )
    trusted = {key.identity: key.public}
    with pytest.raises(RecordError, match=r"BLOCK, and Ada promoted it all the same \(a demo\)"):
        verify(registry.root, trusted)
    assert verify(registry.root, trusted, Demands(overridden=True)).override == {"by": "Ada", "reason": "a demo"}


def test_another_policy_and_another_run_are_refused(place: Place, tmp_path: Path) -> None:
    from harness.config import load_gate

    path = place.run.parents[1] / "gate.yaml"
    assert verify(place.root, place.trusted, Demands(gate=load_gate(path).gate.section_digests(), run=place.run))
    milder = tmp_path / "gate.yaml"
    milder.write_text(path.read_text(encoding="utf-8").replace("margin: 0.05", "margin: 0.2"), encoding="utf-8")
    with pytest.raises(RecordError, match=r"another policy: suites of its gate\.yaml differ"):
        verify(place.root, place.trusted, Demands(gate=load_gate(milder).gate.section_digests()))
    run = Path(shutil.copytree(place.run, tmp_path / place.run.name))
    (run / "labels").mkdir()
    (run / "labels" / "sums.exact_match.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(RecordError, match=r"exact_match\.jsonl: was not there"):
        verify(place.root, place.trusted, Demands(run=run))
    shutil.rmtree(run / "labels")
    journal = run / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"text":"2"', b'"text":"3"', 1))
    with pytest.raises(RecordError, match=r"journal\.jsonl: changed since it was promoted"):
        verify(place.root, place.trusted, Demands(run=run))


def test_a_folder_that_nobody_promoted_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no record"):
        verify(tmp_path, {})
    with pytest.raises(RecordError, match="there is nothing there"):
        verify(tmp_path / "nothing", {})


def test_keys_are_private_never_overwritten_and_told_from_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "signing.pem"
    made = new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_signing_key(path).identity == made.identity
    with pytest.raises(Exception, match="there is a key already"):
        new_key(path)
    path.unlink()
    for same in (path, path.with_suffix(".pub"), path.with_suffix(".key")):  # all have one public key's name
        with pytest.raises(UsageError, match=r"signing\.pub: there is a key already"):
            new_key(same)
    assert path.with_suffix(".pub").read_bytes() == made.public.pem()
    path.touch(mode=0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_signing_key(path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(ConfigError, match="harness key new"):
        read_signing_key(None)
    with pytest.raises(ConfigError, match="--key FILE"):
        trusted_keys(None)
    with pytest.raises(ConfigError, match="holds no public key"):
        trusted_keys([path])
    both = tmp_path / "team.pub"
    other = new_key(tmp_path / "other.pem", "p256")
    both.write_bytes(made.public.pem() + other.public.pem())
    assert set(trusted_keys([both])) == {made.identity, other.identity}
    (tmp_path / "junk.pem").write_text("no key", encoding="utf-8")
    (tmp_path / "junk.pem").chmod(0o600)
    with pytest.raises(ConfigError, match="not a private key in PEM"):
        read_signing_key(tmp_path / "junk.pem")
