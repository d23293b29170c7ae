"""Every scope with every objective that it does not refuse: trained by a recipe, gated, and loaded elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.training.recipe import load_recipe
from tests import objective_jobs as jobs
from tests import training_matrix as matrix
from tests import training_project as tp
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow

IDS = [[5, 6, 7, 8, 9, 10, 11]]
TEXTS = ["Question 0: The quick brown fox? yes", "def add(a, b)"]
ROWS: dict[str, Any] = {
    "sft": "completion", "kto": "labelled", "classify": "class", "grpo": "prompt", "rloo": "prompt"
}  # fmt: skip
TARGET = "the quick brown fox jumps over the lazy dog, 0123456789"


class Bench:
    """A gate for each kind of base, and what the trained models put out before they were saved, by folder."""

    def __init__(self, folder: Path, tiny: TinyModels) -> None:
        self.folder = folder
        self.outputs: dict[str, Any] = {}
        self.rows: set[Path] = set()
        self.models = {"bitfit": tiny.model("qwen2")}  # which has biases
        self._plain = tiny.model()

    def recipe(self, scope: str, kind: str) -> Path:
        model = self.models.get(scope, self._plain)
        home = self.folder / (scope if scope in ("bitfit", "qlora") else "plain")
        if not home.exists():
            tp.write_gate(home, model, n=2, noise_probe=0)
            if scope == "qlora":  # as the adapter is trained, so is it asked
                sides = {"model": str(model), "device": "cpu", "quantization": "4bit"}
                tp.edit(home / "gate.yaml", baseline=sides, candidate=sides)
        rows = ROWS.get(kind, "preference")
        given = [{**row, "target": TARGET} if rows == "prompt" else row for row in jobs.rows(rows, 8)]
        tp.write_rows(home / f"{rows}.jsonl", given)
        # Prompts have no validation here, and all else needs none.
        options = matrix.OPTIONS.get(kind, {})
        stage = tp.stage(kind, kind, f"{rows}.jsonl", options=options, settings={"save_every": 2})
        base = {"model": str(model), "device": "cpu"}
        path = tp.write_recipe(home, model, [stage], scope=scope, out=f"adapters/{scope}", base=base)
        path.rename(home / f"{scope}-{kind}.yaml")
        return home / f"{scope}-{kind}.yaml"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny: TinyModels) -> Iterator[Bench]:
    """Notes what a model puts out right before it is saved."""
    from harness.training.stages import StageRun

    made = Bench(tmp_path_factory.mktemp("matrix"), tiny)
    honest = StageRun._write

    def noted(self: StageRun, model: Any, record: Any, folder: Path) -> None:
        made.outputs[str(self.folder)] = outputs(model, self.plan.tokenizer)
        honest(self, model, record, folder)

    patch = pytest.MonkeyPatch()
    patch.setattr(StageRun, "_write", noted)
    yield made
    patch.undo()


def outputs(model: Any, tokenizer: Any) -> list[Any]:
    """Logits of a text, or log-probabilities of classes where the model is no network alone."""
    import torch

    if not hasattr(model, "parameters"):
        found: list[Any] = model.log_probabilities(TEXTS, tokenizer).tolist()
        return found
    training = model.training
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor(IDS)).logits
    model.train(training)
    return list(logits.float().cpu().tolist())


@pytest.mark.parametrize(("scope", "kind"), [pytest.param(s, o, id=f"{s}-{o}") for s, o in matrix.claimed()])
def test_a_pair_trains_and_is_gated(bench: Bench, scope: str, kind: str) -> None:
    result = tp.run(bench.recipe(scope, kind))
    (stage,) = result.stages
    assert stage.outcome["stopped"] == ("fitted at once" if scope == "features" else "finished")
    made = tp.record(stage.folder)
    assert made["share"]["trainable"] > 0
    losses = [p["loss"] for p in made["losses"] if p["kind"] == "train"]
    assert len(losses) == (0 if scope == "features" else 2)
    assert None not in losses
    if kind == "reward":
        assert result.ungated
        return
    assert result.verdict is not None
    checks = {check.name: check for check in result.verdict.verdict.checks}
    assert all(check.passed for check in checks.values()), [c for c in checks.values() if not c.passed]
    assert "as-trained" in checks
    assert result.verdict.verdict.verdict == "promote", result.verdict.verdict.reasons


def test_another_process_puts_out_the_same(bench: Bench) -> None:
    """Runs last: one fresh process loads what every pair has left, as the next stage of a recipe would."""
    import numpy as np

    made = {f"{scope}-{kind}": bench.recipe(scope, kind) for scope, kind in matrix.claimed()}
    trained = {name: path for name, path in made.items() if _folder(path) in bench.outputs}
    assert trained, "run the whole file: what is compared is what the tests above have trained"
    given = bench.folder / "given.json"
    given.write_text(json.dumps({name: str(path) for name, path in trained.items()}))
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, __file__, str(given)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((bench.folder / "found.json").read_text())
    assert found.keys() == trained.keys()
    for name, path in trained.items():
        assert np.allclose(found[name], bench.outputs[_folder(path)], atol=1e-6), name


def _folder(recipe: Path) -> str:
    loaded = load_recipe(recipe)
    return str(loaded.folder / loaded.recipe.out / loaded.recipe.stages[0].name)


def test_the_page_is_what_scopes_and_objectives_declare() -> None:
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.page(), "run python -m tests.training_matrix"


def _main(given: Path) -> None:
    """What the fresh process runs."""
    from harness.training.loading import find_base, load_for, load_tokenizer, spec_of

    scopes, objectives, found = matrix.scopes(), matrix.objectives(), {}
    for name, path in json.loads(given.read_text()).items():
        scope, head = (scopes[name.partition("-")[0]], objectives[name.partition("-")[2]].head)
        base = load_recipe(Path(path)).recipe.base
        files = find_base(base, given.parent)
        classes = ("maybe", "no", "yes") if head == "classes" else ()
        model = load_for(spec_of(base, files, scope), scope, head, Path(_folder(Path(path))), classes)
        found[name] = outputs(model, load_tokenizer(base, files, given.parent))
    (given.parent / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
