"""`harness shadow import`: files of other tools end in the store like what was received."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main


def harness(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["shadow", *arguments])
    return int(ended.value.code or 0)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert harness(*arguments, "--json") in (0, 2)
    return dict(json.loads(capsys.readouterr().out))


def log(number: int, **more: Any) -> dict[str, Any]:
    """A line of a plain log of requests."""
    request = {"model": "m", "messages": [{"role": "user", "content": f"Write to ann{number}@example.org"}]}
    message = {"role": "assistant", "content": f"Done, {number}."}
    response = {"id": f"r{number}", "model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}
    return {"request": request, "response": response, "session_id": f"s{number % 3}", **more}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_log_of_requests_is_imported_redacted_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "requests.jsonl", [log(i) for i in range(20)])
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "more.jsonl", [log(i) for i in range(20, 30)]).read_bytes()))
    store = str(tmp_path / "store")
    found = said(capsys, "import", str(file), str(packed), "--store", store, "--tenant", "shop")
    assert (found["spans"], found["damaged"]) == (30, [])
    stats = said(capsys, "stats", "--store", store)
    assert (stats["calls"], stats["replayable"], stats["sessions"]) == (30, 30, 3)
    kept = b"".join(path.read_bytes() for path in Path(store).rglob("*") if path.is_file())
    assert b"example.org" not in kept


def test_importing_twice_adds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "requests.jsonl", [log(i) for i in range(5)])
    for _ in range(2):
        said(capsys, "import", str(file), "--store", str(tmp_path / "store"))
    assert said(capsys, "stats", "--store", str(tmp_path / "store"))["calls"] == 5


def test_a_damaged_record_is_named_and_the_rest_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "requests.jsonl", [log(0), '{"request": \n', log(1)])
    assert harness("import", str(file), "--store", str(tmp_path / "store")) == 2
    shown = capsys.readouterr()
    assert "requests.jsonl:2" in shown.err
    assert said(capsys, "stats", "--store", str(tmp_path / "store"))["calls"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--source", "langfus"), "did you mean 'langfuse'"),
        (("--tenant", "../up"), "a name is 1 to 64"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    file = write(tmp_path / "requests.jsonl", [log(0)])
    assert harness("import", str(file), "--store", str(tmp_path / "store"), *arguments) == 2
    assert says in " ".join(capsys.readouterr().err.split())
