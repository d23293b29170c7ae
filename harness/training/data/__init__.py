"""From the sources that a recipe names to clean rows in one normal form, with a report of what was dropped and why."""

from __future__ import annotations
