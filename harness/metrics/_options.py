"""What the options of all metrics have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class MetricOptions(BaseModel):
    """Options of a metric; unknown keys are refused. Examples in the JSON schema are complete and valid."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(None, min_length=1, description="what reports and guards call it (default: its own name)")

    def named(self, default: str) -> str:
        """The user's name for the metric, or `default`."""
        return self.name or default
