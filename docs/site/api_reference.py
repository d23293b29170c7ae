"""The pages of what may be imported: mkdocstrings reads the docstrings, this says of which names"""

from __future__ import annotations

from typing import NamedTuple


class Page(NamedTuple):
    """Modules, classes and functions that are documented together."""

    title: str
    introduction: str
    names: tuple[str, ...]


PAGES = {
    "calls": Page(
        "Calls",
        "What a notebook or a training script of your own calls.",
        (
            "harness.judging.evaluating.evaluate",
            "harness.judging.evaluating.Evaluation",
            "harness.training.forgetting.guard.ForgettingGuard",
            "harness.training.run.train",
            "harness.training.run.TrainingResult",
            "harness.config.load_gate",
            "harness.config.LoadedConfig",
            "harness.gate.run_gate",
            "harness.gate.run_gates",
            "harness.gate.GateResult",
            "harness.compare",
            "harness.document",
            "harness.traces.store",
        ),
    ),
    "records": Page(
        "Records and errors",
        "What the parts of a run pass to each other, what a verdict holds, and what is raised on purpose.",
        ("harness.records", "harness.errors", "harness.policy", "harness.runs"),
    ),
    "statistics": Page(
        "Statistics",
        "The arithmetic of a decision: arrays in, small frozen records out; no model, no file, no clock.",
        (
            "harness.statistics.sequential",
            "harness.statistics.betting",
            "harness.statistics.ordering",
            "harness.statistics.paired",
            "harness.statistics.clustered",
            "harness.statistics.multiplicity",
            "harness.statistics.power",
            "harness.statistics.agreement",
            "harness.statistics.ppi",
            "harness.statistics.proportions",
        ),
    ),
    "plugins": Page(
        "Plugins",
        "What a metric, a suite, a subject or a judge of your own has to be. A plugin is a module with `Options` and "
        "`build`, in Harness or behind an entry point of the group `harness.KIND`.",
        ("harness.plugins", "harness.metrics", "harness.suites", "harness.subjects", "harness.judging.kinds"),
    ),
}


def page(name: str) -> str:
    """One page in Markdown, with a directive of mkdocstrings for each name; `name` is a key of `PAGES`."""
    about = PAGES[name]
    return "\n\n".join([f"# {about.title}", about.introduction, *(f"::: {each}" for each in about.names)]) + "\n"
