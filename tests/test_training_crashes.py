"""`harness train` killed, out of space, or with another training's leftovers in its way: nothing half is ever taken."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InfrastructureError, StorageError
from harness.training import keeping
from harness.training.objectives._trainers import last_checkpoint
from tests import training_project as tp
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow

STEPS = 8


def project(folder: Path, model: Path) -> Path:
    settings = {"max_steps": STEPS, "save_every": 2, "learning_rate": 3e-3}
    return tp.sft(folder, model, settings=settings, scope={"kind": "lora", "rank": 4, "dropout": 0.1})


def start(recipe: Path, fault: str) -> subprocess.Popen[bytes]:
    """`harness train` in a process of its own, with a fault."""
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, __file__, str(recipe), fault],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="module")
def uninterrupted(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tp.run(project(tmp_path_factory.mktemp("whole"), tiny.model())).result
    assert result is not None
    return result


def test_killed_while_training_it_comes_to_the_same_losses(
    tiny: TinyModels, tmp_path: Path, uninterrupted: Path
) -> None:
    recipe = project(tmp_path, tiny.model())
    work = tmp_path / "adapters" / ".work" / "sft"
    process = start(recipe, "slow")
    try:
        until = time.monotonic() + 200
        while last_checkpoint(work) is None and time.monotonic() < until:
            assert process.poll() is None, process.communicate()[0].decode()
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    checkpoint = last_checkpoint(work)
    assert checkpoint is not None
    assert not (tmp_path / "adapters" / "sft").exists()
    told = tp.Told()
    result = tp.run(recipe, told)
    assert any(f"going on from {checkpoint.name}" in note for note in told.notes)
    assert result.result is not None
    assert tp.curve(result.result) == pytest.approx(tp.curve(uninterrupted), abs=1e-4)
    assert len(tp.curve(result.result)) == STEPS
    assert result.exit_code == 0


def test_killed_while_saving_it_leaves_no_result_and_trains_nothing_twice(
    tiny: TinyModels, tmp_path: Path, uninterrupted: Path
) -> None:
    recipe = project(tmp_path, tiny.model())
    process = start(recipe, "saving")
    output = process.communicate(timeout=200)[0].decode()
    assert process.returncode == -signal.SIGKILL, output
    assert not (tmp_path / "adapters" / "sft").exists()
    assert list((tmp_path / "adapters" / ".work").glob("sft.part/*.safetensors")), "it was killed before it wrote"
    told = tp.Told()
    result = tp.run(recipe, told)
    assert any(f"going on from checkpoint-{STEPS}" in note for note in told.notes)
    assert result.result is not None
    assert (result.result / "adapter_model.safetensors").read_bytes() == (
        uninterrupted / "adapter_model.safetensors"
    ).read_bytes()
    assert not list((tmp_path / "adapters" / ".work").glob("*.part"))


def test_a_file_system_that_takes_no_more_is_told_as_such(tiny: TinyModels, tmp_path: Path) -> None:
    """The system itself refuses to write on: safetensors and torch say so in errors of their own."""
    recipe = project(tmp_path, tiny.model())
    process = start(recipe, "full")
    output = process.communicate(timeout=200)[0].decode()
    assert process.returncode == StorageError.exit_code, output
    assert "cannot be written" in output
    assert "repeat the command" in output
    assert "Traceback" not in output
    assert not (tmp_path / "adapters" / "sft").exists()
    assert tp.run(recipe).exit_code == 0


def test_checkpoints_of_another_training_are_not_gone_on_from(tiny: TinyModels, tmp_path: Path) -> None:
    recipe = project(tmp_path, tiny.model())
    tp.run(recipe)
    shutil.rmtree(tmp_path / "adapters" / "sft")
    project_again = tp.stage("sft", "sft", "rows.jsonl", settings={"max_steps": STEPS, "learning_rate": 1e-3})
    tp.edit(recipe, stages=[project_again])
    told = tp.Told()
    tp.run(recipe, told)
    assert any("of another training and are removed" in note for note in told.notes)
    assert not any("going on from" in note for note in told.notes)


def test_checkpoints_without_a_key_are_not_gone_on_from(tiny: TinyModels, tmp_path: Path) -> None:
    """What a clearing left that was killed after it had removed the key."""
    recipe = project(tmp_path, tiny.model())
    tp.run(recipe)
    shutil.rmtree(tmp_path / "adapters" / "sft")
    (tmp_path / "adapters" / ".work" / "sft" / "key.json").unlink()
    told = tp.Told()
    tp.run(recipe, told)
    assert not any("going on from" in note for note in told.notes)


def test_what_cannot_be_written_is_told_before_anything_is_trained(tiny: TinyModels, tmp_path: Path) -> None:
    recipe = project(tmp_path, tiny.model())
    (tmp_path / "adapters").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="repeat the command"):
        tp.run(recipe)


def test_two_processes_do_not_train_into_one_folder(tiny: TinyModels, tmp_path: Path) -> None:
    recipe = project(tmp_path, tiny.model())
    with keeping.alone(tmp_path / "adapters"), pytest.raises(InfrastructureError, match="another harness train"):
        tp.run(recipe)
    assert tp.run(recipe).exit_code == 0


def test_memory_that_runs_out_says_what_takes_less(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import Trainer

    def full(*given: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "training_step", full)
    with pytest.raises(InfrastructureError, match=r"memory ran out.*batch_size"):
        tp.run(project(tmp_path, tiny.model()))


def test_an_error_that_is_not_the_disks_is_not_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), keeping.storing(tmp_path):
        raise ConnectionRefusedError(111, "Connection refused")
    with pytest.raises(ValueError, match="a mistake"), keeping.storing(tmp_path):
        raise ValueError("a mistake")


def _main(recipe: str, fault: str) -> None:
    """What the process runs."""
    if fault == "slow":
        _slow()
    elif fault == "saving":
        _die_while_saving()
    else:
        _fill_the_disk()
    from harness.cli import main

    main(["train", recipe])


def _slow() -> None:
    from transformers import Trainer

    honest = Trainer.training_step

    def slowly(self: Any, *given: Any, **named: Any) -> Any:
        time.sleep(0.5)
        return honest(self, *given, **named)

    Trainer.training_step = slowly


def _die_while_saving() -> None:
    from harness.training import provenance

    def die(*given: Any, **named: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    provenance.write_record = die


def _fill_the_disk() -> None:
    """No file may grow beyond 40 kB: the first checkpoint's tensors do not fit, and what is written before does."""
    import resource

    from transformers import Trainer

    honest = Trainer._save_checkpoint

    def limited(self: Any, *given: Any, **named: Any) -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        return honest(self, *given, **named)

    Trainer._save_checkpoint = limited


if __name__ == "__main__":
    _main(*sys.argv[1:])
