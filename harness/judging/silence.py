"""What a judge did not say is not counted as said: a spent budget, a refused key, a server that is down end the run

A few failures among many judgements are failed scores, and take their pairs out. Where it is the judge and not a sample
that failed, nothing is counted, so that the same command asks again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.errors import BudgetError, JudgeError
from harness.judging.records import Judgement

_PASSING = frozenset({"rate-limited", "server", "timeout", "connection"})
_MOST_PASSING = 0.02  # share of the judgements that may be lost to a server that stumbles
_A_FEW = 4  # judgements of which not one could be had: then it is the judge, and not these samples


def refuse_silence(name: str, judgements: Sequence[Judgement]) -> None:
    """Refuse to count what a judge did not say as said: it was not asked, or not heard.

    Raises:
        BudgetError: its budget is spent.
        JudgeError: it turned the key away, said nothing at all, or its server stumbled over more than a few.
    """
    failed = [j for j in judgements if j.failure is not None]
    kinds = Counter(str(j.failure) for j in failed)
    if kinds["budget"]:
        raise BudgetError(f"judge {name}: {next(j.reason for j in failed if j.failure == 'budget')}")
    passing = [j for j in failed if j.failure in _PASSING]
    refused = [j for j in failed if j.failure == "authentication"]
    mute = failed if len(failed) == len(judgements) >= _A_FEW else []
    if refused or mute or len(passing) > max(1.0, _MOST_PASSING * len(judgements)):
        without = refused or mute or passing
        raise JudgeError(
            f"judge {name}: {len(without)} of {len(judgements)} judgements could not be had ({without[0].reason}). "
            "What it has said is remembered; mend that and repeat the command to go on."
        )
