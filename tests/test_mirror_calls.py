"""Requests and answers as a mirror reads them: what may be asked again, what was said, and that nothing crashes it."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.mirror.calls import CHAT, COMPLETION, Answer, read_answer, read_request, session_of
from harness.mirror.config import PolicySection
from harness.mirror.link import Link
from harness.mirror.proxy import Caller, Proxy
from harness.mirror.scoring import Scoring
from tests.fuzzing import examples
from tests.mirroring import load
from tests.mirroring import settings as mirror_settings

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from([
            "choices", "message", "delta", "tool_calls", "function", "content", "index", "finish_reason", "usage",
            "url", "messages", "tools", "type", "role", "metadata", "image_url", "error", "stream", "prompt",
        ]),
        inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


def test_an_encoded_slash_does_not_make_what_follows_the_host(tmp_path: Path) -> None:
    """Behind an address without a path, `%2F@HOST` would end the host's name as a login and begin another."""
    loaded = load(tmp_path, mirror_settings("http://127.0.0.1:9", "http://127.0.0.1:9/v1"))
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def ask() -> None:
        scope = {
            "type": "http", "method": "GET", "path": "/v1/@evil.example/x", "raw_path": b"/v1%2F@evil.example/x",
            "query_string": b"", "headers": [],
        }  # fmt: skip
        await Proxy(loaded, Link(loaded), lambda headers: Caller("default", headers))(scope, receive, send)

    asyncio.run(ask())
    assert said[0]["status"] == 404


