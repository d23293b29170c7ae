"""Tools, response formats and calls of tools on their way to a served model and back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from harness.records import Generate, Message, Output
from harness.served import Question, ServedOptions
from harness.served._failures import Problem
from harness.served._litellm import LitellmWire
from harness.served._payload import read
from harness.served.client import Client
from harness.subjects import SubjectContext, served
from tests.loopback_model import LoopbackModel, Said

TOOLS = '[{"function":{"name":"weather","parameters":{"type":"object"}},"type":"function"}]'
ASKED = (
    Message("user", "Weather in Rome?"),
    Message("assistant", "", '[{"arguments":{"city":"Rome"},"id":"c1","name":"weather"}]'),
    Message("tool", "sunny", tool_call_id="c1"),
)


def call(name: str = "weather", arguments: Any = '{"city": "Rome"}') -> dict[str, Any]:
    return {"id": "c7", "type": "function", "function": {"name": name, "arguments": arguments}}


def ask(server: LoopbackModel, request: Generate) -> Output:
    options = served.Options.model_validate(
        {"model": "openai/m", "api_base": server.base, "prices": {"input": 0, "output": 0}, "retries": 0}
    )
    made = served.build(options, SubjectContext(Path()))
    try:
        ((_, output),) = next(iter(made.answer([request])))
    finally:
        made.close()
    return output


def test_tools_formats_and_earlier_calls_reach_the_server_in_its_own_shape() -> None:
    with LoopbackModel() as server:
        ask(server, Generate(ASKED, tools=TOOLS, tool_choice='"auto"', response_format='{"type":"json_object"}'))
        body = server.asked[-1].body
    assert body["tools"] == json.loads(TOOLS)
    assert (body["tool_choice"], body["response_format"]) == ("auto", {"type": "json_object"})
    (made,) = body["messages"][1]["tool_calls"]
    assert (made["id"], made["type"], body["messages"][1]["content"]) == ("c1", "function", None)
    assert json.loads(made["function"]["arguments"]) == {"city": "Rome"}
    assert body["messages"][2] == {"role": "tool", "content": "sunny", "tool_call_id": "c1"}


def test_calls_of_tools_come_back_with_how_the_answer_ended_and_how_long_it_took() -> None:
    said = Said(None, "tool_calls", tool_calls=[call(), call("weather", "{not json")])
    with LoopbackModel(lambda _: said, latency=0.02) as server:
        output = ask(server, Generate(ASKED[:1], tools=TOOLS))
    assert json.loads(output.tool_calls) == [
        {"arguments": {"city": "Rome"}, "id": "c7", "name": "weather"},
        {"arguments": "{not json", "id": "c7", "name": "weather"},
    ]
    assert (output.text, output.finish, output.failure) == ("", "tool_calls", None)
    assert output.seconds >= 0.02


@pytest.mark.parametrize("made", [{"function": "weather"}, "weather", {"function": {"arguments": "{}"}}, [1] * 200])
def test_what_is_no_call_is_no_answer(made: Any) -> None:
    listed = made if isinstance(made, list) else [made]
    choice = {"message": {"content": "", "tool_calls": listed}, "finish_reason": "tool_calls"}
    with pytest.raises(Problem, match="cannot be read") as raised:
        read({"choices": [choice]}, tools=True)
    assert raised.value.kind == "unreadable"


def test_a_call_that_nobody_offered_a_tool_for_is_still_no_answer() -> None:
    choice = {"message": {"content": None, "tool_calls": [call()]}, "finish_reason": "tool_calls"}
    with pytest.raises(Problem) as raised:
        read({"choices": [choice]})
    assert raised.value.kind == "empty"


def test_arguments_that_are_nested_too_deeply_stay_text() -> None:
    deep = "[" * 100_000
    choice = {"message": {"content": None, "tool_calls": [call(arguments=deep)]}, "finish_reason": "tool_calls"}
    assert json.loads(read({"choices": [choice]}, tools=True).tool_calls)[0]["arguments"] == deep


def test_a_reply_with_calls_is_remembered_whole_and_old_keys_stay(tmp_path: Path) -> None:
    options = ServedOptions.model_validate({"model": "openai/m", "prices": {"input": 0, "output": 0}})
    with LoopbackModel(lambda _: Said("", "tool_calls", tool_calls=[call()])) as server:
        options = options.model_copy(update={"api_base": server.base})
        replies = []
        for _ in range(2):
            with Client(options, store=tmp_path / "replies.sqlite") as client:
                replies += [reply for _, reply in client.ask([Question(ASKED[:1], tools=TOOLS)])]
        assert len(server.asked) == 1
    assert replies[0].tool_calls == replies[1].tool_calls != ""
    assert (replies[0].latency, replies[1].attempts) == (replies[1].latency, 0)
    plain = Question((Message("user", "?"),))
    assert plain.digest().startswith("c4c3b1da90a6972d7f3f3144")  # as it was before there were tools
    assert plain.digest() != Question((Message("user", "?"),), tools=TOOLS).digest()


@pytest.mark.slow
def test_a_provider_without_tools_rejects_the_question_instead_of_being_asked_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nothing")
    wire = LitellmWire("openai/gpt-4o", None, None)
    wire._taken = ["max_tokens", "temperature", "top_p", "seed"]
    with pytest.raises(Problem, match="takes no tools") as raised:
        asyncio.run(wire.send(Question(ASKED[:1], tools=TOOLS), schema=False))
    assert raised.value.kind == "rejected"
