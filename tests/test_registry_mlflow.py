"""A registry on a real MLflow server with SQLite: versions, aliases, tags, metrics, artifacts, going back, offline."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import ConfigError, PromotionError, RecordError, StorageError
from harness.registry import Outcome, Promotion, open_registry
from harness.registry.backends import mlflow as backend
from harness.registry.keys import SigningKey, new_key
from harness.registry.promoting import prepare
from harness.registry.verifying import verify
from tests.history_example import make_run
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
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **quiet}, start_new_session=True
        )
    try:
        end = time.monotonic() + 400  # it loads a whole web application
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its workers; while it starts, it heeds no other signal
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
    server: str, promotions: list[Promotion], key: SigningKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = open_registry(f"mlflow+{server}/adapter")
    assert registry.fetch("champion", tmp_path) is None
    assert registry.promote(promotions[0], "champion", key).changed
    assert not registry.promote(promotions[0], "champion", key).changed
    registry.promote(promotions[1], "candidate", key)
    assert capsys.readouterr().out == "", "what MLflow prints is no part of a command's JSON"
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


def test_looking_changes_nothing_on_the_server(server: str, key: SigningKey, tmp_path: Path) -> None:
    registry = open_registry(f"mlflow+{server}/misspelt")
    assert (registry.log(), registry.aliases(), registry.fetch("champion", tmp_path)) == ([], {}, None)
    with pytest.raises(PromotionError):
        registry.rollback("champion", key)
    assert "misspelt" not in {model.name for model in client(server).search_registered_models()}


def test_promotions_at_once_take_turns_and_none_is_lost(
    server: str, promotions: list[Promotion], key: SigningKey
) -> None:
    def promote(number: int) -> Outcome:
        return open_registry(f"mlflow+{server}/race").promote(promotions[number % 2], f"alias-{number}", key)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(promote, range(6)))
    registry = open_registry(f"mlflow+{server}/race")
    assert {o.entry for o in outcomes} == set(registry.log()), "each writer's entry is in the one chain"
    assert registry.aliases() == {f"alias-{n}": promotions[n % 2].identity for n in range(6)}
    assert "race.harness-lock" not in {model.name for model in client(server).search_registered_models()}


def test_a_lock_is_waited_for_and_that_of_a_killed_writer_is_not(
    server: str, promotions: list[Promotion], key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_registry(f"mlflow+{server}/locked")
    client(server).create_registered_model("locked.harness-lock")
    monkeypatch.setattr(backend, "_PATIENCE", 0.0)
    with pytest.raises(StorageError, match="somebody else promotes at the same time"):
        registry.promote(promotions[0], "champion", key)
    assert (registry.log(), registry.aliases()) == ([], {})
    monkeypatch.setattr(backend, "_STALE", 0.0)
    assert registry.promote(promotions[0], "champion", key).changed


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


def test_a_report_is_logged_to_the_server_and_prints_one_document(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    mlflow.set_tracking_uri(server)
    run = make_run(tmp_path / "runs", "one", gain=0.05)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run), "--log", "mlflow", "--json"])
    out, err = capsys.readouterr()
    assert (ended.value.code, json.loads(out)["verdict"]) == (0, "promote")
    assert f"logged {run} to {server}" in err
    experiment = client(server).get_experiment_by_name("harness")
    (kept,) = client(server).search_runs([experiment.experiment_id])
    assert kept.data.tags["verdict"] == "promote"


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
