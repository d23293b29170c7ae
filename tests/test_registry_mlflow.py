"""A registry on a real MLflow server with SQLite: versions, aliases, tags, metrics, artifacts, going back, offline."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, PromotionError, RecordError, StorageError
from harness.registry import Promotion, open_registry
from harness.registry.keys import SigningKey, new_key
from harness.registry.promoting import prepare
from harness.registry.verifying import verify
from tests.promotion_example import gated

mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder}/store.db",
               "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        end = time.monotonic() + 180
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - 127.0.0.1
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def promotions(tmp_path_factory: pytest.TempPathFactory) -> list[Promotion]:
    return [prepare(gated(tmp_path_factory.mktemp(f"p{seed}"), seed=seed)) for seed in range(2)]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return new_key(tmp_path_factory.mktemp("keys") / "signing.pem")


def client(server: str) -> Any:
    return mlflow.MlflowClient(tracking_uri=server, registry_uri=server)


def test_versions_aliases_tags_metrics_and_artifacts(
    server: str, promotions: list[Promotion], key: SigningKey, tmp_path: Path
) -> None:
    registry = open_registry(f"mlflow+{server}/adapter")
    assert registry.fetch("champion", tmp_path) is None
    assert registry.promote(promotions[0], "champion", key).changed
    assert not registry.promote(promotions[0], "champion", key).changed
    registry.promote(promotions[1], "candidate", key)
    asked = client(server)
    version = asked.get_model_version_by_alias("adapter", "champion")
    assert version.tags["harness.promotion"] == promotions[0].identity
    assert asked.get_run(version.run_id).data.metrics["sums/exact_match/candidate_mean"] == 1.0
    assert len(asked.search_model_versions("name = 'adapter'")) == 2
    assert registry.aliases() == {"champion": promotions[0].identity, "candidate": promotions[1].identity}
    folder = registry.fetch("champion", tmp_path)
    assert folder is not None
    found = verify(folder, {key.identity: key.public})
    assert (found.identity, found.entries, found.aliases) == (promotions[0].identity, 2, ("champion",))


def test_going_back_and_no_further(server: str, promotions: list[Promotion], key: SigningKey) -> None:
    registry = open_registry(f"mlflow+{server}/back")
    for promotion in promotions:
        registry.promote(promotion, "champion", key)
    assert registry.rollback("champion", key).entry.promotion == promotions[0].identity
    assert registry.aliases() == {"champion": promotions[0].identity}
    assert [e.action for e in registry.log()] == ["promote", "promote", "rollback"]
    with pytest.raises(PromotionError, match="first promotion"):
        registry.rollback("champion", key)


def test_an_alias_that_was_moved_by_hand_and_an_entry_that_was_changed_are_refused(
    server: str, promotions: list[Promotion], key: SigningKey, tmp_path: Path
) -> None:
    registry = open_registry(f"mlflow+{server}/hand")
    for promotion in promotions:
        registry.promote(promotion, "champion", key)
    asked = client(server)
    asked.set_registered_model_alias("hand", "champion", "1")
    with pytest.raises(RecordError, match="not put there by a promotion"):
        registry.fetch("champion", tmp_path)
    assert not registry.promote(promotions[1], "champion", key).changed
    assert registry.fetch("champion", tmp_path) is not None, "promoting again puts the alias right"
    tag = asked.get_registered_model("hand").tags["harness.ledger.00000001"]
    asked.set_registered_model_tag("hand", "harness.ledger.00000001", tag.replace('"promote"', '"rollback"', 1))
    with pytest.raises(RecordError, match="does not follow"):
        registry.log()


def test_a_server_that_is_offline_and_an_address_that_is_none(
    promotions: list[Promotion], key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9"):
        open_registry("mlflow+http://127.0.0.1:9/adapter").promote(promotions[0], "champion", key)
    with pytest.raises(ConfigError, match="mlflow\\+http://HOST:PORT/MODEL"):
        open_registry("mlflow+http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_USERNAME") as refused:
        open_registry("mlflow+http://me:s3cret@127.0.0.1:9/adapter")
    assert "s3cret" not in str(refused.value)
