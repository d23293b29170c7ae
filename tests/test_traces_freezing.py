"""Freezing: what is drawn from a store, what is left out and why, and what a row says of how a call was asked."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import goldens
from harness.errors import ConfigError, DataError, LockError
from harness.goldens import call_key
from harness.traces.freezing import FreezeOptions, Freezing, Liking, freeze
from harness.traces.freezing._drawing import quotas
from harness.traces.freezing._near import Near
from harness.traces.records import Feedback, Span
from harness.traces.store import Store
from tests.loopback_model import LoopbackModel
from tests.shadow_store import WEATHER, call, called, feedback, plain, said, store_of, told

pytestmark = pytest.mark.slow  # servers, stores or frozen sets in every test


def frozen(folder: Path, spans: list[Span], **options: Any) -> tuple[Freezing, goldens.GoldenSet]:
    with Store.open(store_of(folder, spans)) as store:
        made = freeze(store, folder / "goldensets", FreezeOptions("production", **options))
    return made, goldens.load(folder / "goldensets", "production@1")


def test_a_frozen_sample_is_a_locked_golden_set_with_its_provenance(tmp_path: Path) -> None:
    made, golden = frozen(tmp_path, plain(40, per_session=4), samples=20)
    assert (made.samples, len(golden.samples), made.calls) == (20, 20, 40)
    assert made.samples + sum(made.left_out.values()) == made.calls
    assert {s.cluster for s in golden.samples} <= {f"s{i}" for i in range(10)}
    sizes = Counter(s.cluster for s in golden.samples)
    assert set(sizes.values()) == {4}  # whole sessions
    provenance = json.loads((golden.folder / "provenance.json").read_text(encoding="utf-8"))
    assert (provenance["drawn_from"]["calls"], provenance["left_out"]) == (40, {"not drawn": 20})
    (golden.folder / "provenance.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LockError, match="provenance"):
        goldens.load(tmp_path / "goldensets", "production@1")


def test_the_same_store_and_options_give_the_same_sample_and_another_seed_another(tmp_path: Path) -> None:
    path = store_of(tmp_path, plain(60))
    drawn = []
    for place, seed in enumerate((0, 0, 1)):
        with Store.open(path) as store:
            freeze(store, tmp_path / str(place), FreezeOptions("production", samples=15, seed=seed))
        drawn.append((tmp_path / str(place) / "production" / "1" / "samples.jsonl").read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_store_that_grew_by_other_sessions_keeps_most_of_the_order(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    _, before = frozen(small, plain(30), samples=10)
    _, after = frozen(large, plain(60), samples=20)
    first = {s.id for s in before.samples}
    # By a hash of the session alone: what was drawn from the half is drawn from the whole, but for its later places.
    assert len(first & {s.id for s in after.samples}) >= 7


def test_sessions_users_and_near_duplicates_are_capped_and_counted(tmp_path: Path) -> None:
    heavy = [replace(s, attributes={**s.attributes, "gen_ai.conversation.id": "heavy"}) for s in plain(15)]
    one_user = [replace(s, attributes={**s.attributes, "user.id": "one"}) for s in plain(9, begin=20)]
    question = "Please tell me in detail how I can return the red shoes that I bought in your shop last week"
    alike = [
        call(40 + i, [said("user", f"{question}{'!' * i}")], said("assistant", "So."), session=f"d{i}")
        for i in range(5)
    ]
    made, golden = frozen(tmp_path, heavy + one_user + alike, per_session=6, per_user=4)
    assert made.left_out == {
        "more calls of one session than are taken": 9,
        "more calls of one user than are taken": 5,
        "nearly what another session asked": 4,
    }
    assert Counter(s.cluster for s in golden.samples)["heavy"] == 6
    assert golden.card.largest_cluster == 6


def test_a_set_says_how_large_a_session_of_its_stream_can_be_even_where_none_of_them_is_in_it(tmp_path: Path) -> None:
    heavy = [replace(s, attributes={**s.attributes, "gen_ai.conversation.id": "heavy"}) for s in plain(15)]
    for cap, largest in ((6, 6), (None, 15), (20, 15)):
        (tmp_path / str(cap)).mkdir()
        _, golden = frozen(tmp_path / str(cap), heavy + plain(40, begin=20), samples=4, per_session=cap)
        assert golden.card.largest_cluster == largest


def test_questions_that_differ_by_their_numbers_are_no_duplicates(tmp_path: Path) -> None:
    sums = [
        call(i, [said("user", f"Add {i} and {i * i}:")], said("assistant", "?"), session=f"s{i}") for i in range(12)
    ]
    made, _ = frozen(tmp_path, sums)
    assert made.samples == 12


def test_an_agents_steps_are_kept_though_their_question_is_the_same(tmp_path: Path) -> None:
    made, _ = frozen(tmp_path, agent())
    assert (made.samples, made.sessions) == (3, 1)


def test_what_cannot_be_asked_again_is_left_out_by_its_reason_and_no_picture_is_fetched(tmp_path: Path) -> None:
    with LoopbackModel() as server:
        made, connections = left_out(tmp_path, f"{server.base}/models"), server.most_under_way
    assert made.samples == 3
    assert made.left_out == {
        "does not end in a question": 1, "a picture that was not fetched: its host is not allowed": 1,
        "a role that no chat template has": 1, "not replayable: no-content": 1,
    }  # fmt: skip
    assert connections == 0


def left_out(folder: Path, address: str) -> Freezing:
    picture = {"role": "user", "parts": [{"type": "uri", "modality": "image", "uri": address}]}
    spans = [
        *plain(3),
        call(10, [said("user", "Go on from here"), said("assistant", "I")], said("assistant", "am"), session="a"),
        call(11, [picture], said("assistant", "A cat."), session="b"),
        call(12, [said("narrator", "It was night.")], said("assistant", "Yes."), session="c"),
        call(13, [], said("assistant", "Yes."), session="d"),
    ]
    return frozen(folder, spans)[0]


def test_training_rows_are_left_out(tmp_path: Path) -> None:
    spans = plain(5)
    asked = json.loads(spans[2].attributes["gen_ai.input.messages"])[0]["parts"][0]["content"]
    rows = tmp_path / "train.jsonl"
    rows.write_text(json.dumps({"prompt": asked, "completion": "x"}) + "\n", encoding="utf-8")
    made, golden = frozen(tmp_path, spans, training=(rows,))
    assert made.left_out == {"in the training data": 1}
    assert asked not in [s.prompt for s in golden.samples]


def agent() -> list[Span]:
    asked = [said("system", "Be brief."), said("user", "Is it warmer in Rome or in Oslo?")]
    rome = [*asked, called("Rome"), told("31 °C")]
    both = [*rome, called("Oslo", 2), told("12 °C", 2)]
    more: dict[str, Any] = {"session": "agent", "tools": [WEATHER]}
    return [
        call(1, asked, called("Rome"), request__temperature=0.7, request__max_tokens=99,
             request__stop_sequences=["END"], request__seed=5, request__presence_penalty=0.5, request__stream=True,
             **more),
        call(2, rome, called("Oslo", 2), **more),
        call(3, both, said("assistant", "Rome."), events=[feedback(name="thumb", score__value=1.0)], **more),
    ]  # fmt: skip


def test_a_row_says_how_the_call_was_asked_and_what_came_of_it(tmp_path: Path) -> None:
    _, golden = frozen(tmp_path, agent())
    first, second, third = golden.samples
    data = first.data
    assert data["parameters"] == {"temperature": 0.7, "max_tokens": 99, "until": ["END"], "seed": 5}
    assert "presence_penalty" in data["not_restored"]
    assert "stream" not in data["not_restored"]  # how an answer arrives is no part of the question
    assert data["tools"][0]["function"]["parameters"]["required"] == ["city"]
    assert data["recorded"]["tool_calls"] == [{"name": "weather", "arguments": {"city": "Rome"}}]
    assert data["recorded"]["seconds"] == pytest.approx(0.25)
    assert data["trace"]["span_id"] == f"{2:016x}"
    assert json.loads(second.messages[2].tool_calls)[0]["arguments"] == {"city": "Rome"}
    assert second.messages[3].tool_call_id == "c1"
    assert (third.data["liked"], third.data["recorded"]["text"]) == (True, "Rome.")
    assert "liked" not in first.data


def test_results_of_tools_come_from_later_calls_of_the_session_under_canonical_arguments(tmp_path: Path) -> None:
    _, golden = frozen(tmp_path, agent())
    expected = {call_key("weather", {"city": "Rome"}): "31 °C", call_key("weather", {"city": "Oslo"}): "12 °C"}
    assert [s.data["results"] for s in golden.samples] == [expected] * 3


def test_another_sessions_results_are_not_told(tmp_path: Path) -> None:
    other = call(9, [said("user", "Rome?"), called("Paris"), told("20 °C")], said("assistant", "?"), session="other",
                 tools=[WEATHER])  # fmt: skip
    _, golden = frozen(tmp_path, [*agent(), other])
    told_to = {s.cluster: set(s.data["results"]) for s in golden.samples}
    assert told_to["other"] == {call_key("weather", {"city": "Paris"})}
    assert call_key("weather", {"city": "Paris"}) not in told_to["agent"]


def test_canonical_arguments_are_compared_as_json() -> None:
    assert call_key("f", {"a": 1, "b": [2.0]}) == call_key("f", {"b": [2], "a": 1.0})
    assert call_key("f", {"a": 1}) != call_key("f", {"a": True})
    assert call_key("f", {"a": 1}) != call_key("g", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        call_key("f", {"a": float("nan")})


def test_a_recorded_call_that_does_not_fit_its_tool_is_no_measure(tmp_path: Path) -> None:
    wrong = {"role": "assistant", "parts": [{"type": "tool_call", "name": "weather", "arguments": {"town": 3}}]}
    _, golden = frozen(tmp_path, [call(1, [said("user", "Weather?")], wrong, session="s", tools=[WEATHER])])
    assert "tool_calls" not in golden.samples[0].data["recorded"]


def test_a_call_that_failed_in_production_is_asked_again_and_has_no_recorded_answer(tmp_path: Path) -> None:
    failed = call(1, [said("user", "Hello there")], None, session="s")
    failed = replace(failed, status="error", attributes={**failed.attributes, "error.type": "429"})
    _, golden = frozen(tmp_path, [failed, *plain(2, begin=5)])
    data = next(s.data for s in golden.samples if s.cluster == "s")
    assert (data["recorded"]["error"], "text" in data["recorded"]) == ("429", False)
    assert {t for s in golden.samples for t in s.tags} == {"error: failed", "error: answered"}


def test_strata_get_their_share_and_the_rare_at_least_what_is_asked_for(tmp_path: Path) -> None:
    spans = [
        replace(s, attributes={**s.attributes, "gen_ai.request.model": "rare" if i % 10 == 0 else "usual"})
        for i, s in enumerate(plain(100))
    ]
    path = store_of(tmp_path, spans)
    found = []
    for least in (0, 8):
        with Store.open(path) as store:
            options = FreezeOptions("production", samples=20, by=("model",), at_least=least)
            found.append(freeze(store, tmp_path / str(least), options).strata)
    assert found == [
        {"model: rare": (10, 2), "model: usual": (90, 18)},
        {"model: rare": (10, 8), "model: usual": (90, 12)},
    ]


def test_calls_are_stratified_by_a_key_of_their_metadata(tmp_path: Path) -> None:
    spans = [
        replace(s, attributes={**s.attributes, "traceloop.association.properties.plan": "free" if i % 2 else "paid"})
        for i, s in enumerate(plain(8))
    ]
    made, _ = frozen(tmp_path, spans, by=("metadata.plan",))
    assert made.strata == {"metadata.plan: free": (4, 4), "metadata.plan: paid": (4, 4)}


def test_a_session_that_no_terminal_may_show_is_named_by_its_hash(tmp_path: Path) -> None:
    spans = [call(i, [said("user", f"Question {i}")], said("assistant", "x"), session=name)
             for i, name in enumerate(["fine", "\x1b[2Jgone", "s" * 500])]  # fmt: skip
    _, golden = frozen(tmp_path, spans)
    names = {s.cluster for s in golden.samples}
    assert "fine" in names
    assert all(name == "fine" or (len(name) == 32 and name.isalnum()) for name in names)
    assert len(names) == 3


@pytest.mark.parametrize("by", ["modle", "metadata.a'; DROP", 'metadata.x") FROM y--'])
def test_a_dimension_that_is_none_is_refused(tmp_path: Path, by: str) -> None:
    with pytest.raises(ConfigError, match="--by"):
        frozen(tmp_path, plain(2), by=(by,))


def test_two_tenants_are_never_mixed_even_with_one_user_and_one_session(tmp_path: Path) -> None:
    store_of(tmp_path, plain(4))
    path = store_of(tmp_path, [replace(s, trace_id=f"{9000 + i:032x}") for i, s in enumerate(plain(4))], "other")
    with Store.open(path) as store:
        with pytest.raises(ConfigError, match=r"several tenants \(acme, other\)"):
            freeze(store, tmp_path / "g", FreezeOptions("production"))
        with pytest.raises(ConfigError, match="nothing of tenant 'nobody'"):
            freeze(store, tmp_path / "g", FreezeOptions("production", tenant="nobody"))
        assert freeze(store, tmp_path / "g", FreezeOptions("production", tenant="other")).calls == 4


def test_what_is_frozen_is_not_frozen_again_and_an_empty_store_gives_no_set(tmp_path: Path) -> None:
    frozen(tmp_path, plain(2))
    with (
        Store.open(tmp_path / "store") as store,
        pytest.raises(ConfigError, match="exists already, and what is frozen cannot change"),
    ):
        freeze(store, tmp_path / "goldensets", FreezeOptions("production"))
    with (
        Store.open(tmp_path / "empty") as store,
        pytest.raises(DataError, match="no call of the store can be frozen"),
    ):
        freeze(store, tmp_path / "goldensets", FreezeOptions("nothing"))
    assert not (tmp_path / "goldensets" / "nothing" / "1").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", ""])
def test_a_name_cannot_lead_out_of_the_root(tmp_path: Path, name: str) -> None:
    with Store.open(store_of(tmp_path, plain(1))) as store, pytest.raises(ConfigError):
        freeze(store, tmp_path / "goldensets", FreezeOptions(name))


def test_greedy_asks_without_sampling(tmp_path: Path) -> None:
    _, golden = frozen(tmp_path, agent(), greedy=True)
    assert golden.samples[0].data["parameters"] == {"temperature": 0.0, "max_tokens": 99, "until": ["END"]}


def test_liking_is_what_people_clearly_said_of_the_answer() -> None:
    up, down = Feedback("thumb", 1.0, source="human"), Feedback("thumb", label="bad", source="human")
    assert Liking().of([up]) is True
    assert Liking().of([down]) is False
    assert Liking().of([up, down]) is None
    assert Liking().of([Feedback("stars", 4.0, source="human")]) is None
    assert Liking("stars", 4.0).of([Feedback("stars", 4.0, source="human"), down]) is True
    assert Liking("stars", 4.0).of([Feedback("stars", 3.0, source="human")]) is False
    assert Liking().of([replace(up, source="llm"), replace(up, source=""), replace(up, about="trace")]) is None
    assert Liking("thumb").of([replace(up, source="", about="trace")]) is True
    assert Liking("thumb").of([replace(up, source="code")]) is None


@given(st.dictionaries(st.integers(0, 9), st.integers(1, 500), min_size=1), st.integers(1, 300), st.integers(0, 20))
def test_quotas_never_exceed_what_there_is_and_add_up(shares: dict[int, int], n: int, least: int) -> None:
    made = quotas(Counter(shares), n, least)
    assert all(0 <= made[s] <= shares[s] for s in shares)
    assert sum(made.values()) <= max(n, least * len(shares))
    if least == 0:
        assert sum(made.values()) == min(n, sum(shares.values()))
        assert all(abs(made[s] - n * c / sum(shares.values())) < 1 for s, c in shares.items()) or sum(made.values()) < n


def test_near_is_decided_by_words_not_by_signatures_alone() -> None:
    near = Near()
    near.add(0b1011, "where is the parcel that I sent last week to my aunt", 1)
    assert near.seen(0b1010, "Where is the parcel that I sent last week to my aunt?", 2)
    assert not near.seen(0b1010, "something quite different with the same signature by chance", 2)
    assert not near.seen(0b1010, "where is the parcel that I sent last week to my aunt", 1)
    assert not Near(likeness=2).seen(0b1011, "x", 2)
