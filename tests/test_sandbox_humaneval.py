"""HumanEval in the sandbox: every right solution passes, no wrong one does, and upstream's own self-test."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness import sandbox
from harness.metrics.code_execution import program
from harness.records import Sample
from harness.sandbox import Job, SandboxResult, run_many

pytestmark = [pytest.mark.slow, pytest.mark.data]

HUMANEVAL = Path(os.environ.get("HARNESS_DATA", "/nonexistent")) / "benchmarks" / "humaneval"


@pytest.fixture(scope="module")
def problems() -> list[dict[str, Any]]:
    if sandbox.available() is not None:
        pytest.skip(sandbox.available() or "")
    path = HUMANEVAL / "HumanEval.jsonl.gz"
    if not path.is_file():
        pytest.skip("set HARNESS_DATA to a folder with benchmarks/humaneval/HumanEval.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def sample_of(problem: dict[str, Any]) -> Sample:
    data = {k: problem[k] for k in ("test", "entry_point")}
    return Sample(problem["task_id"], problem["prompt"], data=data)


def outcome(problems: list[dict[str, Any]], answers: list[str]) -> list[SandboxResult]:
    codes = [program(sample_of(p), a, prepend_prompt=True) for p, a in zip(problems, answers, strict=True)]
    return run_many([Job(code or "1 / 0", timeout_s=20.0) for code in codes])


def test_every_canonical_solution_passes(problems: list[dict[str, Any]]) -> None:
    assert len(problems) == 164
    results = outcome(problems, [p["canonical_solution"] for p in problems])
    failed = {p["task_id"]: r for p, r in zip(problems, results, strict=True) if not r.ok}
    assert not failed


def test_every_solution_passes_written_out_in_full_in_a_fence(problems: list[dict[str, Any]]) -> None:
    answers = [f"Here it is:\n```python\n{p['prompt']}{p['canonical_solution']}```\nDone." for p in problems]
    assert all(r.ok for r in outcome(problems, answers))


def test_no_mutated_solution_passes(problems: list[dict[str, Any]]) -> None:
    """The function returns nothing, raises, or ends the process one way or the other."""
    endings = [
        "    return None\n",
        "    raise RuntimeError\n",
        "    import os; os._exit(0)\n",
        "    raise SystemExit\n",
    ]
    results = outcome(problems, [endings[i % len(endings)] for i in range(len(problems))])
    assert [p["task_id"] for p, r in zip(problems, results, strict=True) if r.ok] == []


def test_upstreams_own_self_test() -> None:
    if sandbox.available() is not None:
        pytest.skip(sandbox.available() or "")
    if not (HUMANEVAL / "example_problem.jsonl").is_file():
        pytest.skip("set HARNESS_DATA to a folder with benchmarks/humaneval/example_problem.jsonl")
    problem = json.loads((HUMANEVAL / "example_problem.jsonl").read_text())
    lines = (HUMANEVAL / "example_samples.jsonl").read_text().splitlines()
    answers = [json.loads(line)["completion"] for line in lines]
    codes = [program(sample_of(problem), answer, prepend_prompt=True) or "" for answer in answers]
    results = run_many([Job(code, timeout_s=3.0) for code in codes])
    # rm -rf, sleep(10), input(), and three spellings of the solution, as upstream's README lists them
    assert [r.state for r in results] == ["error", "timeout", "error", "ok", "ok", "ok"]
