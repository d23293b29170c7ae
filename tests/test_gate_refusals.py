"""What a gate refuses before a model is loaded, and what becomes of the others when one candidate is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import runs
from harness.candidates import with_candidates
from harness.config import LoadedConfig, load_gate
from harness.errors import ConfigError, InfrastructureError, SubjectError
from harness.gate import GateResult, run_gates
from harness.progress import Silent
from harness.subjects import SubjectContext, scripted
from tests import scripted_project
from tests.scripted_project import another_candidate

N = 30


def project(folder: Path) -> Path:
    return scripted_project.project(folder, n=N)


def gates(path: Path, candidates: list[Path]) -> list[GateResult]:
    return run_gates(with_candidates(load_gate(path), candidates), Silent())


def local_gate(folder: Path, baseline: dict[str, Any], candidate: dict[str, Any]) -> LoadedConfig:
    path = project(folder)
    document = yaml.safe_load(path.read_text("utf-8"))
    path.write_text(yaml.safe_dump({**document, "baseline": baseline, "candidate": candidate}), "utf-8")
    return load_gate(path)


def adapter(folder: Path, name: str = "new") -> Path:
    (folder / name).mkdir()
    (folder / name / "adapter_config.json").write_text("{}", "utf-8")
    return folder / name


def checkpoint(folder: Path, name: str = "new") -> Path:
    (folder / name).mkdir()
    (folder / name / "config.json").write_text("{}", "utf-8")
    return folder / name


def options(loaded: LoadedConfig, candidate: Path) -> dict[str, Any]:
    (chosen,) = with_candidates(loaded, [candidate])
    return chosen.gate.candidate.options


# ---------------------------------------------------------------- another candidate


def test_an_adapter_is_put_on_the_baselines_model_whatever_the_configured_candidate_is(tmp_path: Path) -> None:
    baseline = {"model": "org/base", "revision": "r1", "dtype": "float32", "adapter": "old", "merge": True}
    tuned = {"model": "org/tuned", "revision": "r2", "tokenizer": "org/tuned", "dtype": "bfloat16"}
    new = adapter(tmp_path)
    found = options(local_gate(tmp_path, baseline, tuned), new)
    assert found == {"model": "org/base", "revision": "r1", "dtype": "float32", "adapter": str(new)}


def test_another_adapter_keeps_how_the_configured_one_is_asked(tmp_path: Path) -> None:
    baseline = {"model": "org/base", "revision": "r1"}
    old = {**baseline, "model": "./org/base", "adapter": "old", "merge": True, "chat_template": "c", "batch_size": 3}
    new = adapter(tmp_path)
    assert options(local_gate(tmp_path, baseline, old), new) == {**old, "adapter": str(new)}


def test_a_full_checkpoint_is_asked_by_itself(tmp_path: Path) -> None:
    baseline = {"model": "org/base", "chat_template": "both.jinja"}
    old = {
        "model": "org/base", "revision": "r1", "adapter": "old", "merge": True, "batch_size": 3,
        "tokenizer": "org/mine", "chat_template": "both.jinja",
    }  # fmt: skip
    new = checkpoint(tmp_path)
    found = options(local_gate(tmp_path, baseline, old), new)
    assert found == {"model": str(new), "batch_size": 3, "chat_template": "both.jinja"}


# ---------------------------------------------------------------- one refused among several


@pytest.mark.parametrize("order", [1, -1])
def test_a_candidate_that_cannot_be_loaded_is_a_hold_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    failing(monkeypatch, "broken", SubjectError("the weights (pytorch_model.bin) are pickled"))
    path = project(tmp_path)
    names = ["broken.jsonl", "sound.jsonl"][::order]
    results = gates(path, [another_candidate(path, name) for name in names])
    assert [r.candidate for r in results] == names
    assert {r.candidate: r.verdict.verdict for r in results} == {"broken.jsonl": "hold", "sound.jsonl": "promote"}
    refused = results[names.index("broken.jsonl")]
    assert refused.verdict.reasons == (
        "pre-flight check model-accepted failed: the weights (pytorch_model.bin) are pickled",
    )
    assert json.loads((refused.path / runs.VERDICT).read_text("utf-8"))["verdict"] == "hold"


@pytest.mark.parametrize(
    ("which", "error"), [("before", SubjectError("gone")), ("broken", InfrastructureError("memory ran out"))]
)
def test_a_baseline_that_cannot_be_loaded_and_a_machine_that_fails_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, error: InfrastructureError
) -> None:
    failing(monkeypatch, which, error)
    path = project(tmp_path)
    with pytest.raises(InfrastructureError, match=str(error)):
        gates(path, [another_candidate(path, "broken.jsonl")])


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    build = scripted.build

    def refusing(chosen: scripted.Options, context: SubjectContext) -> scripted.ScriptedSubject:
        if Path(chosen.answers).stem == name:
            raise error
        return build(chosen, context)

    monkeypatch.setattr(scripted, "build", refusing)


# ---------------------------------------------------------------- mistakes that need no model to be seen


def test_a_mistake_in_the_last_candidate_is_seen_before_the_baseline_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project(tmp_path)
    good = another_candidate(path, "good.jsonl")
    monkeypatch.setattr(scripted, "build", lambda *_: pytest.fail("a subject was loaded"))
    with pytest.raises(ConfigError, match=r"gate\.yaml:\d+: candidate: unknown key 'adapter'"):
        gates(path, [good, adapter(tmp_path)])


@pytest.mark.parametrize("arm", ["baseline", "candidate"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"engine": "radx"}, "there is no engine 'radx': did you mean 'radix'?"),
        ({"engine_options": {"memry": 1}}, "engine_options: unknown key 'memry': did you mean 'memory'?"),
        ({"engine": "plain", "engine_options": {"memory": 1}}, "engine_options: unknown key 'memory'"),
        ({"engine_options": {"batch_tokens": 0}}, "engine_options: batch_tokens: "),
        ({"model": "./absent"}, "no such folder"),
        ({"model": "../absent"}, "no such folder"),
        ({"model": "~/absent"}, "no such folder"),
        ({"model": "/absent"}, "no such folder"),
        ({"model": "models/base/absent"}, "no such folder"),
        ({"adapter": "typo"}, "no such folder"),
        ({"adapter": "./typo"}, "no such folder"),
        ({"tokenizer": "./typo"}, "no such folder"),
        ({"chat_template": "typo.jinja"}, "no such file"),
    ],
)
def test_a_typo_is_named_with_its_line_before_anything_is_loaded(
    tmp_path: Path, arm: str, wrong: dict[str, Any], says: str
) -> None:
    sound: dict[str, Any] = {"model": "org/base", "device": "cpu"}
    arms = {"baseline": sound, "candidate": sound} | {arm: {**sound, **wrong}}
    with pytest.raises(ConfigError) as caught:
        run_gates([local_gate(tmp_path, **arms)], Silent())
    assert says in str(caught.value)
    assert f"{arm}: " in str(caught.value)
    assert "gate.yaml:" in str(caught.value)
    assert next(iter(wrong)) in str(caught.value)


def test_a_path_is_relative_to_the_file_or_to_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.subjects import _files

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in (tmp_path / "home" / "model", tmp_path / "project" / "model"):
        folder.mkdir(parents=True)
    found = [_files.locate(name, None, tmp_path / "project", []) for name in ("~/model", "./model", "model")]
    assert found == [tmp_path / "home" / "model", *[tmp_path / "project" / "model"] * 2]
