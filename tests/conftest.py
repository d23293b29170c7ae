"""Fixtures shared by all tests, and what keeps torch out of the fast tier: whatever loads it unmarked fails.

Nothing here imports torch: a fixture that needs it imports it when it is used.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.fuzzing import examples

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models only lose by more, and test processes share the cores
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

with contextlib.suppress(ImportError):  # the environment of make test-extras has none, and tries no property
    from hypothesis import settings

    # How long an example takes depends on what else the machine does, so that no property has a deadline.
    settings.register_profile("harness", settings(), deadline=None, max_examples=examples(40))
    settings.load_profile("harness")

# Hundreds of tests call the command line in this process; typer would build all of its verbs for each of them.
typer.main.get_command = functools.cache(typer.main.get_command)

_A_LIBRARY = 100  # modules
_MODULES_BEFORE = pytest.StashKey[int]()
_TORCH_BEFORE = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The thousands of tests and modules are kept to the end: the collector need not walk them over and over."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module of tests that loads torch when it is imported is an error: every process of a run imports them all."""
    before = "torch" in sys.modules
    report = yield
    if "torch" in sys.modules and not before:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: importing it loads torch; import torch in the tests that use it"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    item.stash[_TORCH_BEFORE] = "torch" in sys.modules
    item.stash[_MODULES_BEFORE] = len(sys.modules)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """A test that loads torch, itself or by its fixtures, is marked slow; what it loaded is not walked again either."""
    yield
    if len(sys.modules) - item.stash[_MODULES_BEFORE] > _A_LIBRARY:
        gc.collect()  # so that nothing is kept that the test has done with
        gc.freeze()
    if "torch" in sys.modules and not item.stash[_TORCH_BEFORE] and item.get_closest_marker("slow") is None:
        pytest.fail("this test is the first to load torch and is not marked slow", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _unsynced() -> Iterator[None]:
    """Files written by this process are not forced to the disk: no test cuts the power, and many wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


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
