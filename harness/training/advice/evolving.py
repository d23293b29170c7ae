"""Instructions evolved by GEPA (Agrawal 2025), the optimiser behind DSPy's GEPA, where its package is installed.

GEPA proposes only: what it comes up with is compared on the held-out rows with everything else, and judged on the
frozen samples no more than once. It sees the rows that examples are drawn from. DSPy's GEPA calls this same package;
its own programs are left out on purpose: they wrap every question in a format of theirs, so that a prompt found there
would be asked otherwise here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import ConfigError, PluginError, SubjectError
from harness.records import Generate, Message, Sample
from harness.subjects import Subject
from harness.subjects.prompted import Prompt
from harness.training.advice.prompts import Proposal

_SEED = "Answer the question."
_COMPONENT = "instruction"
_VALIDATION = 0.5  # of the pool: what GEPA compares its own proposals on
_REFLECTION_TOKENS = 1024


class Bench(Protocol):
    """What scores a proposal: see `trying.Bench`."""

    @property
    def subject(self) -> Subject:
        """What answers."""
        ...

    @property
    def bounds(self) -> tuple[float, float]:
        """Worst and best oriented score."""
        ...

    def scores(self, proposal: Proposal, samples: Sequence[Sample]) -> list[tuple[float | None, str]]:
        """Oriented score and text for each sample."""
        ...


@dataclass(frozen=True, slots=True)
class Evolution:
    """GEPA's settings: `calls` scored answers at most; `reflection` is the model that rewrites instructions.

    `reflection` is a name that litellm understands; None lets the subject itself reflect.
    """

    calls: int
    reflection: str | None = None


def evolve(bench: Bench, pool: Sequence[Sample], settings: Evolution, *, seed: int) -> list[str]:
    """Instructions that GEPA found, best first, without the one it started from.

    Raises:
        PluginError: gepa is not installed.
        ConfigError: there are too few rows in the pool.
    """
    try:
        gepa = importlib.import_module("gepa")
    except ImportError as error:
        raise PluginError("--gepa needs gepa, which is not installed: pip install gepa (dspy brings it too)") from error
    cut = int(len(pool) * _VALIDATION)
    if cut < 4:
        raise ConfigError(f"--gepa: {len(pool)} rows to evolve on are too few; 8 are the least")
    result = gepa.optimize(
        seed_candidate={_COMPONENT: _SEED},
        trainset=list(pool[cut:]),
        valset=list(pool[:cut]),
        adapter=_Adapter(bench),
        reflection_lm=settings.reflection or _reflector(bench.subject),
        max_metric_calls=settings.calls,
        seed=seed,
        logger=_Quiet(),
    )
    order = sorted(range(len(result.candidates)), key=lambda i: -result.val_aggregate_scores[i])
    found = [str(result.candidates[i][_COMPONENT]).strip() for i in order]
    return [text for text in dict.fromkeys(found) if text and text != _SEED][:3]


class _Quiet:
    """GEPA's log goes nowhere: stdout is for results."""

    def log(self, message: str) -> None:
        """Ignore."""


class _Adapter:
    """GEPA's view of a subject behind an instruction."""

    propose_new_texts = None

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def evaluate(self, batch: list[Sample], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """Scores of a batch. GEPA knows no missing score: in its search a failure counts as the worst in the batch."""
        scored = self._bench.scores(Proposal("GEPA", Prompt(system=candidate[_COMPONENT])), batch)
        known = [value for value, _ in scored if value is not None]
        worst = min([0.0, *known])
        traces = [
            {"sample": sample, "said": said, "score": value}
            for sample, (value, said) in zip(batch, scored, strict=True)
        ]
        return importlib.import_module("gepa.core.adapter").EvaluationBatch(
            outputs=[said for _, said in scored],
            scores=[worst if value is None else value for value, _ in scored],
            trajectories=traces if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: Mapping[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """What the reflecting model is shown of each answer."""
        shown = [
            {
                "Inputs": trace["sample"].prompt,
                "Generated Outputs": trace["said"],
                "Feedback": f"score {trace['score']}; the wanted answer is: {' | '.join(trace['sample'].targets)}",
            }
            for trace in eval_batch.trajectories or ()
        ]
        return dict.fromkeys(components_to_update, shown)


def _reflector(subject: Subject) -> Callable[[Any], str]:
    """The subject itself as the model that rewrites; asked in messages where it has a chat template."""

    def reflect(prompt: Any) -> str:
        text = prompt if isinstance(prompt, str) else "\n\n".join(str(turn["content"]) for turn in prompt)
        try:
            subject.render_chat([Message("user", "?")])
            asked = Generate((Message("user", text),), max_tokens=_REFLECTION_TOKENS)
        except SubjectError:
            asked = Generate(text, max_tokens=_REFLECTION_TOKENS)
        ((_, output),) = [pair for batch in subject.answer([asked]) for pair in batch]
        return output.text or ""

    return reflect
