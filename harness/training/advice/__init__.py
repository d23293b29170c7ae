"""What `harness advise` knows: whether to fine-tune at all, and if so which scope, objective and settings."""

from __future__ import annotations
