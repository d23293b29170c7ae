"""The knowledge, as tables: whether to fine-tune, towards what, and what moves. The first rule that holds decides.

Every rule carries its reason and its sources, so that advice can be read, and argued with, rule by rule. Conditions
look at a `Case` and at nothing else; tests reach every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from harness.training.advice.shapes import ModelShape
from harness.training.advice.situation import Situation

C = TypeVar("C")
T = TypeVar("T")

Course = Literal["prompt", "prompt first", "retrieve", "collect", "too large", "fine-tune"]

ENOUGH = {"generation": 100, "classification": 50}
"""Rows below which nothing is trained, by task."""

FEW_LABELS = 2_000  # classified rows up to which a classifier on frozen features is the first thing to build
MANY = 5_000  # curated rows from which full fine-tuning is worth its cost
SCOPES_BY_SIZE = ("features", "head", "bitfit", "additive_bias", "qlora", "lora", "full")
"""Scopes that advice may name, from the least that moves, on the fewest bits, to the most."""


class Case(Protocol):
    """A situation, and what follows from it without a rule."""

    @property
    def now(self) -> Situation:
        """The situation."""
        ...

    def fits(self, scope: str) -> bool:
        """Whether a training of this scope fits into the machine's free memory, however sparing it has to be."""
        ...


@dataclass(frozen=True, slots=True)
class Rule(Generic[C, T]):
    """A rule about a C: `then` where `when` holds. `name` is unique in its table, `sources` are keys of `SOURCES`."""

    name: str
    when: Callable[[C], bool]
    then: T
    because: str
    sources: tuple[str, ...]


def first(rules: Sequence[Rule[C, T]], case: C) -> Rule[C, T] | None:
    """The first rule that holds, or None."""
    return next((rule for rule in rules if rule.when(case)), None)


def enough_rows(now: Situation) -> bool:
    """Whether there are enough rows with an answer to train on."""
    return now.rows >= ENOUGH[now.task]


def enough_prompts(now: Situation) -> bool:
    """Whether there are enough prompts, answered or not."""
    return now.prompts + now.rows >= ENOUGH[now.task]


def enough_judgements(now: Situation) -> bool:
    """Whether there are enough judged answers."""
    return now.feedback != "none" and now.judgements >= ENOUGH["generation"]


def _can_be_prompted(shape: ModelShape) -> bool:
    return shape.decoder


# ---------------------------------------------------------------- whether to fine-tune

COURSES: tuple[Rule[Case, Course], ...] = (
    Rule(
        "prompting is enough",
        lambda c: c.now.prompting == "enough",
        "prompt",
        "a prompt closes the gap, can be changed in a minute, and forgets nothing",
        ("Brown 2020", "Le Scao 2021"),
    ),
    Rule(
        "changing facts",
        lambda c: c.now.need == "knowledge" and c.now.changing,
        "retrieve",
        "weights keep what was true on the day of training; retrieval reads what is true now, and takes in new facts "
        "better than training on them does",
        ("Lewis 2020", "Ovadia 2023"),
    ),
    Rule(
        "facts, nothing tried",
        lambda c: c.now.need == "knowledge" and c.now.prompting == "untried",
        "retrieve",
        "retrieval takes in new facts better than training on them does, and training on facts that a model does not "
        "know teaches it to invent others",
        ("Ovadia 2023", "Gekhman 2024"),
    ),
    Rule(
        "format, nothing tried",
        lambda c: c.now.prompting == "untried" and c.now.need == "format" and _can_be_prompted(c.now.shape),
        "prompt first",
        "decoding that is constrained by a grammar or a schema guarantees a format, and examples in the prompt show "
        "it; measure both before any training",
        ("Willard 2023", "Brown 2020"),
    ),
    Rule(
        "prompting untried",
        lambda c: c.now.prompting == "untried" and c.now.need != "cost" and _can_be_prompted(c.now.shape),
        "prompt first",
        "fine-tuning is for a gap that was measured and that a searched prompt does not close; a prompt is worth "
        "hundreds of training rows, and searching one takes minutes",
        ("Le Scao 2021", "Khattab 2023", "Agrawal 2025", "Pryzant 2023"),
    ),
    Rule(
        "no judgements",
        lambda c: c.now.task == "generation" and c.now.need == "preference" and first(OBJECTIVES, c) is None,
        "collect",
        "the answers are right but not preferred, and nobody has said which would be: collect some 1,000 pairs of a "
        "better and a worse answer (100 at the very least), or name a stronger model that judges",
        ("Rafailov 2023", "no source"),
    ),
    Rule(
        "nothing to learn from",
        lambda c: first(OBJECTIVES, c) is None,
        "collect",
        "there are too few rows to learn from: about 100 answered prompts (50 for a classifier) are a beginning, a "
        "thousand carefully chosen ones can be enough",
        ("Zhou 2023", "no source"),
    ),
    Rule(
        "does not fit",
        lambda c: _no_scope_fits(c),
        "too large",
        "no way of training this model fits into the free memory, not even one row at a time",
        ("Dettmers 2023",),
    ),
    Rule(
        "cheaper",
        lambda c: c.now.need == "cost",
        "fine-tune",
        "a smaller model that has learned one task answers it for less than a large one that is told about it anew "
        "with every request",
        ("Hinton 2015", "Kim 2016"),
    ),
    Rule(
        "facts, after retrieval",
        lambda c: c.now.need == "knowledge",
        "fine-tune",
        "retrieval was measured and leaves a gap; train on rows that hold the retrieved passages, so that the model "
        "learns to use them, and not on bare facts, which teach it to invent",
        ("Gekhman 2024", "Ovadia 2023"),
    ),
    Rule(
        "measured gap",
        lambda c: c.now.prompting == "gap",
        "fine-tune",
        "the gap was measured, prompting and retrieval did not close it, and there are rows to learn from",
        ("Zhou 2023", "Lambert 2024"),
    ),
    Rule(
        "encoder",
        lambda c: True,
        "fine-tune",
        "an encoder cannot be prompted; it is used by training something on top of it",
        ("Devlin 2018",),
    ),
)


