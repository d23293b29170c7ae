"""Cost against size, several candidates, stopping early, start-up: what a table of one workload does not show."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.engine_bench.comparing import Setup, best_batch
from benchmarks.engine_bench.jobs import BASE, ROOT, Result, spawn
from benchmarks.engine_bench.model import DISAGREEING, REGRESSING
from benchmarks.engine_bench.results import Spread, costs, pick, spread
from benchmarks.engine_bench.workloads import Ask, in_turns, input_rows, mmlu_subjects, samples_of
from harness.records import content_hash

ITEMS = 14_042  # test questions of MMLU, all subjects
_RIGHT = 0.6  # share of the base's answers that are made right, about what a useful model has


def scaling(setup: Setup, asks: Sequence[Ask], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds and memory of base and one candidate for more and more samples, each once in a process of its own."""
    rows = []
    for size in sizes:
        job = setup.job("ours", [BASE, next(iter(setup.adapters))], in_turns(asks, size))
        result = setup.ledger.run(f"scaling, {size} samples", job)
        rows.append({
            "samples": size, "failure": result.failure,
            "seconds": sum(arm.seconds for arm in result.arms.values()),
            "cpu_seconds": sum(arm.cpu_seconds for arm in result.arms.values()),
            "tokens": sum(arm.work.tokens for arm in result.arms.values()),
            "peak_bytes": result.peak_bytes, "loaded_bytes": result.loaded_bytes,
        })  # fmt: skip
    return rows


def candidates(setup: Setup, workloads: Mapping[str, Sequence[Ask]]) -> dict[str, Any]:
    """For each workload, what the base and its first k agreeing candidates cost in units of the base alone, in rounds.

    The base's cost is that of the same process.
    """
    names = [name for name in setup.adapters if name not in (DISAGREEING, REGRESSING)][:3]
    found: dict[str, list[Result]] = {title: [] for title in workloads}
    for turn in range(setup.repeats):
        for title, asks in workloads.items():
            job = setup.job("ours", [BASE, *names], asks)
            found[title].append(setup.ledger.run(f"candidates, {title}, round {turn + 1}", job))
    return {title: cost_spreads(results) for title, results in found.items()}


def cost_spreads(results: Sequence[Result]) -> dict[str, Any]:
    """The cost with k candidates over the rounds, by k, and the failures."""
    rounds = [
        dict(costs({name: arm.seconds for name, arm in result.arms.items()}, BASE)) if not result.failure else {}
        for result in results
    ]
    counts = sorted({k for one in rounds for k in one})
    failure = "; ".join(f"round {n}: {r.failure}" for n, r in enumerate(results, start=1) if r.failure)
    return {"failure": failure, "costs": {k: spread(one.get(k) for one in rounds) for k in counts}}


def startup(setup: Setup) -> dict[str, Spread | None]:
    """Seconds of `harness --help`, and from loaded weights to the first scored sample of a task and of a group."""
    tasks = (f"mmlu_{mmlu_subjects(setup.data)[0]}", "mmlu")
    helped: list[float] = []
    first: dict[str, list[float | None]] = {task: [] for task in tasks}
    for turn in range(1, setup.repeats + 1):
        helped.append(setup.ledger.once(f"start-up, round {turn}, --help", lambda: _help(setup))["seconds"])
        for task in tasks:
            job = replace(setup.job("first", [BASE]), task=task, data=str(setup.data))
            result = setup.ledger.run(f"start-up, round {turn}, {task}", job)
            first[task].append(None if result.failure else result.first_seconds)
    shown = {f"first sample of `{task}` after the weights are loaded": spread(took) for task, took in first.items()}
    return {"`harness --help`": spread(helped), **shown}


def _help(setup: Setup) -> dict[str, float]:
    began = time.perf_counter()
    code, errors = spawn([sys.executable, "-m", "harness", "--help"], 60, setup.threads)
    assert code == 0, errors
    return {"seconds": time.perf_counter() - began}


# ---------------------------------------------------------------- stopping early


