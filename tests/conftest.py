"""Fixtures shared by all tests. Nothing here imports torch: a fixture that needs it imports it when it is used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models only lose by more, and test processes share the cores
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


class TinyModels:
    """Tiny random models and adapters on disk, each made once per session and never changed by a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model(self, family: str = "llama", *, seed: int = 0, context: int = 256) -> Path:
        from tests.tiny_models import make_model

        path = self.folder / f"{family}-{seed}-{context}"
        return path if path.exists() else make_model(path, family, seed=seed, context=context)

    def adapter(self, family: str = "llama", method: str = "lora", *, seed: int = 1, scale: float = 1.0) -> Path:
        from tests.tiny_models import make_adapter

        path = self.folder / f"{family}-{method}-{seed}-{scale}"
        return path if path.exists() else make_adapter(self.model(family), path, method, seed=seed, scale=scale)

    def merged(self, family: str = "llama") -> Path:
        from tests.tiny_models import merged

        path = self.folder / f"{family}-merged"
        return path if path.exists() else merged(self.model(family), self.adapter(family), path)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Makes tiny models on demand; only slow tests may ask it for one."""
    return TinyModels(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def local_subject(tiny: TinyModels) -> Iterator[Any]:
    """Builds local subjects by options; all of a session share one pool, as the two sides of a gate do."""
    from harness.subjects import SubjectContext, local

    context = SubjectContext(tiny.folder)
    built: list[Any] = []

    def make(**options: Any) -> Any:
        chosen = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
        subject = local.build(local.Options.model_validate({"device": "cpu", **chosen}), context)
        built.append(subject)
        return subject

    yield make
    for subject in built:
        subject.close()
