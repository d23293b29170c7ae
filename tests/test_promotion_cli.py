"""The verbs of promotion as a user types them: their output and exit codes, and a gate that begins at the champion."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main
from harness.config import load_gate
from harness.errors import ConfigError
from harness.gate import run_gate, subject_options
from harness.progress import Silent
from tests.promotion_example import gated, make_adapter

Project = tuple[Path, Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "one": gated(tmp_path_factory.mktemp("one"), seed=1),
        "two": gated(tmp_path_factory.mktemp("two"), seed=2),
        "hold": gated(tmp_path_factory.mktemp("hold"), silent=range(40)),
    }


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with keys of its own, and nothing from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("HARNESS_KEY", "HARNESS_REGISTRY"):
        monkeypatch.delenv(name, raising=False)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    """(exit code, JSON document) of a command."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def test_from_a_key_to_a_champion_and_back(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "promote", runs["one"]) == (2, _any_error("harness key new"))
    assert not Path("registry").exists()
    assert call(capsys, "key", "new")[0] == 0
    code, first = call(capsys, "promote", runs["one"])
    assert (code, first["changed"]) == (0, True)
    assert call(capsys, "promote", runs["one"])[1]["changed"] is False
    assert call(capsys, "promote", runs["two"])[0] == 0
    code, found = call(capsys, "verify", "registry", "--policy", runs["two"].parents[1] / "gate.yaml")
    assert (code, found["verified"], found["entries"]) == (0, True, 2)
    assert call(capsys, "rollback")[0] == 0
    assert call(capsys, "verify", "registry/aliases/champion")[1]["identity"] == first["entry"]["promotion"]
    code, log = call(capsys, "registry", "log")
    assert [entry["action"] for entry in log["entries"]] == ["promote", "promote", "rollback"]
    assert call(capsys, "rollback")[0] == 3


def test_refusals_have_their_exit_codes_and_leave_the_registry_as_it_was(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    call(capsys, "key", "new")
    call(capsys, "promote", runs["one"])
    before = Path("registry/ledger.jsonl").read_bytes()
    call(capsys, "key", "new", "--out", "foreign.pem")
    adapter = Path(shutil.copytree(runs["two"].parents[1] / "adapter", tmp_path / "moved"))
    (adapter / "adapter_model.safetensors").write_bytes(b"changed")
    for expected, arguments in (
        (3, ["promote", runs["hold"]]),
        (3, ["promote", runs["two"], "--adapter", adapter]),
        (2, ["promote", runs["hold"], "--override", "Ada"]),
        (2, ["promote", runs["two"], "--reason", "because"]),
        (2, ["promote", runs["two"], "--key", "nowhere.pem"]),
        (2, ["promote", runs["two"], "--alias", "../champion"]),
        (2, ["promote", runs["two"], "--registry", "hf://"]),
        (4, ["promote", tmp_path / "no-run"]),
        (4, ["promote", runs["two"], "--registry", "registry/ledger.jsonl"]),
        (2, ["rollback", "--registry", "nowhere"]),
        (3, ["verify", "registry", "--key", "foreign.pub"]),
        (2, ["verify", "registry", "--key", "nowhere.pub"]),
        (2, ["verify"]),
    ):
        code, said = call(capsys, *arguments)
        assert (code, "error" in said) == (expected, True), (arguments, said)
    assert Path("registry/ledger.jsonl").read_bytes() == before
    assert len(list(Path("registry/promotions").iterdir())) == 1


def test_a_registry_whose_extra_is_missing_names_it(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    call(capsys, "key", "new")
    for address, extra in (("mlflow+http://127.0.0.1:9/m", "[mlflow]"), ("hf://team/adapter", "[hub]")):
        code, said = call(capsys, "promote", runs["one"], "--registry", address)
        assert (code, extra in said["error"]["message"]) == (2, True), said


def test_an_override_is_promoted_told_and_verified_only_when_accepted(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "key", "new")
    arguments = ["promote", runs["hold"], "--override", "Ada", "--reason", "the proxy was down"]
    code, outcome = call(capsys, *arguments)
    assert (code, outcome["entry"]["by"], outcome["entry"]["reason"]) == (0, "Ada", "the proxy was down")
    assert call(capsys, "verify", "registry")[0] == 3
    code, found = call(capsys, "verify", "registry", "--accept-override")
    assert (code, found["override"]["by"], found["verdict"]) == (0, "Ada", "hold")


def test_the_texts_for_people(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["key", "new"], "signs promotions"),
        (["registry", "init"], "is an empty registry"),
        (["promote", str(runs["one"])], "champion is now"),
        (["promote", str(runs["one"])], "nothing was changed"),
        (["verify", "registry"], "it stands for champion"),
        (["registry", "log"], "champion is"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert (ended.value.code, said in capsys.readouterr().out) == (0, True), arguments


def test_the_champion_is_the_next_baseline(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "project" / "gate.yaml"
    shutil.copytree(runs["one"].parents[1], path.parent, ignore=shutil.ignore_patterns("runs"))
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["baseline"]["answered_by"] = "registry:champion"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"baseline: answered_by: .* harness registry init"):
        subject_options(load_gate(path), "baseline")
    call(capsys, "key", "new")
    registry = path.parent / "registry"
    assert call(capsys, "registry", "init", registry)[0] == 0
    assert getattr(subject_options(load_gate(path), "baseline"), "answered_by") is None  # noqa: B009 - of the plugin's own
    call(capsys, "promote", runs["one"], "--registry", registry)
    make_adapter(path.parent / "adapter", seed=7)
    manifest = json.loads((run_gate(load_gate(path), Silent()).path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["baseline"]["name"].startswith("champion ")
    assert "promotions" in manifest["baseline"]["artifact"]["folder"]
    weights = next(registry.glob("promotions/*/adapter_model.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(b"changed")
    with pytest.raises(Exception, match=r"adapter_model\.safetensors: changed since it was promoted"):
        subject_options(load_gate(path), "baseline")


class _any_error:
    """Equal to an error document whose message holds a text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and self.text in other["error"]["message"]

    __hash__ = None  # type: ignore[assignment]
