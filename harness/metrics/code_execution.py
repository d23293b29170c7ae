"""Code execution (pass@1): whether the program that the model wrote passes the sample's tests, in the sandbox.

Bounds 0 to 1, higher is better, chance 0. A row holds `test` and `entry_point` as HumanEval does (Chen et al. 2021;
`test` defines `check(candidate)`), or `tests`, a list of statements as MBPP does. Code that fails, runs out of time or
memory, or leaves before its tests ran is wrong: 0. A sandbox that cannot confine is a failed score: nothing was run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from harness.errors import SandboxError
from harness.metrics._options import MetricOptions
from harness.metrics._text import answer
from harness.records import MetricSpec, Output, Sample, Score
from harness.sandbox import run_python

SCORES = "text"
RUNS_CODE = True

_FENCE_LINE = re.compile(r"^[ \t]*```", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```[a-zA-Z0-9]*[ \t]*\r?\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


class Options(MetricOptions):
    """Options of `code_execution`."""

    timeout_s: float = Field(5.0, gt=0, le=300, description="wall-clock seconds for program and tests together")
    memory_mb: int = Field(512, ge=64, le=16384, description="MiB of address space")
    prepend_prompt: bool = Field(True, description="the output continues the prompt; false: it is the whole program")


def program(sample: Sample, output: str, *, prepend_prompt: bool) -> str | None:
    """The program to run: prompt, output and tests; None when the row holds no tests."""
    tests = _tests(sample)
    if tests is None:
        return None
    written = _written(output)
    lead = _lead(sample, written) if prepend_prompt else ""
    return f"{lead}{written}\n\n{tests}\n"


def _written(output: str) -> str:
    """The code in `output`: a continuation begins with an indent and ends at a fence, else the first fenced block."""
    if output.lstrip("\r\n")[:1] in (" ", "\t"):
        return _FENCE_LINE.split(output, maxsplit=1)[0]
    fenced = _FENCE.search(output)
    return fenced[1] if fenced else output


def _lead(sample: Sample, written: str) -> str:
    """The prompt; only what stands before the function when the output writes the function again."""
    start = rf"^(?:async )?def {re.escape(str(sample.data.get('entry_point')))}\b"
    if not re.search(start, written, re.MULTILINE):
        return sample.prompt
    again = re.search(start, sample.prompt, re.MULTILINE)
    return sample.prompt[: again.start()] if again else ""


def _tests(sample: Sample) -> str | None:
    test, entry_point, tests = (sample.data.get(k) for k in ("test", "entry_point", "tests"))
    if isinstance(test, str) and isinstance(entry_point, str) and entry_point.isidentifier():
        return f"{test}\n\ncheck({entry_point})"
    if isinstance(tests, list) and tests and all(isinstance(t, str) for t in tests):
        return "\n".join(tests)
    return None


class CodeExecution:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.spec = MetricSpec(options.named("pass@1"))

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """1 when every test passed, else 0; failed without tests, or when the sandbox could not confine the code."""
        text = answer(outputs)
        if isinstance(text, Score):
            return text
        code = program(sample, text, prepend_prompt=self._options.prepend_prompt)
        if code is None:
            return Score.failed(f"sample {sample.id!r} holds neither test with entry_point nor a list of tests")
        try:
            result = run_python(code, timeout_s=self._options.timeout_s, memory_mb=self._options.memory_mb)
        except SandboxError as error:
            return Score.failed(str(error))
        return Score("scored", float(result.ok), "" if result.ok else _why(result.state, result.stderr))


def _why(state: str, stderr: str) -> str:
    last = stderr.strip().splitlines()[-1:] or [""]
    return f"{state}: {last[0]}"[:200] if last[0] else state


def build(options: Options) -> CodeExecution:
    """The metric. Whether code may run at all is for the suite to ask."""
    return CodeExecution(options)
