"""Evaluation-first harness with regression gating for fine-tuned language models."""

from __future__ import annotations

__version__ = "0.1.0"
