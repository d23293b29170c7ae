"""Signing by Sigstore: who signs, by which token, and a signature that fails and leaves everything as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sigstore", reason="needs the extra sigstore")

from sigstore.oidc import IdentityToken

from harness.errors import ConfigError, InfrastructureError, RecordError
from harness.registry import Promotion, identities, keyless, sigstorebundle
from harness.registry.backends.local import LocalRegistry
from harness.registry.identities import trusted_identities
from harness.registry.keyless import keyless_signer
from harness.registry.promoting import prepare
from tests.loopback_sigstore import ADA, GITHUB, ISSUER, WORKFLOW, LoopbackSigstore, signer
from tests.promotion_example import gated

pytestmark = pytest.mark.slow  # servers, cryptography or DuckDB in every test

NAMED = (ADA, ISSUER)


@pytest.fixture(scope="module")
def promotions(tmp_path_factory: pytest.TempPathFactory) -> list[Promotion]:
    return [prepare(gated(tmp_path_factory.mktemp("run")))]


@pytest.fixture
def sigstore(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackSigstore]:
    """A running one; no token comes from outside."""
    for name in ("SIGSTORE_ID_TOKEN", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    with LoopbackSigstore() as running:
        yield running


# ---------------------------------------------------------------- signing that fails leaves everything as it was


def refused(promotion: Promotion, by: keyless.KeylessSigner, folder: Path, said: str) -> None:
    registry = LocalRegistry(folder / "registry")
    registry.create()
    with pytest.raises(InfrastructureError, match=said):
        registry.promote(promotion, "champion", by)
    assert registry.log() == []
    assert list((folder / "registry").rglob("promotions/*")) == []
    assert list((folder / "registry").rglob("staging/*")) == []


@pytest.mark.parametrize("before", [0, 1, 2, 3], ids=["certificate", "ledger", "record", "files"])
def test_a_service_that_fails_at_any_step_changes_nothing(
    sigstore: LoopbackSigstore, promotions: list[Promotion], tmp_path: Path, before: int
) -> None:
    ada = signer(sigstore, tmp_path)
    sigstore.fails = before * [0] + [503]  # 0 lets a request pass
    refused(promotions[0], ada, tmp_path, "Sigstore did not sign .* repeat the command")


def test_a_service_that_is_not_there_or_does_not_answer_changes_nothing(
    promotions: list[Promotion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LoopbackSigstore() as running:
        ada = signer(running, tmp_path)
        monkeypatch.setattr(keyless, "_PATIENCE", 0.2)
        running.silent.set()
        refused(promotions[0], ada, tmp_path, "has not answered")
        running.silent.clear()
        ada = signer(running, tmp_path)
    refused(promotions[0], ada, tmp_path, "Sigstore did not sign")


def test_the_public_root_of_trust_is_renewed_before_anybody_signs_by_it(
    sigstore: LoopbackSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*given: object, **options: object) -> None:
        raise OSError("no network here")

    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    (tmp_path / "token").write_text(sigstore.token(), encoding="utf-8")
    with pytest.raises(InfrastructureError, match=r"the root of trust of sigstore\.dev: Failed to refresh"):
        keyless_signer(tmp_path / "token")


def test_a_signature_that_its_own_root_of_trust_does_not_prove_is_not_taken(
    sigstore: LoopbackSigstore, promotions: list[Promotion], tmp_path: Path
) -> None:
    ada = signer(sigstore, tmp_path)
    sigstore.log_ahead = timedelta(hours=1)
    refused(promotions[0], ada, tmp_path, "Sigstore did not sign")


def test_a_token_that_the_authority_refuses_is_not_told(
    sigstore: LoopbackSigstore, promotions: list[Promotion], tmp_path: Path
) -> None:
    header, claims, _ = sigstore.token().split(".")
    forged = f"{header}.{claims}.{'A' * 43}"
    ada = signer(sigstore, tmp_path, forged)
    with pytest.raises(InfrastructureError) as raised:
        ada.seal(promotions[0].payload)
    assert forged not in str(raised.value)
    failed = keyless._failed(ValueError(f"x {forged} y"), IdentityToken(forged))
    assert (forged in str(failed), "x … y" in str(failed)) == (False, True)


# ---------------------------------------------------------------- who signs


def test_a_token_is_read_from_a_file_a_variable_or_the_ci_job(
    sigstore: LoopbackSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promotions: list[Promotion]
) -> None:
    config = sigstore.trust_config(tmp_path)

    def who(**given: Any) -> str:
        raw = keyless_signer(**given, trust_config=config).sign(b"message")
        (trusted,) = trusted_identities([NAMED, (WORKFLOW, GITHUB)], config).values()
        trusted.check(b"message", raw, "")
        with pytest.raises(RecordError):
            trusted.check(b"another message", raw, "")
        return sigstorebundle.claimed(raw)

    with pytest.raises(ConfigError, match=r"no token says who signs.*id-token: write.*--browser"):
        who()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(ConfigError, match=r"the CI job's own token: GitHub: missing or insufficient.*id-token: write"):
        who()
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-the-job")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.endpoint}/github?api-version=2")
    assert who() == WORKFLOW
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.token())
    assert who() == ADA
    (tmp_path / "token").write_text(sigstore.workflow_token() + "\n", encoding="utf-8")
    assert who(token=tmp_path / "token") == WORKFLOW


def test_a_browser_logs_in_where_one_is_asked_for(
    sigstore: LoopbackSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import threading
    import urllib.request

    def visit(url: str) -> bool:
        threading.Thread(target=lambda: urllib.request.urlopen(url).read(), daemon=True).start()  # noqa: S310 - http
        return True

    monkeypatch.setattr("webbrowser.open", visit)
    ada = keyless_signer(browser=True, trust_config=sigstore.trust_config(tmp_path))
    assert sigstorebundle.claimed(ada.sign(b"message")) == ADA
    assert capsys.readouterr().out == ""
    with LoopbackSigstore() as gone:
        config = gone.trust_config(tmp_path)
    with pytest.raises(InfrastructureError, match="the identity provider could not be asked"):
        keyless_signer(browser=True, trust_config=config)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (lambda s: "", "malformed"),
        (lambda s: "no token", "malformed"),
        (lambda s: s.token(lives=timedelta(minutes=-10)), "get a new one"),
        (lambda s: s.token(audience="another"), "malformed or missing claims"),
        (lambda s: s.token(iss=GITHUB), "malformed or missing claims"),
    ],
)
def test_a_token_that_is_none_is_refused_before_anybody_is_asked(
    sigstore: LoopbackSigstore, tmp_path: Path, token: Callable[[LoopbackSigstore], str], said: str
) -> None:
    (tmp_path / "token").write_text(token(sigstore), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        keyless_signer(tmp_path / "token", trust_config=sigstore.trust_config(tmp_path))
    assert sigstore.asked == []


def test_a_token_that_expires_before_it_is_used_is_told(sigstore: LoopbackSigstore, tmp_path: Path) -> None:
    ada = signer(sigstore, tmp_path)
    ada._token._exp = 0
    with pytest.raises(ConfigError, match="the identity token has expired"):
        ada.sign(b"message")
    with pytest.raises(ConfigError, match="cannot be read"):
        keyless_signer(tmp_path / "nowhere", trust_config=tmp_path / "trust-config.json")


def test_a_trust_configuration_that_is_none_is_named(
    sigstore: LoopbackSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trust.json"
    for content in ("", "{}", "no JSON", '{"mediaType": "x"}'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"trust\.json: not a ClientTrustConfig"):
            trusted_identities([NAMED], path)
    with pytest.raises(ConfigError, match="cannot be read"):
        trusted_identities([NAMED], tmp_path / "nowhere.json")
    config = json.loads(sigstore.trust_config(tmp_path).read_bytes())
    config["trustedRoot"]["tlogs"] = []
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match="no transparency log"):
        trusted_identities([NAMED], path)
    monkeypatch.setattr(identities, "_MAX_CONFIG", 10)
    with pytest.raises(ConfigError, match="larger than"):
        trusted_identities([NAMED], path)
