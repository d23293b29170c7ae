"""The capability suite: lm-eval's prompts and scores sample by sample, from local data, without its traps."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness.errors import ConfigError, DataError
from harness.records import Generate, LogLikelihood, MetricSpec, Output, Score
from harness.suites import SuiteContext, capability
from harness.suites._capability import asking, code_eval, loading, local_data, metrics, shots

ALLOWED = frozenset({"code-execution"})


# ---------------------------------------------------------------- fast: the parts that need no lm-eval


@pytest.mark.slow
def test_importing_the_suite_loads_neither_lm_eval_nor_torch() -> None:
    code = (
        "import sys, harness.suites.capability, harness.subjects.local, harness.engine.plain;"
        "heavy = {'lm_eval', 'torch', 'transformers', 'datasets', 'peft', 'evaluate'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def fake_task(**aggregations: Any) -> Any:
    return SimpleNamespace(
        aggregation=lambda: aggregations,
        higher_is_better=lambda: {"latency": False},
        OUTPUT_TYPE="generate_until",
        get_config=lambda key: None,
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def weighted_perplexity(values: Sequence[float]) -> float:
    return mean(values)


def test_only_means_with_known_bounds_can_guard_and_the_refusal_says_why() -> None:
    tasks = [(fake_task(acc=mean, word_perplexity=weighted_perplexity, latency=mean), [])]
    assert metrics.choose("t", tasks, None, {}) == [MetricSpec("acc")]
    with pytest.raises(ConfigError, match="weighted_perplexity, not as the mean of one value per sample; usable: acc"):
        metrics.choose("t", tasks, ["word_perplexity"], {})
    with pytest.raises(ConfigError, match="no known bounds"):
        metrics.choose("t", tasks, ["latency"], {})
    assert metrics.choose("t", tasks, ["latency"], {"latency": (0, 60)}) == [
        MetricSpec("latency", higher_is_better=False, bounds=(0.0, 60.0))
    ]
    with pytest.raises(ConfigError, match="not one of the task's metrics"):
        metrics.choose("t", tasks, ["accuracy"], {})


def test_a_group_is_guarded_by_what_its_tasks_have_in_common() -> None:
    with pytest.raises(ConfigError, match="not a metric of every task"):
        metrics.choose("g", [(fake_task(acc=mean), []), (fake_task(exact_match=mean), [])], None, {})


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("acc", (0.0, 1.0)), ("acc_norm", (0.0, 1.0)), ("exact_match", (0.0, 1.0)), ("pass@1", (0.0, 1.0)),
        ("prompt_level_strict_acc", (0.0, 1.0)), ("rouge1_acc", (0.0, 1.0)), ("bleu_max", (0.0, 100.0)),
        ("rougeL_diff", (-100.0, 100.0)), ("perplexity", None), ("f1", None), ("bits_per_byte", None),
        ("accidents", None), ("empathy", None),
    ],
)  # fmt: skip
def test_bounds_are_known_by_name_or_not_at_all(name: str, bounds: tuple[float, float] | None) -> None:
    assert metrics.known_bounds(name) == bounds


def instance(kind: str, *arguments: Any, repeats: int = 1, idx: int = 0) -> Any:
    return SimpleNamespace(
        request_type=kind, args=arguments, idx=idx, task_name="task", doc_id=3, repeats=repeats, doc={}
    )


def test_generation_options_are_read_as_lm_eval_reads_them() -> None:
    def asked(**options: Any) -> Generate:
        (request,) = asking.requests_of([instance("generate_until", "p", options)], 1)
        assert isinstance(request, Generate)
        return request

    assert asked(until="\n\n", max_gen_toks=7, do_sample=False) == Generate("p", ("\n\n",), 7)
    assert asked(until=["a"], max_new_tokens=9) == Generate("p", ("a",), 9)
    assert asked(until=[]).max_tokens == 256
    assert asked(until=[], do_sample=False, temperature=0.7).temperature == 0.0
    assert asked(until=[], temperature=0.7, top_p=0.9).top_p == 0.9
    assert asked(until=[], num_beams=1) == asked(until=[])
    with pytest.raises(ConfigError, match="num_beams"):
        asked(until=[], num_beams=4)
    with pytest.raises(ConfigError, match="do_sample without a temperature"):
        asked(until=[], do_sample=True)
    with pytest.raises(ConfigError, match="at least one"):
        asked(until=[], max_gen_toks=0)


def test_repeats_are_asked_apart_with_seeds_of_their_own() -> None:
    options = {"until": ["\n"], "do_sample": True, "temperature": 0.8}
    asked = asking.requests_of([instance("generate_until", "p", options, repeats=3)], 1)
    assert len({r.seed for r in asked if isinstance(r, Generate)}) == 3
    assert asked == asking.requests_of([instance("generate_until", "p", options, repeats=3)], 1)


def test_file_names_of_a_local_task_lie_beside_its_yaml(tmp_path: Path) -> None:
    config = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl", "dev": "/abs.jsonl"}}}
    files = loading._beside(config["dataset_kwargs"]["data_files"], tmp_path)  # type: ignore[index]
    assert files == {"test": str(tmp_path / "rows.jsonl"), "dev": "/abs.jsonl"}
    assert loading._beside("https://host/rows.jsonl", tmp_path) == "https://host/rows.jsonl"


def test_local_benchmark_files_are_read_as_published(tmp_path: Path) -> None:
    for split in ("test", "dev"):
        path = tmp_path / "mmlu" / split / f"anatomy_{split}.csv"
        path.parent.mkdir(parents=True)
        path.write_text('question,choice0,choice1,choice2,choice3,answer\n"a, ""b""\nc",None,2,3,4,1\n')
    expected = {"question": 'a, "b"\nc', "subject": "anatomy", "choices": ["None", "2", "3", "4"], "answer": 1}
    assert local_data._mmlu(tmp_path / "mmlu", "anatomy") == {"test": [expected], "dev": [expected]}
    (tmp_path / "mmlu" / "dev" / "anatomy_dev.csv").write_text("question,choice0,answer\nq,1,B\n")
    with pytest.raises(DataError, match="row 2"):
        local_data._mmlu(tmp_path / "mmlu", "anatomy")
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "wt") as file:
        file.write('{"task_id": "HumanEval/0"}\n')
    assert local_data._humaneval(tmp_path, None) == {"test": [{"task_id": "HumanEval/0"}]}
    (tmp_path / "input_data.jsonl").write_text('{"key": 1}\nnot json\n')
    with pytest.raises(DataError, match=r"input_data\.jsonl:2"):
        local_data._ifeval(tmp_path, None)


def test_the_true_choice_comes_first_as_the_task_expects() -> None:
    assert local_data._targets({"wrong": 0, "right": 1, "worse": 0}) == {
        "choices": ["right", "wrong", "worse"],
        "labels": [1, 0, 0],
    }


def test_a_data_set_without_a_local_form_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Rowan/hellaswag"):
        local_data.reader_for("Rowan/hellaswag", None, tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        local_data.reader_for("openai/gsm8k", "main", tmp_path / "nowhere")


def test_pass_at_k_counts_programs_that_ran_to_their_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(jobs: Sequence[Any]) -> list[Any]:
        return [SimpleNamespace(ok="good" in job.code) for job in jobs]

    monkeypatch.setattr(code_eval, "run_many", run)
    scores, passed = code_eval.SandboxedCodeEval().compute(
        references=["check()", "check()"], predictions=[["good", "bad"], ["bad", "bad"]], k=[1, 2, 3]
    )
    assert scores == {"pass@1": 0.25, "pass@2": 0.5}
    assert passed == {0: [True, False], 1: [False, False]}


def test_missing_sentence_data_is_explained_and_never_a_score() -> None:
    reason = shots.scoring_failure(LookupError("Resource \x1b[93mpunkt_tab\x1b[0m not found."))
    assert "NLTK_DATA" in reason
    assert "KeyError" in shots.scoring_failure(KeyError("x"))


# ---------------------------------------------------------------- slow: lm-eval itself

CHOICES = {
    "task": "tiny_choices", "dataset_path": "json", "output_type": "multiple_choice", "test_split": "test",
    "fewshot_split": "dev", "num_fewshot": 2, "description": "Pick one.\n\n", "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "gold", "doc_to_choice": "{{options}}",
    "dataset_kwargs": {"data_files": {"test": "test.jsonl", "dev": "dev.jsonl"}},
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        {"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True},
    ],
}  # fmt: skip
OPEN = {
    "task": "tiny_open", "dataset_path": "json", "output_type": "generate_until", "test_split": "test",
    "fewshot_split": "dev", "num_fewshot": 1, "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{options[gold]}}", "dataset_kwargs": {"data_files": {"test": "test.jsonl", "dev": "dev.jsonl"}},
    "generation_kwargs": {"until": ["\n", "Q:"], "max_gen_toks": 12, "do_sample": False},
    "filter_list": [
        {
            "name": "first-letter",
            "filter": [{"function": "regex", "regex_pattern": "([a-z])"}, {"function": "take_first"}],
        },
        {"name": "whole", "filter": [{"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")

    def rows(start: int, count: int) -> str:
        made = [
            {"question": f"What follows {i}?", "options": [str(i + 1), "fox", f"a {i}"], "gold": i % 3}
            for i in range(start, start + count)
        ]
        return "".join(json.dumps(row) + "\n" for row in made)

    (folder / "test.jsonl").write_text(rows(0, 9))
    (folder / "dev.jsonl").write_text(rows(50, 6))
    (folder / "leak.jsonl").write_text(rows(0, 6))
    for name, config in (("choices", CHOICES), ("open", OPEN)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    leaky = {**CHOICES, "task": "leaky", "dataset_kwargs": {"data_files": {"test": "test.jsonl", "dev": "leak.jsonl"}}}
    (folder / "leaky.yaml").write_text(yaml.safe_dump(leaky))
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "pair", "task": ["tiny_choices", "leaky"]}))
    return folder


def suite_of(folder: Path, allow: frozenset[str] = frozenset(), **options: Any) -> capability.CapabilitySuite:
    return capability.build(capability.Options.model_validate(options), SuiteContext(folder, allow=allow))


def our_scores(suite: capability.CapabilitySuite, subject: Any) -> dict[str, dict[str, Score]]:
    samples = suite.samples()
    asked = [suite.requests(sample, subject) for sample in samples]
    flat = [request for requests in asked for request in requests]
    outputs: list[Output] = [o for _, o in sorted((p for b in subject.answer(flat) for p in b), key=lambda p: p[0])]
    scored, start = {}, 0
    for sample, requests in zip(samples, asked, strict=True):
        scored[sample.id] = suite._score_side(sample, outputs[start : start + len(requests)])
        start += len(requests)
    return scored


def assert_equals_lm_eval(
    suite: capability.CapabilitySuite, wanted: loading.Wanted, subject: Any, model: Path, adapter: Path | None = None
) -> dict[str, int]:
    """Prompts and scores of every sample equal those that simple_evaluate logs; the number of scores by state."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    options = suite._options
    tasks = list(loading.load(wanted).tasks.values())
    for task in tasks:
        mine = suite._tasks[task.task_name].config.generation_kwargs
        if mine is not None:
            task.set_config("generation_kwargs", mine, update=True)
    lm = HFLM(str(model), peft=None if adapter is None else str(adapter), device="cpu", dtype="float32", batch_size=1)
    logged = lm_eval.simple_evaluate(
        model=lm, tasks=tasks, num_fewshot=options.num_fewshot, limit=options.limit, log_samples=True,
        bootstrap_iters=0, apply_chat_template=options.chat_template, confirm_run_unsafe_code=True,
        fewshot_as_multiturn=options.fewshot_as_multiturn, fewshot_random_seed=options.seed,
        task_manager=TaskManager(include_defaults=False),
    )["samples"]  # fmt: skip
    scored = our_scores(suite, subject)
    states: dict[str, int] = {}
    for name, entries in logged.items():
        for entry in (e for e in entries if e["filter"] == suite._filters[name]):
            sample = next(s for s in suite.samples() if s.id == f"{name}/{entry['doc_id']}")
            contexts = [getattr(r, "context", getattr(r, "prompt", None)) for r in suite.requests(sample, subject)]
            assert contexts == [arguments[0] for arguments in entry["arguments"]]
            for metric, score in scored[sample.id].items():
                states[score.state] = states.get(score.state, 0) + 1
                assert score.value is not None, score.reason
                assert score.value == pytest.approx(float(entry[metric]), abs=1e-6), (sample.id, metric)
    assert sum(states.values()) == len(suite.samples()) * len(suite.metrics)
    return states


