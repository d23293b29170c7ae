"""What is to be decided about: the model, the machine, the task, the rows, and what has been tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.training.advice.machine import Machine
from harness.training.advice.shapes import ModelShape

Task = Literal["generation", "classification"]
Need = Literal["behaviour", "format", "knowledge", "preference", "cost"]
Prompting = Literal["untried", "gap", "enough"]
Feedback = Literal["none", "pairs", "labels"]
Serving = Literal["one", "many", "lowest-latency"]
Priority = Literal["balanced", "quality", "smallest"]


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that the advice depends on.

    Args:
        task: whether the answer is text or one of some classes.
        need: what the model lacks: how to behave, a format, facts, being preferred, or a lower cost per request.
        prompting: what prompting and retrieval came to when they were measured on the golden set.
        rows: rows with the wanted answer (or class).
        shape: the model.
        machine: where it is trained.
        prompts: further prompts without an answer.
        changing: whether what the model should know changes more often than one would train.
        feedback: judgements of answers: pairs of a better and a worse one, or single ones labelled good or bad.
        judgements: how many of them.
        verifiable: whether a program can tell a right answer from a wrong one.
        teacher: whether a stronger model may be asked, to write answers or to judge them.
        serving: one model, many adapters on one base, or one that must answer with no extra work.
        keep: whether skills that the model has must not suffer.
        priority: what comes first where two ways are open.
        length: tokens of a training row.
    """

    task: Task
    need: Need
    prompting: Prompting
    rows: int
    shape: ModelShape
    machine: Machine
    prompts: int = 0
    changing: bool = False
    feedback: Feedback = "none"
    judgements: int = 0
    verifiable: bool = False
    teacher: bool = False
    serving: Serving = "one"
    keep: bool = True
    priority: Priority = "balanced"
    length: int = 1024
