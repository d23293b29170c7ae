"""Adapter methods that PEFT 0.21 does not have, as PEFT tuners: saved, loaded and switched off like its own.

Whoever loads an adapter calls `register` first, so that a folder whose `adapter_config.json` names one of them opens
like any other. The modules here import torch and peft at their top, because they derive classes from them; only
`register` imports the modules.
"""

from __future__ import annotations

import importlib

TYPES = frozenset({"BITFIT", "BOTTLENECK"})
"""What `peft_type` says in the `adapter_config.json` of an adapter of ours."""


def register() -> None:
    """Make PEFT know our methods; a second call does nothing."""
    for name in sorted(TYPES):
        importlib.import_module(f"harness.tuners.{name.lower()}")
