"""How a candidate is asked: what goes to it, and what a user cannot make litellm do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.mirror.calls import CHAT, COMPLETION, Answer, read_request
from harness.mirror.candidate import candidate, prices_of
from tests.loopback_model import LoopbackModel
from tests.mirroring import load, settings

pytestmark = pytest.mark.slow
DIRECT, ROUTED = "openai/m", "hosted_vllm/m"


def ask(folder: Path, model: str, server: LoopbackModel, path: str = CHAT, **body: Any) -> Answer:
    """One request to a candidate of this name at this server."""
    config = settings("http://127.0.0.1:1/v1", server.base)
    config["candidate"]["deployments"][0]["model"] = model
    asked = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "hi"}
    request = read_request(path, json.dumps({"model": "x", **asked, **body}).encode())

    async def exchange() -> Answer:
        made = candidate(load(folder, config))
        try:
            return await made.ask(request)
        finally:
            await made.close()

    return asyncio.run(exchange())


@pytest.mark.parametrize("model", [DIRECT, ROUTED])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_both_ways_give_the_same_answer_whole_and_as_a_stream(
    tmp_path: Path, model: str, stream: bool, path: str
) -> None:
    with LoopbackModel(lambda m: "yes it is") as server:
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        answer = ask(tmp_path, model, server, path, temperature=0.25, **more)
    assert (answer.text, answer.finish, answer.failure) == ("yes it is", "stop", "")
    assert (answer.input_tokens, answer.output_tokens) == (1, 3)
    assert answer.seconds > 0
    assert server.asked[0].body["temperature"] == 0.25
    assert server.asked[0].body["model"] == "m"


@pytest.mark.parametrize("model", [DIRECT, ROUTED])
@pytest.mark.parametrize(("fault", "rejected"), [("400", True), ("429", False), ("500", False), ("cut", False)])
def test_a_rejection_is_told_from_a_failure(tmp_path: Path, model: str, fault: str, rejected: bool) -> None:
    with LoopbackModel(faults={fault: 1.0}) as server:
        answer = ask(tmp_path, model, server)
    assert (bool(answer.rejected), bool(answer.failure)) == (rejected, not rejected)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "name", ["api_base", "api_key", "base_url", "mock_response", "fallbacks", "custom_llm_provider"]
)
def test_a_user_cannot_set_what_litellm_reads_as_its_own(tmp_path: Path, name: str) -> None:
    with LoopbackModel() as server, LoopbackModel() as theirs:
        answer = ask(tmp_path, ROUTED, server, **{name: theirs.base})
    assert name in answer.failure
    assert not server.asked
    assert not theirs.asked


def test_a_budget_in_dollars_without_a_known_price_is_refused(tmp_path: Path) -> None:
    config = settings("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1", budget={"dollars": 5})
    with pytest.raises(ConfigError, match=r"candidate\.prices"):
        prices_of(load(tmp_path, config))
    config["candidate"]["prices"] = {"input": 1, "output": 2}
    assert prices_of(load(tmp_path, config)) is not None


def test_a_redirect_of_the_candidate_is_not_followed(tmp_path: Path) -> None:
    with LoopbackModel(faults={"302": 1.0}) as server:
        assert ask(tmp_path, DIRECT, server).failure
    assert len(server.asked) == 1
