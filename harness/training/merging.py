"""Several adapters of one base into one, by PEFT's `add_weighted_adapter`; the merge is an adapter like any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import __version__, runs
from harness.adapters import RECORD, folder_digests
from harness.errors import ConfigError
from harness.records import content_hash
from harness.subjects._loading import WeightsSpec, load_base
from harness.training import provenance
from harness.training.keeping import keep
from harness.training.recipe import MergeSection
from harness.training.scopes import Head, Scope

NAME = "merged"


def refusal(section: MergeSection, scope: Scope, options: Mapping[str, Any], heads: Mapping[str, Head]) -> str | None:
    """Why adapters of a scope cannot be merged so, with the way out; None where they can.

    `options` are the scope's as the recipe gives them, `heads` what each stage's model puts out.
    """
    if scope.name not in ("lora", "qlora"):
        return f"adapters of scope {scope.name} cannot be merged; only those of lora and qlora can"
    if options.get("dora"):
        return "PEFT leaves DoRA's magnitudes out of a merge, so that it would be another model; train without dora"
    if other := [name for name in section.stages if heads[name] != "language"]:
        return f"stage {other[0]} trains a {heads[other[0]]} head, and heads cannot be merged; leave it out"
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

    With `linear` the sum is of the weight changes B A themselves (PEFT's `cat`, whose rank is the sum of the ranks),
    as PEFT's own `linear` adds the A and B matrices apart, which is another thing. TIES and DARE trim and elect on A
    and B, as PEFT does it (Yadav et al. 2023, arXiv 2306.01708; Yu et al. 2024, arXiv 2311.03099).

    Raises:
        ConfigError: PEFT refuses, as for TIES and DARE over different ranks; `out` holds another merge.
        StorageError: `out` cannot be written.
    """
    records = [provenance.read_record(folder) for folder in folders]
    key = content_hash([section.model_dump(mode="json"), [record.get("key") for record in records]])
    if out.exists():
        if provenance.read_record(out).get("key") == key:
            return out
        raise ConfigError(f"{out} holds another merge; move it away, or name another folder in the recipe's out")
    merged = _merged(section, spec, folders)
    lineage = [{"stage": record["stage"], "key": record["key"]} for record in records]
    said = {
        "format": provenance.FORMAT, "harness": __version__, "libraries": provenance.versions(), "stage": NAME,
        "key": key, "base": records[0]["base"], "base_weights_sha256": records[0]["base_weights_sha256"],
        "merge": section.model_dump(mode="json"), "weights": weights_of(section), "lineage": lineage,
    }  # fmt: skip
    keep(out, partial(_write, merged, said))
    return out


def _merged(section: MergeSection, spec: WeightsSpec, folders: Sequence[Path]) -> Any:
    import torch
    from peft import PeftModel

    torch.manual_seed(0)  # DARE drops at random
    names = [f"stage{number}" for number in range(len(folders))]
    model = PeftModel.from_pretrained(load_base(spec), str(folders[0]), adapter_name=names[0])
    for name, folder in zip(names[1:], folders[1:], strict=True):
        model.load_adapter(str(folder), adapter_name=name)
    try:
        model.add_weighted_adapter(names, weights_of(section), NAME, **_how(section))
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"the stages cannot be merged by {section.method}: {error}") from error
    # The scale of each stage is in the merged matrices; PEFT would keep rslora's and multiply by the root of the rank.
    model.peft_config[NAME].use_rslora = False
    return model


def _how(section: MergeSection) -> dict[str, Any]:
    if section.method == "linear":
        return {"combination_type": "cat"}
    return {"combination_type": section.method, "density": section.density}


def _write(model: Any, said: dict[str, Any], folder: Path) -> None:
    model.save_pretrained(str(folder), safe_serialization=True, selected_adapters=[NAME])
    for path in (folder / NAME).iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(folder / NAME)
    (folder / "README.md").unlink(missing_ok=True)
    runs.write_json(folder / RECORD, {**said, "files": folder_digests(folder)})
