"""A project whose candidate is an adapter with recorded answers: what a promotion needs, without a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from harness.config import load_gate
from harness.gate import run_gate
from harness.progress import Silent
from tests import scripted_project


def make_adapter(folder: Path, seed: int = 0) -> Path:
    """Files with an adapter's names; nothing here reads what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(bytes((i * 31 + seed) % 251 for i in range(4096)))
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "training_args.bin").write_bytes(b"pickled")
    (folder / "README.md").write_text("# an adapter\n", encoding="utf-8")
    return folder


def gated(
    folder: Path,
    *,
    lost: Iterable[int] = (),
    silent: Iterable[int] = (),
    seed: int = 0,
    adapter: Path | None = None,
    **policy: Any,
) -> Path:
    """The run directory of a gate in `folder`: a PROMOTE, unless the candidate has lost too many answers."""
    path = scripted_project.project(folder, lost=lost, silent=silent, **policy)
    if adapter is None:
        make_adapter(folder / "adapter", seed)
    else:
        shutil.copytree(adapter, folder / "adapter")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["candidate"]["answered_by"] = "adapter"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return run_gate(load_gate(path), Silent()).path