def wanted_for(folder: Path, suite: capability.CapabilitySuite) -> loading.Wanted:
    options = suite._options
    data = None if options.data is None else folder / options.data
    return loading.Wanted(options.task, folder, data, True, options.seed)


@pytest.mark.slow
@pytest.mark.parametrize("with_adapter", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"task": "choices.yaml"},
        {"task": "choices.yaml", "chat_template": True},
        {"task": "choices.yaml", "chat_template": True, "fewshot_as_multiturn": False, "num_fewshot": 3, "seed": 7},
        {"task": "open.yaml"},
        {"task": "open.yaml", "filter": "whole", "limit": 4, "chat_template": True},
    ],
    ids=["choices", "chat", "one-turn", "open", "filter"],
)
def test_a_local_task_equals_simple_evaluate(
    tiny: Any, local_subject: Any, task_folder: Path, options: dict[str, Any], with_adapter: bool
) -> None:
    model, adapter = tiny.model(), tiny.adapter() if with_adapter else None
    suite = suite_of(task_folder, **options)
    subject = local_subject(model=model, adapter=adapter, max_length=4096)
    assert_equals_lm_eval(suite, wanted_for(task_folder, suite), subject, model, adapter)


@pytest.mark.slow
def test_what_a_suite_says_of_itself(task_folder: Path, local_subject: Any, tiny: Any) -> None:
    suite = suite_of(task_folder, task="choices.yaml")
    assert suite.name == "choices"
    assert suite.metrics == {"acc": MetricSpec("acc", chance=1 / 3), "acc_norm": MetricSpec("acc_norm", chance=1 / 3)}
    sample = suite.samples()[1]
    assert (sample.id, sample.targets, sample.choices) == ("tiny_choices/1", ("fox",), ("2", "fox", "a 1"))
    assert [check.passed for check in suite.checks()] == [True]
    requests = suite.requests(sample, local_subject(model=tiny.model()))
    assert [r.continuation for r in requests if isinstance(r, LogLikelihood)] == [" 2", " fox", " a 1"]
    assert suite.digest() == suite_of(task_folder, task="choices.yaml").digest()
    assert suite.digest() != suite_of(task_folder, task="choices.yaml", seed=1).digest()
    with pytest.raises(ConfigError, match="mcc"):
        suite_of(task_folder, task="choices.yaml", metrics=["mcc"])
    with pytest.raises(ConfigError, match="did you mean 'whole'"):
        suite_of(task_folder, task="open.yaml", filter="whol")
    with pytest.raises(ConfigError, match="does not exist"):
        suite_of(task_folder, task="absent.yaml")


