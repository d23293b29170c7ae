"""The fast engine: common prefixes computed once, logits where they are read, drafts verified instead of generated.

Every answer equals the plain engine's (log-likelihoods within 1e-4 and the same greedy text in float32). A model that
cannot be run in parts exactly is found out by a probe and answered by the plain engine, which is said in the remarks.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.engine import Answers, CausalModel, plain
from harness.engine._budget import choose
from harness.engine._intake import Intake
from harness.engine._passes import Passes, Unsupported
from harness.engine._scoring import Scoring
from harness.engine._store import Store
from harness.engine._walk import Walk
from harness.engine._writing import Writing
from harness.records import Request


class Options(BaseModel):
    """What may be switched off, each to the same answers, and what memory may be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int | None = Field(None, ge=1, description="most rows of a pass (default: as the memory allows)")
    batch_tokens: int | None = Field(None, ge=1, description="most tokens of a pass, padding included")
    memory: float | None = Field(
        None, gt=0, description="GiB for keys and values (default: a quarter of what is free, on a CPU at most 4)"
    )
    share_prefixes: bool = Field(True, description="compute common prefixes once and keep them")
    trim_logits: bool = Field(True, description="compute logits only where they are read")
    draft: bool = Field(True, description="verify the other subject's answer instead of generating it again")
    truncate: Literal["refuse", "left"] = Field(
        "refuse", description="left drops the oldest tokens of a prompt that does not fit, as lm-eval does"
    )


def build(options: Options, model: CausalModel) -> RadixEngine:
    """The engine plugin contract."""
    return RadixEngine(options, model)


class RadixEngine:
    """See the module. Kept between calls: keys and values of prefixes, and how often drafts were right."""

    def __init__(self, options: Options, model: CausalModel) -> None:
        """Keep the model; it is tried out when it is first asked."""
        self._options = options
        self._model = model
        self._intake = Intake(model, cuts=options.truncate == "left")
        self._ready: tuple[Passes, Walk, Writing] | None = None
        self._because = ""

    @property
    def usage(self) -> Counter[str]:
        """Counters: passes; tokens forwarded, with padding and without; reused, drafted and accepted tokens …"""
        return Counter() if self._ready is None else self._ready[0].usage

    def remarks(self) -> Sequence[str]:
        """See `Engine.remarks`."""
        if self._because:
            return [f"answered by the plain engine, more slowly: {self._because}"]
        used, told = self.usage, []
        if used["reused"]:
            told.append(
                f"{used['reused'] / (used['reused'] + used['tokens']):.0%} of all tokens came from shared prefixes"
            )
        if used["drafted"]:
            told.append(f"{used['accepted'] / used['drafted']:.0%} of {used['drafted']} drafted tokens were right")
        if used["near_ties"]:
            told.append(
                f"{used['near_ties']} of {used['chosen']} greedy choices were near-ties that float noise can turn"
            )
        if used["halved"]:
            told.append(f"memory ran out {used['halved']} times; batches were made smaller")
        return told

    def answer(self, requests: Sequence[Request], drafts: Mapping[int, Sequence[int]]) -> Iterator[Answers]:
        """See `Engine.answer`; likelihoods first, then generations."""
        prepared = self._prepare()
        if prepared is None:
            yield from self._plain.answer(requests, {})
            return
        _, walk, writing = prepared
        work = self._intake.sort(requests, drafts if self._options.draft else {})
        if work.refused:
            yield work.refused
        yield from Scoring(walk, work.tallies).run(work.pieces)
        yield from writing.run(work.prompts)

    def _prepare(self) -> tuple[Passes, Walk, Writing] | None:
        if self._ready is None and not self._because:
            try:
                self._ready = self._make()
            except Unsupported as reason:
                self._because = str(reason)
        return self._ready

    @functools.cached_property
    def _plain(self) -> plain.PlainEngine:
        rows = self._options.batch_size or 16
        return plain.PlainEngine(plain.Options(batch_size=rows, truncate=self._options.truncate), self._model)

    def _make(self) -> tuple[Passes, Walk, Writing]:
        options = self._options
        passes = Passes(self._model, trim_logits=options.trim_logits)
        limits, kept = choose(self._model, passes.shape, options.memory, options.batch_tokens, options.batch_size)
        store = Store(kept, passes.root)
        walk = Walk(passes, store, limits, share=options.share_prefixes)
        return passes, walk, Writing(walk)
