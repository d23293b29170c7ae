"""What an HTTP status, a body or a header means, and that nothing secret is told of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.records import Message
from harness.served import FailureKind, Question
from harness.served._failures import Mask, Problem, Used, of_status, retry_after
from harness.served._payload import Said, content, parameters, read

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "error", "kind", "passes"),
    [
        (400, {"message": "no such parameter: seed"}, "rejected", False),
        (401, {}, "authentication", False),
        (403, {}, "authentication", False),
        (404, {}, "rejected", False),
        (413, {}, "rejected", False),
        (422, {}, "rejected", False),
        (302, {}, "rejected", False),
        (408, {}, "timeout", True),
        (409, {}, "server", True),
        (429, {}, "rate-limited", True),
        (429, {"code": "insufficient_quota"}, "rate-limited", False),
        (500, {}, "server", True),
        (502, {}, "server", True),
        (503, {}, "server", True),
        (529, {}, "server", True),
        (400, {"code": "content_filter"}, "filtered", False),
        (400, {"type": "content_policy_violation"}, "filtered", False),
        (400, {"innererror": {"code": "ResponsibleAIPolicyViolation"}}, "filtered", False),
    ],
)
def test_a_status_is_of_one_kind_and_may_pass_or_not(
    status: int, error: dict[str, Any], kind: FailureKind, passes: bool
) -> None:
    problem = of_status(status, json.dumps({"error": error}), {})
    assert (problem.kind, problem.passes) == (kind, passes)
    assert str(status) in problem.detail


@pytest.mark.parametrize("body", ["", "<html>", "[1, 2]", '"text"', '{"error": null}', "[" * 100_000, "\x00\xff"])
def test_any_body_of_an_error_is_understood_somehow(body: str) -> None:
    assert of_status(500, body, {}).kind == "server"


def test_a_refused_parameter_is_named() -> None:
    assert "no such parameter: seed" in of_status(400, '{"error": {"message": "no such parameter: seed"}}', {}).detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After": "Thu, 01 Jan 2026 12:00:20 GMT"}, 20.0),
        ({"Retry-After": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


def completion(**changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
    return {"choices": [{**choice, **changes}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


def test_an_answer_is_read_with_its_tokens_and_how_it_ended() -> None:
    assert read(completion()) == Said("yes", False, Used(3, 1), finish="stop")
    assert read(completion(finish_reason="length")) == Said("yes", True, Used(3, 1), finish="length")
    assert read({**completion(), "usage": None}) == Said("yes", False, None, finish="stop")
    parts = {"content": [{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]}
    assert read(completion(message=parts)).text == "yes"
    assert read({"choices": [{"text": "raw", "finish_reason": "stop"}]}).text == "raw"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (None, "unreadable"),
        ([], "unreadable"),
        ("yes", "unreadable"),
        ({}, "unreadable"),
        ({"choices": "yes"}, "unreadable"),
        ({"choices": []}, "empty"),
        ({"choices": ["yes"]}, "unreadable"),
        (completion(message="yes"), "unreadable"),
        (completion(message=["yes"]), "unreadable"),
        (completion(message={"content": None}), "empty"),
        (completion(message={"content": " \n"}), "empty"),
        (completion(message={"content": ""}, finish_reason="length"), "empty"),
        (completion(message={"content": 5}), "unreadable"),
        (completion(message={"content": [{"type": "image"}]}), "unreadable"),
        (completion(message={"content": "\ud800"}), "unreadable"),
        (completion(message={"content": None, "refusal": "I cannot."}), "filtered"),
        (completion(finish_reason="content_filter"), "filtered"),
        (completion(finish_reason="tool_calls"), "unreadable"),
        (completion(finish_reason=7), "unreadable"),
        ({"error": {"message": "overloaded", "code": 503}}, "server"),
        ({"error": {"message": "slow down", "code": 429}}, "rate-limited"),
        ({"error": "broken"}, "server"),
    ],
)
def test_a_200_without_an_answer_is_a_failure_of_its_kind(payload: object, kind: FailureKind) -> None:
    with pytest.raises(Problem) as raised:
        read(payload)
    assert raised.value.kind == kind


@pytest.mark.parametrize("usage", [[], "many", {"prompt_tokens": "3"}, {"prompt_tokens": -1}, {"prompt_tokens": True}])
def test_strange_counts_of_tokens_are_no_counts(usage: object) -> None:
    assert read({**completion(), "usage": usage}).used is None


def test_every_setting_is_sent_so_that_none_is_the_servers_choice() -> None:
    question = Question((Message("user", "?"),), until=("\n",), schema={"type": "object"})
    sent = parameters(question, schema=True)
    assert {k: sent[k] for k in ("max_tokens", "temperature", "top_p", "seed", "stop")} == {
        "max_tokens": 512, "temperature": 0.0, "top_p": 1.0, "seed": 0, "stop": ["\n"],
    }  # fmt: skip
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "response_format" not in parameters(question, schema=False)
    assert content(question) == {"messages": [{"role": "user", "content": "?"}]}


def test_secrets_control_characters_and_length_are_kept_out_of_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "from-the-environment")
    mask = Mask("sk-mine")
    told = mask(
        "key sk-mine, from-the-environment, Authorization: Bearer abcdef12345 at http://me:pw@host/v1\x1b[31m\nred"
    )
    for secret in ("sk-mine", "from-the-environment", "abcdef12345", "me:pw", "\x1b", "\n"):
        assert secret not in told
    assert "host/v1" in told
    assert len(mask("x" * 10_000)) == 500


def test_two_questions_have_one_digest_exactly_when_they_ask_the_same() -> None:
    base = Question((Message("user", "?"),))
    others = [
        Question((Message("system", "?"),)), Question((Message("user", "!"),)),
        Question(base.messages, max_tokens=1), Question(base.messages, temperature=0.1),
        Question(base.messages, top_p=0.5), Question(base.messages, seed=1), Question(base.messages, until=("a",)),
        Question(base.messages, schema={}), Question(base.messages, raw=True),
    ]  # fmt: skip
    digests = {q.digest() for q in (base, *others)}
    assert len(digests) == 1 + len(others)
    assert Question((Message("user", "?"),)).digest() == base.digest()
