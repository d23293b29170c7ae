"""Finds and loads lm-eval's tasks: by name without indexing all of them, from a local YAML, with local data.

lm-eval knows some 14,700 tasks, and building its index takes over ten seconds. A task's files almost always lie in a
folder that its name starts with, so that folder is indexed alone; everything is indexed only when that fails.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, HarnessError, nearest
from harness.suites._capability import code_eval
from harness.suites._capability.local_data import reader_for

RANDOM_SEED = 0  # what simple_evaluate seeds `random` with; some tasks shuffle while they load


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """Leaf tasks by name; for each its documents, and the groups (below the one asked for) that it belongs to."""

    tasks: Mapping[str, Any]
    docs: Mapping[str, list[Any]]
    groups: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to load: a task name or YAML, where its data is, and whether it may run code."""

    task: str
    folder: Path
    data: Path | None
    allow_code: bool
    seed: int

    @property
    def yaml(self) -> Path | None:
        """The local YAML file that `task` names, if it names one."""
        if Path(self.task).suffix not in (".yaml", ".yml"):
            return None
        return (self.folder / self.task).expanduser().resolve()


def load(wanted: Wanted) -> LoadedTasks:
    """The tasks, with their data.

    Raises:
        ConfigError: no such task, its data is not reachable, or it may not run code.
    """
    confined: set[str] = set()
    with quiet(), seeded(wanted.seed):
        try:
            loaded = _load(wanted, confined)
        except HarnessError:
            raise
        except Exception as error:
            cause = _harness_cause(error)
            if cause is not None:
                raise cause from error
            raise ConfigError(_not_loaded(wanted, error)) from error
        tasks: dict[str, Any] = loaded["tasks"]
        if not tasks:
            raise ConfigError(f"task {wanted.task!r} holds no task")
        for name, task in tasks.items():
            _check_supported(name, task, wanted, confined)
        # A task that processes its documents does so whenever it is asked for them, so they are kept.
        docs = {name: list(task.eval_docs) for name, task in tasks.items()}
    _steady_language_detection()
    return LoadedTasks(tasks, docs, _membership(loaded))


def _steady_language_detection() -> None:
    """IFEval asks langdetect, which guesses at random unless it is seeded: one answer must have one score."""
    module = sys.modules.get("langdetect")
    if module is not None:
        module.DetectorFactory.seed = 0


def _load(wanted: Wanted, confined: set[str]) -> Any:
    path = wanted.yaml
    if path is None:
        return _manager(wanted, _index_for(wanted.task), confined).load([wanted.task])
    if not path.is_file():
        raise ConfigError(f"task: {path} does not exist")
    return _manager(wanted, [path.parent], confined).load([_group(path) or str(path)])


def _group(path: Path) -> str | None:
    """The name of the group that a YAML declares: lm-eval finds a group by its name only, a task by its file too."""
    from lm_eval.tasks._yaml_loader import load_yaml

    declared = load_yaml(path, resolve_func=False).get("group")
    return declared if isinstance(declared, str) else None


def _manager(wanted: Wanted, folders: list[Path] | None, confined: set[str]) -> Any:
    """A task manager that knows the tasks below `folders` (None: all of lm-eval's) and uses our data.

    The names of the tasks whose code is run by our sandbox are added to `confined`.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._factory import TaskFactory
    from lm_eval.tasks._yaml_loader import load_yaml

    class Factory(TaskFactory):  # type: ignore[misc]
        def _load_full_config(self, entry: Any, overrides: Any = None) -> Any:
            raw = load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else {}
            with ExitStack() as stack:
                if raw.get("unsafe_code"):  # resolving the YAML's functions imports the module that loads the metric
                    given = stack.enter_context(code_eval.sandboxed(wanted.allow_code, entry.name))
                config = super()._load_full_config(entry, overrides)
                if raw.get("unsafe_code") and given:
                    confined.add(config["task"])
            return _with_data(config, entry.yaml_path, wanted.data)

    paths = None if folders is None else [str(folder) for folder in folders]
    manager = TaskManager(include_path=paths, include_defaults=folders is None)
    manager._factory = Factory(meta=None)
    return manager


def _index_for(name: str) -> list[Path] | None:
    """The folder to index for a task name, or None when only the whole index will do.

    Raises:
        ConfigError: lm-eval has no such task.
    """
    from lm_eval.tasks import TaskManager

    root = _tasks_root()
    folder = _likely_folder(root, name)
    if folder is not None and _complete(
        TaskManager(include_path=[str(folder)], include_defaults=False).task_index, name
    ):
        return [folder]
    names = TaskManager().all_tasks
    if name not in names:
        raise ConfigError(f"lm-eval has no task {name!r}: {_suggestion(name, names)}")
    return None


def _likely_folder(root: Path, name: str) -> Path | None:
    """lm-eval's folder whose name is the longest prefix of the task's."""
    below = [p for p in root.iterdir() if p.is_dir() and (name == p.name or name.startswith(f"{p.name}_"))]
    return max(below, key=lambda p: len(p.name), default=None)


def _complete(index: Mapping[str, Any], name: str) -> bool:
    """Whether the index holds a task, or a group with all of its members; a tag can have members anywhere."""
    entry = index.get(name)
    if entry is None or entry.kind.name in ("TAG", "UNKNOWN"):
        return False
    if entry.kind.name != "GROUP":
        return True
    members = entry.cfg.get("task") if entry.cfg else None
    named = [m if isinstance(m, str) else m.get("task", m.get("group")) for m in members or ()]
    return all(m in index and (index[m].kind.name == "TAG" or _complete(index, m)) for m in named)


def _suggestion(name: str, names: list[str]) -> str:
    """The nearest name; with thousands of names, listing all of them would help nobody."""
    import difflib

    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return nearest(name, close) if close else "see `lm-eval ls tasks` for the names"


def _with_data(config: dict[str, Any], yaml: Path | None, data: Path | None) -> dict[str, Any]:
    """The task's configuration with local data in place, and with file names made relative to its own YAML."""
    if data is not None and isinstance(config.get("dataset_path"), str) and "class" not in config:
        reader = reader_for(config["dataset_path"], config.get("dataset_name"), data)
        return {**config, "custom_dataset": reader, "dataset_kwargs": None}
    kwargs = config.get("dataset_kwargs")
    if yaml is None or _tasks_root() in yaml.parents or not isinstance(kwargs, dict):
        return config
    kwargs = {k: _beside(v, yaml.parent) if k in ("data_files", "data_dir") else v for k, v in kwargs.items()}
    return {**config, "dataset_kwargs": kwargs}


