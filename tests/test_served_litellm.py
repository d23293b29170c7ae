"""What goes through litellm: another provider's models, asked on a server of this machine, and what litellm knows."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.records import Message
from harness.served import FailureKind, Prices, Question, ServedOptions
from harness.served._litellm import LitellmWire, listed_prices, prices_beside_litellm
from harness.served.client import Budget, Client
from tests.loopback_model import LoopbackModel

pytestmark = pytest.mark.slow  # litellm takes seconds to load
ROOT = Path(__file__).parents[1]


@pytest.fixture
def server() -> Iterator[LoopbackModel]:
    with LoopbackModel() as made:
        yield made


def options(server: LoopbackModel, **more: Any) -> ServedOptions:
    given = {"model": "hosted_vllm/m", "api_base": server.base, "retries": 0, "timeout": 20, **more}
    return ServedOptions.model_validate(given)


def question(text: str = "?", **more: Any) -> Question:
    return Question((Message("user", text),), **more)


def test_answers_settings_and_tokens_pass_through(server: LoopbackModel) -> None:
    asked = [question("a b", seed=3, until=("\n",), max_tokens=7, temperature=0.5), question("raw", raw=True)]
    with Client(options(server)) as client:
        replies = dict(client.ask(asked))
    assert (replies[0].text, replies[0].prompt_tokens, replies[0].completion_tokens) == ("echo a b", 2, 3)
    assert replies[0].cost is None, "a cost without a price"
    body = next(a.body for a in server.asked if a.question == "a b")
    assert {k: body[k] for k in ("model", "seed", "stop", "max_tokens", "temperature", "top_p")} == {
        "model": "m", "seed": 3, "stop": ["\n"], "max_tokens": 7, "temperature": 0.5, "top_p": 1.0,
    }  # fmt: skip
    assert replies[1].text == "echo raw"
    assert [a.path for a in server.asked if a.question == "raw"] == ["/v1/completions"]


@pytest.mark.parametrize(
    ("fault", "kind", "attempts"),
    [
        ("400 seed", "rejected", 1), ("401", "authentication", 1), ("403", "authentication", 1), ("404", "rejected", 1),
        ("422", "rejected", 1), ("429", "rate-limited", 2), ("429-retry-after", "rate-limited", 2),
        ("500", "server", 2), ("503", "server", 2), ("408", "timeout", 2), ("409", "server", 2), ("hang", "timeout", 2),
        ("cut", "server", 2), ("garbage", "server", 2), ("invalid-json", "server", 2), ("html", "server", 2),
        ("empty-choices", "empty", 1), ("no-text", "empty", 1), ("filtered", "filtered", 1),
        ("wrong-shape", "server", 2),
    ],
)  # fmt: skip
def test_every_fault_is_of_its_kind_and_litellm_itself_tries_nothing_twice(
    server: LoopbackModel, monkeypatch: pytest.MonkeyPatch, fault: str, kind: FailureKind, attempts: int
) -> None:
    monkeypatch.setattr("harness.served._asking._FIRST_WAIT", 0.01)
    server.script = [fault] * 2
    with Client(options(server, retries=1, timeout=0.5)) as client:
        ((_, reply),) = client.ask([question()])
    assert reply.text is None
    assert reply.failure is not None
    assert (reply.failure.kind, len(server.asked), reply.attempts) == (kind, attempts, attempts)


def test_retry_after_is_found_behind_litellm(server: LoopbackModel) -> None:
    server.script, server.retry_after = ["429-retry-after"], "1"
    with Client(options(server, retries=1)) as client:
        ((_, reply),) = client.ask([question()])
    assert reply.text == "echo ?"
    assert reply.seconds >= 1


def test_with_faults_every_reply_is_right_or_a_failure(server: LoopbackModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.served._asking._FIRST_WAIT", 0.01)
    server.faults = {"429": 0.08, "500": 0.08, "cut": 0.07, "garbage": 0.07}
    with Client(options(server, concurrency=16)) as client:
        replies = dict(client.ask([question(str(n)) for n in range(100)]))
    assert not [r for n, r in replies.items() if r.text not in (None, f"echo {n}")]
    assert 10 < Counter(r.text for r in replies.values())[None] < 60
    assert max(server.requests.values()) == 1


def test_what_the_provider_does_not_have_is_not_sent_and_told() -> None:
    wire = LitellmWire("anthropic/claude-sonnet-4-5", None, "sk-x")
    assert "seed" in wire.unsupported(question(), schema=False)
    assert not {"max_tokens", "temperature"} & set(wire.unsupported(question(), schema=False))
    with LoopbackModel() as server, Client(options(server)) as client:
        ((_, reply),) = client.ask([question(schema={"type": "object"})])
        assert reply.text
        assert "response_format" not in server.asked[0].body
        assert any("response_format" in remark for remark in client.remarks())


def test_prices_are_those_of_the_table_and_unknown_ones_are_none(server: LoopbackModel) -> None:
    assert listed_prices("openai/gpt-4o-mini") == Prices(input=0.15, output=0.6)
    assert listed_prices("openai/no-such-model") is None
    assert listed_prices("hosted_vllm/m") is None
    server.model = "gpt-4o-mini"
    with Client(options(server, model="openai/gpt-4o-mini")) as client:
        ((_, reply),) = client.ask([question("one two three")])
    assert reply.cost == pytest.approx((3 * 0.15 + 4 * 0.6) / 1e6)


def test_prices_beside_litellm_are_those_of_its_table() -> None:
    for name in ("gpt-4o-mini", "gpt-4o", "o3-mini", "gpt-4.1", "no-such-model"):
        assert prices_beside_litellm(f"openai/{name}") == listed_prices(f"openai/{name}")


def test_a_server_of_ones_own_is_asked_and_priced_without_importing_litellm() -> None:
    program = (
        "import sys; from harness.records import Message; from harness.served import Question, ServedOptions; "
        "from harness.served.client import Client; from tests.loopback_model import LoopbackModel\n"
        "with LoopbackModel(lambda _: 'yes', model='gpt-4o-mini') as server:\n"
        "    with Client(ServedOptions(model='openai/gpt-4o-mini', api_base=server.base)) as client:\n"
        "        ((_, reply),) = client.ask([Question((Message('user', 'Well?'),))])\n"
        "print(reply.text, reply.cost > 0, 'litellm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["yes", "True", "False"]


def test_a_budget_in_dollars_needs_prices(server: LoopbackModel) -> None:
    with pytest.raises(ConfigError, match="`prices`"):
        Client(options(server, model="openai/m"), budget=Budget(dollars=1))
    Client(options(server, prices={"input": 1, "output": 1}), budget=Budget(dollars=1)).close()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("gpt-4o-mini", "OPENAI_API_KEY holds no key"),
        ("anthropic/claude-sonnet-4-5", "ANTHROPIC_API_KEY holds no key"),
        ("nonsense", "PROVIDER/NAME"),
    ],
)
def test_a_missing_key_and_an_unknown_provider_are_named(
    model: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=told):
        Client(ServedOptions(model=model))


def test_litellm_comes_and_goes_in_silence(server: LoopbackModel) -> None:
    program = (
        "import sys; from harness.records import Message; from harness.served import *\n"
        "from harness.served.client import Client\n"
        "client = Client(ServedOptions(model='hosted_vllm/m', api_base=sys.argv[1], retries=0))\n"
        "asked = [Question((Message('user', str(n)),)) for n in range(20)]\n"
        "assert sum(reply.text is not None for _, reply in client.ask(asked)) == 19\n"
    )
    server.script = ["500"]
    command = [sys.executable, "-c", program, server.base]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout + done.stderr == ""
