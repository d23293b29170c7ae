"""Starting values, as tables: where a first training begins, not where a sweep ends. The first rule that holds decides.

A value belongs to one objective of a plan and to its scope, so rules here look at a `Stage`. Learning rates lie in the
ranges in which such trainings succeed: 1e-5 to 5e-4 for LoRA, 1e-6 to 5e-5 for all weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.training.advice.rules import MANY, Rule, enough_judgements, enough_rows
from harness.training.advice.situation import Situation

ADAPTERS = ("lora", "qlora")
_JUDGED = ("dpo", "ipo", "kto", "orpo")
_REWARDED = ("grpo", "rloo")
_LARGE = 30_000_000_000


@dataclass(frozen=True, slots=True)
class Stage:
    """One objective of a plan with the scope and the situation that it is planned for."""

    now: Situation
    scope: str
    objective: str

    @property
    def rows(self) -> int:
        """Rows that this objective learns from, those included that a stronger model is to write or to judge."""
        now = self.now
        if self.objective in _JUDGED and enough_judgements(now):
            return now.judgements
        if self.objective in (*_JUDGED, *_REWARDED) or not enough_rows(now):
            return now.prompts + now.rows
        return now.rows


def _adapted(stage: Stage) -> bool:
    return stage.scope in ADAPTERS


LEARNING_RATE: tuple[Rule[Stage, float], ...] = (
    Rule("rewarded, adapter", lambda s: s.objective in _REWARDED and _adapted(s), 1e-5,
         "ten times the 1e-6 that all weights take with a reward", ("Shao 2024", "Schulman 2025")),
    Rule("rewarded", lambda s: s.objective in _REWARDED, 1e-6, "as in the work that introduced GRPO", ("Shao 2024",)),
    Rule("judged, adapter", lambda s: s.objective in _JUDGED and _adapted(s), 5e-6,
         "ten times the 5e-7 that all weights take with preferences", ("Tunstall 2023", "Schulman 2025")),
    Rule("judged", lambda s: s.objective in _JUDGED, 5e-7,
         "preferences move a model far: a tenth of the rate of imitation, or less", ("Tunstall 2023", "Rafailov 2023")),
    Rule("large base", lambda s: _adapted(s) and s.now.shape.parameters >= _LARGE, 1e-4,
         "half the usual rate of LoRA from 30 billion parameters on", ("Dettmers 2023",)),
    Rule("adapter, keeping skills", lambda s: _adapted(s) and s.now.keep, 1e-4,
         "half the usual rate of LoRA: a low rate forgets less", ("Biderman 2024", "Luo 2023")),
    Rule("adapter", _adapted, 2e-4, "the usual rate of LoRA up to 30 billion parameters", ("Dettmers 2023",)),
    Rule("biases", lambda s: s.scope in ("bitfit", "additive_bias"), 4e-4,
         "biases take a higher rate than weights", ("Ben Zaken 2021",)),
    Rule("head", lambda s: s.scope == "head", 1e-3, "a fresh head takes a high rate", ("no source",)),
    Rule("all weights, keeping skills", lambda s: s.now.keep, 5e-6,
         "half the usual rate of full training: a low rate forgets less", ("Luo 2023",)),
    Rule("all weights", lambda s: True, 1e-5, "a tenth of LoRA's or less", ("Schulman 2025", "Lambert 2024")),
)  # fmt: skip

EPOCHS: tuple[Rule[Stage, float], ...] = (
    Rule("judged", lambda s: s.objective in (*_JUDGED, *_REWARDED), 1.0,
         "preferences and rewards are overfitted soon", ("Rafailov 2023", "Lambert 2024")),
    Rule("classes", lambda s: s.objective == "classify", 3.0, "two to four are usual", ("Devlin 2018",)),
    Rule("few rows", lambda s: s.rows < 1_000 and not s.now.keep, 3.0, "few rows are seen more often", ("Zhou 2023",)),
    Rule("few rows, keeping skills", lambda s: s.rows < 1_000, 2.0,
         "few rows are seen more often, but a long training forgets more", ("Biderman 2024",)),
    Rule("some rows", lambda s: s.rows < 10_000 and not s.now.keep, 2.0, "two are usual", ("Lambert 2024",)),
    Rule("many rows, or skills to keep", lambda s: True, 1.0,
         "a long training forgets more, and many rows need no second look", ("Biderman 2024", "Lambert 2024")),
)  # fmt: skip

RANK: tuple[Rule[Stage, int], ...] = (
    Rule("quality", lambda s: s.now.priority == "quality", 64,
         "a rank that many rows do not exhaust, with the rank-stabilised scale",
         ("Kalajdzievski 2023", "Schulman 2025")),
    Rule("reward", lambda s: s.objective in _REWARDED, 8, "a reward says little: a low rank is enough",
         ("Schulman 2025",)),
    Rule("few rows", lambda s: s.rows < 1_000, 8, "few rows do not fill a higher rank", ("Hu 2021", "Schulman 2025")),
    Rule("some rows", lambda s: s.rows < 10_000, 16, "on all linear layers, where rank 16 is a good start",
         ("Biderman 2024",)),
    Rule("many rows", lambda s: True, 32, "many rows can exhaust a lower rank", ("Schulman 2025",)),
)  # fmt: skip

BATCH: tuple[Rule[Stage, int], ...] = (
    Rule("rewarded", lambda s: s.objective in _REWARDED, 64, "eight attempts at each of eight prompts", ("no source",)),
    Rule("judged", lambda s: s.objective in _JUDGED, 32, "published recipes have 32 to 64",
         ("Rafailov 2023", "Tunstall 2023")),
    Rule("classes", lambda s: s.objective == "classify", 32, "16 or 32 are usual", ("Devlin 2018",)),
    Rule("imitation", lambda s: True, 16, "small batches suit LoRA", ("Dettmers 2023", "Schulman 2025")),
)  # fmt: skip

REPLAY: tuple[Rule[Stage, float], ...] = (
    Rule("nothing can be forgotten", lambda s: s.scope in ("features", "head"), 0.0,
         "the base stays as it is, so there is nothing to rehearse", ("Kumar 2022",)),
    Rule("no imitation", lambda s: s.objective != "sft", 0.0,
         "broader rows are mixed in where rows are imitated; elsewhere a reference model holds the old",
         ("Rafailov 2023",)),
    Rule("nothing to keep", lambda s: not s.now.keep, 0.0, "no old skill is at risk, as was said", ("no source",)),
    Rule("all weights", lambda s: s.scope == "full" or s.now.rows >= 20 * MANY, 0.2,
         "all weights forget most; up to a fifth of broader rows holds the old skills", ("Rolnick 2018", "Luo 2023")),
    Rule("adapter", lambda s: True, 0.1,
         "a small share of broader rows holds the old skills (1 to 5 % were enough); LoRA forgets less to begin with",
         ("Scialom 2022", "Ibrahim 2024", "Biderman 2024")),
)  # fmt: skip

TABLES: dict[str, Sequence[Rule[Stage, Any]]] = {
    "learning_rate": LEARNING_RATE, "epochs": EPOCHS, "rank": RANK, "batch": BATCH, "replay": REPLAY,
}  # fmt: skip

OTHERS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "lora": (
        ("dora: true (an option of lora)", "to close a last gap to full training, a little slower", "Liu 2024"),
        ("bottleneck", "adapters between the layers: more room to learn, cannot be merged", "no source"),
        ("ia3", "a hundredth of LoRA's parameters, for very few rows", "Liu 2022"),
    ),
    "dpo": (
        ("ipo", "where the pairs nearly always agree, which DPO overfits", "Azar 2023"),
        ("orpo", "in place of both stages, without a reference model", "Hong 2024"),
        ("kto", "where judgements are single and not in pairs", "Ethayarajh 2024"),
    ),
    "grpo": (("rloo", "a simpler baseline of the reward, from the other attempts", "no source"),),
    "features": (("head", "the same head trained with the model at hand, as one model to serve", "Kumar 2022"),),
    "full": (("lora", "about as good on up to some ten thousand rows, and forgets less", "Schulman 2025"),),
}
"""What else was possible, by scope or objective: (what, when, source)."""
