"""Signing without a key as a user types it: promote, look, verify, go back; exit codes, and what each refusal says."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

pytest.importorskip("sigstore", reason="needs the extra sigstore")

from harness.cli import app, main
from tests.documentation import ROOT, blocks
from tests.loopback_sigstore import ADA, GITHUB, ISSUER, WORKFLOW, LoopbackSigstore
from tests.promotion_example import gated

pytestmark = pytest.mark.slow  # servers, cryptography or DuckDB in every test

ADA_SIGNED = ("--certificate-identity", ADA, "--certificate-oidc-issuer", ISSUER, "--trust-config", "trust-config.json")
BY_SIGSTORE = ("--sign", "sigstore", "--trust-config", "trust-config.json")
PAGE = ROOT / "docs" / "promotion.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [gated(tmp_path_factory.mktemp(f"run{seed}"), seed=seed) for seed in range(2)]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and no key or token from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("HARNESS_KEY", "HARNESS_REGISTRY", "SIGSTORE_ID_TOKEN", "GITHUB_ACTIONS", "GITLAB_CI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sigstore(tmp_path: Path) -> Iterator[LoopbackSigstore]:
    """A running one, whose trust configuration and token lie in the folder."""
    with LoopbackSigstore(stamps=True) as running:
        running.trust_config(tmp_path)
        (tmp_path / "token").write_text(running.token(), encoding="utf-8")
        yield running


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    """(exit code, JSON document) of a command, which says nothing beside it but its error, on one line."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    said = capsys.readouterr()
    code, document = int(ended.value.code or 0), json.loads(said.out)
    assert said.err == (f"error: {document['error']['message']}\n" if code else "")
    return code, document


def test_from_a_token_to_a_champion_and_back_without_any_key(
    sigstore: LoopbackSigstore, runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, first = call(capsys, "promote", runs[0], *BY_SIGSTORE, "--identity-token", "token")
    assert (code, first["changed"], first["entry"]["keyid"]) == (0, True, "sigstore")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.workflow_token())
    assert call(capsys, "promote", runs[1], *BY_SIGSTORE)[0] == 0
    code, found = call(capsys, "verify", "registry", *ADA_SIGNED)
    assert (code, "signed by " + WORKFLOW in found["error"]["message"]) == (3, True)
    workflow = ("--certificate-identity", WORKFLOW, "--certificate-oidc-issuer", GITHUB)
    code, found = call(capsys, "verify", "registry", *workflow, "--trust-config", "trust-config.json",
                       "--policy", runs[1].parents[1] / "gate.yaml", "--run", runs[1])  # fmt: skip
    assert (code, found["verified"], found["keyid"], found["issuer"]) == (0, True, WORKFLOW, GITHUB)
    assert call(capsys, "rollback", *BY_SIGSTORE)[0] == 0
    code, found = call(capsys, "verify", "registry", *ADA_SIGNED, *workflow)
    assert (code, found["keyid"], found["identity"]) == (0, ADA, first["entry"]["promotion"])
    assert not Path("config").exists(), "nobody has made a key"