def _no_scope_fits(case: Case) -> bool:
    chosen = first(SCOPES, case)
    return chosen is None or not case.fits(chosen.then)


# ---------------------------------------------------------------- towards what

OBJECTIVES: tuple[Rule[Case, tuple[str, ...]], ...] = (
    Rule(
        "classes",
        lambda c: c.now.task == "classification" and enough_rows(c.now),
        ("classify",),
        "the answer is one of some classes, so a class is what is learned",
        ("Devlin 2018",),
    ),
    Rule(
        "preferred, after imitation",
        lambda c: _wants_preference(c) and c.now.feedback == "pairs" and enough_rows(c.now),
        ("sft", "dpo"),
        "first imitate the wanted answers, then learn from the pairs which of two the better one is; 1,000 to 10,000 "
        "pairs are usual, and near-duplicate pairs harm more than they teach",
        ("Rafailov 2023", "Lambert 2024"),
    ),
    Rule(
        "preferred",
        lambda c: _wants_preference(c) and c.now.feedback == "pairs",
        ("dpo",),
        "the answers are right but not the preferred ones, and pairs say which are; 1,000 to 10,000 are usual",
        ("Rafailov 2023",),
    ),
    Rule(
        "labelled good or bad, after imitation",
        lambda c: _wants_preference(c) and c.now.feedback == "labels" and enough_rows(c.now),
        ("sft", "kto"),
        "first imitate the wanted answers, then learn from single judgements, which need no pairs",
        ("Ethayarajh 2024",),
    ),
    Rule(
        "labelled good or bad",
        lambda c: _wants_preference(c) and c.now.feedback == "labels",
        ("kto",),
        "single answers are judged good or bad, which KTO learns from without pairs",
        ("Ethayarajh 2024",),
    ),
    Rule(
        "a judge prefers",
        lambda c: c.now.task == "generation" and c.now.need == "preference" and c.now.teacher and enough_prompts(c.now),
        ("dpo",),
        "nobody has judged answers yet, but a stronger model can, and its preferences teach about as well as people's: "
        "let it label pairs of answers",
        ("Lee 2023",),
    ),
    Rule(
        "checked by a program",
        lambda c: _wants_text(c) and not enough_rows(c.now) and c.now.verifiable and enough_prompts(c.now),
        ("grpo",),
        "there are prompts but too few answers, and a program can tell a right answer: let the model try, and reward",
        ("Shao 2024", "Lambert 2024"),
    ),
    Rule(
        "a teacher answers",
        lambda c: _wants_text(c) and not enough_rows(c.now) and c.now.teacher and enough_prompts(c.now),
        ("sft",),
        "there are prompts but too few answers: let the stronger model write them, and imitate those",
        ("Kim 2016", "Tunstall 2023"),
    ),
    Rule(
        "imitation, then reward",
        lambda c: _wants_text(c) and enough_rows(c.now) and c.now.verifiable and c.now.priority == "quality",
        ("sft", "grpo"),
        "first imitate the wanted answers; then, as a program can tell right from wrong, learn from the model's own "
        "attempts, which goes beyond what the rows show and costs the most",
        ("Shao 2024", "Lambert 2024"),
    ),
    Rule(
        "imitation",
        lambda c: _wants_text(c) and enough_rows(c.now),
        ("sft",),
        "there are prompts with the wanted answers: imitate them; few good rows teach more than many noisy ones",
        ("Zhou 2023", "Lambert 2024"),
    ),
)


