"""Promotions that Sigstore signs: made over HTTP on 127.0.0.1, verified offline, refused for each reason there is."""

from __future__ import annotations

import base64
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sigstore", reason="needs the extra sigstore")

from sigstore.dsse import Statement
from sigstore.models import Bundle, ClientTrustConfig
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext

from harness.errors import ConfigError, RecordError
from harness.registry import Promotion, sigstorebundle
from harness.registry.backends.hub import HubRegistry
from harness.registry.backends.local import LocalRegistry
from harness.registry.bundle import write
from harness.registry.dsse import canonical
from harness.registry.identities import Identities, trusted_identities
from harness.registry.keys import new_key
from harness.registry.promoting import prepare
from harness.registry.signed import Trust
from harness.registry.verifying import verify
from tests.loopback_hub import LoopbackHub
from tests.loopback_sigstore import ADA, GITHUB, ISSUER, WORKFLOW, LoopbackSigstore, signer
from tests.promotion_example import gated

pytestmark = pytest.mark.slow  # servers, cryptography or DuckDB in every test

NAMED = (ADA, ISSUER)


@dataclass
class Place:
    """A registry with two promotions by Ada, and the trust configuration of the Sigstore that signed them."""

    root: Path
    config: Path

    @property
    def champion(self) -> Path:
        return (self.root / "aliases" / "champion").resolve()

    @property
    def record(self) -> Path:
        return self.champion / "promotion" / "record.json"

    def trusted(self, *pairs: tuple[str, str]) -> Trust:
        return trusted_identities(pairs or [NAMED], self.config)


@pytest.fixture(scope="module")
def promotions(tmp_path_factory: pytest.TempPathFactory) -> list[Promotion]:
    return [prepare(gated(tmp_path_factory.mktemp(f"run{seed}"), seed=seed)) for seed in range(2)]


@pytest.fixture
def sigstore() -> Iterator[LoopbackSigstore]:
    with LoopbackSigstore() as running:
        yield running


