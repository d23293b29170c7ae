"""Freezing golden sets, noticing everything that changes afterwards, and starting the next version."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import goldens
from harness.errors import DataError, LockError, StorageError
from tests.golden_example import frozen, write

# ---------------------------------------------------------------- freezing


def test_the_lock_is_readable_and_the_same_every_time(tmp_path: Path) -> None:
    for version in ("v10", "v2"):
        frozen(tmp_path, version=version)
    first = (tmp_path / "LOCK.yaml").read_text()
    assert goldens.freeze(tmp_path, "sums", "v2").samples == 4
    assert (tmp_path / "LOCK.yaml").read_text() == first
    document = yaml.safe_load(first)
    assert list(document["sets"]) == ["sums@v2", "sums@v10"]
    assert document["sets"]["sums@v2"]["samples"] == 4
    assert list(document["sets"]["sums@v2"]["files"]) == ["card.yaml", "samples.jsonl"]
    assert first.startswith("#")


def test_the_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    import hashlib

    folder = frozen(tmp_path)
    entry = yaml.safe_load((tmp_path / "LOCK.yaml").read_text())["sets"]["sums@v1"]["files"]
    assert entry == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_a_draft_is_not_loaded(tmp_path: Path) -> None:
    write(tmp_path)
    for reference in ("sums", "sums@v1"):
        with pytest.raises(LockError, match="is not frozen: harness golden freeze sums"):
            goldens.load(tmp_path, reference)


def test_a_bare_name_is_the_latest_frozen_version(tmp_path: Path) -> None:
    for version in ("v9", "v10"):
        frozen(tmp_path, version=version)
    write(tmp_path, version="v11")
    assert goldens.load(tmp_path, "sums").version == "v10"


def test_every_single_changed_byte_is_refused_by_name(tmp_path: Path) -> None:
    folder = frozen(tmp_path)
    for name in ("samples.jsonl", "card.yaml"):
        path = folder / name
        original = path.read_bytes()
        for position in {0, len(original) // 2, len(original) - 1}:
            changed = bytearray(original)
            changed[position] ^= 1
            path.write_bytes(bytes(changed))
            with pytest.raises(LockError) as caught:
                goldens.load(tmp_path, "sums@v1")
            message = str(caught.value)
            assert str(path) in message
            assert "expected sha256" in message
            assert "harness golden new-version sums" in message
        path.write_bytes(original)
    assert goldens.verify(tmp_path) == ["sums@v1"]


def test_a_line_end_changed_by_git_is_refused_too(tmp_path: Path) -> None:
    folder = frozen(tmp_path)
    path = folder / "samples.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert goldens.problems(tmp_path) != []


def test_an_extra_a_missing_and_a_moved_file_are_refused(tmp_path: Path) -> None:
    folder = frozen(tmp_path)
    (folder / "notes").mkdir()
    (folder / "notes" / "new.txt").write_text("x")
    (problem,) = goldens.problems(tmp_path)
    assert "notes/new.txt" in problem
    assert "not part of the frozen sums@v1" in problem
    (folder / "notes" / "new.txt").unlink()
    (folder / "card.yaml").rename(folder / "card.yml")
    assert len(goldens.problems(tmp_path, ["sums"])) == 2
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()
    assert len(goldens.problems(tmp_path)) == 2


def test_a_missing_version_is_refused(tmp_path: Path) -> None:
    folder = frozen(tmp_path)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(LockError, match="the folder is missing"):
        goldens.verify(tmp_path)


def test_a_link_is_refused_even_to_the_same_bytes(tmp_path: Path) -> None:
    folder = frozen(tmp_path)
    real = tmp_path / "real.jsonl"
    (folder / "samples.jsonl").rename(real)
    (folder / "samples.jsonl").symlink_to(real)
    with pytest.raises(LockError, match="is a link"):
        goldens.verify(tmp_path)


@pytest.mark.parametrize("what", ["file", "version", "set"])
def test_a_link_cannot_be_frozen(tmp_path: Path, what: str) -> None:
    folder = write(tmp_path)
    linked = {"file": folder / "samples.jsonl", "version": folder, "set": folder.parent}[what]
    real = tmp_path / "real"
    linked.rename(real)
    linked.symlink_to(real)
    with pytest.raises(DataError, match="is a link"):
        goldens.freeze(tmp_path, "sums", "v1")


def test_freezing_a_changed_locked_version_is_refused(tmp_path: Path) -> None:
    folder = frozen(tmp_path)
    lock = (tmp_path / "LOCK.yaml").read_bytes()
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"id": "new", "prompt": "?"}\n')
    with pytest.raises(LockError, match="new-version sums"):
        goldens.freeze(tmp_path, "sums", "v1")
    assert (tmp_path / "LOCK.yaml").read_bytes() == lock


@pytest.mark.parametrize(
    "text",
    ["x", "sets: 3", "sets: {a@v1: 3}", "sets: {a@v1: {samples: 1, files: {}}}", "{", "[]", "",
     "sets: {../a@v1: {samples: 1, files: {a: b}}}", "sets: {a@v1: {samples: 1, files: {x: abc}}}",
     "sets: {a: {samples: 1, files: {x: " + "a" * 64 + "}}}"],
)  # fmt: skip
def test_a_damaged_lock_is_no_lock(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / "LOCK.yaml").write_text(text)
    for act in (lambda: goldens.verify(tmp_path), lambda: goldens.freeze(tmp_path, "sums", "v1")):
        with pytest.raises(LockError, match=r"LOCK\.yaml"):
            act()


def test_nothing_locked_means_nothing_verified(tmp_path: Path) -> None:
    assert goldens.verify(tmp_path) == []


def test_a_lock_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen(tmp_path)
    before = (tmp_path / "LOCK.yaml").read_bytes()
    write(tmp_path, version="v2")

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="no space left"):
        goldens.freeze(tmp_path, "sums", "v2")
    assert (tmp_path / "LOCK.yaml").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LOCK.yaml", "sums"]


@pytest.mark.slow
def test_a_reader_never_sees_half_a_lock(tmp_path: Path) -> None:
    frozen(tmp_path)
    stop, broken = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                goldens.verify(tmp_path, ["sums@v1"])
            except LockError as error:
                broken.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(2, 12):
        frozen(tmp_path, version=f"v{n}")
    stop.set()
    reader.join()
    assert broken == []


# ---------------------------------------------------------------- the next version


def test_a_new_version_is_a_draft_that_can_be_changed_and_frozen(tmp_path: Path) -> None:
    old = frozen(tmp_path)
    new = goldens.new_version(tmp_path, "sums", "v1")
    assert new == tmp_path / "sums" / "v2"
    assert (new / "samples.jsonl").read_bytes() == (old / "samples.jsonl").read_bytes()
    card = (new / "card.yaml").read_text()
    assert card.startswith("# a comment that stays\n")
    assert yaml.safe_load(card)["version"] == "v2"
    (new / "samples.jsonl").write_text('{"id": "only", "prompt": "?"}\n')
    assert goldens.load(tmp_path, "sums").version == "v1"
    goldens.freeze(tmp_path, "sums", "v2")
    assert [s.id for s in goldens.load(tmp_path, "sums").samples] == ["only"]
    assert goldens.verify(tmp_path) == ["sums@v1", "sums@v2"]


def test_the_latest_version_is_the_default_to_start_from(tmp_path: Path) -> None:
    for version in ("v9", "v10"):
        write(tmp_path, version=version)
    assert goldens.new_version(tmp_path, "sums").name == "v11"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, version="v2")
    before = (tmp_path / "sums" / "v2" / "card.yaml").read_bytes()
    with pytest.raises(DataError, match="exists already"):
        goldens.new_version(tmp_path, "sums", "v1")
    assert (tmp_path / "sums" / "v2" / "card.yaml").read_bytes() == before


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StorageError, match="no space left"):
        goldens.new_version(tmp_path, "sums", "v1")
    assert [p.name for p in (tmp_path / "sums").iterdir()] == ["v1"]


@pytest.mark.parametrize(("name", "version"), [("sums", "v7"), ("other", None), ("other", "v1")])
def test_there_must_be_something_to_start_from(tmp_path: Path, name: str, version: str | None) -> None:
    write(tmp_path)
    with pytest.raises(DataError):
        goldens.new_version(tmp_path, name, version)


# ---------------------------------------------------------------- what ships with the project


def test_every_committed_golden_set_is_frozen_and_intact() -> None:
    root = Path(__file__).parents[1] / "goldensets"
    folders = {f"{v.parent.name}@{v.name}" for v in root.glob("*/*") if v.is_dir()}
    assert folders, "the demonstration sets are part of the repository"
    assert set(goldens.verify(root)) == folders
    for reference in sorted(folders):
        golden = goldens.load(root, reference)
        assert golden.samples
        assert golden.card.description
