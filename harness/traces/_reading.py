"""What a dialect reads off one span, while it is being read"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from harness.traces.records import ChatMessage, Feedback, Loss, LossCause, Parameters, Tool


@dataclass(slots=True)
class Reading:
    """The fields of a call that depend on the vocabulary; a field that stays as it is was not recorded.

    `whole_request`: the request was recorded as it was sent, so a parameter that is not there was not set.
    """

    operation: Literal["chat", "completion"] = "chat"
    provider: str = ""
    model_asked: str = ""
    model_answered: str = ""
    response_id: str = ""
    messages: list[ChatMessage] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    parameters: Parameters = field(default_factory=Parameters)
    outputs: list[ChatMessage] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    first_token: float | None = None
    cost: float | None = None
    feedback: list[Feedback] = field(default_factory=list)
    whole_request: bool = False
    lost: list[Loss] = field(default_factory=list)

    def lose(self, name: str, cause: LossCause, detail: str = "") -> None:
        """Note that a field could not be restored; a field is noted once for each cause."""
        if not any(loss.field == name and loss.cause == cause for loss in self.lost):
            self.lost.append(Loss(name, cause, detail))