@pytest.mark.slow
def test_a_local_yaml_may_be_a_group(task_folder: Path) -> None:
    suite = suite_of(task_folder, task="both.yaml", limit=2)
    assert suite.name == "both"
    assert [s.id for s in suite.samples()] == ["tiny_choices/0", "tiny_choices/1", "leaky/0", "leaky/1"]


@pytest.mark.slow
def test_a_sample_among_its_own_shots_is_found(task_folder: Path) -> None:
    (check,) = suite_of(task_folder, task="leaky.yaml", num_fewshot=4).checks()
    assert not check.passed
    assert "leaky/" in check.detail
    assert "fewshot_split" in check.detail


@pytest.mark.slow
def test_a_named_task_is_found_without_indexing_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    indexed: list[Any] = []
    genuine = lm_eval.tasks.TaskManager.__init__

    def spy(self: Any, *args: Any, **kwargs: Any) -> None:
        indexed.append(kwargs.get("include_path"))
        genuine(self, *args, **kwargs)

    monkeypatch.setattr(lm_eval.tasks.TaskManager, "__init__", spy)
    for name in ("mmlu", "mmlu_anatomy", "gsm8k", "bbh", "ifeval", "humaneval", "truthfulqa_mc2"):
        assert loading._index_for(name) is not None, name
    assert None not in indexed


