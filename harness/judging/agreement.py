"""How far the judges of a jury agree, from its judgements alone"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.judging.records import Judgement
from harness.statistics.agreement import krippendorff_alpha


def agreement(judgements: Sequence[Judgement], *, pairwise: bool) -> float | None:
    """Krippendorff's α of a jury's jurors over its judgements: ordinal for a pair, interval for levels of a scale.

    A juror that gave no value has no rating. None where no two jurors rated the same case, or where nothing varied
    at all, so that chance agreement cannot be told. Where the last judge was asked only on disagreement its
    ratings are of the hard cases, and α of all jurors is lower than it would be on every case.
    """
    rows = [judgement.details["jurors"] for judgement in judgements if "jurors" in judgement.details]
    if not rows:
        return None
    ratings = np.full((max(map(len, rows)), len(rows)), np.nan)
    for case, jurors in enumerate(rows):
        for rater, juror in enumerate(jurors):
            if juror["value"] is not None:
                ratings[rater, case] = juror["value"]
    rated = ratings[:, np.isfinite(ratings).sum(axis=0) >= 2]
    if len(np.unique(rated[np.isfinite(rated)])) < 2:
        return None
    return float(krippendorff_alpha(rated, level="ordinal" if pairwise else "interval"))
