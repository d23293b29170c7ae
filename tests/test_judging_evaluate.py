"""`harness.judging.evaluate`: one import, one call, a typed result, and one clear error for each mistake."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, DataError, PluginError, UsageError
from harness.judging import Evaluation, evaluate
from harness.judging.criteria import by_criterion
from tests.loopback_model import Fault, LoopbackModel


@pytest.fixture
def server() -> Iterator[LoopbackModel]:
    with LoopbackModel(lambda messages: json.dumps({"reason": "said so", "score": 5})) as made:
        yield made


def ask(server: LoopbackModel, judge: str = "faithfulness", **given: Any) -> Evaluation:
    default = {"output": "Paris.", "context": "The capital is Paris."} if judge == "faithfulness" else {}
    free = {"input": 0, "output": 0}  # with prices given, litellm's table is not loaded
    options = {"retries": 0, "prices": free, **given.pop("options", {})}
    return evaluate(judge, model="openai/m", api_base=server.base, options=options, **{**default, **given})


@pytest.mark.slow
def test_one_call_gives_a_typed_result(server: LoopbackModel) -> None:
    said = evaluate(
        "faithfulness", output="Paris.", context="The capital is Paris.", model="openai/m", api_base=server.base
    )
    assert (said.state, said.value, said.reason, said.bounds) == ("scored", 5.0, "said so", (1.0, 5.0))
    assert said.cost is None, "no price is known"
    assert (said.usage.calls, len(server.asked)) == (1, 1)
    priced = ask(server, options={"prices": {"input": 1, "output": 1}})
    assert priced.cost
    assert priced.cost > 0


def test_a_failure_has_no_value_and_no_truth_value(server: LoopbackModel) -> None:
    server.answer = lambda messages: Fault("500")
    said = ask(server)
    assert (said.state, said.value, said.failure) == ("failed", None, "server")
    assert said.reason
    with pytest.raises(TypeError, match="look at its state"):
        bool(said)


def test_a_judge_that_cannot_tell_abstains(server: LoopbackModel) -> None:
    server.answer = lambda messages: json.dumps({"reason": "", "score": "cannot tell"})
    said = ask(server)
    assert (said.state, said.value, said.failure) == ("abstained", None, None)
    assert said.reason


def test_it_works_inside_a_running_event_loop(server: LoopbackModel) -> None:
    async def notebook() -> list[Evaluation]:
        one = ask(server)
        others = await asyncio.gather(*(asyncio.to_thread(ask, server) for _ in range(3)))
        return [one, *others]

    assert [said.value for said in asyncio.run(notebook())] == [5.0] * 4


def test_a_pair_is_asked_in_both_orders_and_1_means_that_the_output_is_better(server: LoopbackModel) -> None:
    def prefers_long(messages: Any) -> str:
        text = messages[-1]["content"]
        return json.dumps({"reason": "r", "better": "A" if text.index("long") < text.index("brief") else "B"})

    server.answer = prefers_long
    assert ask(server, "preference", output="long", against="brief", prompt="?").value == 1
    assert ask(server, "preference", output="brief", against="long", prompt="?").value == -1
    assert len(server.asked) == 4
    assert ask(server, "preference", output="brief", against="brief", prompt="?").value == 0
    assert len(server.asked) == 4


def test_what_was_answered_is_remembered_where_a_store_is_named(server: LoopbackModel, tmp_path: Path) -> None:
    first, second = (ask(server, store=tmp_path / "replies.sqlite") for _ in range(2))
    assert (first.usage.calls, second.usage.calls, second.usage.cached, second.cost) == (1, 0, 1, 0)
    assert len(server.asked) == 1


def test_fields_reach_the_judge(server: LoopbackModel) -> None:
    turns = [{"role": "user", "content": "FIRST"}, {"role": "user", "content": "SECOND"}]
    ask(server, "helpfulness", output="OUT", messages=turns, answers=["EARLIER"], reference="REF")
    shown = server.asked[0].body["messages"][-1]["content"]
    places = [shown.index(word) for word in ("FIRST", "EARLIER", "SECOND", "REF", "OUT")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("judge", "given", "error", "message"),
    [
        ("faithfullness", {"output": "x"}, ConfigError, r"no judge 'faithfullness': did you mean 'faithfulness'\?"),
        ("faithfulness", {"context": None}, DataError, "'faithfulness' shows 'context'"),
        ("faithfulness", {"contxt": "x"}, UsageError, r"no field 'contxt': did you mean 'context'\?"),
        ("faithfulness", {"against": "x"}, UsageError, "leave against out"),
        ("preference", {"output": "x", "prompt": "?"}, UsageError, "against="),
        ("faithfulness", {"options": {"api_key_env": "NO_SUCH_KEY"}}, ConfigError, "NO_SUCH_KEY"),
        ("faithfulness", {"options": {"tiemout": 3}}, ConfigError, r"unknown key 'tiemout': did you mean 'timeout'\?"),
        ("faithfulness", {"kind": "clasifier"}, PluginError, r"'clasifier': did you mean 'classifier'\?"),
        ("helpfulness", {"output": "x", "messages": [{"content": "?"}]}, UsageError, "role and content"),
    ],
)
def test_each_mistake_gets_one_clear_error(
    server: LoopbackModel, monkeypatch: pytest.MonkeyPatch, judge: str, given: Any, error: type[Exception], message: str
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(error, match=message):
        ask(server, judge, **given)
    assert not server.asked


@pytest.mark.slow
def test_a_provider_whose_key_is_not_set_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        evaluate("faithfulness", output="x", context="y", model="gpt-4o-mini")


def test_a_rubric_of_one_sentence_needs_a_sentence() -> None:
    assert by_criterion("It rhymes.").bounds == (0.0, 4.0)
    assert by_criterion("It rhymes.", pairwise=True).pairwise
    assert by_criterion("It rhymes.").hash != by_criterion("It is short.").hash
    with pytest.raises(ConfigError, match="what a good answer is"):
        by_criterion(" ")


@pytest.mark.slow
def test_importing_it_loads_no_heavy_library() -> None:
    code = (
        "import sys, harness.judging\n"
        "heavy = {'litellm', 'torch', 'transformers', 'openai', 'lm_eval', 'trl', 'fi'} & set(sys.modules)\n"
        "print(', '.join(sorted(heavy)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "")