def early(
    setup: Setup, folder: Path, lm_eval_batch: int | str | None, labelled: int, limit: int | None
) -> dict[str, Any]:
    """A clear pass and a clear regression on all of MMLU through the real gate, against lm-eval run twice.

    The questions' own answers show nothing, since a model of this size knows none of them. So each question gets as
    its right answer what the base says, with probability 0.6, and another letter otherwise; the requests stay what they
    are. Only the first `labelled` questions of the gate's order have one; a gate that goes beyond them says so by its
    failures. lm-eval's time for all questions is extrapolated, see `_lm_eval_seconds`; its batch size is looked for on
    the same sample where none is given. Everything is measured once.
    """
    shutil.rmtree(folder, ignore_errors=True)
    _write_tasks(folder / "tasks", setup)
    passing, *others = setup.adapters
    regressing = REGRESSING if REGRESSING in others else others[0]
    gates = {name: _write_gate(folder, name, setup, limit) for name in (passing, regressing)}
    asks, keys = _first_asked(next(iter(gates.values())), labelled)
    answered = setup.ledger.run(f"stopping early, the base's answers to {len(keys)}", setup.job("ours", [BASE], asks))
    assert not answered.failure, answered.failure
    _write_labels(folder / "tasks" / "labels.json", asks, answered.arms[BASE].answers, keys)
    few = set(samples_of(asks)[: setup.probe])
    sample = [ask for ask in asks if ask.sample in few]
    batch = lm_eval_batch or best_batch(setup, "stopping early", sample)[0]
    rate = _lm_eval_seconds(setup, asks, sample, batch)
    items = ITEMS if limit is None else limit * len(mmlu_subjects(setup.data))
    found: dict[str, Any] = {
        "items": items, "labelled": len(keys), "lm-eval seconds a sample, both": rate,
        "lm-eval seconds, extrapolated": rate * items,
    }  # fmt: skip
    for name, config in gates.items():
        told = setup.ledger.once(f"stopping early, the gate of {name}", partial(_gate, config, setup))
        found[name] = {**told, "label": "pass" if name == passing else "regression"}
        found[name]["ratio"] = rate * items / told["seconds"]
    return found


def _write_tasks(folder: Path, setup: Setup) -> None:
    """lm-eval's MMLU tasks with a scorer that looks the right answer up."""
    import yaml

    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("score.py.in"), folder / "score.py")
    template = {
        "dataset_path": "cais/mmlu", "test_split": "test", "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"}, "output_type": "multiple_choice",
        "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        "doc_to_choice": list("ABCD"), "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    subjects = mmlu_subjects(setup.data)
    for subject in subjects:
        spoken = subject.replace("_", " ")
        task = {
            **template, "task": f"bench_{subject}", "dataset_name": subject,
            "description": f"The following are multiple choice questions (with answers) about {spoken}.\n\n",
        }  # fmt: skip
        text = yaml.safe_dump(task, sort_keys=False) + "process_results: !function score.score\n"
        (folder / f"bench_{subject}.yaml").write_text(text, encoding="utf-8")
    group = {"group": "bench", "task": [f"bench_{subject}" for subject in subjects]}
    (folder / "bench.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")


def _write_gate(folder: Path, name: str, setup: Setup, limit: int | None) -> Path:
    """A gate of one candidate, with a cache of its own that starts empty."""
    import yaml

    subject = {"model": str(setup.model), "device": setup.device, "dtype": setup.dtype, "engine": setup.engine}
    suite = {
        "kind": "capability", "task": "tasks/bench.yaml", "num_fewshot": 5, "data": str(setup.data),
        "guards": [{"metric": "acc", "margin": 0.05}], "limit": limit,
    }  # fmt: skip
    gate = {
        "baseline": subject, "candidate": {**subject, "adapter": str(setup.adapters[name])}, "suites": [suite],
        "cache": f"cache-{name}", "out": f"runs-{name}",
    }  # fmt: skip
    path = folder / f"gate-{name}.yaml"
    path.write_text(yaml.safe_dump(gate, sort_keys=False), encoding="utf-8")
    return path