def _beside(value: Any, folder: Path) -> Any:
    """File names resolved against `folder`; URLs and what is absolute stay as they are."""
    if isinstance(value, dict):
        return {k: _beside(v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_beside(v, folder) for v in value]
    return value if "://" in str(value) else str((folder / str(value)).expanduser())


def _check_supported(name: str, task: Any, wanted: Wanted, confined: set[str]) -> None:
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"task {name!r} needs images or sound, which no subject here takes")
    if not getattr(task, "UNSAFE_CODE", False):
        return
    if not wanted.allow_code:
        raise code_eval.not_allowed(name)
    if name not in confined:
        raise ConfigError(f"task {name!r} runs model-written code by itself, where it cannot be confined")


def _membership(loaded: Any) -> dict[str, tuple[str, ...]]:
    """The groups that each leaf task belongs to, outermost first, without those that hold everything."""
    members: dict[str, list[str]] = {name: [] for name in loaded["tasks"]}
    for group_name, group in loaded.get("groups", {}).items():
        leaves = {task.task_name for task in group.get_all_tasks()}
        for leaf in leaves if len(leaves) < len(members) else ():
            members[leaf].append(group_name)
    return {name: tuple(groups) for name, groups in members.items()}


def _tasks_root() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def _harness_cause(error: BaseException | None) -> HarnessError | None:
    """The error of ours that lm-eval wrapped in one of its own."""
    while error is not None:
        if isinstance(error, HarnessError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _not_loaded(wanted: Wanted, error: BaseException) -> str:
    message = f"task {wanted.task!r} cannot be loaded: {type(error).__name__}: {error}"
    if wanted.data is None and wanted.yaml is None and os.environ.get("HF_HUB_OFFLINE"):
        message += " (the hub is switched off by HF_HUB_OFFLINE; give the files with data: FOLDER)"
    return message


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's and NumPy's global generators as simple_evaluate seeds them, given back afterwards."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    random.seed(RANDOM_SEED)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval and datasets without chatter, progress bars or downloads in an offline run, and with compiled templates.

    lm-eval compiles a prompt template anew for every document; remembering what it compiled changes no prompt and
    makes building them several times faster.
    """
    import datasets
    import lm_eval.api.task as task_module
    from lm_eval import utils

    logger, bars = logging.getLogger("lm_eval"), datasets.utils.is_progress_bar_enabled()
    level = logger.level
    with ExitStack() as stack:
        stack.callback(logger.setLevel, level)
        logger.setLevel(logging.CRITICAL)
        stack.enter_context(replaced(task_module, "tqdm", lambda items, **_: items))
        stack.enter_context(replaced(utils.env, "from_string", _compiled))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_no_nltk_download())
        if bars:
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        yield


@functools.lru_cache(maxsize=1024)
def _compiled(template: str) -> Any:
    from lm_eval import utils

    return type(utils.env).from_string(utils.env, template)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` replaced by `value` for a while."""
    genuine = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, genuine)


@contextmanager
def _no_nltk_download() -> Iterator[None]:
    """IFEval's module tries to download its sentence model when it is imported; not when the hub is switched off."""
    if not os.environ.get("HF_HUB_OFFLINE"):
        yield
        return
    try:
        import nltk
    except ImportError:
        yield
        return
    with replaced(nltk, "download", lambda *_, **__: False):
        yield
