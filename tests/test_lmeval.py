"""A model named `harness` inside lm-eval: the same samples and answers as lm-eval's own Hugging Face model."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, SubjectError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
ROWS = [
    {
        "q": f"What is {i} + {i * 3 % 7}?",
        "choices": [str(i), f"the number {i + 1}", "red and green", "  none"],
        "answer": i % 4,
        "text": f"The quick brown fox {i} jumps over the lazy dog. " * (1 + 3 * i),  # the last ones take two windows
    }
    for i in range(8)
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("lmeval") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}, "test_split": "test"}
    question = {"doc_to_text": "Question: {{q}}\nAnswer:", "fewshot_split": "test"}
    choice = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "answer", **question}
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text"}
    options = {"until": ["\n", "Q:"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.3}
    written = {"output_type": "generate_until", "doc_to_target": "{{answer}}", "generation_kwargs": options, **question}
    return [
        {**common, **choice, "task": "tt_choice", "num_fewshot": 2, "metric_list": [{"metric": "acc_norm"}]},
        {**common, **rolling, "task": "tt_rolling", "metric_list": [{"metric": "word_perplexity"}]},
        {**common, **written, "task": "tt_generate", "num_fewshot": 1, "metric_list": [{"metric": "exact_match"}]},
    ]


def evaluate(model: str, tasks: list[dict[str, Any]], arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    import harness.lmeval  # noqa: F401  # torch may be loaded already, so the entry point may have come too early

    results = lm_eval.simple_evaluate(
        model=model,
        model_args={key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()},
        tasks=[dict(task) for task in tasks],
        task_manager=TaskManager(include_defaults=False),
        device="cpu",
        bootstrap_iters=0,
        **options,
    )
    assert results is not None
    return dict(results)


@pytest.fixture(scope="module")
def of_their_lora(tiny: Any, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """What lm-eval's own model answers with the adapter, once for both engines."""
    return evaluate("hf", tasks, {"pretrained": tiny.model(), "dtype": "float32", "peft": tiny.adapter()}, batch_size=4)


@pytest.mark.parametrize("kind", ["base", "lora", "radix", "chat"])
def test_every_sample_is_answered_as_by_lm_evals_own_model(
    kind: str, tiny: Any, tasks: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    arguments: dict[str, Any] = {"pretrained": tiny.model(), "dtype": "float32"}
    adapted = kind in ("lora", "radix")
    if adapted:
        arguments["peft"] = tiny.adapter()
    engine = {"engine": "radix", "engine_options": {"memory": 0.1}} if kind == "radix" else {"engine": "plain"}
    options: dict[str, Any] = {"batch_size": 4, "apply_chat_template": kind == "chat"}
    ours = evaluate("harness", tasks, arguments | engine, **options)
    theirs = request.getfixturevalue("of_their_lora") if adapted else evaluate("hf", tasks, arguments, **options)
    assert [len(ours["samples"][task["task"]]) for task in tasks] == [len(ROWS)] * 3
    for name, samples in theirs["samples"].items():
        for mine, other in zip(ours["samples"][name], samples, strict=True):
            assert mine["prompt_hash"] == other["prompt_hash"]
            for a, b in zip(mine["filtered_resps"], other["filtered_resps"], strict=True):
                # lm-eval adds a text up in float32, whose steps beyond 1024 nats are larger than 1e-4.
                assert a == b if isinstance(a, str) else pytest.approx(a, abs=1e-4, rel=2e-7) == b
    assert ours["results"]["tt_choice"] == theirs["results"]["tt_choice"]
    assert ours["config"]["harness"]["engine"]


def test_a_long_prompt_loses_its_oldest_tokens_as_in_lm_eval(tiny: Any, tasks: list[dict[str, Any]]) -> None:
    arguments = {"pretrained": tiny.model(), "dtype": "float32", "max_length": 40}
    samples = [evaluate(m, tasks[:1], arguments, batch_size=4)["samples"]["tt_choice"] for m in ("harness", "hf")]
    for mine, other in zip(*samples, strict=True):
        for a, b in zip(mine["filtered_resps"], other["filtered_resps"], strict=True):
            assert pytest.approx(a, abs=1e-4) == b


def test_a_failure_stops_the_run_and_names_the_sample(tiny: Any, tasks: list[dict[str, Any]]) -> None:
    arguments = {"pretrained": tiny.model(), "max_length": 40, "truncate": "refuse"}
    with pytest.raises(SubjectError, match=r"^sample \d of task 'tt_choice': prompt of \d+ tokens.*exceeds"):
        evaluate("harness", tasks[:1], arguments)


def test_finished_answers_are_in_lm_evals_cache(tiny: Any, tasks: list[dict[str, Any]], tmp_path: Path) -> None:
    arguments = {"pretrained": tiny.model(), "dtype": "float32"}
    first = evaluate("harness", tasks, arguments, use_cache=str(tmp_path / "cache"))
    arguments["pretrained"] = tiny.model(seed=5)  # lm-eval's cache knows requests only: another model gets its answers
    again = evaluate("harness", tasks, arguments, use_cache=str(tmp_path / "cache"))
    for name, samples in first["samples"].items():
        assert [s["filtered_resps"] for s in samples] == [s["filtered_resps"] for s in again["samples"][name]]


def test_repeats_of_a_sampled_request_differ(tiny: Any, tasks: list[dict[str, Any]]) -> None:
    options = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    task = {**tasks[2], "generation_kwargs": options, "repeats": 3}
    arguments = {"pretrained": tiny.model(), "dtype": "float32"}
    drawn = [evaluate("harness", [task], arguments)["samples"]["tt_generate"] for _ in range(2)]
    assert drawn[0][0]["resps"] == drawn[1][0]["resps"]
    assert len(set(drawn[0][0]["resps"][0])) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtyp": "float32"}, "unknown key 'dtyp': did you mean 'dtype'"),
        ({"parallelize": True}, "parallelize=True is not supported"),
        ({"think_end_token": "</think>"}, "think_end_token=</think> is not supported"),
        ({"dtype": "float64"}, "dtype=float64 is float64"),
        ({"dtype": "foat32"}, "known: float32"),
        ({"batch_size": "many"}, "expected a number of at least 1, or auto"),
        ({"load_in_4bit": True}, "bnb_4bit_quant_type=nf4"),
        ({"truncate": "right"}, "truncate"),
        ({"engine": "plane"}, "did you mean 'plain'"),
        ({"peft": "org/adapter", "revision": "v2"}, "revision is the model's"),
    ],
)
def test_what_cannot_be_done_as_lm_eval_does_it_is_refused(tiny: Any, arguments: dict[str, Any], message: str) -> None:
    from harness import lmeval

    with pytest.raises(Exception, match=message) as caught:
        lmeval.HarnessLM(pretrained=str(tiny.model()), **arguments)
    assert type(caught.value).__module__ == "harness.errors"


