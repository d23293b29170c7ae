"""pass@k in our sandbox, standing in for the `code_eval` metric that lm-eval's code tasks would run in-process.

lm-eval's task modules call `evaluate.load("code_eval")` when they are imported. While tasks are loaded, that call is
answered with an object of the same interface whose programs run in `harness.sandbox`: the task's own prompt, stop and
extraction code stays as it is, and no model-written line runs in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import comb
from typing import Any

from harness.errors import ConfigError
from harness.sandbox import Job, run_many

TIMEOUT_S = 3.0
MEMORY_MB = 512


class SandboxedCodeEval:
    """The part of the `code_eval` metric that tasks use; a program passes when it runs to its last line."""

    def compute(
        self, *, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1,), **_: Any
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """(pass@k by name, whether each candidate passed, by problem).

        Raises:
            SandboxError: the code could not be confined, so nothing was run.
        """
        jobs = [
            Job(f"{candidate}\n{test}", timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB)
            for test, candidates in zip(references, predictions, strict=True)
            for candidate in candidates
        ]
        results = iter(run_many(jobs))
        passed = {i: [next(results).ok for _ in candidates] for i, candidates in enumerate(predictions)}
        fewest = min(len(p) for p in passed.values())
        return {f"pass@{n}": _mean([_pass_at(n, p) for p in passed.values()]) for n in k if n <= fewest}, passed


@contextmanager
def sandboxed(allowed: bool, task: str) -> Iterator[list[SandboxedCodeEval]]:
    """While this is entered, loading `code_eval` gives the sandbox, or a ConfigError where code may not be run.

    Yields the list of what was given out: a task that says it runs code and is not served from here runs it itself.
    """
    import evaluate

    genuine: Callable[..., Any] = evaluate.load
    given: list[SandboxedCodeEval] = []

    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        if path != "code_eval":
            return genuine(path, *args, **kwargs)
        if not allowed:
            raise not_allowed(task)
        given.append(SandboxedCodeEval())
        return given[-1]

    _forget_code_tasks()
    evaluate.load = load
    try:
        yield given
    finally:
        evaluate.load = genuine


def not_allowed(task: str) -> ConfigError:
    """Why a task that executes code is refused, and what allows it."""
    return ConfigError(
        f"task {task!r} runs code that the model wrote; it runs in a sandbox without network, and only when "
        "gate.yaml says allow: [code-execution]"
    )


def _forget_code_tasks() -> None:
    """Drop the modules of code tasks that this process has imported, so that they load anew and ask again."""
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.")]:
        module = sys.modules[name]
        if any(hasattr(getattr(module, held, None), "compute") for held in ("compute_", "pass_at_k")):
            del sys.modules[name]


def _pass_at(k: int, passed: Sequence[bool]) -> float:
    """Unbiased estimate of the chance that one of k draws passes (Chen et al. 2021, arXiv 2107.03374)."""
    n, right = len(passed), sum(passed)
    return 1.0 - comb(n - right, k) / comb(n, k)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
