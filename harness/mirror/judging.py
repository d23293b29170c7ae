"""A judge beside the deterministic checks: it reads a share of the compared calls, redacted, and scores both answers

It runs on threads of the comparing process. A call that it is not shown, because it was not drawn, its day's calls are
spent or too many wait for it, has no score under its metric, and is not missing there either. What it could not say
is a failure. A required guard that rests on it holds until it is calibrated, as in every other gate.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from harness import assets
from harness.judging.building import build_judge
from harness.judging.calibration import look_up_standing
from harness.judging.kinds import JudgeContext
from harness.judging.records import Case, Judge, Judgement, PairCase
from harness.mirror.brakes import DailyBudget
from harness.mirror.config import BudgetSection, Loaded, rubric_of
from harness.mirror.drawing import below
from harness.mirror.ledger import Ledger
from harness.records import Check, Sample, Score

_MOST_WAITING = 4  # times as many as are asked at a time


class LiveJudge:
    """See the module.

    Raises:
        ConfigError, DataError, PluginError: there is no such rubric or judge, or the rubric shows what no call has.
    """

    def __init__(self, loaded: Loaded, ledger: Ledger) -> None:
        section, self.rubric = loaded.config.judge, rubric_of(loaded)
        assert section is not None  # noqa: S101 - the caller has asked
        assert self.rubric is not None  # noqa: S101 - the same
        context = JudgeContext(loaded.path.parent, None, None)
        self._judge: Judge = build_judge(section.by, self.rubric, context, "judge: by")
        self._section, self._loaded = section, loaded
        self._threads = ThreadPoolExecutor(section.concurrency, thread_name_prefix="judge")
        self._waiting = 0
        self._budget = DailyBudget(
            BudgetSection(calls=section.calls),
            None,
            lambda day: ledger.spent(f"{day} judge"),
            lambda day, *spent: ledger.set_spent(f"{day} judge", *spent),
        )

    def standing(self) -> Check:
        """Whether the judge has earned what the guards want of it."""
        assert self.rubric is not None  # noqa: S101 - see the constructor
        wanted = self._section.standing
        folder = self._loaded.resolved(self._section.judges)
        rubrics = assets.find("judges", folder, start=self._loaded.path.parent)
        found = look_up_standing(self.rubric, self._judge, rubrics, kappa=wanted.kappa, labels=wanted.labels)
        required = any(g.metric == self.rubric.name and g.required for g in self._loaded.config.guards)
        if required and not wanted.uncalibrated:
            return found
        return Check(found.name, True, f"its guard is advisory, or need not be calibrated ({found.detail[:120]})")

    async def scores(self, cluster: str, asked: str, champion: str, candidate: str) -> dict[str, tuple[Score, Score]]:
        """Both scores of a call by the judge's metric, or nothing where it is not asked. The texts are redacted."""
        assert self.rubric is not None  # noqa: S101 - see the constructor
        if not below(self._section.share, "judge", self._loaded.config.salt, cluster):
            return {}
        if self._waiting >= _MOST_WAITING * self._section.concurrency or self._budget.reserve({}, 0) is None:
            return {}
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            both = await loop.run_in_executor(self._threads, self._asked, asked, champion, candidate)
        finally:
            self._waiting -= 1
        return {self.rubric.name: both}

    def keep(self) -> None:
        """Book what was spent."""
        self._budget.keep()

    def close(self) -> None:
        """Let go of the judge; what it is being asked is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._judge.close()

    def _asked(self, asked: str, champion: str, candidate: str) -> tuple[Score, Score]:
        sample = Sample("live", asked)
        ours, theirs = Case(sample, champion), Case(sample, candidate)
        if self._judge.pairwise:
            if champion == candidate:  # nobody has to be asked which of the two is better
                said = Judgement("scored", 0.0)
            else:
                said = self._judge.compare([PairCase(ours, theirs)])[0]
            return _won(said, -1), _won(said, 1)
        graded = self._judge.grade([ours] if champion == candidate else [ours, theirs])
        return _score(graded[0]), _score(graded[-1])


def _score(said: Judgement) -> Score:
    return Score.of(said.value) if said.value is not None else Score(said.state, None, said.reason[:200])


def _won(said: Judgement, sign: int) -> Score:
    """A side of a comparison: 1 where it is better, 0 where the other is, ½ for a tie."""
    return Score.of((1 + sign * said.value) / 2) if said.value is not None else _score(said)
