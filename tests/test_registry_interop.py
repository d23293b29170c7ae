"""Other people's tools read what a promotion signs: model-signing, in-toto's own types, securesystemslib, sigstore."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.registry.backends.local import LocalRegistry
from harness.registry.keys import new_key
from harness.registry.promoting import prepare
from tests.promotion_example import gated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["ed25519", "p256"])
def promoted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `champion`, the bundle, and `signing.pub`."""
    folder = tmp_path_factory.mktemp(request.param)
    key = new_key(folder / "signing.pem", request.param)
    LocalRegistry(folder / "registry").promote(prepare(gated(folder / "project")), "champion", key)
    (folder / "champion").symlink_to((folder / "registry" / "aliases" / "champion").resolve())
    return folder


def test_model_signing_verifies_the_files_with_its_own_tool(promoted: Path) -> None:
    pytest.importorskip("model_signing", reason="needs OpenSSF's model-signing")
    bundle = (promoted / "champion").resolve()
    signature = bundle / "promotion" / "model.sig"
    if promoted.name.startswith("ed25519"):
        assert not signature.exists(), "its tool could not read the key"
        return
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(bundle), "--signature", str(signature),
               "--public_key", str(promoted / "signing.pub")]  # fmt: skip
    assert subprocess.run(command).returncode == 0
    weights = bundle / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(content[::-1])
    assert subprocess.run(command).returncode != 0
    weights.write_bytes(content)


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `champion`, a bundle that Sigstore signed, and `trust-config.json`."""
    pytest.importorskip("sigstore", reason="needs the extra sigstore")
    from tests.loopback_sigstore import LoopbackSigstore, signer

    folder = tmp_path_factory.mktemp("keyless")
    with LoopbackSigstore(stamps=True) as sigstore:
        ada = signer(sigstore, folder)
        LocalRegistry(folder / "registry").promote(prepare(gated(folder / "project")), "champion", ada)
    (folder / "champion").symlink_to((folder / "registry" / "aliases" / "champion").resolve())
    return folder


@pytest.mark.parametrize("identity", ["ada@example.org", "eve@example.org"])
def test_sigstore_verifies_a_file_of_the_adapter_by_the_record_with_its_own_tool(keyless: Path, identity: str) -> None:
    bundle = (keyless / "champion").resolve()
    command = [
        sys.executable, "-m", "sigstore", "--trust-config", str(keyless / "trust-config.json"), "verify", "identity",
        "--offline", "--bundle", str(bundle / "promotion" / "record.json"), "--cert-identity", identity,
        "--cert-oidc-issuer", "https://accounts.example.org", str(bundle / "adapter_model.safetensors"),
    ]  # fmt: skip
    assert (subprocess.run(command).returncode == 0) is identity.startswith("ada")


@pytest.mark.parametrize("identity", ["ada@example.org", "eve@example.org"])
def test_model_signing_verifies_the_files_that_sigstore_signed(keyless: Path, identity: str) -> None:
    pytest.importorskip("model_signing", reason="needs OpenSSF's model-signing")
    bundle = (keyless / "champion").resolve()
    command = [
        sys.executable, "-m", "model_signing", "verify", "sigstore", str(bundle), "--signature",
        str(bundle / "promotion" / "model.sig"), "--identity", identity, "--identity_provider",
        "https://accounts.example.org", "--trust_config", str(keyless / "trust-config.json"),
    ]  # fmt: skip
    assert (subprocess.run(command).returncode == 0) is identity.startswith("ada")


def test_in_toto_accepts_the_statement_and_reads_the_test_result(promoted: Path) -> None:
    pytest.importorskip("in_toto_attestation", reason="needs in-toto's attestation types")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    envelope = json.loads((promoted / "champion" / "promotion" / "record.json").read_bytes())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    Statement.copy_from_pb(json_format.ParseDict(payload, statement_pb2.Statement())).validate()
    result = json_format.ParseDict(payload["predicate"], test_result_pb2.TestResult(), ignore_unknown_fields=True)
    assert result.result == "PASSED"
    assert "sums/exact_match" in list(result.passed_tests)


def test_securesystemslib_verifies_the_envelope(promoted: Path) -> None:
    pytest.importorskip("securesystemslib", reason="needs securesystemslib")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    document = json.loads((promoted / "champion" / "promotion" / "record.json").read_bytes())
    public = load_pem_public_key((promoted / "signing.pub").read_bytes())
    identity = document["signatures"][0]["keyid"]
    key = SSlibKey.from_crypto(public, keyid=identity)
    assert set(Envelope.from_dict(document).verify([key], 1)) == {identity}
