"""Golden sets: samples that are frozen before anyone trains, and cannot change afterwards without being noticed.

    goldensets/LOCK.yaml                         SHA-256 of every file of every frozen version
    goldensets/<name>/<version>/card.yaml        what the set is and how it is asked and scored
    goldensets/<name>/<version>/samples.jsonl    one sample a line

A version is a draft until `freeze` writes its hashes into the lock; from then on every byte of it is refused when it
differs. To change a frozen set, make a new version. Nothing here loads a model or a metric's dependencies.
"""

from harness.goldens.card import Card, Generation, MetricUse, Parameters, load_card
from harness.goldens.lock import LOCK_NAME, Frozen, problems, verify
from harness.goldens.recorded import call_key
from harness.goldens.rows import read_samples
from harness.goldens.store import GoldenSet, freeze, load, new_version

__all__ = [
    "LOCK_NAME",
    "Card",
    "Frozen",
    "Generation",
    "GoldenSet",
    "MetricUse",
    "Parameters",
    "call_key",
    "freeze",
    "load",
    "load_card",
    "new_version",
    "problems",
    "read_samples",
    "verify",
]