def test_a_models_own_code_runs_by_exact_name_only(tiny: Any, tmp_path: Path) -> None:
    from harness import lmeval

    folder = tmp_path / "coded"
    folder.mkdir()
    for file in tiny.model().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "x.C"}}), encoding="utf-8")
    for trusted in (False, True, "another"):
        with pytest.raises(SubjectError, match="trusted by its exact name"):
            lmeval.HarnessLM(pretrained=str(folder), trust_remote_code=trusted)


def test_defaults_are_lm_evals(tiny: Any) -> None:
    import torch

    from harness import lmeval

    def options(**arguments: Any) -> dict[str, Any]:
        return lmeval.subject_options(lmeval.read_arguments({"pretrained": str(tiny.model()), **arguments}))

    chosen = options(device="cuda:0", batch_size=1, revision="main", logits_cache=False)
    assert (chosen["truncate"], chosen["dtype"], "batch_size" in chosen) == ("left", "float32", False)
    if not torch.cuda.is_available():
        assert chosen["device"] == "cpu"
    assert options(batch_size="8")["batch_size"] == 8
    assert options(batch_size="auto:4", max_batch_size=32)["batch_size"] == 32
    assert options(dtype="half")["dtype"] == "float16"
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
    assert options(load_in_4bit=True, dtype="bfloat16", **four)["quantization"] == "4bit"


def test_a_run_of_several_processes_is_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import lmeval

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        lmeval.HarnessLM(pretrained=str(tiny.model()))


@pytest.mark.parametrize("group", ["lm_eval.models", "torch.backends"])
def test_the_declared_entry_points_lead_somewhere(group: str) -> None:
    for target in POINTS[group].values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def as_installed(code: str, folder: Path, **environment: str) -> str:
    """What `code` prints in a process where the package is installed as pyproject.toml declares it."""
    metadata = folder / "promotion_harness-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: promotion-harness\nVersion: 0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in POINTS.items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    variables = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOOK = "from lm_eval.api.registry import model_registry as known; print('harness' in known, 'hf' in known)"


def test_lm_eval_finds_the_name_because_it_imports_torch_before_it_looks(tmp_path: Path) -> None:
    order = "import sys, lm_eval.__main__; from lm_eval import simple_evaluate; assert 'torch' not in sys.modules;"
    assert as_installed(f"{order} import torch; {LOOK}; assert 'harness.lmeval' not in sys.modules", tmp_path) == (
        "True True"
    )


def test_importing_the_module_registers_the_name_where_torch_came_first(tmp_path: Path) -> None:
    assert as_installed(f"import torch, harness.lmeval; {LOOK}", tmp_path) == "True True"


def test_torch_alone_gets_nothing_from_us(tmp_path: Path) -> None:
    code = "import sys, torch; print([m for m in sys.modules if m.partition('.')[0] in ('harness', 'lm_eval')])"
    assert as_installed(code, tmp_path) == "[]"


def test_a_folder_named_harness_breaks_no_import_of_torch(tmp_path: Path) -> None:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text("raise RuntimeError('another project')\n")
    assert as_installed("import lm_eval.evaluator, torch; print('fine')", tmp_path) == "fine"
