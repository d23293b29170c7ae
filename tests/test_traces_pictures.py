"""Pictures in traces: frozen by content, counted where they are left out, and replayed offline."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import goldens
from harness.config import load_gate
from harness.errors import DataError, LockError
from harness.gate import run_gates
from harness.goldens.pictures import MOST_IN_A_CALL, name_of
from harness.progress import Silent
from harness.records import Generate, Message, Picture, request_hash
from harness.served import Question
from harness.served._failures import Problem
from harness.served._payload import content
from harness.suites import SuiteContext
from harness.suites._questions import of_golden_set
from harness.suites.shadow import Options, build
from harness.traces.freezing import FreezeOptions, Freezing, freeze
from harness.traces.replaying import Arm, Replay, document
from harness.traces.store import Store
from tests.loopback_model import LoopbackModel, Said
from tests.loopback_pictures import GIF, JPEG, PNG, WEBP, Pictures, sent
from tests.shadow_set import gate
from tests.shadow_store import call, plain, said, store_of

pytestmark = pytest.mark.slow  # servers, cryptography or DuckDB in every test


@pytest.fixture
def server() -> Iterator[Pictures]:
    with Pictures({"/a.png": sent()}) as running:
        yield running


# ---------------------------------------------------------------- frozen


def data(picture: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def shown(text: str, *addresses: str, role: str = "user") -> dict[str, Any]:
    """A message as OpenTelemetry has it: the pictures stand before the text."""
    parts: list[dict[str, Any]] = [{"type": "uri", "modality": "image", "uri": a} for a in addresses]
    return {"role": role, "parts": [*parts, *([{"type": "text", "content": text}] if text else [])]}


def asked(number: int, *messages: dict[str, Any]) -> Any:
    return call(number, messages, said("assistant", "A cat."), session=f"p{number}")


def frozen(folder: Path, spans: list[Any], *hosts: str) -> tuple[Freezing, goldens.GoldenSet]:
    with Store.open(store_of(folder, spans)) as store:
        made = freeze(store, folder / "goldensets", FreezeOptions("production", images_from=hosts))
    return made, goldens.load(folder / "goldensets", "production@1")


def test_pictures_become_locked_files_of_the_set_named_by_their_content(tmp_path: Path, server: Pictures) -> None:
    spans = [*plain(2), asked(5, shown("What is this?", f"{server.url}/a.png")), asked(6, shown("", data(PNG))),
             asked(7, shown("And these?", data(JPEG, "image/jpeg"), data(GIF), data(WEBP)))]  # fmt: skip
    made, golden = frozen(tmp_path, spans, server.host)
    assert (made.samples, made.left_out) == (5, {})
    kept = {p.name: p.read_bytes() for p in (golden.folder / "pictures").iterdir()}
    assert sorted(kept.values()) == sorted([PNG, JPEG, GIF, WEBP])
    assert all(name.startswith(hashlib.sha256(content).hexdigest()) for name, content in kept.items())
    assert {f"pictures/{name}" for name in kept} <= set(golden.locked.files)
    provenance = json.loads((golden.folder / "provenance.json").read_text())
    assert (provenance["pictures"], provenance["drawn_by"]["images_from"]) == (4, [server.host])
    assert server.url not in (golden.folder / "samples.jsonl").read_text()
    (golden.folder / name_of(PNG)).write_bytes(JPEG)  # type: ignore[operator]
    with pytest.raises(LockError, match="pictures/"):
        goldens.load(tmp_path / "goldensets", "production@1")


def test_nothing_is_fetched_unless_a_host_is_named_whatever_a_text_says(tmp_path: Path, server: Pictures) -> None:
    spans = [
        *plain(1), asked(5, shown("What is this?", f"{server.url}/a.png")),
        asked(6, said("user", f"What is at {server.url}/a.png ? ![a]({server.url}/b.png)")),
    ]  # fmt: skip
    made, _ = frozen(tmp_path / "none", spans)
    assert (made.samples, made.left_out) == (2, {"a picture that was not fetched: its host is not allowed": 1})
    made, _ = frozen(tmp_path / "other", spans, "cdn.example.com")
    assert (made.samples, made.left_out) == (2, {"a picture that was not fetched: its host is not allowed": 1})
    assert server.asked == []
    made, _ = frozen(tmp_path / "named", spans, server.host)
    assert (made.samples, [path for path, _ in server.asked]) == (3, ["/a.png"])  # a link in a text is a text


LEFT_OUT: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a drawing that is a program": ([shown("?", data(b"<svg onload='x'/>", "image/svg+xml"))], "in a format"),
    "no picture": ([shown("?", data(b"hello"))], "in a format"),
    "a page": ([shown("?", "data:text/html,<b>")], "in a format"),
    "damaged": ([shown("?", "data:image/png;base64,iVBOR!!!")], "damaged"),
    "not a data URL": ([shown("?", "data:image/png;base64")], "in a format"),
    "of the assistant": ([shown("Here.", data(PNG), role="assistant"), said("user", "?")], "no user sent"),
    "too many": ([shown("?", *[data(PNG + bytes([i])) for i in range(MOST_IN_A_CALL + 1)])], "more than 16 pictures"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_no_picture_is_left_out_by_its_reason(tmp_path: Path, case: str) -> None:
    messages, reason = LEFT_OUT[case]
    made, _ = frozen(tmp_path, [*plain(1), asked(5, *messages)])
    (counted,) = made.left_out
    assert (made.samples, made.left_out[counted]) == (1, 1)
    assert reason in counted


def test_a_picture_that_could_not_be_fetched_is_counted_by_its_reason(tmp_path: Path, server: Pictures) -> None:
    server.replies["/gone.png"] = sent(b"", status=410)
    server.replies["/page.png"] = sent(b"<html></html>")  # a page that is called a picture
    names = ("gone", "page", "missing")
    spans = [*plain(1), *(asked(5 + i, shown(name, f"{server.url}/{name}.png")) for i, name in enumerate(names))]
    made, _ = frozen(tmp_path, spans, server.host)
    assert made.left_out == {
        "a picture that was not fetched: the answer was 410": 1,
        "a picture that was not fetched: the answer was 404": 1,
        "a picture in a format that is not taken, or none at all": 1,
    }


def test_one_question_on_two_pictures_is_two_questions(tmp_path: Path) -> None:
    words = "Please describe in detail everything that you can see on the photograph that I have taken of my garden"
    spans = [asked(i, shown(words, data(PNG + bytes([i % 3])))) for i in range(6)]
    made, _ = frozen(tmp_path, spans)
    assert (made.samples, made.left_out) == (3, {"nearly what another session asked": 3})


ROW = {"id": "a", "messages": [{"role": "user", "content": "Look: . And?"}]}


@pytest.mark.parametrize(
    ("pictures", "problem"),
    [
        ([], "1 to 16"), ("x", "1 to 16"), ([{"file": "pictures/a.png", "at": 0}], "SHA256.png"),
        ([{"file": "../../etc/passwd", "at": 0}], "SHA256.png"),
        ([{"file": f"pictures/{'0' * 64}.png", "at": 0}], "missing"),
        ([{"file": "OK", "at": 13}], "a place in the text"), ([{"file": "OK", "at": True}], "a place in the text"),
        ([{"file": "OK"}], "file and at"), ([{"file": "OK", "at": 6}, {"file": "OK", "at": 0}], "in the order"),
        ([{"file": "FALSE", "at": 0}], "another one than its name says"),
    ],
)  # fmt: skip
def test_a_row_that_names_no_picture_of_its_set_is_refused(tmp_path: Path, pictures: Any, problem: str) -> None:
    folder = _drafted(tmp_path, pictures)
    with pytest.raises(DataError, match=f"samples.jsonl:1: .*{problem}"):
        goldens.read_samples(folder / "samples.jsonl", goldens.load_card(folder))


def _drafted(root: Path, pictures: Any) -> Path:
    folder = root / "s" / "1"
    (folder / "pictures").mkdir(parents=True)
    held, false = name_of(PNG) or "", f"pictures/{'1' * 64}.png"
    (folder / held).write_bytes(PNG)
    (folder / false).write_bytes(PNG)
    text = json.dumps({**ROW, "messages": [{**ROW["messages"][0], "pictures": pictures}]})  # type: ignore[dict-item]
    (folder / "samples.jsonl").write_text(text.replace('"OK"', f'"{held}"').replace('"FALSE"', f'"{false}"') + "\n")
    (folder / "card.yaml").write_text(
        "{name: s, version: '1', description: d, licence: l, source: s, metrics: [exact_match]}"
    )
    return folder


# ---------------------------------------------------------------- asked again


def test_a_picture_goes_to_a_server_as_data_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(PNG)
    picture = Picture(hashlib.sha256(PNG).hexdigest(), "image/png", 6, str(tmp_path / "p"))
    question = Question((Message("user", "Look: . And?", pictures=(picture,)),))
    ((turn,),) = content(question).values()
    image = {"type": "image_url", "image_url": {"url": data(PNG)}}
    assert turn["content"] == [{"type": "text", "text": "Look: "}, image, {"type": "text", "text": ". And?"}]
    (tmp_path / "p").write_bytes(JPEG)
    with pytest.raises(Problem, match="not the one that was frozen"):
        content(question)


def test_a_request_is_known_by_what_its_pictures_are_and_not_by_where_they_lie() -> None:
    def keys(*pictures: Picture) -> tuple[str, str]:
        message = (Message("user", "?", pictures=pictures),)
        return request_hash(Generate(message)), Question(message).digest()

    first, elsewhere = (Picture("a" * 64, "image/png", 0, place) for place in ("x", "y"))
    assert keys(first) == keys(elsewhere)
    others = [keys(), keys(first), keys(Picture("b" * 64, "image/png")), keys(Picture("a" * 64, "image/png", 1))]
    assert len({key for pair in others for key in pair}) == 8


def test_a_replay_against_two_servers_needs_no_host_of_pictures_any_more(tmp_path: Path) -> None:
    with Pictures({"/a.png": sent()}) as server:
        spans = [*plain(30), *(asked(40 + i, shown(f"What is {i}?", f"{server.url}/a.png")) for i in range(30))]
        frozen(tmp_path, spans, server.host)
    seen: list[Any] = []

    def answer(messages: Any) -> Said:
        seen.append(messages[-1]["content"])
        return Said("A cat.")

    with LoopbackModel(answer) as model:
        served = {"kind": "served", "model": "openai/m", "api_base": model.base}
        path = gate(tmp_path, served, {**served, "revision": "2"}, metrics=["complied"])
        (result,) = run_gates([load_gate(path)], Silent())
    pictured = [said for said in seen if isinstance(said, list)]
    (compared,) = result.verdict.comparisons
    assert (compared.n_used, compared.n_failed, compared.lost) == (60, 0, 0)
    assert len(pictured) == 60
    assert all(parts[0]["image_url"]["url"] == data(PNG) for parts in pictured)


def test_a_local_model_refuses_pictures_and_a_local_replay_leaves_such_calls_out(tmp_path: Path) -> None:
    frozen(tmp_path, [*plain(3), asked(5, shown("?", data(PNG)))])
    context = SuiteContext(folder=tmp_path)
    everything, texts = (build(Options(set="production@1", pictures=p), context) for p in (True, False))
    assert (len(everything.samples()), len(texts.samples())) == (4, 3)
    assert everything.digest() != texts.digest()
    told = {check.name: check for check in texts.checks()}
    assert told["without-pictures"].passed
    assert "1 of 4 samples" in told["without-pictures"].detail
    root = tmp_path / "goldensets"
    local = Replay("production@1", root, Arm("base"), Arm("m", "http://127.0.0.1:1/v1"))
    both = Replay("production@1", root, Arm("a", "http://127.0.0.1:1/v1"), Arm("m", "http://127.0.0.1:1/v1"))
    assert document(tmp_path, local, pictures=True)["suites"][0]["pictures"] is False
    assert "pictures" not in document(tmp_path, both, pictures=True)["suites"][0]
    assert "pictures" not in document(tmp_path, local)["suites"][0]


def test_a_judge_is_not_asked_about_pictures_that_it_does_not_see(tmp_path: Path) -> None:
    frozen(tmp_path / "mixed", [*plain(3), asked(5, shown("?", data(PNG)))])
    questions = of_golden_set("production@1", None, SuiteContext(folder=tmp_path / "mixed"), chat=True)
    assert len(questions.samples) == 3
    assert any(c.name == "without-pictures" and "1 of 4" in c.detail for c in questions.checks())
    frozen(tmp_path / "alone", [asked(5, shown("?", data(PNG)))])
    with pytest.raises(DataError, match="which a judge does not see"):
        of_golden_set("production@1", None, SuiteContext(folder=tmp_path / "alone"), chat=True)