def test_people_read_who_signed(
    sigstore: LoopbackSigstore, runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    for arguments, said in (
        (["promote", str(runs[0]), *BY_SIGSTORE, "--identity-token", "token"], f"signed by {ADA}\n"),
        (["verify", "registry", *ADA_SIGNED], f"PROMOTE, signed by {ADA} ({ISSUER})"),
        (["registry", "log"], ADA),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert (ended.value.code, said in capsys.readouterr().out) == (0, True), arguments


def test_the_sums_are_those_of_sha256sum(
    sigstore: LoopbackSigstore, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "promote", runs[0], *BY_SIGSTORE, "--identity-token", "token")
    folder = Path("registry/aliases/champion/promotion")
    for line in (folder / "SHA256SUMS").read_text(encoding="ascii").splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_refusals_have_their_exit_codes_and_leave_the_registry_as_it_was(
    sigstore: LoopbackSigstore, runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call(capsys, "promote", runs[0], *BY_SIGSTORE, "--identity-token", "token")
    call(capsys, "key", "new")
    before = {path: path.read_bytes() for path in Path("registry").rglob("*") if path.is_file()}
    name, issuer, trust = ADA_SIGNED[:2], ADA_SIGNED[2:4], ADA_SIGNED[4:]
    promote = ["promote", runs[1], *BY_SIGSTORE]
    for expected, words, arguments in (
        (2, "no token says who signs", promote),
        (2, "cannot be read", [*promote, "--identity-token", "nowhere"]),
        (2, "malformed", [*promote, "--identity-token", "trust-config.json"]),
        (2, "leave one out", [*promote, "--identity-token", "token", "--browser"]),
        (2, "leave --key out", [*promote, "--identity-token", "token", "--key", "signing.pem"]),
        (2, "not a ClientTrustConfig", [*promote[:4], "--identity-token", "token", "--trust-config", "token"]),
        (2, "go with --sign sigstore", ["promote", runs[1], "--browser"]),
        (2, "go with --sign sigstore", ["rollback", "--identity-token", "token"]),
        (2, "no token says who signs", ["rollback", *BY_SIGSTORE]),
        (3, "nothing to go back to", ["rollback", *BY_SIGSTORE, "--identity-token", "token"]),
        (3, "signed without a key", ["verify", "registry"]),
        (3, "no authority in the root of trust", ["verify", "registry", *name, *issuer]),
        (3, "was expected", ["verify", "registry", "--certificate-identity", "eve@example.org", *issuer, *trust]),
        (3, "was expected", ["verify", "registry", *name, "--certificate-oidc-issuer", "https://example.com", *trust]),
        (2, "together", ["verify", "registry", *name, *trust]),
        (2, "together", ["verify", "registry", *issuer, *trust]),
        (2, "together", ["verify", "registry", *name, *name, *name, *issuer, *issuer, *trust]),
        (2, "give both", ["verify", "registry", *name, "--certificate-oidc-issuer", "", *trust]),
        (2, "goes with --certificate-identity", ["verify", "registry", *trust]),
    ):
        code, said = call(capsys, *arguments)
        assert (code, words in said["error"]["message"]) == (expected, True), (arguments, said)
    sigstore.fails = [500]
    code, said = call(capsys, *promote, "--identity-token", "token")
    assert (code, "Sigstore did not sign" in said["error"]["message"]) == (4, True)
    assert {path: path.read_bytes() for path in Path("registry").rglob("*") if path.is_file()} == before
    monkeypatch.setenv("HARNESS_KEY", "signing.pem")
    assert call(capsys, *promote, "--identity-token", "token")[0] == 0, "a key of the environment is not asked for"


def test_without_the_extra_it_is_named_and_keys_go_on_working(
    sigstore: LoopbackSigstore, runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call(capsys, "promote", runs[0], *BY_SIGSTORE, "--identity-token", "token", "--registry", "keyless")
    call(capsys, "key", "new")
    call(capsys, "promote", runs[0])
    for name in [name for name in sys.modules if name.partition(".")[0] == "sigstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sigstore", None)
    for arguments in (["promote", runs[1], *BY_SIGSTORE], ["verify", "registry", *ADA_SIGNED]):
        code, said = call(capsys, *arguments)
        assert (code, "promotion-harness[sigstore]" in said["error"]["message"]) == (2, True), said
    assert call(capsys, "verify", "registry")[0] == 0
    assert call(capsys, "verify", "keyless")[0] == 3, "a bundle of Sigstore is never taken for want of the library"
    assert call(capsys, "registry", "log", "--registry", "keyless")[1]["entries"][0]["keyid"] == "sigstore"


def test_nothing_of_sigstore_is_imported_by_who_does_not_ask_for_it() -> None:
    code = (
        "import sys, harness, harness.registry.keyless, harness.registry.verifying\n"
        "assert not {'sigstore', 'tuf', 'requests'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT)})


def test_the_job_of_the_documentation_may_have_a_token_and_no_other_job_may() -> None:
    (workflow,) = (yaml.safe_load(block.text) for block in blocks("yaml", page=PAGE) if "jobs:" in block.text)
    assert workflow[True] == {"push": {"branches": ["main"]}}, "YAML 1.1 reads `on` as true"
    assert (workflow["permissions"], list(workflow["jobs"])) == ({"contents": "read"}, ["promote"])
    assert workflow["jobs"]["promote"]["permissions"] == {"contents": "read", "id-token": "write"}
    parser = typer.main.get_command(app)
    scripts = [step["run"] for step in workflow["jobs"]["promote"]["steps"] if "run" in step]
    ours = [re.sub(r'"\$\(.*?\)"', "RUN", script.partition(" > ")[0]).split() for script in scripts]
    for _, verb, *words in [each for each in ours if each[0] == "harness"]:
        parser.commands[verb].make_context(verb, words)  # type: ignore[attr-defined]
    assert any("--sign" in words for words in ours)
    for path in (ROOT / "harness" / "scaffold" / "files").glob("github-*.yml"):
        assert "id-token" not in str(yaml.safe_load(path.read_text(encoding="utf-8"))), path
