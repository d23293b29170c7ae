"""MIPROv2 at our side of it: what DSPy finds is a prompt of ours, found by asking the subject as the gate will."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import ConfigError, PluginError
from harness.records import Sample
from harness.subjects.prompted import Prompt
from harness.training.advice import mipro
from harness.training.advice.mipro import Bayesian
from harness.training.advice.prompts import Proposal
from tests.loopback_model import LoopbackModel

POOL = [Sample(f"line {i}", f"{i} + {i} =", (str(2 * i),)) for i in range(16)]
FIELDS = (
    "[[ ## observations ## ]]\nCOMPLETE\n\n[[ ## summary ## ]]\nSums of equal numbers.\n\n"
    "[[ ## proposed_instruction ## ]]\nAdd the two numbers.\n\n[[ ## completed ## ]]"
)


class Pupil:
    """Adds up where it was told to, or shown two examples; says a question mark otherwise."""

    subject: Any = None
    bounds = (0.0, 1.0)

    def __init__(self) -> None:
        self.asked: list[Prompt] = []

    def scores(self, proposal: Proposal, samples: Sequence[Sample]) -> list[tuple[float | None, str]]:
        assert proposal.prompt is not None
        self.asked.append(proposal.prompt)
        knows = proposal.prompt.system == "Add the two numbers." or len(proposal.prompt.shots) >= 2
        said = [sample.targets[0] if knows else "?" for sample in samples]
        return [(float(knows), text) for text in said]


def search(pupil: Pupil, settings: Bayesian, shots: int = 2) -> Proposal | None:
    return mipro.search(pupil, POOL, settings, shots=shots, separator="\n\n", until=("\n\n",), seed=1)


def test_dspy_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dspy", None)
    with pytest.raises(PluginError, match="pip install dspy"):
        search(Pupil(), Bayesian(3, "openai/m"))


def test_a_model_that_proposes_and_enough_rows_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dspy", SimpleNamespace())
    with pytest.raises(ConfigError, match="--reflection"):
        search(Pupil(), Bayesian(3))
    with pytest.raises(ConfigError, match="too few"):
        mipro.search(Pupil(), POOL[:6], Bayesian(3, "m"), shots=2, separator="\n", until=(), seed=0)


@pytest.mark.slow
def test_what_dspy_finds_is_a_prompt_that_the_gate_can_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dspy", reason="dspy is not installed")
    with LoopbackModel(lambda messages: FIELDS) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_API_BASE", server.base)
        monkeypatch.setenv("OPENAI_BASE_URL", server.base)
        pupil = Pupil()
        found = search(pupil, Bayesian(6, "openai/m"))
        assert server.asked, "nobody asked the model that proposes"
    assert found is not None
    assert found.prompt is not None
    assert pupil.scores(found, POOL[:1]) == [(1.0, "0")]
    assert any(prompt.system == "Add the two numbers." for prompt in pupil.asked)
    assert capsys.readouterr().out == "", "stdout is for results"
