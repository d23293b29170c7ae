"""Where a model's and an adapter's files are, whether they are safe to load, and what they hash to. No torch here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.adapters import CONFIG, PICKLED, WEIGHTS, file_hash
from harness.errors import AdapterError, SubjectError
from harness.records import content_hash

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_CONFIG_FILES = ("config.json", "generation_config.json")
_HUB_PATTERNS = [*_CONFIG_FILES, *_TOKENIZER_FILES, "*.safetensors", "*.safetensors.index.json"]
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine: `name` is what the user wrote, `folder` where its files are."""

    name: str
    folder: Path
    remote_code: bool = False

    @property
    def weights(self) -> list[Path]:
        """The safetensors files, sorted by name."""
        return sorted(self.folder.glob("*.safetensors"))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that can change an output, except the tokenizer's, by file name."""
        files = [*self.weights, *_present(self.folder, _CONFIG_FILES)]
        if self.remote_code:
            files += sorted(self.folder.rglob("*.py"))
        return hash_files(files)


def find_model(name: str, revision: str | None, folder: Path, trusted: Iterable[str]) -> ModelFiles:
    """The files of a local folder (relative to `folder`) or of a hub repository.

    Raises:
        SubjectError: no such model, no safetensors, or it wants to run code of its own and is not trusted by name.
    """
    found = locate(name, revision, folder, _HUB_PATTERNS)
    files = ModelFiles(name, found)
    if not (found / "config.json").is_file():
        raise SubjectError(f"{found} holds no config.json, so it is not a model folder")
    if not files.weights:
        raise SubjectError(f"{found}: {_no_safetensors(found, 'AutoModelForCausalLM')}")
    if not _wants_remote_code(found):
        return files
    if name not in set(trusted):
        raise SubjectError(
            f"{name} ships its own Python code (auto_map), which is not run unless it is trusted by its exact name: "
            f"trust_remote_code: [{name!r}]. Without the code, delete auto_map from its config.json"
        )
    if not _is_local(name, folder):
        found = locate(name, revision, folder, [*_HUB_PATTERNS, "*.py"])
    return ModelFiles(name, found, remote_code=True)


def find_adapter(name: str, folder: Path) -> Path:
    """The folder of a PEFT adapter, local or on the hub.

    Raises:
        AdapterError: no such adapter, or its weights are pickled.
    """
    try:
        found = locate(name, None, folder, [CONFIG, "*.safetensors", *_TOKENIZER_FILES])
    except SubjectError as error:
        raise AdapterError(str(error)) from error
    if not (found / CONFIG).is_file():
        raise AdapterError(f"{found} holds no adapter_config.json, so it is not a PEFT adapter")
    if not (found / WEIGHTS).is_file():
        raise AdapterError(f"{found}: {_no_safetensors(found, 'PeftModel')}")
    return found


def locate(name: str, revision: str | None, folder: Path, patterns: list[str]) -> Path:
    """A local folder, or the snapshot of a hub repository (from its cache alone when HF_HUB_OFFLINE is set)."""
    if (problem := why_nowhere(name, folder)) is not None:
        raise SubjectError(problem)
    if _is_local(name, folder):
        return place(name, folder).resolve()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise SubjectError(
            f"{name!r} is no folder in {folder} and was not found on the hub: {type(error).__name__}: {error}"
        ) from error


def why_nowhere(name: str, folder: Path, *, owned: bool = False) -> str | None:
    """Why `name` is neither a folder nor, by its form, a hub repository; None where it may be one.

    `owned` is for what has an owner on the hub, owner/name: only some old models are named by one word.
    """
    if _is_local(name, folder):
        return None
    is_path = name.startswith(("./", "../", "~", "/"))
    if not is_path and _HUB_NAME.fullmatch(name) and ("/" in name or not owned):
        return None
    also = "" if is_path else f", and {name!r} is not the name of a hub repository"
    return f"{place(name, folder)}: no such folder{also}"


def place(name: str, folder: Path) -> Path:
    """A path as the user wrote it: from their home folder, absolute, or relative to `folder`."""
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:  # the home folder of nobody
        return folder / name


def tokenizer_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the tokenizer's files by name."""
    return hash_files(_present(folder, _TOKENIZER_FILES))


def adapter_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of an adapter that PEFT loads."""
    return hash_files([folder / CONFIG, folder / WEIGHTS])


def hash_files(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 (hex) by file name."""
    return {path.name: file_hash(path) for path in paths}


def digest(hashes: dict[str, str]) -> str:
    """One SHA-256 for a set of files."""
    return content_hash(hashes)


def _is_local(name: str, folder: Path) -> bool:
    return place(name, folder).is_dir()


def _present(folder: Path, names: Iterable[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _no_safetensors(folder: Path, loader: str) -> str:
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
    if not pickled:
        return "no safetensors weights"
    return (
        f"the weights ({', '.join(pickled[:3])}) are pickled, and unpickling runs whatever code is in them. Convert "
        f"them where you trust them: load with {loader}.from_pretrained and save_pretrained to a new folder"
    )


def _wants_remote_code(folder: Path) -> bool:
    return any("auto_map" in _json(folder / name) for name in ("config.json", "tokenizer_config.json"))


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise SubjectError(f"{path} cannot be read: {error}") from error
    return loaded if isinstance(loaded, dict) else {}