@pytest.fixture(scope="module", params=[(1, False), (1, True), (2, True)], ids=["log v1", "v1 and stamps", "v2"])
def original(
    request: pytest.FixtureRequest, promotions: list[Promotion], tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """Signed by a server that has stopped since."""
    folder = tmp_path_factory.mktemp("original")
    rekor, stamps = request.param
    with LoopbackSigstore(rekor=rekor, stamps=stamps) as running:
        for promotion in promotions:
            LocalRegistry(folder / "registry").promote(promotion, "champion", signer(running, folder))
    return Place(folder / "registry", folder / "trust-config.json")


@pytest.fixture
def place(original: Place, tmp_path: Path) -> Place:
    """A copy of it that a test may change."""
    root = Path(shutil.copytree(original.root, tmp_path / "registry", symlinks=True))
    return Place(root, Path(shutil.copy(original.config, tmp_path / "trust-config.json")))


def rewritten(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


# ---------------------------------------------------------------- what is written, and that it verifies


def test_what_sigstore_signed_verifies_offline_by_registry_alias_and_folder(original: Place) -> None:
    for path in (original.root, original.root / "aliases" / "champion", original.champion):
        found = verify(path, original.trusted())
        assert (found.keyid, found.issuer, found.verdict, found.entries) == (ADA, ISSUER, "promote", 2)
    assert verify(original.champion, original.trusted((WORKFLOW, GITHUB), NAMED)).keyid == ADA


def test_the_record_is_a_bundle_of_sigstore_around_the_same_statement(
    original: Place, promotions: list[Promotion]
) -> None:
    raw = original.record.read_bytes()
    bundle = json.loads(Bundle.from_json(raw).to_json())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert base64.b64decode(bundle["dsseEnvelope"]["payload"]) == promotions[1].payload
    assert original.champion.name == promotions[1].identity


def test_one_certificate_signs_record_files_and_ledger_and_nothing_is_asked_for_what_is_promoted_already(
    sigstore: LoopbackSigstore, promotions: list[Promotion], tmp_path: Path
) -> None:
    registry, ada = LocalRegistry(tmp_path / "registry"), signer(sigstore, tmp_path)
    assert sigstore.asked == []
    registry.promote(promotions[0], "champion", ada)
    assert sigstore.asked == ["/api/v2/signingCert"] + 3 * ["/api/v1/log/entries"]
    assert not registry.promote(promotions[0], "champion", signer(sigstore, tmp_path)).changed
    assert len(sigstore.asked) == 4
    assert [(entry.keyid, entry.signer) for entry in registry.log()] == [("sigstore", ADA)]


def test_a_hub_keeps_what_sigstore_signed_and_its_card_says_how_that_is_verified(
    sigstore: LoopbackSigstore, promotions: list[Promotion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = pytest.importorskip("huggingface_hub", reason="needs the extra hub").HfApi
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with LoopbackHub() as hub:
        registry = HubRegistry("team/adapter", api(endpoint=hub.endpoint, token=hub.token))
        registry.promote(promotions[0], "champion", signer(sigstore, tmp_path))
        fetched = registry.fetch("champion", tmp_path)
    assert fetched is not None
    found = verify(fetched, trusted_identities([NAMED], tmp_path / "trust-config.json"))
    assert (found.keyid, found.entries) == (ADA, 1)
    assert "harness verify adapter --certificate-identity" in (fetched / "README.md").read_text(encoding="utf-8")


def test_a_way_back_is_signed_too_and_each_signer_has_to_be_expected(
    sigstore: LoopbackSigstore, promotions: list[Promotion], tmp_path: Path
) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    for promotion in promotions:
        registry.promote(promotion, "champion", signer(sigstore, tmp_path))
    registry.rollback("champion", signer(sigstore, tmp_path, sigstore.workflow_token()))
    place = Place(registry.root, tmp_path / "trust-config.json")
    found = verify(registry.root, place.trusted(NAMED, (WORKFLOW, GITHUB)))
    assert (found.identity, found.keyid) == (promotions[0].identity, ADA)
    with pytest.raises(RecordError, match=r"ledger\.jsonl:3: signed by https://github.com/team/model.* expected"):
        verify(registry.root, place.trusted(NAMED))


def test_keys_and_identities_may_both_be_trusted_and_neither_stands_in_for_the_other(
    sigstore: LoopbackSigstore, promotions: list[Promotion], tmp_path: Path
) -> None:
    registry, key = LocalRegistry(tmp_path / "registry"), new_key(tmp_path / "signing.pem")
    registry.promote(promotions[0], "champion", key)
    registry.promote(promotions[1], "candidate", signer(sigstore, tmp_path))
    ada = trusted_identities([NAMED], tmp_path / "trust-config.json")
    team: Trust = {key.identity: key.public, **ada}
    assert verify(registry.root, team).issuer is None
    assert verify(registry.root / "aliases" / "candidate", team).issuer == ISSUER
    with pytest.raises(RecordError, match=r"record\.json: signed by .* no key that you trust"):
        verify(registry.root, ada)
    with pytest.raises(RecordError, match=r"record\.json: signed without a key.*--certificate-identity"):
        verify(registry.root / "aliases" / "candidate", {key.identity: key.public})


# ---------------------------------------------------------------- what is refused


def test_any_changed_byte_is_refused_and_names_its_file(place: Place) -> None:
    rng = random.Random(20261126)
    files = [*sorted((place.champion / "promotion").iterdir()), place.root / "ledger.jsonl"]
    assert {"record.json", "model.sig", "SHA256SUMS"} <= {path.name for path in files}
    trusted = place.trusted()
    for _ in range(100):
        path = rng.choice(files)
        content = path.read_bytes()
        changed = bytearray(content)
        spot = rng.randrange(len(content))
        changed[spot] ^= rng.randrange(1, 256)
        rewritten(path, bytes(changed))
        with pytest.raises(RecordError) as raised:
            verify(place.root, trusted)
        assert path.name in str(raised.value), (path.name, spot, str(raised.value))
        rewritten(path, content)
    verify(place.root, trusted)


def test_a_file_that_is_missing_or_cut_off_is_named(place: Place) -> None:
    for path in sorted((place.champion / "promotion").iterdir()):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(RecordError, match=path.name):
            verify(place.champion, place.trusted())
        path.write_bytes(content[:-1])
        with pytest.raises(RecordError, match=path.name):
            verify(place.champion, place.trusted())
        rewritten(path, content)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("eve@example.org", ISSUER), f"signed by {ADA} .*, where eve@example.org"),
        ((ADA, "https://accounts.example.com"), "where .* \\(https://accounts.example.com\\) was expected"),
        ((WORKFLOW, GITHUB), f"record.json: signed by {ADA}"),
        ((ADA.upper(), ISSUER), "was expected"),
        ((ADA[:-1], ISSUER), "was expected"),
        ((".*", ISSUER), "was expected"),
    ],
)
def test_another_identity_and_another_issuer_are_refused(original: Place, pair: tuple[str, str], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        verify(original.root, original.trusted(pair))


@pytest.mark.parametrize("pairs", [[], [(ADA, "")], [("", ISSUER)], [(ADA, " ")], [NAMED, (ADA, "")]])
def test_nobody_is_trusted_without_a_name_and_who_vouches_for_it(original: Place, pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(ConfigError, match="--certificate-identity NAME and --certificate-oidc-issuer URL"):
        trusted_identities(pairs, original.config)


def test_an_empty_issuer_is_no_issuer_at_all_wherever_it_comes_from(original: Place) -> None:
    (ada,) = trusted_identities([NAMED], original.config).values()
    with pytest.raises(ConfigError):
        Identities((sigstorebundle.Signatory(ADA, ""),), ada.verifier)
    with pytest.raises(ConfigError):
        Identities((), ada.verifier)


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a bundle as somebody does who can write all that nobody signed, sums included."""
    bundle = json.loads(path.read_bytes())
    edit(bundle)
    rewritten(path, canonical(bundle) + b"\n")
    proofs = {name: (path.parent / name).read_bytes() for name in ("record.json", "model.sig")}
    rewritten(path.parent / "SHA256SUMS", sigstorebundle.sums(proofs))


def entry_of(bundle: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = bundle["verificationMaterial"]["tlogEntries"][0]
    return entry


def with_payload(change: Callable[[bytes], bytes]) -> Callable[[dict[str, Any]], None]:
    def edit(bundle: dict[str, Any]) -> None:
        payload = change(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()

    return edit


def another_root_hash(bundle: dict[str, Any]) -> None:
    entry_of(bundle)["inclusionProof"]["rootHash"] = base64.b64encode(b"0" * 32).decode()


def another_body(bundle: dict[str, Any]) -> None:
    body = json.loads(base64.b64decode(entry_of(bundle)["canonicalizedBody"]))
    entry_of(bundle)["canonicalizedBody"] = base64.b64encode(canonical({**body, "note": "x"})).decode()


def without_time(bundle: dict[str, Any]) -> None:
    entry_of(bundle).pop("inclusionPromise", None)
    bundle["verificationMaterial"].pop("timestampVerificationData", None)


EDITS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "no entry of a log": lambda b: b["verificationMaterial"].update(tlogEntries=[]),
    "no inclusion proof": lambda b: entry_of(b).pop("inclusionProof"),
    "no checkpoint": lambda b: entry_of(b)["inclusionProof"].pop("checkpoint"),
    "no path to the root": lambda b: entry_of(b)["inclusionProof"].update(hashes=[]),
    "another root": another_root_hash,
    "another entry": another_body,
    "no proof of the time": without_time,
    "another payload": with_payload(lambda payload: payload.replace(b'"PASSED"', b'"FAILED"')),
    "another subject": with_payload(lambda payload: payload.replace(b'"sha256":"', b'"sha256":"0', 1)),
    "another kind of payload": lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
    "no envelope": lambda b: b.pop("dsseEnvelope"),
    "no signature": lambda b: b["dsseEnvelope"].update(signatures=[]),
    "more than a bundle has": lambda b: b.update(note="x"),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_a_bundle_that_was_edited_with_care_is_refused_all_the_same(place: Place, what: str) -> None:
    edited(place.record, EDITS[what])
    with pytest.raises(RecordError, match=r"record\.json: "):
        verify(place.champion, place.trusted())


def test_the_bundle_of_one_promotion_proves_nothing_about_another(place: Place) -> None:
    first, second = sorted((place.root / "promotions").iterdir())
    for name in ("record.json", "model.sig", "SHA256SUMS"):
        rewritten(second / "promotion" / name, (first / "promotion" / name).read_bytes())
    with pytest.raises(RecordError, match="changed since it was promoted"):
        verify(second, place.trusted())


def test_what_sigstore_signed_as_something_else_is_no_record(place: Place) -> None:
    """The files' own signature is the same identity's, of the same kind, and says something else."""
    signature = place.champion / "promotion" / "model.sig"
    rewritten(place.record, signature.read_bytes())
    with pytest.raises(RecordError, match="not a record of a promotion"):
        verify(place.champion, place.trusted())


@pytest.mark.parametrize("part", ["certificateAuthorities", "ctlogs", "tlogs"])
def test_a_root_of_trust_that_lacks_one_key_proves_nothing(original: Place, tmp_path: Path, part: str) -> None:
    ours = json.loads(original.config.read_bytes())
    with LoopbackSigstore() as another:
        theirs = json.loads(another.trust_config(tmp_path).read_bytes())
    ours["trustedRoot"][part] = theirs["trustedRoot"][part]
    (tmp_path / "mixed.json").write_text(json.dumps(ours), encoding="utf-8")
    with pytest.raises(RecordError, match=r"record\.json: ") as raised:
        verify(original.root, trusted_identities([NAMED], tmp_path / "mixed.json"))
    assert "update-trust-root" in str(raised.value)


def test_the_public_root_of_trust_is_there_without_a_network_and_knows_nothing_of_a_private_one(
    original: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):  # the root that came with the library, and not a newer one
        monkeypatch.setenv(name, str(tmp_path / name))
    with pytest.raises(RecordError, match=r"record\.json: .* update-trust-root"):
        verify(original.root, trusted_identities([NAMED]))


@pytest.mark.parametrize("stamps", [False, True], ids=["by the log", "by a timestamp"])
@pytest.mark.parametrize("hours", [-1, 1], ids=["before it was valid", "after it expired"])
def test_a_certificate_that_did_not_hold_when_it_signed_is_refused(
    promotions: list[Promotion], tmp_path: Path, stamps: bool, hours: int
) -> None:
    with LoopbackSigstore(rekor=2 if stamps else 1) as running:
        running.log_ahead = timedelta(hours=hours)
        config = ClientTrustConfig.from_json(running.trust_config(tmp_path).read_text(encoding="utf-8"))
        write(promotions[0], Careless(config, running.token()), tmp_path / "bundle")
    with pytest.raises(RecordError, match=r"record\.json: the certificate had expired .* or did not hold yet"):
        verify(tmp_path / "bundle", trusted_identities([NAMED], tmp_path / "trust-config.json"))


class Careless:
    """Signs with the library alone, and does not look at what came of it."""

    identity, verified_with = sigstorebundle.KEYID, ""

    def __init__(self, config: ClientTrustConfig, token: str) -> None:
        self._context, self._token = SigningContext.from_trust_config(config), IdentityToken(token)

    def seal(self, payload: bytes) -> bytes:
        with self._context.signer(self._token) as signer:
            return sigstorebundle.written(signer.sign_dsse(Statement(payload)).to_json())

    def sign(self, message: bytes) -> bytes:
        raise NotImplementedError
