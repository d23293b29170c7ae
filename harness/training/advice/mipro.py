"""An instruction and examples chosen together by DSPy's MIPROv2 (Opsahl-Ong 2024), where dspy is installed

See arXiv 2406.11695. DSPy proposes and searches; what is asked, and how it is scored, stays ours. Its predictor is
replaced by one that asks our subject behind our own prompt file, because DSPy's own would wrap every question in a
format of its own, and a prompt found there would be asked otherwise in the gate. MIPROv2 sees the rows that examples
are drawn from; what it finds is compared on the held-out rows with everything else.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from harness.errors import ConfigError, PluginError
from harness.records import Sample
from harness.subjects.prompted import Prompt, Shot
from harness.training.advice.evolving import Bench
from harness.training.advice.prompts import Proposal

_SEED = "Answer the question."
_VALIDATION = 0.5  # of the pool: what MIPROv2 scores its trials on
_FEWEST = 4  # rows on either side
_CANDIDATES = 6  # instructions, and sets of examples, to combine
_GOOD = 0.5  # share of the metric's range from which an answer of the subject's own may become an example


@dataclass(frozen=True, slots=True)
class Bayesian:
    """MIPROv2's settings: combinations to try, and the model that proposes instructions, a name that litellm knows."""

    trials: int
    reflection: str | None = None


def search(
    bench: Bench, pool: Sequence[Sample], settings: Bayesian, *, shots: int, separator: str, until: tuple[str, ...],
    seed: int,
) -> Proposal | None:  # fmt: skip
    """The prompt that MIPROv2 found, with at most `shots` examples; None where it kept the one it started from.

    Raises:
        PluginError: dspy is not installed.
        ConfigError: there are too few rows in the pool, or no model that proposes.
    """
    try:
        dspy = importlib.import_module("dspy")
    except ImportError as error:
        raise PluginError("--mipro needs dspy, which is not installed: pip install dspy") from error
    if settings.reflection is None:
        raise ConfigError("--mipro needs --reflection MODEL, which writes the instructions that are tried")
    cut = int(len(pool) * _VALIDATION)
    if cut < _FEWEST or shots < 1:
        raise ConfigError(f"--mipro: {len(pool)} rows and {shots} shots are too few; 8 rows and 1 shot are the least")
    task = _Task(dspy, bench, {sample.prompt: sample for sample in pool}, separator, until)
    proposer = dspy.LM(settings.reflection)
    optimiser = dspy.MIPROv2(
        metric=task.metric, prompt_model=proposer, task_model=proposer, auto=None,
        num_candidates=_CANDIDATES, max_bootstrapped_demos=shots, max_labeled_demos=shots, metric_threshold=_GOOD,
        num_threads=1, seed=seed, verbose=False,
    )  # fmt: skip
    examples = [dspy.Example(question=s.prompt, answer=s.targets[0]).with_inputs("question") for s in pool]
    with _quiet():
        found = optimiser.compile(
            task.program(), trainset=examples[cut:], valset=examples[:cut], num_trials=settings.trials,
            minibatch=False, program_aware_proposer=False,
        )  # fmt: skip
    prompt = task.prompt(found.predictors()[0])
    return None if prompt is None or (prompt.system == _SEED and not prompt.shots) else Proposal("MIPROv2", prompt)


class _Task:
    """What DSPy optimises, over a subject of ours: a program of one predictor, and the metric of its answers."""

    def __init__(
        self, dspy: Any, bench: Bench, samples: Mapping[str, Sample], separator: str, until: tuple[str, ...]
    ) -> None:
        self._dspy, self._bench, self._samples = dspy, bench, samples
        self._separator, self._until = separator, until
        self._scores: dict[tuple[str, str], float] = {}

    def prompt(self, predictor: Any) -> Prompt | None:
        """A predictor's instruction and examples as a prompt of ours; None where an example cannot stand in one."""
        shots = [Shot(prompt=demo["question"], answer=demo["answer"]) for demo in predictor.demos]
        try:
            return Prompt(
                system=predictor.signature.instructions or None, shots=tuple(shots), separator=self._separator,
                until=self._until if shots else (),
            )  # fmt: skip
        except ValidationError:
            return None

    def ask(self, predictor: Any, question: str) -> str:
        """What the subject says behind a predictor's prompt; its score is kept for the metric."""
        prompt = self.prompt(predictor)
        if prompt is None:
            return ""
        ((value, said),) = self._bench.scores(Proposal("MIPROv2", prompt), [self._samples[question]])
        if value is not None:
            low, high = self._bench.bounds
            self._scores[question, said] = (value - low) / (high - low)
        return said

    def metric(self, example: Any, prediction: Any, trace: Any = None) -> float:
        """From 0 to 1. MIPROv2 knows no missing score: in its search an answer without one counts as the worst."""
        return self._scores.get((example.question, prediction.answer), 0.0)

    def program(self) -> Any:
        """A DSPy module whose one predictor asks the subject. `self` is not in it, since programs are copied deeply."""
        dspy, ask = self._dspy, self.ask

        class Asked(dspy.Predict):  # type: ignore[misc, name-defined]  # a module that may not be installed
            def forward(self, question: str) -> Any:
                prediction = dspy.Prediction(answer=ask(self, question))
                if dspy.settings.trace is not None:  # examples are made of what was traced
                    dspy.settings.trace.append((self, {"question": question}, prediction))
                return prediction

        class Program(dspy.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.asked = Asked(dspy.Signature("question -> answer", _SEED))

            def forward(self, question: str) -> Any:
                return self.asked(question=question)

        return Program()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DSPy prints as it goes, and stdout is for results."""
    logger = logging.getLogger("dspy")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
