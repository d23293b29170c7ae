"""Adapter methods that PEFT 0.21 does not have, as PEFT tuners: saved, loaded and switched off like its own.

Each module registers its method with PEFT when it is imported. Whoever loads an adapter imports this package's
`register` first, so that a folder whose `adapter_config.json` names one of them opens like any other.
"""

from __future__ import annotations
