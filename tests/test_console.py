"""The terminal: a live table for people, single lines for logs, and nothing that a model can draw."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from harness import console
from harness.errors import ConfigError
from harness.records import Comparison, Verdict
from tests.report_example import HOSTILE, document, hostile


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def state(
    label: str = "golden/a/exact_match", outcome: str = "undecided", used: int = 40, **given: object
) -> Comparison:
    suite, _, metric = label.rpartition("/")
    values = {
        "slice": None, "estimand": "frozen", "n": 100, "n_failed": 0, "baseline_mean": 0.6, "candidate_mean": 0.553,
        "difference": -0.047, "interval": (-0.068, -0.026), "margin": 0.02, "alpha": 0.05, "lost": 3, "won": 1,
    }  # fmt: skip
    return Comparison(suite=suite, metric=metric, outcome=outcome, n_used=used, **{**values, **given})


@pytest.fixture
def clock():
    return [0.0]


def lines(clock) -> tuple[console.Lines, io.StringIO]:
    stream = io.StringIO()
    return console.Lines(Console(file=stream, width=140, highlight=False), lambda: clock[0]), stream


def test_a_log_gets_stages_decisions_and_a_line_now_and_then(clock) -> None:
    observer, stream = lines(clock)
    observer.stage("evaluating")
    for second in range(12):
        clock[0] = float(second)
        observer.guards([state(used=second + 1), state("b/c", required=False)], 200.0)
    observer.guards([state(outcome="regressed", used=41)], None)
    observer.note("resumed")
    said = stream.getvalue().splitlines()
    assert said[0] == "== evaluating"
    assert said[1] == "1 of 100 pairs (1%) · required guards: 0 pass, 0 regressed, 1 undecided · at most 3 min left"
    assert len(said) == 1 + 3 + 1 + 1
    assert said[-2] == "golden/a/exact_match: regressed after 41 samples, −4.7 pts [−6.8, −2.6]"


def test_requests_are_told_rarely(clock) -> None:
    observer, stream = lines(clock)
    for done in range(1000):
        clock[0] = done / 100
        observer.asking("golden/a", "baseline", done, 1000)
    assert stream.getvalue().splitlines() == [
        "golden/a, baseline: 0 of 1,000 requests",
        "golden/a, baseline: 500 of 1,000 requests",
    ]


def test_without_a_terminal_there_are_no_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "")
    stream = io.StringIO()
    with console.watch(stream) as observer:
        assert isinstance(observer, console.Lines)
        observer.stage("loading \x1b[2J[red]x[/red]")
    assert stream.getvalue() == "== loading [red]x[/red]\n"


def test_a_terminal_gets_a_table_that_is_cleared_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with console.watch(stream) as observer:
        assert isinstance(observer, console.Board)
        observer.stage("evaluating")
        observer.asking("golden/a", "candidate", 3, 64)
        observer.guards([state(), state("b[red]", outcome="pass", difference=None, interval=None)], 42.0)
        observer.note("a note")
        observer.live.refresh()
    drawn = stream.getvalue()
    for text in ("evaluating", "candidate: 3 of 64", "at most 42 s left", "40 of 100", "−4.7 pts", "b[red]", "a note"):
        assert text in drawn


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with console.watch(Terminal()) as observer:
        assert isinstance(observer, console.Lines)


def test_a_small_screen_shows_what_is_still_open() -> None:
    stream = io.StringIO()
    small = Console(file=stream, width=120, height=10)
    states = [state(f"guard-{i}", outcome="pass") for i in range(20)] + [state("open")]
    small.print(console._board(states, small))
    assert "open" in stream.getvalue()
    assert "… and 17 more guards" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (-3.0, "at most 0 s left"), (61.0, "at most 1 min left"), (7300.0, "at most 2 h 1 min left")],
)
def test_time_left(seconds: float | None, text: str) -> None:
    assert console._left(seconds) == text


def test_the_verdict_has_reasons_a_table_and_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    stream = io.StringIO()
    console.print_verdict(document().verdict, report=Path("runs/x/report.html"), stream=stream)
    text = stream.getvalue()
    assert text.splitlines()[1] == "✗ BLOCK  The candidate must not be promoted."
    assert re.search(r"golden/json-tools/schema_valid +94\.8 +85\.4 +−9\.4 pts \[−13\.1, −5\.7\]", text)
    assert re.search(r"capability/wikitext/bits_per_byte .* ✓ pass \(advisory\)", text)
    assert "27 advisory slices" in text
    assert text.endswith("Report: runs/x/report.html\n")


def test_all_candidates_in_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")

    def printed(*verdicts: Verdict) -> list[str]:
        stream = io.StringIO()
        console.print_candidates([(f"c{i}", v, Path(f"runs/c{i}")) for i, v in enumerate(verdicts)], stream=stream)
        return [re.sub(" {2,}", "  ", line).strip() for line in stream.getvalue().splitlines()]

    few = Verdict("promote", (), (state("a/m", "pass"), state("b/m", "pass", difference=0.01)))
    worse = Verdict("block", (), (state("a/m", "pass"), state("b/m", "regressed"), state("c/m", required=False)))
    assert printed(few, worse) == [
        "Candidates",
        "candidate  verdict  a/m  b/m  run",
        "c0  ✓ PROMOTE  −4.7 pts ✓  +1.0 pts ✓  runs/c0",
        "c1  ✗ BLOCK  −4.7 pts ✓  −4.7 pts ✗  runs/c1",
    ]
    many = Verdict("hold", (), tuple(state(f"s{i}/m", "pass", difference=i / 100 - 0.05) for i in range(5)))
    none = Verdict("hold", ("refused",), tuple(state(f"s{i}/m", difference=None, interval=None) for i in range(5)))
    assert printed(many, none)[1:] == [
        "candidate  verdict  worst required guard  run",
        "c0  ‖ HOLD  s0/m −5.0 pts ✓  runs/c0",
        "c1  ‖ HOLD  s0/m – ?  runs/c1",
    ]
    shown = [state("far/m", difference=-0.3), state("near/m", "regressed", difference=-0.03), *many.comparisons]
    assert printed(Verdict("block", (), tuple(shown)))[-1] == "c0  ✗ BLOCK  near/m −3.0 pts ✗  runs/c0"
    stream = io.StringIO()
    console.print_candidates([("c", few, Path.cwd() / "runs" / "c")], stream=stream)
    assert stream.getvalue().rstrip().endswith(" runs/c")
    advisory = Verdict("hold", (), (state("a/m", required=False),))
    assert printed(advisory)[1:] == ["candidate  verdict  run", "c0  ‖ HOLD  runs/c0"]


def test_a_new_stage_forgets_where_guards_stood(clock) -> None:
    observer, stream = lines(clock)
    for candidate in ("a", "b"):
        observer.stage(f"{candidate}: evaluating")
        observer.guards([state("s/m", "pass")], None)
    assert sum("s/m: pass" in line for line in stream.getvalue().splitlines()) == 2
    board = console.Board(Console(file=io.StringIO()))
    board.guards([state("s/m", "pass")], 3.0)
    board.stage("b: loading")
    drawn = io.StringIO()
    Console(file=drawn).print(board._draw())
    assert "s/m" not in drawn.getvalue()
    assert "left" not in drawn.getvalue()


@pytest.mark.parametrize("decision", ["promote", "hold"])
def test_every_verdict_prints(decision: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.print_verdict(document(decision).verdict)  # type: ignore[arg-type]
    assert decision.upper() in capsys.readouterr().out


def test_hostile_text_draws_nothing() -> None:
    stream = io.StringIO()
    console.print_verdict(hostile().verdict, stream=stream)
    for text in HOSTILE:
        console.print_error(ConfigError(text), stream=stream)
        console.print_table(text, (text, "n"), [(text, 1)], stream=stream)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e]", stream.getvalue())
    assert "[bold red]x[/]" in stream.getvalue()


def test_an_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error(ConfigError("gate.yaml:3: unknown key 'margn': did you mean 'margin'? " + "x" * 200))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: gate.yaml:3: unknown key 'margn'")
    assert captured.err.count("\n") == 1


def test_a_table_aligns_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table("Plan", ("suite", "samples"), [("golden/a", 7), ("b", 1200)])
    assert capsys.readouterr().out.splitlines() == [
        "Plan             ",
        "suite     samples",
        "golden/a        7",
        "b            1200",
    ]


def test_a_stream_without_unicode_still_shows_the_verdict() -> None:
    code = (
        "from harness.console import print_verdict; from harness.records import Verdict;"
        "print_verdict(Verdict('block', ('lost −1',), ()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr
    assert b"? BLOCK" in done.stdout


@pytest.mark.slow
def test_rich_is_loaded_by_the_console_only() -> None:
    code = "import harness.report.markdown, harness.report.junit, sys, json; print(json.dumps('rich' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={"PYTHONPATH": "."}, check=True)
    assert json.loads(done.stdout) is False
