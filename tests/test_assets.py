"""Where golden sets and judges are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import assets
from harness.errors import ConfigError


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package that brings nothing, and a current directory outside any checkout."""
    package = tmp_path / "site-packages" / "harness"
    package.mkdir(parents=True)
    monkeypatch.setattr(assets.harness, "__file__", str(package / "__init__.py"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return tmp_path


def test_an_explicit_folder_wins(bare: Path) -> None:
    (bare / "here" / "goldensets").mkdir()
    (bare / "mine").mkdir()
    assert assets.find("goldensets", bare / "mine") == bare / "mine"


def test_an_explicit_folder_must_be_there(bare: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        assets.find("goldensets", bare / "nowhere")


def test_the_file_that_names_a_set_comes_before_the_current_directory(bare: Path) -> None:
    for folder in ("here", "project"):
        (bare / folder / "goldensets").mkdir(parents=True)
    deep = bare / "project" / "configs" / "nightly"
    deep.mkdir(parents=True)
    assert assets.find("goldensets", start=deep) == bare / "project" / "goldensets"
    assert assets.find("goldensets") == bare / "here" / "goldensets"


def test_parents_of_the_current_directory_are_searched(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "judges").mkdir()
    monkeypatch.chdir(bare / "here")
    assert assets.find("judges") == bare / "judges"


def test_what_the_wheel_brings_is_the_last_resort(bare: Path) -> None:
    shipped = bare / "site-packages" / "harness" / "_assets" / "goldensets"
    shipped.mkdir(parents=True)
    assert assets.find("goldensets") == shipped


def test_nothing_found_lists_where_it_was_looked_for(bare: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        assets.find("goldensets")
    assert str(bare / "here") in str(caught.value)
    assert "name it explicitly" in str(caught.value)


def test_a_file_is_no_folder(bare: Path) -> None:
    (bare / "here" / "goldensets").write_text("")
    with pytest.raises(ConfigError):
        assets.find("goldensets")
