"""Code execution: which program is run for an answer, and what becomes of its result."""

from __future__ import annotations

from typing import Any

import pytest

from harness import sandbox
from harness.errors import SandboxError
from harness.metrics import code_execution
from harness.metrics.code_execution import Options, program
from harness.records import MetricSpec, Output, Sample, Score

ADD = Sample(
    "add",
    'import math\n\n\ndef add(a, b):\n    """Sum."""\n',
    data={"entry_point": "add", "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"},
)
MBPP = Sample("mbpp", "Write add.", data={"tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]})


def test_a_continuation_is_put_between_prompt_and_tests() -> None:
    code = program(ADD, "    return a + b\n", prepend_prompt=True) or ""
    assert code.startswith(ADD.prompt + "    return a + b\n")
    assert code.endswith("check(add)\n")


@pytest.mark.parametrize(
    "output",
    [
        "```python\ndef add(a, b):\n    return a + b\n```",
        "Here it is:\n```py\nimport os\ndef add(a, b):\n    return a + b\n```\nIt adds.",
        "```\ndef add(a, b):\n    return a + b",
        "def add(a, b):\n    return a + b\n",
    ],
)
def test_a_function_written_again_replaces_the_prompts_but_keeps_its_imports(output: str) -> None:
    code = program(ADD, output, prepend_prompt=True) or ""
    assert code.count("def add") == 1
    assert code.startswith("import math\n")
    assert "```" not in code
    assert "It adds" not in code


def test_a_continuation_ends_at_a_fence() -> None:
    code = (
        program(ADD, "    return a + b\n```\nSome words.\n```python\nprint(add(1, 2))\n```", prepend_prompt=True) or ""
    )
    assert "return a + b" in code
    assert "Some words" not in code
    assert "print" not in code


def test_without_the_prompt_the_output_is_the_program() -> None:
    code = program(MBPP, "def add(a, b):\n    return a + b", prepend_prompt=False) or ""
    assert code.startswith("def add")
    assert code.endswith("assert add(1, 2) == 3\nassert add(-1, 1) == 0\n")


@pytest.mark.parametrize(
    "data",
    [{}, {"test": "x"}, {"tests": []}, {"tests": [1]}, {"test": "def check(c): 0", "entry_point": "f); import os; (f"}],
)
def test_without_usable_tests_nothing_is_known(data: dict[str, Any]) -> None:
    sample = Sample("s", "def f():\n", data=data)
    assert program(sample, "    pass", prepend_prompt=True) is None
    assert code_execution.build(Options()).score(sample, [Output(text="    pass")]).state == "failed"


def test_it_reports_as_pass_at_1() -> None:
    assert code_execution.build(Options()).spec == MetricSpec("pass@1")
    assert code_execution.RUNS_CODE


def test_a_sandbox_that_cannot_confine_is_a_failure_and_never_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise SandboxError("no namespaces here")

    monkeypatch.setattr(code_execution, "run_python", broken)
    score = code_execution.build(Options()).score(ADD, [Output(text="    return a + b")])
    assert (score.state, score.reason) == ("failed", "no namespaces here")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "value", "why"),
    [
        ("    return a + b", 1, ""),
        ("    return a - b", 0, "error: AssertionError"),
        ("    return a +", 0, "error: SyntaxError"),
        ("    while True: pass", 0, "timeout"),
        ("    return 'x' * 10**11", 0, "memory"),
        ("    import os; os._exit(0)", 0, "error"),
        ("    raise SystemExit(0)", 0, "error"),
        ("    import socket; socket.create_connection(('1.1.1.1', 53), 1)", 0, "PermissionError"),
    ],
)
def test_what_the_code_does_is_a_score(output: str, value: int, why: str) -> None:
    reason = sandbox.available()
    if reason is not None:
        pytest.skip(reason)
    score = code_execution.build(Options(timeout_s=1.0)).score(ADD, [Output(text=output)])
    assert score.value == value
    assert why in score.reason
    assert score.state == Score.of(value).state
