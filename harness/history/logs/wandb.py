"""Logs a run to Weights & Biases: its numbers as a summary, and the reports as an artifact; one run for each directory

Entity, mode and folder are those of the library's own variables: WANDB_ENTITY, WANDB_MODE=offline, WANDB_DIR …
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from harness.config import slug
from harness.errors import StorageError
from harness.history.logs import REPORTS, Log, metrics, params
from harness.report import Document


class Options(BaseModel):
    """Which project."""

    model_config = ConfigDict(extra="forbid")

    project: str = Field(default_factory=lambda: os.environ.get("WANDB_PROJECT", "harness"), description="of W&B")


def build(options: Options) -> Log:
    """The log; nothing is sent yet."""
    import wandb  # noqa: F401 - so that a missing extra shows before anything is logged

    return _Wandb(options)


class _Wandb:
    def __init__(self, options: Options) -> None:
        self._project = options.project

    def log(self, run: Path, document: Document) -> str:
        import wandb

        name = slug(run.resolve().name)
        try:
            kept = wandb.init(
                project=self._project, id=name[-64:], name=name, resume="allow", job_type="gate",
                config=params(document), settings=wandb.Settings(console="off", silent=True),
            )  # fmt: skip
            kept.summary.update({**metrics(document), "verdict": document.verdict.verdict})
            artifact = wandb.Artifact(f"reports-{name[-100:]}", type="report")
            for report in REPORTS:
                if (run / report).is_file():
                    artifact.add_file(str(run / report))
            kept.log_artifact(artifact)
            where = kept.url or kept.dir
            kept.finish()
        except (wandb.Error, OSError) as error:
            raise StorageError(f"W&B, project {self._project}: {error}") from error
        return str(where)
