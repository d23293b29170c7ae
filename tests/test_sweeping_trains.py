"""A sweep of real trainings on a tiny model, killed once, up to the gate's verdict on the recommended one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli import app
from harness.progress import Silent
from tests.forgetting_project import _golden, own_answers, trainer

pytestmark = pytest.mark.slow
RATE = "stages.tune.settings.learning_rate"


def _project(folder: Path, base: Path) -> Path:
    """One suite of the model's own answers, which can only be forgotten, and one that it is taught to answer yes."""
    gate = own_answers(folder, base)
    _golden(folder, "new", [{"id": f"n{i}", "prompt": f"new {i} + {i} =", "target": " yes"} for i in range(40)])
    document = yaml.safe_load(gate.read_text(encoding="utf-8"))
    document["suites"][0]["guards"][0]["margin"] = 0.3
    document["suites"].append(
        {"kind": "golden", "set": "new@1", "guards": [{"metric": "exact_match", "must_improve": 0.0}]}
    )
    gate.write_text(yaml.safe_dump({**document, "for_sweeps": 0.4}), encoding="utf-8")
    rows = [{"prompt": f"new {i} + {i} =", "completion": " yes\n"} for i in range(100, 164)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kept = [{"prompt": f"own {i} + {i} =", "completion": " no\n"} for i in range(100, 400)]
    (folder / "kept.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    stage = {
        "name": "tune",
        "data": {
            "train": [{"path": "rows.jsonl"}],
            "replay": {"sources": [{"path": "kept.jsonl"}], "share": 0.5},
            "near_duplicates": None,
            "validation": 0.1,
        },
        "settings": {"max_steps": 25, "learning_rate": 1e-3, "max_length": 64},
        "forgetting": {"guard": None},
    }
    recipe = {
        "base": {"model": str(base), "device": "cpu"},
        "scope": {"rank": 4},
        "stages": [stage],
        "gate": "gate.yaml",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    sweep = {"settings": [{"path": RATE, "choices": [1e-3, 1.2e-2, 1e-1]}], "trials": 3, "sampler": "random", "seed": 3}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return folder / "sweep.yaml"


def _says_no(base: Path, folder: Path) -> Path:
    """The model at `base`, taught to answer every question with no."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = [tokenizer(f"{kind} {i} + {i} = no\n")["input_ids"] for kind in ("own", "new") for i in range(64)]
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids} for ids in encoded]
    model = AutoModelForCausalLM.from_pretrained(base)
    trainer(model, base, folder / "out", data=rows, max_steps=80, learning_rate=2e-3).train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _asked(run: Path) -> set[str]:
    from harness.runs import read_entries

    return {f"{entry.suite}/{entry.sample_id}" for entry in read_entries(run)}


def test_a_sweep_is_killed_goes_on_and_ends_in_a_verdict_on_samples_it_never_saw(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.training.planning import make_training_plan
    from harness.training.recipe import load_recipe
    from harness.training.run import train
    from harness.training.sweeping import sweep as sweeping

    path = _project(tmp_path, _says_no(tiny.model(), tmp_path / "base"))
    trained, real = [], sweeping._train

    def counted(recipe: Any, observer: Any) -> Any:
        trained.append(recipe.recipe.stages[0].settings.learning_rate)
        outcome = real(recipe, observer)
        if len(trained) == 2:
            raise KeyboardInterrupt  # trained and gated, and nothing of it is in the books
        return outcome

    monkeypatch.setattr(sweeping, "_train", counted)
    assert CliRunner().invoke(app, ["sweep", str(path), "--json"], standalone_mode=False).exit_code != 0
    monkeypatch.setattr(sweeping, "_train", real)
    done = CliRunner().invoke(app, ["sweep", str(path), "--json"], standalone_mode=False)
    assert done.exception is None, done.output
    document = json.loads(done.stdout)
    chosen = document["trials"][document["recommended"]]
    assert chosen["state"] == "feasible"
    assert chosen["objectives"]["gain"] > 0.5
    assert [t["state"] for t in document["trials"]] == ["feasible", "regressed", "feasible"]
    assert document["samples"]["new"] == {"sweep": 16, "verdict": 24}
    assert (tmp_path / "sweep" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")

    plan = make_training_plan(load_recipe(tmp_path / "recipe.yaml"), "sweep")
    assert len(plan.frozen["new"]) == 40, "no row of a trial may overlap with a sample of the verdict either"
    notes: list[str] = []
    observer = Silent()
    observer.note = notes.append  # type: ignore[method-assign]
    final = train(load_recipe(Path(document["recipe"])), observer)
    assert any("is trained already" in note for note in notes), "the very adapter that was chosen is what is gated"
    assert final.verdict is not None
    assert final.verdict.verdict.verdict == "promote"
    seen = set().union(*(_asked(tmp_path / "sweep" / t["run"]) for t in document["trials"]))
    assert seen
    assert not seen & _asked(final.verdict.path)
