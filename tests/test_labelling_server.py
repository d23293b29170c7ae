"""The labelling page's server: nobody else gets in, nothing tells the sides apart, and every answer is on disk."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness import labelled, runs
from harness.errors import DataError, InfrastructureError
from harness.judging.labelling.planning import plan_labels
from harness.judging.labelling.server import MAX_BODY, LabelServer
from harness.judging.labelling.session import Session, check_shown
from harness.judging.labelling.texts import question_of, shown_of
from harness.judging.rubric import load_rubric
from harness.labelled import LabelPlan
from harness.records import Sample
from tests.labelled_run import GIVEAWAYS, GRADE, PAIR, make_run

pytestmark = pytest.mark.slow  # servers, cryptography or DuckDB in every test

RUBRICS = {name: load_rubric(name) for name in ("preference", "helpfulness")}


def session(run: Path, key: tuple[str, str] = PAIR, annotator: str = "", *, n: int = 20, **options: Any) -> Session:
    plan = plan_labels(run, *key, n)
    rubric = RUBRICS[key[1]]
    return Session(run, plan, shown_of(runs.read_entries(run), rubric, {}), question_of(rubric), annotator, **options)


@dataclass
class Visitor:
    """A browser as far as HTTP goes: it keeps its cookie and sends what a page of ours sends."""

    server: LabelServer
    cookie: str = ""
    token: str = ""
    told: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.server.url.split(":")[2].split("/")[0])

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str | None
    ) -> tuple[int, dict[str, str], str]:
        given = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie or None}
        if method == "POST":
            given |= {
                "Origin": f"http://127.0.0.1:{self.port}",
                "X-Page-Token": self.token,
                "Content-Type": "application/json",
            }
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {n: v for n, v in given.items() if v is not None})
            answer = connection.getresponse()
            return answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def enter(self) -> None:
        status, headers, _ = self.ask("GET", "/open/" + self.server.url.rpartition("/")[2])
        assert status == 303
        assert headers["location"] == "/"
        self.cookie = headers["set-cookie"].partition(";")[0]
        self.token = self.data()["token"]

    def data(self) -> dict[str, Any]:
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.ask("GET", "/")[2])
        assert found
        return dict(json.loads(found[1]))

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.ask("GET", "/api/state")[2])["state"])

    def answer(self, said: object, item: str | None = None) -> tuple[int, dict[str, Any]]:
        body = {"item": self.state()["item"]["id"] if item is None else item, "answer": said}
        status, _, text = self.ask("POST", "/api/answer", json.dumps(body).encode())
        return status, dict(json.loads(text))


@contextmanager
def serving(given: Session, *, enter: bool = True) -> Iterator[Visitor]:
    told: list[str] = []
    server = LabelServer(given, tell=told.append)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        visitor = Visitor(server, told=told)
        if enter:
            visitor.enter()
        yield visitor
    finally:
        server.stop()
        thread.join(10)
        server.close()


def stored(run: Path, key: tuple[str, str] = PAIR) -> list[dict[str, Any]]:
    path = labelled.labels_path(run, *key)
    return [row for _, row in labelled.read_rows(path)] if path.exists() else []


# ---------------------------------------------------------------- who may come in


def test_the_address_works_once(tmp_path: Path) -> None:
    with serving(session(make_run(tmp_path))) as visitor:
        path = "/open/" + visitor.server.url.rpartition("/")[2]
        stranger = Visitor(visitor.server)
        status, headers, text = stranger.ask("GET", path)
        assert status == 403
        assert "set-cookie" not in headers
        assert "used already" in text
        assert visitor.ask("GET", path)[0] == 303  # whoever is in may come in again
        assert stranger.ask("GET", "/open/" + "A" * 43)[0] == 403


def test_the_cookie_is_for_this_server_alone(tmp_path: Path) -> None:
    with serving(session(make_run(tmp_path)), enter=False) as visitor:
        _, headers, _ = visitor.ask("GET", "/open/" + visitor.server.url.rpartition("/")[2])
        cookie = headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert cookie.startswith(f"label-{visitor.port}=")
        assert visitor.server.url.rpartition("/")[2] not in cookie


@pytest.mark.parametrize("path", ["/", "/api/state", "/nowhere", "/open/", "/open/x"])
def test_without_the_cookie_nothing_is_served(tmp_path: Path, path: str) -> None:
    with serving(session(make_run(tmp_path))) as visitor:
        for cookie in (None, f"label-{visitor.port}=guess", "label-1=x; =;;", "x" * 4_000):
            status, _, text = visitor.ask("GET", path, Cookie=cookie)
            assert status == 403
            assert "answer" not in text


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}", "[::1]:{port}", ""],
)
def test_a_name_that_was_rebound_to_this_machine_is_not_served(tmp_path: Path, host: str) -> None:
    with serving(session(make_run(tmp_path))) as visitor:
        for method, path in (("GET", "/"), ("GET", "/api/state"), ("POST", "/api/undo")):
            status, _, text = visitor.ask(method, path, b"{}", Host=host.format(port=visitor.port))
            assert status == 421
            assert "answer 1" not in text
    with serving(session(make_run(tmp_path)), enter=False) as visitor:
        entrance = "/open/" + visitor.server.url.rpartition("/")[2]
        assert visitor.ask("GET", entrance, Host="evil.example")[0] == 421
        visitor.enter()  # and the attempt has not used the address up


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},  # another server on this machine is of the same site, and no friend
        {"Origin": "null"},
        {"Origin": None},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"X_Page_Token": None},
        {"X_Page_Token": "guess"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
    ],
)
def test_a_forged_request_changes_nothing(tmp_path: Path, headers: dict[str, str | None]) -> None:
    run = make_run(tmp_path)
    with serving(session(run)) as visitor:
        body = json.dumps({"item": visitor.state()["item"]["id"], "answer": "left"}).encode()
        status, _, _ = visitor.ask("POST", "/api/answer", body, **headers)
        assert status in (403, 415)
        assert stored(run) == []
        assert visitor.ask("POST", "/api/answer", body)[0] == 200


def test_a_page_elsewhere_cannot_read_the_state(tmp_path: Path) -> None:
    with serving(session(make_run(tmp_path))) as visitor:
        for site in ("cross-site", "same-site"):
            assert visitor.ask("GET", "/api/state", Sec_Fetch_Site=site)[0] == 403
        headers = visitor.ask("GET", "/api/state", Sec_Fetch_Site="same-origin")[1]
        assert not [name for name in headers if name.startswith("access-control")]
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"[]", {}, 400),
        (b"{", {}, 400),
        (b"[" * 2_000, {}, 400),
        (b"{}", {"Content_Length": "many"}, 411),
        (b"{}", {"Content_Length": "-1"}, 411),
        (b"{}", {"Content_Length": "9" * 30}, 413),
        (b"{}", {"Content_Length": "0" * 9 + "9" * 9}, 413),
        (b" " * (MAX_BODY + 1), {}, 413),
        (b"", {"Transfer_Encoding": "chunked"}, 411),
    ],
)
def test_a_body_is_small_and_json(tmp_path: Path, body: bytes, headers: dict[str, str], status: int) -> None:
    run = make_run(tmp_path)
    with serving(session(run)) as visitor:
        assert visitor.ask("POST", "/api/answer", body, **headers)[0] == status
        assert stored(run) == []


def test_other_methods_and_paths_are_refused_without_an_echo(tmp_path: Path) -> None:
    with serving(session(make_run(tmp_path))) as visitor:
        for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"):
            status, headers, text = visitor.ask(method, "/<script>")
            assert status == 501
            assert "<" not in text
            assert headers["content-security-policy"].startswith("default-src 'none'")
        assert visitor.ask("GET", "/../../etc/passwd")[0] == 404
        assert visitor.ask("POST", "/api/<b>", b"{}")[0] == 404


def test_it_listens_on_this_machine_alone(tmp_path: Path) -> None:
    server = LabelServer(session(make_run(tmp_path)))
    try:
        assert server._server.server_address[0] == "127.0.0.1"
        taken = int(server.url.split(":")[2].split("/")[0])
        with pytest.raises(InfrastructureError, match=f"port {taken} .* choose another with --port"):
            LabelServer(session(make_run(tmp_path)), port=taken)
    finally:
        server.close()


def test_every_answer_forbids_frames_caches_and_foreign_scripts(tmp_path: Path) -> None:
    with serving(session(make_run(tmp_path))) as visitor:
        for path in ("/", "/api/state", "/nowhere"):
            _, headers, _ = visitor.ask("GET", path)
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
        assert "connect-src 'self'" in visitor.ask("GET", "/")[1]["content-security-policy"]


def test_a_connection_that_says_nothing_does_not_stop_the_others(tmp_path: Path) -> None:
    with serving(session(make_run(tmp_path))) as visitor:
        silent = [socket.create_connection(("127.0.0.1", visitor.port)) for _ in range(20)]
        try:
            assert visitor.state()["item"] is not None
        finally:
            for connection in silent:
                connection.close()


# ---------------------------------------------------------------- blind


@pytest.mark.parametrize("key", [PAIR, GRADE], ids=["pairs", "grades"])
def test_nothing_that_is_sent_tells_the_sides_or_the_judge(tmp_path: Path, key: tuple[str, str]) -> None:
    run = make_run(tmp_path, key)
    with serving(session(run, key, n=30)) as visitor:
        plan = labelled.read_plan(labelled.plan_path(run, *key))
        digests = {side for pair in plan.frame for side in (pair.baseline, pair.candidate)}
        _, headers, page = visitor.ask("GET", "/")
        received: list[Any] = [headers, re.sub("<style>.*?</style>", "", page, flags=re.DOTALL)]
        while (state := visitor.state())["item"]:
            received += visitor.ask("GET", "/api/state")
            received.append(visitor.answer("tie" if key == PAIR else 3))
            received.append(state)
        everything = json.dumps(received, default=str)
    for word in (*GIVEAWAYS, *digests, str(run), run.name):
        assert word not in everything
    assert not re.search(r'"s\d+"', everything)  # nor which sample it is: the journal is on this machine, too


def test_neither_side_is_always_left_and_two_people_may_see_them_otherwise(tmp_path: Path) -> None:
    run = make_run(tmp_path, count=120)
    left = {}
    for name in ("ann", "bob", "ann again"):
        given = session(run, annotator=name.removesuffix(" again"), n=100)
        left[name] = ["old" in given._view(step)["outputs"][0][0] for step in given._steps.values()]
        assert 0.25 < sum(left[name]) / len(left[name]) < 0.75
    assert left["ann"] == left["ann again"] != left["bob"]


def test_ids_of_items_say_nothing_and_are_new_every_time(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    ids = [{step.id for step in session(run)._steps.values()} for _ in range(2)]
    assert not ids[0] & ids[1]


def test_left_means_what_stood_left(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with serving(session(run, n=60)) as visitor:
        expected = {}
        for said in ("left", "right") * 6:
            item = visitor.state()["item"]
            chosen = item["outputs"][0 if said == "left" else 1][0]
            expected["s" + chosen.split()[-1]] = "first" if chosen.startswith("old") else "second"
            assert visitor.answer(said)[0] == 200
    assert {row["sample_id"]: row["label"] for row in stored(run)} == expected
    assert set(expected.values()) == {"first", "second"}


# ---------------------------------------------------------------- answers


def test_items_come_in_the_order_of_the_draws_each_once(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with serving(session(run, n=60)) as visitor:
        total = visitor.state()["total"]
        for done in range(total):
            assert visitor.state()["done"] == done
            visitor.answer("tie")
        assert visitor.state() == {"done": total, "total": total, "undo": True, "item": None}
    plan = labelled.read_plan(labelled.plan_path(run, *PAIR))
    assert [row["sample_id"] for row in stored(run)] == [pair.sample_id for pair in plan.items]
    assert [row["draws"] for row in stored(run)] == [plan.positions(pair) for pair in plan.items]
    found = labelled.read_run_labels(run)[PAIR]
    assert found.complete
    assert {draw.difference for draw in found.draws} == {0.0}


def test_a_grade_is_given_to_one_output_after_the_other(tmp_path: Path) -> None:
    run = make_run(tmp_path, GRADE)
    with serving(session(run, GRADE)) as visitor:
        first = visitor.state()["item"]
        assert [len(first["outputs"]), len(first["outputs"][0])] == [1, 1]
        after = visitor.answer(2)[1]["state"]
        assert after["done"] == 0
        assert after["item"]["fields"] == first["fields"]
        assert after["item"]["outputs"] != first["outputs"]
        assert visitor.answer(5)[1]["state"]["done"] == 1
    by_output = {row["output_sha256"]: row["label"] for row in stored(run, GRADE)}
    draw = labelled.read_run_labels(run)[GRADE].draws[0]
    pair = next(p for p in labelled.read_plan(labelled.plan_path(run, *GRADE)).frame if p.sample_id == draw.sample_id)
    assert draw.difference == by_output[pair.candidate] - by_output[pair.baseline]
    assert abs(draw.difference) == 3


@pytest.mark.parametrize("key", [PAIR, GRADE], ids=["pairs", "grades"])
@pytest.mark.parametrize("said", ["first", "best", None, True, 0, 6, 2.5, [], {"a": 1}, "x" * 500])
def test_what_is_no_answer_is_refused(tmp_path: Path, key: tuple[str, str], said: object) -> None:
    run = make_run(tmp_path, key)
    with serving(session(run, key)) as visitor:
        status, answer = visitor.answer(said)
        assert status == 400
        assert answer["error"] == "no answer to this question"
        assert stored(run, key) == []


def test_an_item_that_is_not_shown_any_more_is_not_answered(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with serving(session(run)) as visitor:
        stale = visitor.state()["item"]["id"]
        visitor.answer("left")
        status, answer = visitor.answer("left", item=stale)
        assert status == 409
        assert answer["state"]["item"]["id"] != stale
        assert len(stored(run)) == 1


def test_undo_withdraws_and_shows_the_item_again(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with serving(session(run)) as visitor:
        assert visitor.state()["undo"] is False
        assert visitor.ask("POST", "/api/undo", b"{}")[0] == 200  # there is nothing to undo
        first = visitor.state()["item"]["id"]
        visitor.answer("left")
        visitor.answer("cannot tell")
        for _ in range(2):
            visitor.ask("POST", "/api/undo", b"{}")
        assert visitor.state()["item"]["id"] == first
        assert visitor.state()["undo"] is False
        visitor.answer("tie")
    assert [row["label"] for row in stored(run)][1:] == ["cannot tell", "withdrawn", "withdrawn", "tie"]
    assert [d.state for d in labelled.read_run_labels(run)[PAIR].draws].count("labelled") >= 1


def test_a_session_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with serving(session(run)) as visitor:
        visitor.answer("left")
        following = visitor.state()["item"]["outputs"]
    with serving(session(run)) as visitor:
        state = visitor.state()
        assert (state["done"], state["undo"]) == (1, True)
        assert state["item"]["outputs"] == following


def test_several_people_share_the_work_or_all_label_everything(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with serving(session(run, annotator="ann")) as ann, serving(session(run, annotator="bob")) as bob:
        ann.answer("left")
        assert bob.state()["done"] == 1
        bob.answer("tie")
        assert ann.state()["done"] == 2
        bob.ask("POST", "/api/undo", b"{}")
        assert ann.state()["done"] == 1
    assert Counter(row["annotator"] for row in stored(run)) == {"ann": 1, "bob": 2}
    assert session(run, annotator="carl", everyone=True).state()["done"] == 0


def test_a_full_disk_is_told_and_not_taken_for_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    with serving(session(run)) as visitor:
        monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        status, answer = visitor.answer("left")
        assert status == 500
        assert answer == {"error": "the command cannot go on; see the terminal"}
        assert "the label was not stored: [Errno 28] No space left" in visitor.told[0]
        monkeypatch.undo()
        assert stored(run) == []
        assert visitor.answer("left")[0] == 200


def test_finish_ends_the_command(tmp_path: Path) -> None:
    server = LabelServer(session(make_run(tmp_path)))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    visitor = Visitor(server)
    visitor.enter()
    assert visitor.ask("POST", "/api/finish", b"{}")[0] == 200
    thread.join(10)
    assert not thread.is_alive()
    server.close()


# ---------------------------------------------------------------- texts


def test_what_a_model_wrote_is_data_and_never_part_of_the_page(tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202etxt.exe\x1b[2J"
    run = make_run(tmp_path, count=1, outputs={0: (attack, "fine")})
    with serving(session(run, n=3)) as visitor:
        assert "alert(1)" not in visitor.ask("GET", "/")[2]
        _, headers, _ = visitor.ask("GET", "/api/state")
        assert headers["content-type"] == "application/json"
        (shown,) = [turn for side in visitor.state()["item"]["outputs"] for turn in side if "script" in turn]
        assert "<script>alert(1)</script>" in shown
        assert "\u202e" not in shown
        assert "\x1b" not in shown


def test_a_very_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, count=1, outputs={0: ("a" * 300_000, "fine")})
    with serving(session(run, n=3)) as visitor:
        longest = max((turn for side in visitor.state()["item"]["outputs"] for turn in side), key=len)
        assert len(longest) < 101_000
        assert longest.endswith("200,000 more characters")


def test_a_journal_that_lost_an_output_is_not_labelled(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan: LabelPlan = plan_labels(run, *PAIR, 20)
    shown = shown_of(runs.read_entries(run), load_rubric("preference"), {})
    check_shown(plan, shown)
    del shown[plan.items[3].sample_id]
    with pytest.raises(InfrastructureError, match=plan.items[3].sample_id):
        check_shown(plan, shown)


def test_people_see_what_the_judge_saw_or_are_not_asked(tmp_path: Path) -> None:
    entries = runs.read_entries(make_run(tmp_path, GRADE, count=1))
    faithfulness = load_rubric("faithfulness")
    assert "context" in faithfulness.needs
    with pytest.raises(DataError, match=r"sample 's0': the judge was shown context, which the run has not kept"):
        shown_of(entries, faithfulness, {})
    sample = Sample("s0", "Question 0?", data={"context": ["first passage", "second passage"]})
    shown = shown_of(entries, faithfulness, {"s0": sample})["s0"]
    assert ("context 1", "first passage") in shown.fields
    assert any(text == "Question 0?" for _, text in shown.fields)


def test_a_conversation_is_shown_with_all_of_its_questions(tmp_path: Path) -> None:
    (entry,) = runs.read_entries(make_run(tmp_path, GRADE, count=1))
    twice = replace(entry, baseline=entry.baseline * 2, candidate=entry.candidate * 2)
    with pytest.raises(DataError, match="the judge was shown the later turns"):
        shown_of([twice], RUBRICS["helpfulness"], {})
    told = replace(twice, details={"helpfulness": {"turns": ["Question 0?", "And then?"]}})
    from_golden_set = Sample("s0", "Question 0?", data={"turns": ["Question 0?", "And then?"]})
    for shown in (
        shown_of([told], RUBRICS["helpfulness"], {}),
        shown_of([twice], RUBRICS["helpfulness"], {"s0": from_golden_set}),
    ):
        assert shown["s0"].fields[:2] == (("turn 1", "Question 0?"), ("turn 2", "And then?"))
        assert all(len(turns) == 2 for turns in shown["s0"].outputs.values())
