"""Several adapters of one base into one, by PEFT's `add_weighted_adapter`; the merge is an adapter like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.adapters import CONFIG, RECORD
from harness.errors import ConfigError, StorageError
from harness.records import content_hash
from harness.subjects._loading import WeightsSpec, load_base
from harness.training.recipe import MergeSection
from harness.training.scopes import Scope

NAME = "merged"


def refusal(section: MergeSection, scope: Scope) -> str | None:
    """Why adapters of a scope cannot be merged so, with the way out; None where they can."""
    if scope.name not in ("lora", "qlora"):
        return f"adapters of scope {scope.name} cannot be merged; only those of lora and qlora can"
    if len(set(section.stages)) < len(section.stages):
        return "a stage is named twice"
    if section.weights and len(section.weights) != len(section.stages):
        return f"{len(section.weights)} weights for {len(section.stages)} stages"
    return None


def weights_of(section: MergeSection) -> list[float]:
    """One weight a stage; equal and summing to 1 where none is given."""
    return list(section.weights) or [1 / len(section.stages)] * len(section.stages)


def merge(section: MergeSection, spec: WeightsSpec, folders: Sequence[Path], out: Path) -> Path:
    """Write the merge of the adapters in `folders` to `out`, with a record of what it was made of.

    With `linear` the sum is of the weight changes B A themselves where ranks allow (PEFT's `cat`), as PEFT's own
    `linear` adds the A and B matrices apart, which is another thing. TIES and DARE trim and elect on A and B, as PEFT
    does it (Yadav et al. 2023, arXiv 2306.01708; Yu et al. 2024, arXiv 2311.03099).

    Raises:
        ConfigError: PEFT refuses, as for TIES and DARE over different ranks.
        StorageError: `out` cannot be written.
    """
    import torch
    from peft import PeftModel

    key = content_hash([section.model_dump(mode="json"), [_key(folder) for folder in folders]])
    if _key(out) == key:
        return out
    if out.exists():
        raise ConfigError(f"{out} holds another merge; move it away, or name another folder in the recipe's out")
    torch.manual_seed(0)  # DARE drops at random
    names = [f"stage{number}" for number in range(len(folders))]
    model = PeftModel.from_pretrained(load_base(spec), str(folders[0]), adapter_name=names[0])
    for name, folder in zip(names[1:], folders[1:], strict=True):
        model.load_adapter(str(folder), adapter_name=name)
    try:
        model.add_weighted_adapter(names, weights_of(section), NAME, **_how(section))
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"the stages cannot be merged by {section.method}: {error}") from error
    _save(model, out, {"key": key, "merge": section.model_dump(mode="json"), "of": [_key(f) for f in folders]})
    return out


def _how(section: MergeSection) -> dict[str, Any]:
    if section.method == "linear":
        return {"combination_type": "cat"}
    return {"combination_type": section.method, "density": section.density}


def _save(model: Any, out: Path, record: dict[str, Any]) -> None:
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        model.save_pretrained(str(part), safe_serialization=True, selected_adapters=[NAME])
        (part / NAME / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (part / NAME).rename(out)
        shutil.rmtree(part)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error}") from error


def _key(folder: Path) -> str | None:
    path = folder / RECORD
    if not (folder / CONFIG).is_file() or not path.is_file():
        return None
    key = json.loads(path.read_text(encoding="utf-8")).get("key")
    return None if key is None else str(key)
