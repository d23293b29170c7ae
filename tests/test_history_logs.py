"""Runs logged to experiment trackers: the numbers and reports arrive, once, and no journal goes with them."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.document import read_run, write_reports
from harness.errors import PluginError
from harness.history import logs
from harness.report import Document
from tests.history_example import make_run


def stored(tmp_path: Path) -> tuple[Path, Document]:
    path = make_run(tmp_path / "runs", "one", gain=0.05)
    document = read_run(path)
    write_reports(path, document)
    return path, document


def test_every_number_has_a_name_that_trackers_take(tmp_path: Path) -> None:
    _, document = stored(tmp_path)
    found = logs.metrics(document)
    assert found["golden/support_1/exact_match/difference"] == document.verdict.comparisons[0].difference
    assert set("".join(found)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./ ")
    assert "Baseline" in logs.params(document)


def test_what_is_withheld_is_not_logged(tmp_path: Path) -> None:
    _, document = stored(tmp_path)
    hidden = tuple(
        replace(c, withheld=True, difference=None, interval=None, baseline_mean=None, candidate_mean=None)
        for c in document.verdict.comparisons
    )
    found = logs.metrics(replace(document, verdict=replace(document.verdict, comparisons=hidden)))
    assert {name.rsplit("/", 1)[1] for name in found} == {"n_used", "n_failed"}


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_an_error_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    module = plugins.load("history.logs", name)
    with pytest.raises(ImportError) as raised:
        module.build(module.Options())
    assert f"promotion-harness[{name}]" in plugins.missing_extra("--log", raised.value)


def test_a_tracker_that_is_not_known_is_named_with_the_nearest() -> None:
    with pytest.raises(PluginError, match="did you mean 'mlflow'"):
        plugins.load("history.logs", "mlfow")


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite:///{}/mlflow.db", "file://{}/mlruns"], ids=["sqlite", "files"])
def test_mlflow_keeps_a_run_once_with_its_numbers_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'promotion-harness[mlflow]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(store.format(tmp_path))
    path, document = stored(tmp_path)
    log = plugins.load("history.logs", "mlflow").build(plugins.load("history.logs", "mlflow").Options())
    log.log(path, document)
    log.log(path, document)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("harness")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.data.tags["verdict"] == document.verdict.verdict
    assert kept.info.status == "FINISHED"
    assert kept.data.metrics == pytest.approx(logs.metrics(document))
    assert kept.data.params == logs.params(document)
    names = {file.path for file in client.list_artifacts(kept.info.run_id)}
    assert names == {"report.html", "report.md", "junit.xml", "verdict.json"}


@pytest.mark.slow
def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed: pip install 'promotion-harness[wandb]'")
    for key, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(key, value)
    path, document = stored(tmp_path)
    module: Any = plugins.load("history.logs", "wandb")
    place = module.build(module.Options(project="gates")).log(path, document)
    assert str(tmp_path) in place
    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    for _ in range(100):  # another process writes it, and may still be at it
        if b"report.html" in record.read_bytes():
            break
        time.sleep(0.1)
    content = record.read_bytes()
    assert b"golden/support_1/exact_match/difference" in content
    assert b"report.html" in content