def _wants_preference(case: Case) -> bool:
    """Judged answers are used where preference is what lacks, and where nothing but quality counts."""
    now = case.now
    return now.task == "generation" and enough_judgements(now) and (
        now.need == "preference" or (now.priority == "quality" and not now.verifiable)
    )  # fmt: skip


def _wants_text(case: Case) -> bool:
    return case.now.task == "generation" and case.now.need != "preference"


# ---------------------------------------------------------------- what moves

SCOPES: tuple[Rule[Case, str], ...] = (
    Rule(
        "few classified rows",
        lambda c: c.now.task == "classification" and c.now.priority == "balanced" and c.now.rows < FEW_LABELS,
        "features",
        "a classifier on the frozen model's features is built the same afternoon, is about as good as tuning on few "
        "rows, and is the baseline that anything dearer has to beat",
        ("Peters 2019", "Kumar 2022"),
    ),
    Rule(
        "classified by an encoder",
        lambda c: c.now.task == "classification" and c.now.priority == "balanced" and not c.now.shape.decoder,
        "head",
        "an encoder's features are made for this: training the head alone leaves them as they are, which also holds "
        "better on inputs unlike those of the training",
        ("Kumar 2022", "Devlin 2018"),
    ),
    Rule(
        "classified by a decoder",
        lambda c: c.now.task == "classification" and c.now.priority == "balanced",
        "features",
        "features of a frozen decoder and a linear classifier need one pass over the rows and change nothing",
        ("Peters 2019",),
    ),
    Rule(
        "smallest change",
        lambda c: c.now.priority == "smallest" and (c.now.shape.biases > 0 or not c.now.shape.exact),
        "bitfit",
        "biases alone are about 0.1 % of the weights: cheap, hard to forget with, and a measure of how far so little "
        "can go",
        ("Ben Zaken 2021",),
    ),
    Rule(
        "smallest change, no biases",
        lambda c: c.now.priority == "smallest",
        "additive_bias",
        "this model has no biases that BitFit could train; biases that are added to its linear layers come nearest",
        ("Ben Zaken 2021", "no source"),
    ),
    Rule(
        "many adapters",
        lambda c: c.now.serving == "many" and c.fits("lora"),
        "lora",
        "many tasks or tenants share one base in memory when each is an adapter",
        ("Hu 2021", "Sheng 2023"),
    ),
    Rule(
        "best narrow quality",
        lambda c: _may_move_all(c) and c.now.priority == "quality",
        "full",
        "there are many rows, no old skill is to be kept, and memory allows it: training all weights learns most",
        ("Biderman 2024", "Schulman 2025"),
    ),
    Rule(
        "into a smaller model",
        lambda c: _may_move_all(c) and c.now.need == "cost",
        "full",
        "a small model that does one task alone may change as a whole, and memory allows it",
        ("Hinton 2015", "Biderman 2024"),
    ),
    Rule(
        "default",
        lambda c: c.fits("lora"),
        "lora",
        "on rows of this number it learns about as much as training all weights, forgets less, and is a small file "
        "that can be switched off; on all linear layers, because that is where it is level with full training",
        ("Hu 2021", "Biderman 2024", "Schulman 2025"),
    ),
    Rule(
        "large base",
        lambda c: c.fits("qlora"),
        "qlora",
        "the base fits in 4 bits but not in 16; LoRA on a 4-bit base comes out level with LoRA on 16 bits",
        ("Dettmers 2023",),
    ),
)


def _may_move_all(case: Case) -> bool:
    now = case.now
    return now.serving != "many" and not now.keep and now.rows >= MANY and case.fits("full")