def _first_asked(config: Path, count: int) -> tuple[list[Ask], dict[str, str]]:
    """Requests of the first samples in the order that the gate will ask them, and the key of each sample's document.

    The order follows from the frozen tasks and the policy, so it is the same for every candidate.
    """
    from harness.config import load_gate
    from harness.gate import make_plan

    (state,) = make_plan(load_gate(config)).states
    asks: list[Ask] = []
    keys: dict[str, str] = {}
    for sample in state.samples[:count]:
        task, number = str(sample.data["task"]), int(sample.data["doc_id"])
        keys[sample.id] = key_of(state.suite._docs[task][number])
        # The requests need no chat template, so no subject is needed to build them.
        for idx, request in enumerate(state.suite.requests(sample, None)):
            asks.append(Ask(sample.id, "loglikelihood", (request.context, request.continuation), idx))
    return asks, keys


def key_of(doc: Mapping[str, Any]) -> str:
    """What `score.py.in` knows a question by."""
    return json.dumps([doc["subject"], doc["question"], list(doc["choices"])])


def _write_labels(path: Path, asks: Sequence[Ask], answers: Sequence[Any], keys: Mapping[str, str]) -> None:
    dice = Random(0)  # noqa: S311  # no secret
    by_sample: dict[str, list[tuple[float, bool]]] = {}
    for ask, answer in zip(asks, answers, strict=True):
        by_sample.setdefault(ask.sample, []).append(answer)
    labels = {}
    for sample, choices in by_sample.items():
        said = pick(choices)
        others = [i for i in range(len(choices)) if i != said]
        labels[keys[sample]] = said if dice.random() < _RIGHT else dice.choice(others)
    path.write_text(json.dumps(labels), encoding="utf-8")


def _lm_eval_seconds(setup: Setup, asks: Sequence[Ask], sample: Sequence[Ask], batch: int | str) -> float:
    """Seconds that lm-eval takes for one sample on average, base and candidate together, on all of MMLU.

    Seconds a token are measured on `sample`, the first of a random order; what a sample has in tokens is the mean over
    all of `asks`, without any padding, since over thousands of samples sorted by length there would be little.
    """
    from transformers import AutoTokenizer

    per_token = 0.0
    for arm in (BASE, next(iter(setup.adapters))):
        job = replace(setup.job("lm-eval", [arm], sample), batch_size=batch)
        result = setup.ledger.run(f"stopping early, lm-eval: {arm}", job)
        assert not result.failure, result.failure
        per_token += result.arms[arm].seconds / result.arms[arm].work.tokens
    rows = input_rows(asks, AutoTokenizer.from_pretrained(setup.model))
    return per_token * sum(map(len, rows)) / len(samples_of(asks))


def _gate(config: Path, setup: Setup) -> dict[str, Any]:
    """The command as a user gives it, from nothing to the reports."""
    began = time.perf_counter()
    told = config.with_suffix(".json")
    code, errors = spawn(
        ["sh", "-c", '"$0" -m harness gate "$1" --json > "$2"', sys.executable, str(config), str(told)], None,
        setup.threads,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    assert code in (0, 1, 3), errors
    verdict = json.loads(told.read_text(encoding="utf-8"))
    guard = next(c for c in verdict["comparisons"] if c["required"])
    wanted = ("outcome", "n", "n_used", "n_failed", "baseline_mean", "candidate_mean", "difference", "lost", "won")
    return {"seconds": seconds, "verdict": verdict["verdict"], **{key: guard[key] for key in wanted}}


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "lm_eval", "tokenizers")}


def sources() -> str:
    """A hash of every file of ours that a measurement runs."""
    files = sorted(path for folder in ("harness", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
    return content_hash({str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files})[:16]


def revision() -> str:
    """The commit that was measured, with a mark where the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  # our own
    return done.stdout.strip() or "not a checkout"
