"""Runs the steps of a composite action as GitHub's runner would: its own bash scripts, in order, with its conditions.

Of GitHub's expressions it knows what our action uses, and raises for anything else. Steps that use another action are
handed to a function of the test by the action's name.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
Uses = Callable[[dict[str, str]], dict[str, str]]
"""Another action: its `with`, and its outputs."""


@dataclass(slots=True)
class Ended:
    """A finished action: outputs, whether the job passes, what was printed, the summary, and each step's exit code."""

    outputs: dict[str, str]
    passed: bool
    log: str
    summary: str
    codes: dict[str, int]


@dataclass(slots=True)
class CompositeAction:
    """One job that runs an action. `environment` is what the runner sets; `uses` knows the other actions by name."""

    path: Path
    workspace: Path
    temp: Path
    environment: Mapping[str, str]
    uses: Mapping[str, Uses] = field(default_factory=dict)
    github: Mapping[str, str] = field(default_factory=lambda: {"run_id": "1", "run_attempt": "1"})

    def run(self, **inputs: str) -> Ended:
        """Run it with these inputs and the defaults of the others."""
        action = yaml.safe_load(self.path.read_text("utf-8"))
        assert set(inputs) <= set(action["inputs"])
        values = {f"runner.{k}": v for k, v in {"os": "Linux", "temp": str(self.temp)}.items()}
        values |= {f"github.{k}": v for k, v in {"token": self.environment["GITHUB_TOKEN"], **self.github}.items()}
        for name, given in action["inputs"].items():
            values[f"inputs.{name}"] = inputs.get(name, _filled(str(given.get("default", "")), values))
        summary, log, codes, failed = self.temp / "summary.md", "", {}, False
        summary.write_text("", "utf-8")
        for step in action["runs"]["steps"]:
            if not _holds(step.get("if", "success()"), values, failed):
                continue
            code, printed, outputs = self._step(step, values, summary)
            values |= {f"steps.{step.get('id', '-')}.outputs.{k}": v for k, v in outputs.items()}
            codes[step["name"]] = code
            log += printed
            failed |= code != 0 and not step.get("continue-on-error", False)
        given = {k: _filled(v["value"], values) for k, v in action["outputs"].items()}
        return Ended(given, not failed, log, summary.read_text("utf-8"), codes)

    def _step(self, step: dict[str, Any], values: dict[str, str], summary: Path) -> tuple[int, str, dict[str, str]]:
        if "uses" in step:
            given = {k: _filled(str(v), values) for k, v in step["with"].items()}
            return 0, "", self.uses[step["uses"].partition("@")[0]](given)
        assert step["shell"] == "bash"
        assert not _EXPRESSION.search(step["run"]), "a value from outside would be part of the script"
        output = self.temp / "output"
        output.write_text("", "utf-8")
        # A token reaches only the step that is given it.
        outer = {k: v for k, v in self.environment.items() if k != "GITHUB_TOKEN"}
        environment = {
            **os.environ, **outer, "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary),
            "GITHUB_WORKSPACE": str(self.workspace), "RUNNER_TEMP": str(self.temp),
            **{k: _filled(str(v), values) for k, v in step.get("env", {}).items()},
        }  # fmt: skip
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.workspace, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        lines = output.read_text("utf-8").splitlines()
        return done.returncode, done.stdout + done.stderr, dict(line.split("=", 1) for line in lines)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _EXPRESSION.sub(lambda found: _value(found[1], values), text)


def _value(expression: str, values: Mapping[str, str]) -> str:
    if not re.fullmatch(r"[a-z]+\.[\w.-]+", expression):
        raise AssertionError(f"an expression that GitHub may know, but this runner does not: {expression}")
    if expression not in values:
        assert expression.startswith("steps."), f"nothing sets {expression}"
        return ""
    return values[expression]


def _holds(condition: str, values: Mapping[str, str], failed: bool) -> bool:
    inner = (_EXPRESSION.fullmatch(condition) or [condition, condition])[1]
    terms = [term.strip() for term in inner.split("&&")]
    # As GitHub does: without a status function, a step is left out once another has failed.
    if failed and not {"!cancelled()", "always()"} & set(terms):
        return False
    return all(_term(term, values) for term in terms)


def _term(term: str, values: Mapping[str, str]) -> bool:
    if term in ("success()", "!cancelled()", "always()"):
        return True
    found = re.fullmatch(r"([\w.-]+) (==|!=) '([^']*)'", term)
    assert found, term
    return (_value(found[1], values) == found[3]) == (found[2] == "==")
