"""The client against a real server on this machine: what is asked, remembered and told, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, StorageError, SubjectError
from harness.records import Message
from harness.served import Prices, Question, Reply, ServedOptions, _endpoints, _loop
from harness.served.client import Budget, Client
from tests.loopback_model import LoopbackModel, wait_for

pytestmark = pytest.mark.slow  # servers, stores or frozen sets in every test

FREE = Prices(input=0, output=0)  # with prices given, litellm is not loaded


@pytest.fixture
def server() -> Iterator[LoopbackModel]:
    with LoopbackModel() as made:
        yield made


def options(server: LoopbackModel, **more: Any) -> ServedOptions:
    return ServedOptions.model_validate(
        {"model": "openai/m", "api_base": server.base, "prices": FREE, "retries": 0, "timeout": 20, **more}
    )


def questions(count: int, **more: Any) -> list[Question]:
    return [Question((Message("user", f"question {n}"),), **more) for n in range(count)]


def asked(client: Client, what: Sequence[Question]) -> list[Reply]:
    replies = dict(client.ask(what))
    assert sorted(replies) == list(range(len(what)))
    return [replies[index] for index in range(len(what))]


def test_every_question_is_answered_once_and_equal_ones_are_sent_once(server: LoopbackModel) -> None:
    what = [*questions(5), *questions(5), *questions(2)]
    with Client(options(server, prices=Prices(input=1, output=1))) as client:
        replies = asked(client, what)
    assert [r.text for r in replies] == [f"echo {q.messages[0].content}" for q in what]
    assert Counter(server.questions) == Counter(f"question {n}" for n in range(5))
    assert [r.attempts for r in replies] == [1] * 5 + [0] * 7
    assert all((r.cost == 0) == (r.attempts == 0) for r in replies), "a question was paid for twice"


def test_the_settings_of_a_question_are_sent(server: LoopbackModel) -> None:
    question = Question(
        (Message("system", "Be brief."), Message("user", "?")), 7, temperature=0.5, top_p=0.9, seed=3, until=("\n",)
    )
    raw = Question((Message("user", "2 + 2 ="),), raw=True)
    with Client(options(server)) as client:
        asked(client, [question, raw])
    chat, plain = sorted(server.asked, key=lambda a: a.path)
    assert chat.body == {
        "model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}],
        "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["\n"],
    }  # fmt: skip
    assert (plain.path, plain.body["prompt"]) == ("/v1/completions", "2 + 2 =")
    assert "authorization" not in chat.headers


class TestMemory:
    def test_what_was_answered_is_not_sent_again(self, server: LoopbackModel, tmp_path: Path) -> None:
        server.script = ["500", "truncated"]
        for _ in range(2):
            with Client(options(server, concurrency=1), store=tmp_path / "deep" / "s") as client:
                replies = asked(client, questions(4))
        assert [r.failure for r in replies] == [None] * 4, "the failure was remembered"
        assert [(r.attempts, r.cost) for r in replies[1:]] == [(0, 0.0)] * 3
        assert replies[1].truncated
        assert len(server.asked) == 5
        assert any("known from before" in remark for remark in client.remarks())

    def test_another_model_or_server_has_a_memory_of_its_own(self, server: LoopbackModel, tmp_path: Path) -> None:
        with LoopbackModel(lambda messages: "other") as other, Client(options(server), store=tmp_path / "s") as one:
            asked(one, questions(1))
            with Client(options(other), store=tmp_path / "s") as two:
                assert asked(two, questions(1))[0].text == "other"
                assert one.fingerprint != two.fingerprint

    def test_two_clients_on_one_file_see_each_others_replies(self, server: LoopbackModel, tmp_path: Path) -> None:
        with (
            Client(options(server), store=tmp_path / "s") as one,
            Client(options(server), store=tmp_path / "s") as two,
        ):
            asked(one, questions(3))
            asked(two, questions(3))
        assert len(server.asked) == 3

    def test_a_reply_is_on_disk_before_it_is_given_out(self, server: LoopbackModel, tmp_path: Path) -> None:
        with Client(options(server), store=tmp_path / "s") as client:
            for index, reply in client.ask(questions(8)):
                with Client(options(server), store=tmp_path / "s") as other:
                    assert asked(other, [questions(8)[index]])[0].text == reply.text
        assert set(server.answered.values()) == {1}

    def test_a_file_that_is_none_is_one_clear_error(self, server: LoopbackModel, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("not a database" * 100, encoding="utf-8")
        with pytest.raises(StorageError, match="memory of replies"):
            Client(options(server), store=tmp_path / "s")

    def test_a_store_that_fails_ends_the_asking(self, server: LoopbackModel, tmp_path: Path) -> None:
        with Client(options(server), store=tmp_path / "s") as client:
            iterator = client.ask(questions(300))
            next(iterator)
            assert client._store is not None
            client._store.close()
            with pytest.raises(StorageError):
                list(iterator)
        assert len(server.asked) < 300


@pytest.mark.slow
def test_a_killed_process_has_lost_no_answer_and_asks_for_none_again(tmp_path: Path) -> None:
    """kill -9 amid a run with sixteen under way: what its reader had been given is never sent again."""
    program = (
        "import sys; from pathlib import Path; from harness.records import Message; from harness.served import *\n"
        "from harness.served.client import Client\n"
        "free = Prices(input=0, output=0)\n"
        "options = ServedOptions(model='openai/m', api_base=sys.argv[1], concurrency=16, prices=free)\n"
        "asked = [Question((Message('user', f'question {n}'),)) for n in range(200)]\n"
        "for index, reply in Client(options, store=Path(sys.argv[2])).ask(asked):\n"
        "    print(index, flush=True)\n"
    )
    with LoopbackModel(latency=0.02) as server:
        command = [sys.executable, "-c", program, server.base, str(tmp_path / "s")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            given = {int(process.stdout.readline()) for _ in range(60)}
            os.kill(process.pid, signal.SIGKILL)
            given |= {int(line) for line in process.stdout}
        before = Counter(server.questions)
        server.asked.clear()
        with Client(options(server), store=tmp_path / "s") as client:
            replies = asked(client, questions(200))
    assert [r.text for r in replies] == [f"echo question {n}" for n in range(200)]
    again = Counter(server.questions)
    assert not {f"question {n}" for n in given} & set(again)
    assert set(again.values()) == {1}
    assert sum((before & again).values()) <= 16, "more was lost than was under way"


FAULTS = {"429": 0.06, "500": 0.06, "hang": 0.02, "cut": 0.06, "garbage": 0.05, "html": 0.05}


@pytest.mark.parametrize("retries", [0, 3])
def test_with_thirty_percent_faults_every_reply_is_right_or_a_failure(
    retries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.served._asking._FIRST_WAIT", 0.01)
    assert sum(FAULTS.values()) == pytest.approx(0.3)
    # Two seconds, because an answer that a busy machine delivers after the timeout is paid for twice indeed.
    with LoopbackModel(faults=FAULTS) as server:
        chosen = options(server, retries=retries, timeout=2, concurrency=32)
        with Client(chosen, store=tmp_path / "s") as client:
            replies = asked(client, questions(300))
        wrong = [r for n, r in enumerate(replies) if r.text not in (None, f"echo question {n}")]
        failed = Counter(r.failure.kind for r in replies if r.failure is not None)
        assert not wrong
        assert max(server.answered.values()) == 1, "an answer was paid for twice"
        if retries:
            assert failed.total() < 20
        else:
            assert set(failed) == {"rate-limited", "server", "timeout", "connection"}
            assert 60 < failed.total() < 120
        with Client(options(server, retries=9, timeout=2), store=tmp_path / "s") as client:
            assert [r.text for r in asked(client, questions(300))] == [f"echo question {n}" for n in range(300)]
        assert max(server.answered.values()) == 1, "an answer was paid for twice"


def test_a_budget_holds_against_a_real_server_with_32_under_way() -> None:
    with LoopbackModel(latency=0.01, faults={"500": 0.3}) as server:
        budget = Budget(calls=70)
        with Client(options(server, concurrency=32), budget=budget) as client:
            replies = asked(client, questions(200))
        assert sum(server.requests.values()) == 70 == budget.spent.calls
        assert sum(r.failure is not None and r.failure.kind == "budget" for r in replies) == 130


def test_no_more_are_under_way_than_allowed_by_several_clients_in_several_threads() -> None:
    with LoopbackModel(latency=0.005) as server:

        def ask(number: int) -> None:
            with Client(options(server, concurrency=6)) as client:
                asked(client, [Question((Message("user", f"{number} {q}"),)) for q in range(40)])

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(server.answered.values()) == {1}
        assert len(server.answered) == 160
        assert server.most_under_way <= 6
    assert not _endpoints._endpoints, "a closed client left its limits behind"


def test_an_abandoned_iterator_stops_asking_and_leaves_nothing_under_way() -> None:
    before = _loop.run(_tasks())  # libraries may keep tasks of their own on the loop that all clients share
    with LoopbackModel(latency=0.01) as server, Client(options(server, concurrency=4)) as client:
        iterator = client.ask(questions(200))
        next(iterator)
        iterator.close()  # type: ignore[attr-defined]
        assert _loop.run(_tasks()) <= before
        assert wait_for(lambda: server.under_way == 0)
        assert len(server.asked) <= 12
        assert all(r.text for r in asked(client, questions(200))), "the client is not usable any more"


async def _tasks() -> int:
    return len(asyncio.all_tasks())


def test_many_calls_leave_no_task_and_no_object_behind(server: LoopbackModel) -> None:
    before = _loop.run(_tasks())
    server.record = False
    with Client(options(server, concurrency=32)) as client:

        def after(round_: int, count: int) -> tuple[int, int]:
            for _, reply in client.ask([Question((Message("user", f"{round_} {n}"),)) for n in range(count)]):
                assert reply.text
            gc.collect()
            return _loop.run(_tasks()), len(gc.get_objects())

        after(0, 200)
        tasks, objects = after(1, 200)
        more_tasks, more_objects = after(2, 800)
    assert max(tasks, more_tasks) <= before
    assert more_objects - objects < 200


class TestSecrets:
    @pytest.fixture(autouse=True)
    def _key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")

    def test_the_key_is_sent_and_in_no_error_and_no_fingerprint(self, server: LoopbackModel) -> None:
        server.key = "another"  # its 401 repeats what it was sent
        with Client(options(server, api_key_env="JUDGE_KEY")) as client, Client(options(server)) as keyless:
            (reply,) = asked(client, questions(1))
            assert client.fingerprint == keyless.fingerprint
        assert server.asked[0].headers["authorization"] == "Bearer sk-very-secret"
        assert reply.failure is not None
        assert reply.failure.kind == "authentication"
        assert "secret" not in reply.failure.detail

    def test_a_login_in_the_address_is_sent_and_never_told(self, server: LoopbackModel) -> None:
        base = server.base.replace("http://", "http://me:hunter2@")
        with Client(options(server, api_base=base)) as client, Client(options(server)) as plain:
            assert asked(client, questions(1))[0].text
            assert client.fingerprint == plain.fingerprint
            assert client.address == server.base
        assert server.asked[0].headers["authorization"].startswith("Basic ")
        closed = base.replace(str(server.port), "9")
        with Client(options(server, api_base=closed)) as client:
            (reply,) = asked(client, questions(1))
        assert "hunter2" not in str(reply)

    def test_a_missing_key_names_its_variable(self, server: LoopbackModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("JUDGE_KEY")
        with pytest.raises(ConfigError, match="JUDGE_KEY holds no key"):
            Client(options(server, api_key_env="JUDGE_KEY"))
        monkeypatch.setenv("JUDGE_KEY", "clé-sécrète")
        with pytest.raises(ConfigError, match="not all of it is ASCII") as raised:
            Client(options(server, api_key_env="JUDGE_KEY"))
        assert "clé" not in str(raised.value)


@pytest.mark.parametrize("base", ["127.0.0.1:8000", "file:///etc/passwd", "http://", "http:///v1"])
def test_an_address_that_is_none_is_refused(server: LoopbackModel, base: str) -> None:
    with pytest.raises(ConfigError, match="api_base"):
        Client(options(server, api_base=base))


def test_a_redirect_is_not_followed_and_an_endless_answer_is_cut(
    server: LoopbackModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = ["307"]
    monkeypatch.setattr("harness.served._openai._LARGEST", 50_000)
    with Client(options(server, concurrency=1)) as client:
        (reply,) = asked(client, questions(1))
        assert reply.failure is not None
        assert reply.failure.kind == "rejected"
        server.answer = lambda messages: "x" * 100_000
        (reply,) = asked(client, questions(1))
        assert reply.failure is not None
        assert reply.failure.kind == "unreadable"


def test_it_says_what_the_server_lists_and_whether_it_is_there(server: LoopbackModel) -> None:
    with Client(options(server)) as client:
        assert client.listed()["m"]["owned_by"] == "loopback"
    down = ServedOptions(model="openai/m", api_base="http://127.0.0.1:9/v1", prices=FREE)
    with Client(down) as client, pytest.raises(SubjectError, match=r"127\.0\.0\.1:9"):
        client.listed()


@pytest.mark.slow
def test_a_process_that_closes_nothing_ends_in_silence(server: LoopbackModel) -> None:
    program = (
        "import sys; from harness.records import Message; from harness.served import *\n"
        "from harness.served.client import Client\n"
        "client = Client(ServedOptions(model='openai/m', api_base=sys.argv[1], prices=Prices(input=0, output=0)))\n"
        "iterator = client.ask([Question((Message('user', str(n)),)) for n in range(50)])\n"
        "next(iterator)\n"
        "assert 'litellm' not in sys.modules\n"
    )
    command = [sys.executable, "-W", "always", "-X", "dev", "-c", program, server.base]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
