"""The registry in a folder: aliases, ledger, going back, what a killed writer leaves, and who may not write."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, InfrastructureError, PromotionError, RecordError, StorageError
from harness.registry import Promotion, bundle, ledger, open_registry
from harness.registry.backends import local
from harness.registry.backends.local import LocalRegistry
from harness.registry.keys import SigningKey, new_key
from harness.registry.promoting import prepare
from harness.registry.verifying import intact, verify
from tests.promotion_example import gated


@pytest.fixture(scope="module")
def promotions(tmp_path_factory: pytest.TempPathFactory) -> list[Promotion]:
    return [prepare(gated(tmp_path_factory.mktemp(f"p{seed}"), seed=seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return new_key(tmp_path_factory.mktemp("keys") / "signing.pem")


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def verified(registry: LocalRegistry, key: SigningKey) -> str:
    return verify(registry.root, {key.identity: key.public}).identity


def snapshot(root: Path) -> dict[str, Any]:
    return {str(p.relative_to(root)): os.readlink(p) if p.is_symlink() else p.read_bytes()
            for p in root.rglob("*") if p.is_symlink() or p.is_file()}  # fmt: skip


def test_a_promotion_becomes_the_champion_and_the_same_one_again_changes_nothing(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    first = registry.promote(promotions[0], "champion", key)
    before = snapshot(registry.root)
    again = registry.promote(promotions[0], "champion", key)
    assert (first.changed, again.changed, again.entry) == (True, False, first.entry)
    assert snapshot(registry.root) == before
    assert registry.aliases() == {"champion": promotions[0].identity}
    assert verified(registry, key) == promotions[0].identity
    folder = registry.fetch("champion", Path())
    assert folder is not None
    assert (folder / "adapter_model.safetensors").read_bytes() == promotions[0].files["adapter_model.safetensors"][
        0
    ].read_bytes()
    assert (folder / "adapter_model.safetensors").stat().st_mode & 0o222 == 0


def test_going_back_leads_through_what_was_promoted_and_no_further(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    for promotion in promotions:
        registry.promote(promotion, "champion", key)
    registry.promote(promotions[2], "candidate", key)
    for expected in (promotions[1], promotions[0]):
        assert registry.rollback("champion", key).entry.promotion == expected.identity
        assert verified(registry, key) == expected.identity
    with pytest.raises(PromotionError, match="first promotion"):
        registry.rollback("champion", key)
    with pytest.raises(PromotionError, match="stands for nothing"):
        registry.rollback("staging", key)
    assert registry.aliases() == {"champion": promotions[0].identity, "candidate": promotions[2].identity}
    assert [e.action for e in registry.log()] == ["promote"] * 4 + ["rollback"] * 2
    registry.promote(promotions[2], "champion", key)
    assert registry.rollback("champion", key).entry.promotion == promotions[0].identity


def test_files_that_two_promotions_share_are_kept_once(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    for promotion in promotions:
        registry.promote(promotion, "champion", key)
    # Three different weights, and one configuration and one tokenizer that all share.
    assert len(list((registry.root / "objects").iterdir())) == 5


@pytest.mark.parametrize("step", ["_place", "sync_folder", "append", "_point", "discard"])
def test_whatever_step_fails_the_champion_stays_whole_and_the_next_promotion_succeeds(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    registry.promote(promotions[0], "champion", key)

    class Killed(BaseException):
        pass

    def dies(*given: Any, **more: Any) -> Any:
        raise Killed

    where: Any = {"append": ledger, "_point": LocalRegistry}.get(step, bundle)
    with monkeypatch.context() as patch:
        patch.setattr(where, step, dies)
        if step != "discard":  # what a killed process cannot do is clean up behind itself
            patch.setattr(bundle, "discard", lambda folder: None)
        with pytest.raises(Killed):
            registry.promote(promotions[1], "champion", key)
    assert intact(registry.root / "aliases" / "champion") in {promotions[0].identity, promotions[1].identity}
    registry.promote(promotions[2], "champion", key)
    assert verified(registry, key) == promotions[2].identity
    assert list((registry.root / "staging").iterdir()) == []
    known = {entry.promotion for entry in registry.log()}
    assert {p.name for p in (registry.root / "promotions").iterdir()} == known
    assert all(p.stat().st_nlink > 1 for p in (registry.root / "objects").iterdir())


def test_an_entry_that_a_crash_cut_off_was_never_written(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    registry.promote(promotions[0], "champion", key)
    path = registry.root / ledger.FILE
    with path.open("ab") as stream:
        stream.write(path.read_bytes()[:200])
    assert len(registry.log()) == 1
    with pytest.raises(RecordError, match=r"ledger\.jsonl:2: has no end"):
        verified(registry, key)
    registry.promote(promotions[1], "champion", key)
    assert verified(registry, key) == promotions[1].identity


def test_an_alias_that_fell_behind_the_ledger_is_moved_by_the_next_writer(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    registry.promote(promotions[0], "champion", key)
    registry.promote(promotions[1], "champion", key)
    registry._point("champion", promotions[0].identity)
    assert not registry.promote(promotions[1], "champion", key).changed
    assert registry.aliases() == {"champion": promotions[1].identity}


def test_an_alias_that_was_moved_by_hand_is_refused_and_a_gate_follows_the_ledger(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    registry.promote(promotions[0], "champion", key)
    registry.promote(promotions[1], "champion", key)
    registry._point("champion", promotions[0].identity)
    for path in (registry.root, registry.root / "aliases" / "champion"):
        with pytest.raises(RecordError, match="the ledger says otherwise"):
            verify(path, {key.identity: key.public})
    found = registry.fetch("champion", Path())
    assert found is not None
    assert found.name == promotions[1].identity
    registry.create()
    assert verified(registry, key) == promotions[1].identity


def test_a_damaged_ledger_is_not_written_to(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    registry.promote(promotions[0], "champion", key)
    registry.promote(promotions[1], "champion", key)
    path = registry.root / ledger.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[1])
    before = snapshot(registry.root)
    with pytest.raises(RecordError, match=r"ledger\.jsonl:1: does not follow"):
        registry.promote(promotions[2], "champion", key)
    assert snapshot(registry.root) == before


def test_an_adapter_that_changes_while_it_is_copied_is_refused_and_leaves_nothing(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey, tmp_path: Path
) -> None:
    registry.promote(promotions[0], "champion", key)
    before = snapshot(registry.root)
    changed = tmp_path / "adapter_model.safetensors"
    changed.write_bytes(b"other")
    promotion = promotions[1]
    files = {**promotion.files, changed.name: (changed, promotion.files[changed.name][1])}
    moved = Promotion(promotion.identity, promotion.statement, promotion.payload, files, promotion.papers)
    with pytest.raises(PromotionError, match="changed while it was copied"):
        registry.promote(moved, "champion", key)
    assert snapshot(registry.root) == before


def test_a_clock_in_the_past_is_refused_and_a_little_skew_is_not(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote(promotions[0], "champion", key)
    before = snapshot(registry.root)
    monkeypatch.setattr(local, "_now", lambda: datetime.now(UTC) - timedelta(days=2))
    with pytest.raises(InfrastructureError, match="set the clock"):
        registry.promote(promotions[1], "champion", key)
    assert snapshot(registry.root) == before
    monkeypatch.setattr(local, "_now", lambda: datetime.now(UTC) - timedelta(seconds=30))
    registry.promote(promotions[1], "champion", key)
    assert [e.at for e in registry.log()] == sorted(e.at for e in registry.log())
    assert verified(registry, key) == promotions[1].identity


def test_a_registry_that_cannot_be_written_says_so(
    promotions: list[Promotion], key: SigningKey, tmp_path: Path, registry: LocalRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(StorageError, match="file"):
        LocalRegistry(tmp_path / "file").promote(promotions[0], "champion", key)
    registry.promote(promotions[0], "champion", key)
    before = snapshot(registry.root)

    def read_only(*given: Any, **more: Any) -> Any:
        raise OSError(30, "Read-only file system", str(registry.root))

    monkeypatch.setattr(os, "link", read_only)
    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(StorageError, match="Read-only file system; the registry stays as it was"):
        registry.promote(promotions[1], "champion", key)
    monkeypatch.undo()
    assert snapshot(registry.root) == before


def test_a_registry_that_is_not_there_and_an_alias_that_is_none_are_told_apart(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    for ask in (registry.log, registry.aliases, lambda: registry.fetch("champion", Path())):
        with pytest.raises(ConfigError, match="harness registry init"):
            ask()
    registry.create()
    assert registry.fetch("champion", Path()) is None
    assert list(registry.log()) == []
    for alias in ("../x", "Champion", "", "a/b", "-a"):
        with pytest.raises(ConfigError, match="lower-case"):
            registry.promote(promotions[0], alias, key)


def test_without_hard_links_files_are_copied(
    registry: LocalRegistry, promotions: list[Promotion], key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*given: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    registry.promote(promotions[0], "champion", key)
    assert verified(registry, key) == promotions[0].identity


def test_addresses_of_registries(tmp_path: Path) -> None:
    opened = open_registry("reg", tmp_path)
    assert isinstance(opened, LocalRegistry)
    assert opened.root == tmp_path / "reg"
    assert isinstance(open_registry(f"file://{tmp_path}/x"), LocalRegistry)
    with pytest.raises(ConfigError):
        open_registry("hf://")
    with pytest.raises(Exception, match=r"no registry\.backends plugin 'ftp'"):
        open_registry("ftp://host/x")