@pytest.mark.slow
def test_a_code_task_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "HumanEval.jsonl").write_text(
        json.dumps({"task_id": "x/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "", "test": ""})
    )
    with pytest.raises(ConfigError, match=r"allow: \[code-execution\]"):
        suite_of(tmp_path, task="humaneval", data=".")


# ---------------------------------------------------------------- the public data sets, where they are at hand

REAL = [
    {"task": "mmlu_anatomy", "num_fewshot": 2, "limit": 5},
    {"task": "gsm8k", "num_fewshot": 2, "limit": 3},
    {"task": "gsm8k", "num_fewshot": 2, "limit": 3, "filter": "flexible-extract", "chat_template": True},
    {"task": "bbh_cot_fewshot_snarks", "limit": 3},
    {"task": "bbh_zeroshot_boolean_expressions", "limit": 4},
    {"task": "truthfulqa_mc1", "limit": 3},
    {"task": "truthfulqa_mc2", "limit": 3},
    {"task": "truthfulqa_gen", "limit": 2},
    {"task": "ifeval", "limit": 3},
    {"task": "humaneval", "limit": 2},
]


@pytest.fixture(scope="module")
def real_data() -> Path:
    folder = Path(os.environ.get("HARNESS_DATA", "")) / "benchmarks"
    if not os.environ.get("HARNESS_DATA") or not folder.is_dir():
        pytest.skip("HARNESS_DATA does not name the folder with the public benchmark files")
    return folder


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("options", REAL, ids=lambda o: str(o["task"]) + "-chat" * bool(o.get("chat_template")))
def test_real_benchmarks_equal_simple_evaluate(
    tiny: Any, local_subject: Any, real_data: Path, options: dict[str, Any]
) -> None:
    model = tiny.model(context=8192)
    suite = suite_of(real_data, ALLOWED, data=str(real_data), **options)
    for task in suite._tasks.values():
        if task.config.generation_kwargs is not None:
            task.set_config("generation_kwargs", {"max_gen_toks": 24}, update=True)
    subject = local_subject(model=model)
    states = assert_equals_lm_eval(suite, wanted_for(real_data, suite), subject, model)
    assert set(states) == {"scored"}


@pytest.mark.slow
@pytest.mark.data
def test_real_groups_have_all_their_samples_and_no_leak(real_data: Path) -> None:
    suite = suite_of(real_data, task="mmlu", data="mmlu", num_fewshot=5, limit=3)
    assert len(suite.samples()) == 57 * 3
    assert suite.samples()[0].tags == ("mmlu_abstract_algebra", "mmlu_stem")
    assert suite.checks()[0].passed
    assert suite.metrics["acc"].chance == 0.25


@pytest.mark.slow
@pytest.mark.data
def test_human_solutions_pass_in_the_sandbox_and_wrong_ones_do_not(real_data: Path) -> None:
    from harness import sandbox

    if sandbox.available() is not None:
        pytest.skip(f"no sandbox here: {sandbox.available()}")
    suite = suite_of(real_data, ALLOWED, task="humaneval", data=".", limit=3)
    for sample, doc in zip(suite.samples(), suite._docs["humaneval"], strict=True):
        right = suite._score_side(sample, [Output(text=doc["canonical_solution"])])
        wrong = suite._score_side(sample, [Output(text="    import sys; sys.exit(0)\n")])
        assert (right["pass@1"].value, wrong["pass@1"].value) == (1.0, 0.0)


@pytest.mark.slow
@pytest.mark.data
def test_ifeval_scores_what_it_can_and_fails_what_needs_missing_data(
    real_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nltk

    suite = suite_of(real_data, task="ifeval", data="ifeval")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    needs = [i for i, d in enumerate(suite._docs["ifeval"]) if "length_constraints:number_sentences" in
             d["instruction_id_list"]][:2]  # fmt: skip
    for index in needs:
        scores = suite._score_side(suite.samples()[index], [Output(text="One. Two. Three.")])
        assert {s.state for s in scores.values()} == {"failed"}
        assert "punkt_tab" in scores["prompt_level_strict_acc"].reason