def holding(part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


def asked(**more: Any) -> Any:
    return read_request(CHAT, json.dumps({**ASK, **more}).encode())


def whole(text: str, finish: str = "stop", **message: Any) -> Answer:
    choice = {"message": {"content": text, **message}, "finish_reason": finish}
    body = {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    return read_answer(200, {"content-type": "application/json"}, json.dumps(body).encode(), 10**6)


@pytest.mark.parametrize(
    ("more", "obstacle"),
    [
        ({}, ""),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, ""),
        ({"tools": [{"type": "web_search"}]}, "server-tools"),
        ({"tools": "all"}, "server-tools"),
        ({"web_search_options": {"a": 1}}, "server-tools"),
        ({"previous_response_id": "x"}, "server-state"),
        ({"store": True}, "server-state"),
        ({"store": False}, ""),
        ({"messages": []}, "unreadable"),
        ({"messages": ["hi"]}, "unreadable"),
        (holding({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}), "remote-content"),
        (holding({"type": "file", "file": {"file_id": "f"}}), "remote-content"),
        (holding({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}), ""),
    ],
)  # fmt: skip
def test_a_request_is_asked_again_only_where_that_asks_the_same_and_does_nothing(more: Any, obstacle: str) -> None:
    assert asked(**more).obstacle == obstacle


def test_what_belongs_to_the_end_users_account_is_not_copied() -> None:
    call = asked(user="u", metadata={"a": "b"}, store=False, safety_identifier="s", prompt_cache_key="k", seed=7)
    assert call.copied() == {"messages": ASK["messages"], "seed": 7}


def test_turns_of_one_conversation_are_one_session_with_or_without_an_id() -> None:
    first = asked()
    second = asked(messages=[*ASK["messages"], {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}])
    assert session_of(first, "") == session_of(second, "")
    assert session_of(first, "") != session_of(asked(messages=[{"role": "user", "content": "other"}]), "")
    assert session_of(first, "") != session_of(asked(user="someone else"), "")
    assert session_of(first, "s1") == "id:s1"
    assert session_of(asked(metadata={"session_id": "s2"}), "") == "id:s2"


def test_a_stream_says_the_same_as_the_whole_answer() -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"a":'}}
    more = {"index": 0, "function": {"arguments": " 1}"}}
    pieces: list[Any] = [
        {"id": "r", "model": "m1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Yes, "}}]},
        {"id": "r", "choices": [{"index": 0, "delta": {"content": "it is."}}, {"index": 1, "delta": {}}]},
        {"id": "r", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]},
        {"id": "r", "choices": [{"index": 0, "delta": {"tool_calls": [more]}}]},
        {"id": "r", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"id": "r", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ]  # fmt: skip
    events = b"".join(b"data: " + json.dumps(p).encode() + b"\r\n\r\n" for p in pieces) + b": ping\n\ndata: [DONE]\n\n"
    streamed = read_answer(200, {"content-type": "text/event-stream"}, events, 10**6)
    tools = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}]
    plain = whole("Yes, it is.", "tool_calls", tool_calls=tools)
    for name in ("text", "tool_calls", "finish", "input_tokens", "output_tokens", "failure"):
        assert getattr(streamed, name) == getattr(plain, name), name
    cut = read_answer(200, {"content-type": "text/event-stream"}, events[: len(events) // 2], 10**6)
    assert cut.failure
    first = events[: events.index(b"data: ", 6)]
    assert "ended before" in read_answer(200, {"content-type": "text/event-stream"}, first, 10**6).failure
    assert gzip.compress(events) != events
    packed = read_answer(
        200, {"content-type": "text/event-stream", "content-encoding": "gzip"}, gzip.compress(events), 10**6
    )
    assert packed == streamed


@pytest.mark.parametrize(
    ("status", "rejected"),
    [(400, True), (422, True), (404, True), (401, False), (429, False), (500, False), (503, False)],
)
def test_an_error_either_judged_the_request_or_says_nothing_of_it(status: int, rejected: bool) -> None:
    answer = read_answer(status, {}, b"no", 10**6)
    assert bool(answer.rejected) is rejected
    assert bool(answer.failure) is not rejected


def test_a_zip_bomb_is_a_failure_and_takes_no_memory() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    assert read_answer(200, {"content-encoding": "gzip"}, bomb, 10**6).failure


@settings(max_examples=examples(100), deadline=None)
@given(held=JSON, stream=st.booleans(), path=st.sampled_from([CHAT, COMPLETION]))
def test_nothing_that_is_json_crashes_reading_or_scoring(held: Any, stream: bool, path: str) -> None:
    raw = json.dumps(held).encode()
    body = b"data: " + raw + b"\n\n" if stream else raw
    answer = read_answer(200, {"content-type": "text/event-stream" if stream else "x"}, body, 10**6)
    request = read_request(path, raw)
    session_of(request, "")
    assert isinstance(answer.said, str)
    SCORING.pair(request, answer, whole("yes"))


@settings(max_examples=examples(60), deadline=None)
@given(body=st.binary(max_size=200), kind=st.sampled_from(["application/json", "text/event-stream"]),
       encoding=st.sampled_from(["", "gzip", "br", "zstd"]))  # fmt: skip
def test_no_bytes_crash_reading(body: bytes, kind: str, encoding: str) -> None:
    read_request(CHAT, body)
    assert read_answer(200, {"content-type": kind, "content-encoding": encoding}, body, 1000).failure


SCORING = Scoring(PolicySection())


def values(champion: Answer, candidate: Answer, **more: Any) -> dict[str, tuple[float | None, float | None]]:
    pair = SCORING.pair(asked(**more), champion, candidate)
    return {name: (a.value, b.value) for name, (a, b) in pair.items()}


def test_refusals_formats_lengths_and_tool_calls_are_scored() -> None:
    refusing = whole("I'm sorry, but I can't help with that.")
    assert values(whole("Yes."), refusing)["complied"] == (1.0, 0.0)
    assert values(whole("Yes."), whole("", refusal="No."))["complied"] == (1.0, 0.0)
    assert values(whole("Yes."), whole("Ye", "length"))["finished"] == (1.0, 0.0)
    assert values(whole("{}"), whole("{"), response_format={"type": "json_object"})["format"] == (1.0, 0.0)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": ["a"],
              "properties": {"a": {"type": "integer"}}}}}]  # fmt: skip
    good, bad, broken = (
        whole("", "tool_calls", tool_calls=[{"id": "1", "function": {"name": "f", "arguments": text}}])
        for text in ('{"a": 1}', '{"a": "x"}', '{"a": ')
    )
    assert values(good, bad, tools=tools)["valid_calls"] == (1.0, 0.0)
    assert values(good, broken, tools=tools)["valid_calls"] == (1.0, 0.0)
    assert values(whole("a"), whole("a"))["output_tokens"] == (2.0, 2.0)
    assert "format" not in values(whole("a"), whole("a"))


def test_a_failure_is_no_score_and_a_rejection_is_one_of_whether_it_answers() -> None:
    down, rejected = Answer(failure="HTTP 503"), Answer(rejected="HTTP 400: too long", status=400)
    assert set(values(whole("a"), down).values()) <= {(1.0, None), (None, None), (2.0, None)}
    assert values(whole("a"), rejected)["answered"] == (1.0, 0.0)
    assert values(whole("a"), rejected)["complied"] == (1.0, None)
    assert values(rejected, whole("a")) == {"answered": (0.0, 1.0)}
