"""Logs a run to MLflow: parameters, metrics, tags and the reports as artifacts; one MLflow run for each run directory

The server and the experiment are those of MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.config import slug
from harness.errors import StorageError
from harness.history.logs import REPORTS, Log, metrics, params, summary
from harness.report import Document

_TAG = "harness.run"
_LONGEST = 250  # characters of a parameter that every store takes


class Options(BaseModel):
    """Which experiment."""

    model_config = ConfigDict(extra="forbid")

    experiment: str = Field(
        default_factory=lambda: os.environ.get("MLFLOW_EXPERIMENT_NAME", "harness"), description="made where it is not"
    )


def build(options: Options) -> Log:
    """The log; nothing is sent yet."""
    import mlflow  # noqa: F401 - so that a missing extra shows before anything is logged

    return _Mlflow(options)


class _Mlflow:
    def __init__(self, options: Options) -> None:
        self._experiment = options.experiment

    def log(self, run: Path, document: Document) -> str:
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.exceptions import MlflowException

        try:
            with redirect_stdout(sys.stderr):  # MLflow prints addresses, which are no part of our output
                return f"{get_tracking_uri()}: {self._log(MlflowClient(), run, document)}"
        except (MlflowException, OSError) as error:
            raise StorageError(f"MLflow at {get_tracking_uri()}: {error}") from error

    def _log(self, client: Any, run: Path, document: Document) -> str:
        name = slug(run.resolve().name)
        identifier = self._run(client, name)
        for key, value in params(document).items():
            client.log_param(identifier, key, value[:_LONGEST])
        for key, number in metrics(document).items():
            client.log_metric(identifier, key, number)
        client.set_tag(identifier, "verdict", document.verdict.verdict)
        client.log_dict(identifier, dict(summary(document)), "verdict.json")
        for report in REPORTS:
            if (run / report).is_file():
                client.log_artifact(identifier, str(run / report))
        client.set_terminated(identifier)
        return str(identifier)

    def _run(self, client: Any, name: str) -> Any:
        """The run of that name, an old one where it was logged before."""
        found = client.get_experiment_by_name(self._experiment)
        experiment = client.create_experiment(self._experiment) if found is None else found.experiment_id
        old = client.search_runs([experiment], f"tags.`{_TAG}` = '{name}'", max_results=1)
        return (old[0] if old else client.create_run(experiment, run_name=name, tags={_TAG: name})).info.run_id
