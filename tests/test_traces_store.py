"""A store has every span once, gives its calls back, forgets users, and survives being killed between any two steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, StorageError
from harness.traces import otlp
from harness.traces.records import Call, ChatMessage, LogEvent, Part, Span
from harness.traces.store import JournalFull, Store, StoreOptions, check_tenant
from harness.traces.store._catalogue import Catalogue
from harness.traces.store._compaction import Compactor
from harness.traces.store._sampling import choose
from harness.traces.store._segments import Segments
from harness.traces.store._signature import of_text, signature
from tests import shadow_store
from tests.trace_requests import chat, logs, traces

pytestmark = pytest.mark.slow  # servers, cryptography or DuckDB in every test

OPTIONS = StoreOptions(spare=0, roll_seconds=60)
DAY_NS = 86_400 * 10**9


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", options=OPTIONS) as opened:
        yield opened


def spans(*given: dict[str, Any]) -> tuple[Span, ...]:
    return otlp.decode_traces(traces(*given).SerializeToString()).items


def test_what_is_appended_comes_back_redacted_as_calls(store: Store) -> None:
    store.append("acme", spans(chat("mail jane@example.org", **{"user.id": "u1", "gen_ai.conversation.id": "s1"})))
    store.compact()
    (call,) = store.calls()
    assert call.messages[0].text.startswith("mail <EMAIL_")
    assert (call.tenant, call.session, call.replayable) == ("acme", "s1", True)
    assert call.user.startswith("<USER_")
    on_disk = b"".join(p.read_bytes() for p in store.root.rglob("*") if p.is_file() and p.suffix != ".parquet")
    assert b"jane@example.org" not in on_disk


def test_nothing_personal_reaches_the_journal(store: Store) -> None:
    store.append("acme", spans(chat("mail jane@example.org", **{"user.id": "user-4711"})))
    content = b"".join(path.read_bytes() for path in (store.root / "journal").iterdir())
    assert b"gen_ai.input.messages" in content
    assert b"jane@example.org" not in content
    assert b"user-4711" not in content


def test_a_span_sent_again_is_stored_once(store: Store) -> None:
    sent = spans(chat(), chat())
    store.append("acme", sent + sent)
    store.compact()
    store.append("acme", sent)
    store.append("other", sent)
    store.compact()
    stats = store.stats()
    assert (stats.spans, stats.calls, dict(stats.tenants)) == (4, 4, {"acme": 2, "other": 2})
    assert stats.counted == {"spans sent again": 4}


def test_a_log_event_sent_again_is_stored_once_and_one_without_a_trace_is_counted(store: Store) -> None:
    request = logs("body", trace=b"t" * 16, span=b"s" * 8, name="x")
    events = otlp.decode_logs(request.SerializeToString()).items
    stray = otlp.decode_logs(logs("no trace").SerializeToString()).items
    for _ in range(2):
        store.append("acme", logs=events + stray)
        store.compact()
    stats = store.stats()
    assert stats.logs == 1
    assert stats.counted == {"logs sent again": 1, "logs outside of any trace": 2}


def test_content_that_comes_late_in_a_log_event_makes_the_call_replayable(store: Store) -> None:
    bare = {k: v for k, v in chat().items() if "messages" not in k}
    trace, span = os.urandom(16), os.urandom(8)
    store.append("acme", spans({**bare, "_trace": trace, "_span": span}))
    store.compact()
    assert [c.replayable for c in store.calls()] == [False]
    assert store.stats().not_replayable == {"no-content": 1}
    assert store.stats().settings["no-content"]
    request = logs("", trace=trace, span=span, name="gen_ai.client.inference.operation.details")
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    for key in ("gen_ai.input.messages", "gen_ai.output.messages"):
        record.attributes.add(key=key).value.string_value = chat()[key]
    store.append("acme", logs=otlp.decode_logs(request.SerializeToString()).items)
    store.compact()
    assert [c.replayable for c in store.calls()] == [True]
    assert store.stats().calls == 1


def test_a_trace_in_two_parts_is_read_as_one(store: Store) -> None:
    trace, parent = os.urandom(16), os.urandom(8)
    (child,) = spans({**chat(), "_trace": trace})
    store.append("acme", [replace(child, parent_span_id=parent.hex())])
    store.compact()
    store.append("acme", spans({"_trace": trace, "_span": parent, "_name": "agent", "run_id": "run-7"}))
    store.compact()
    assert [(c.run_id, c.run_id_source) for c in store.calls()] == [("run-7", "ancestor")]


def test_rejected_and_clamped_records_are_counted_and_the_counts_are_kept(store: Store) -> None:
    assert store.append("acme", spans({"x": "[" * 100 + '"a@b.org"' + "]" * 100}, {"_start": 5, "_end": 6})) == {
        "redaction-too-deep": 1
    }
    store.compact()
    assert store.stats("acme").counted == {
        "traces rejected: redaction-too-deep": 1,
        "traces with an impossible time": 1,
    }
    assert store.stats("other").counted == {}


# ---------------------------------------------------------------- killed


STEPS: list[tuple[type, str]] = [
    (Segments, "write"), (Catalogue, "apply"), (Catalogue, "undone"), (Compactor, "_merge"),
]  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=lambda v: getattr(v, "__name__", v))
def test_a_compaction_that_dies_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, when: str
) -> None:
    class Killed(BaseException):
        pass

    def dying(*given: Any, **named: Any) -> None:
        if when == "after":
            real(*given, **named)
        raise Killed

    sent = spans(chat(), chat(), chat())
    with Store.open(tmp_path, options=OPTIONS) as store:
        store.append("acme", sent)
        real: Callable[..., Any] = getattr(owner, step)
        monkeypatch.setattr(owner, step, dying)
        with pytest.raises(Killed):
            store.compact()
        monkeypatch.undo()
    with Store.open(tmp_path, options=OPTIONS) as store:
        store.compact()
        assert store.stats().spans == store.stats().calls == 3
        assert {c.span_id for c in store.calls()} == {s.span_id for s in sent}
        assert store._segments.found() == store._catalogue.paths()
        assert list((tmp_path / "journal").iterdir()) == []


def test_many_small_segments_become_one(store: Store) -> None:
    for number in range(18):
        store.append("acme", spans(chat(f"question {number}")))
        store.compact()
    assert len(store._catalogue.segments("spans")) < 5
    assert sorted(c.messages[0].text for c in store.calls()) == sorted(f"question {n}" for n in range(18))


# ---------------------------------------------------------------- deleted


def test_a_forgotten_user_is_gone_from_queries_and_from_the_files(store: Store) -> None:
    trace = os.urandom(16)
    store.append("acme", spans(
        chat("one", **{"user.id": "user-77", "_trace": trace, "gen_ai.conversation.id": "s1"}),
        {"_name": "tool", "_trace": trace, "secret.detail": "belongs to the trace"},
        chat("two", **{"gen_ai.conversation.id": "s1"}), chat("three", **{"user.id": "user-78"}),
    ))  # fmt: skip
    store.append("other", spans(chat("same id", **{"user.id": "user-77"})))
    assert store.forget("user-77", tenant="acme") == 3
    assert sorted(c.messages[0].text for c in store.calls()) == ["same id", "three"]
    rows = [
        store._segments.read(p, ["message"])["message"].to_pylist() for p in store._segments.found() if "spans" in p
    ]
    assert b"belongs to the trace" not in b"".join(message for messages in rows for message in messages)
    assert store._catalogue.forgotten() == []
    store.append("acme", spans(chat("back again", **{"user.id": "user-77"})))
    store.compact()
    assert store.stats("acme").spans == 2
    assert store.forget("user-77") == 2


def test_a_user_is_hidden_at_once_while_another_process_still_holds_a_journal(store: Store, tmp_path: Path) -> None:
    store.append("acme", spans(chat("one", **{"user.id": "user-77"})))
    store.compact()
    with Store.open(tmp_path / "store", options=OPTIONS) as receiver:
        receiver.append("acme", spans(chat("two", **{"user.id": "user-77"})))
        assert store.forget("user-77") == 1
        assert list(store.calls()) == []
        assert len(store._catalogue.forgotten()) == 1
        receiver.compact()
        assert list(store.calls()) == []
        assert store._catalogue.forgotten() == []


def test_old_days_expire(store: Store) -> None:
    now = time.time_ns()
    store.append("acme", spans({**chat("old"), "_start": now - 3 * DAY_NS, "_end": now - 3 * DAY_NS}, chat("new")))
    store.compact()
    day = time.strftime("%Y-%m-%d", time.gmtime(now / 1e9 - 86_400))
    assert store.expire(day) == 2  # a span and its call
    assert [c.messages[0].text for c in store.calls()] == ["new"]
    assert len(store._segments.found()) == 2
    with pytest.raises(ConfigError, match="is no day"):
        store.expire("yesterday")


# ---------------------------------------------------------------- chosen


def test_calls_are_chosen_by_tenant_day_and_replayability_oldest_first(store: Store) -> None:
    now = time.time_ns()
    bare = {k: v for k, v in chat().items() if "messages" not in k}
    store.append("acme", spans(*({**chat(str(i)), "_start": now - i * 10**9, "_end": now} for i in range(4)), bare))
    store.append("other", spans(chat("x")))
    store.compact()
    assert [c.messages[0].text for c in store.calls("acme", replayable=True)] == ["3", "2", "1", "0"]
    assert len(list(store.calls("acme", limit=2))) == 2
    assert len(list(store.calls(replayable=False))) == 1
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert len(list(store.calls(days=("2020-01-01", "2020-01-02")))) == 0
    assert len(list(store.calls(days=("2020-01-01", today)))) == 6


def test_a_sample_takes_whole_sessions_in_an_order_that_only_the_salt_decides(store: Store) -> None:
    topics = ["weather in the north", "refund of a broken lamp", "opening hours on sunday", "change of my address"]
    for session in range(12):
        store.append("acme", spans(*(
            chat(f"{topics[turn]} {'abcdefghijkl'[session] * 7} please", **{"gen_ai.conversation.id": f"s{session}"})
            for turn in range(4)
        )))  # fmt: skip
    store.compact()
    first = store.calls_sample(20, salt="a", near=-1)
    assert len(first) == 20
    assert first == store.calls_sample(20, salt="a", near=-1)
    assert [c.session for c in first] != [c.session for c in store.calls_sample(20, salt="b", near=-1)]
    assert [len([c for c in first if c.session == s]) for s in dict.fromkeys(c.session for c in first)] == [4] * 5
    capped = store.calls_sample(20, salt="a", near=-1, most_per_session=1)
    assert len({c.session for c in capped}) == len(capped) == 12


def test_heavy_users_and_near_duplicates_are_capped() -> None:
    import pyarrow as pa

    far = 0x0F3C_A5A5_9669  # shifted copies differ in many bits
    table = pa.table({
        "tenant": ["a"] * 6, "span_id": [bytes([i]) * 8 for i in range(6)], "start_ns": list(range(6)),
        "session_key": pa.array([1, 1, 2, 3, 4, 5], pa.uint64()), "user_key": ["u", "u", "u", "", "", "v"],
        "signature": pa.array([far, far ^ 0b101, far << 7, far << 13, far << 13 ^ 0b111, far << 3], pa.uint64()),
    })  # fmt: skip
    assert sorted(choose(table, 10, "s", None, None, -1)) == list(range(6))
    assert len([r for r in choose(table, 10, "s", None, 2, -1) if r in (0, 1, 2)]) == 2
    near = choose(table, 10, "s", None, None, 3)
    assert len({3, 4} & set(near)) == 1
    assert len({0, 1} & set(near)) == 1


def test_signatures_are_near_for_near_texts_and_far_for_others() -> None:
    text = "Please tell me how I can return the lamp that I bought last week, because it arrived with a broken switch"
    assert of_text(text) == of_text(text.upper() + " 12!") == of_text(text + " <EMAIL_0a1b2c3d>")
    assert (of_text(text) ^ of_text(text + " today")).bit_count() <= 16
    assert (
        of_text(text) ^ of_text("What is the weather like in the north of Norway during the winter?")
    ).bit_count() > 16
    assert of_text("1234 !?") == 0
    long = text * 100
    assert of_text(long) == of_text(long[:2000] + " something else in the middle " + long[2000:])
    call = Call("r", "0" * 32, "0" * 16, messages=(ChatMessage("user", (Part(text=text),)), ChatMessage("assistant")))
    assert signature(call) == of_text(text)


# ---------------------------------------------------------------- opened


def test_segments_may_lie_on_any_file_system(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    with Store.open(tmp_path, segments=url, options=OPTIONS) as store:
        store.append("acme", spans(chat("in memory", **{"user.id": "user-77"}), chat("stays")))
        store.compact()
        assert not list(tmp_path.rglob("*.parquet"))
        assert sorted(c.messages[0].text for c in store.calls()) == ["in memory", "stays"]
        store.forget("user-77")
        assert [c.messages[0].text for c in store.calls()] == ["stays"]
    with pytest.raises(ConfigError, match="keeps its segments at memory://"):
        Store.open(tmp_path, segments="file:///elsewhere")
    assert Store.open(tmp_path).stats().calls == 1


def test_what_cannot_be_a_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no store of traces here"):
        Store.open(tmp_path / "none", create=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made here"):
        Store.open(tmp_path / "file")
    (tmp_path / "catalogue.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match="catalogue cannot be used"):
        Store.open(tmp_path)
    with pytest.raises(StorageError, match="cannot be kept there"):
        Store.open(tmp_path / "s", segments="file:///proc/nowhere")


def test_a_store_of_a_later_version_is_not_touched(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    catalogue = Catalogue(tmp_path / "catalogue.db")
    catalogue._db.execute("UPDATE facts SET value = '2' WHERE name = 'version'")
    catalogue.close()
    with pytest.raises(StorageError, match="a store of version 2; this program reads version 1"):
        Store.open(tmp_path)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", "x" * 65, "a..b", ".hidden", "tenant=x"])
def test_a_tenant_that_would_lead_out_of_the_store_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ConfigError, match="a name is 1 to 64"):
        check_tenant(name)
    with pytest.raises(ConfigError):
        store.append(name, spans(chat()))


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path, options=replace(OPTIONS, spare=2**60)) as store:
        with pytest.raises(JournalFull):
            store.append("acme", spans(chat()))
        store.compact()
        assert store.stats().spans == 0


def test_feedback_days_later_and_again_the_day_after_takes_no_call_away(tmp_path: Path) -> None:
    day = 86_400 * 10**9
    asked = shadow_store.call(
        1, [shadow_store.said("user", "Where is my parcel?")], shadow_store.said("assistant", "There.")
    )
    result = {"gen_ai.evaluation.name": "thumb", "gen_ai.evaluation.score.value": 1.0}
    with Store.open(tmp_path / "store") as store:
        store.append("acme", [asked])
        store.compact()
        for days in (1, 2, 6, 7):
            told = LogEvent(asked.trace_id, asked.span_id, "gen_ai.evaluation.result", asked.start_ns + days * day,
                            attributes={**result, "n": days})  # fmt: skip
            store.append("acme", [], [told])
            store.compact()
            (call,) = store.calls("acme")
            assert call.feedback


def test_a_result_that_names_an_answer_needs_no_trace(tmp_path: Path) -> None:
    result = {"gen_ai.evaluation.name": "thumb", "gen_ai.evaluation.score.value": 1.0}
    with Store.open(tmp_path / "store") as store:
        for more in ({}, {"gen_ai.response.id": "r"}):
            store.append(
                "acme", [], [LogEvent("", "", "gen_ai.evaluation.result", shadow_store.BEGIN, attributes=result | more)]
            )
        store.compact()
        assert (store.stats().logs, store.stats().counted) == (1, {"logs outside of any trace": 1})
        store.append(
            "acme", [], [LogEvent("", "", "gen_ai.evaluation.result", shadow_store.BEGIN, attributes=result | more)]
        )
        store.compact()
        assert store.stats().logs == 2  # nothing tells a repetition of such an event from another of the kind
