"""The verbs of `harness shadow`: what they print, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.shadow import shadow
from harness.errors import ConfigError
from harness.traces import otlp
from harness.traces.receiver import read_tokens
from harness.traces.store import Store, StoreOptions
from tests.trace_requests import chat, traces


def run(*arguments: object) -> str:
    result = CliRunner().invoke(shadow, [str(a) for a in arguments], catch_exceptions=False, standalone_mode=False)
    assert result.return_value == 0
    return result.stdout


@pytest.fixture
def store(tmp_path: Path) -> Path:
    bare = {k: v for k, v in chat().items() if "messages" not in k}
    spans = otlp.decode_traces(
        traces(chat("x", **{"user.id": "user-7", "session.id": "s"}), bare, {"_span": b"no"}).SerializeToString()
    )
    with Store.open(tmp_path / "store", options=StoreOptions(spare=0)) as opened:
        opened.append("acme", spans.items)
    return tmp_path / "store"


def test_stats_say_what_there_is_and_what_would_mend_the_rest(store: Path) -> None:
    document = json.loads(run("stats", "--store", store, "--json"))
    assert document["spans"] == document["calls"] == 2
    assert document["replayable"] == 1
    assert document["not_replayable"] == {"no-content": 1}
    assert document["settings"]["no-content"]
    assert (document["sessions"], document["users"], document["tenants"]) == (1, 1, {"acme": 2})
    assert list(document["days"].values()) == [2]
    shown = run("stats", "--store", store, "--tenant", "acme")
    assert "not replayable: no-content" in shown
    assert document["settings"]["no-content"][0][:40] in shown


def test_forgetting_and_expiring_say_how_much_they_deleted(store: Path) -> None:
    assert json.loads(run("forget", "user-7", "--store", store, "--json")) == {"deleted": 1}
    assert run("forget", "user-7", "--store", store) == "0 spans and log events deleted\n"
    assert json.loads(run("expire", "--store", store, "--days", 1, "--json"))["deleted"] == 0
    assert json.loads(run("expire", "--store", store, "--before", "2999-01-01", "--json"))["deleted"] == 2
    assert json.loads(run("stats", "--store", store, "--json"))["spans"] == 0


def test_a_token_is_printed_once_and_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token = run("token", "acme", "--token-file", path).strip()
    assert read_tokens(path).tenant(token) == "acme"
    assert read_tokens(path).tenant(token[:-1]) is None
    assert token not in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stats", "--store", "nowhere"], "no store of traces here"),
        (["expire", "--store", "nowhere"], "either --before DAY or --days N"),
        (["serve", "--store", "nowhere", "--host", "0.0.0.0"], "needs tokens"),  # noqa: S104 - what is refused
        (["token", "../up", "--token-file", "nowhere"], "a name is 1 to 64"),
    ],
)
def test_wrong_requests_say_what_would_be_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        run(*arguments)
    assert list(tmp_path.iterdir()) == []
