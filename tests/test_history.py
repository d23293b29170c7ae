"""The history of many runs: decided anew, remembered by hash, and right about what was promoted and what turned."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from harness import runs
from harness.cli import main, reporting
from harness.errors import ConfigError, StorageError
from harness.history import flips, lineage, plots, reading, site, tables
from harness.history.lineage import Move
from harness.history.reading import Run, find_runs, read_runs
from harness.history.wearing import worn_sets
from harness.records import Comparison, Guard
from harness.report import html
from tests.history_example import GUARDS, make_run
from tests.promotion_example import gated

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def read(root: Path, out: Path) -> list[Run]:
    found, unread = read_runs(find_runs([root]), out)
    assert unread == []
    return found


def texts_of(file: Path) -> Any:
    """What a data file hands to its page: the JSON in the one string of its one call."""
    text = file.read_text("ascii")
    call = re.fullmatch(r'harness(Run|Texts)\((".*")\);\n', text, re.S)
    assert call, text[:80]
    *_, payload = json.loads(f"[{call.group(2)}]")
    return json.loads(payload)


# ---------------------------------------------------------------- reading


def test_runs_are_found_at_and_below_the_given_folders_the_newest_first(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "early", seed=1, day=1)
    make_run(tmp_path / "runs" / "deeper", "late", seed=2, day=9)
    (tmp_path / "runs" / "unfinished").mkdir()
    found = read(tmp_path / "runs", tmp_path / "site")
    assert [run.candidate.name for run in found] == ["late", "early"]
    assert found[0].when == "2026-01-10T00:00:00+00:00"


def test_a_folder_without_a_run_is_an_error_that_says_what_a_run_is(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no finished run here; a run has a verdict\.json"):
        find_runs([tmp_path])
    with pytest.raises(StorageError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])


def test_a_stored_verdict_is_not_believed(tmp_path: Path) -> None:
    path = make_run(tmp_path / "runs", "poor", gain=-0.1, n=200)
    stored = json.loads((path / runs.VERDICT).read_text("utf-8"))
    assert stored["verdict"] == "block"
    runs.write_json(path / runs.VERDICT, {**stored, "verdict": "promote"})
    assert read(tmp_path / "runs", tmp_path / "site")[0].verdict == "block"


def test_a_run_is_decided_once_and_again_when_a_file_of_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path / "runs", "one")
    first = read(tmp_path / "runs", tmp_path / "site")
    decided: list[Path] = []
    original = reading.decide_again
    monkeypatch.setattr(reading, "decide_again", lambda run: decided.append(run) or original(run))
    assert read(tmp_path / "runs", tmp_path / "site") == first
    (path / runs.VERDICT).touch()
    assert read(tmp_path / "runs", tmp_path / "site")[0].stamp == first[0].stamp
    assert decided == [], "the same content is the same run, whenever it was touched"
    runs.write_json(path / runs.VERDICT, {"checks": []})
    assert read(tmp_path / "runs", tmp_path / "site")[0].stamp != first[0].stamp
    assert decided == [path]


def test_a_cache_that_is_no_cache_is_made_anew(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "one")
    first = read(tmp_path / "runs", tmp_path / "site")
    (cache,) = (tmp_path / "site" / reading.CACHE).glob("*.json")
    for damage in ("", "[1]", '{"sizes": 3}'):
        cache.write_text(damage, "utf-8")
        assert read(tmp_path / "runs", tmp_path / "site") == first


def test_a_damaged_run_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "good", seed=1)
    bad = make_run(tmp_path / "runs", "bad", seed=2)
    (bad / runs.EVIDENCE).write_bytes(b"nothing of the kind")
    built = site.build([tmp_path / "runs"], tmp_path / "site")
    assert [run.candidate.name for run in built.runs] == ["good"]
    assert [unread.path for unread in built.unread] == [bad]
    page = built.index.read_text("utf-8")
    assert "1 run could not be read" in page
    assert str(bad) in page


def test_a_comparison_survives_its_way_through_json(tmp_path: Path) -> None:
    (run,) = read_one(tmp_path)
    again = read(tmp_path / "runs", tmp_path / "site")
    assert again[0].comparisons == run.comparisons
    assert all(isinstance(c, Comparison) and isinstance(c.bounds, tuple) for c in again[0].comparisons)


def read_one(tmp_path: Path) -> list[Run]:
    make_run(tmp_path / "runs", "one", gain=0.05)
    return read(tmp_path / "runs", tmp_path / "site")


def test_two_runs_of_one_name_have_two_keys(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", "same")
    for copy in (tmp_path / "b" / path.name, tmp_path / "b" / f"{path.name}-2"):
        shutil.copytree(path, copy)
    found, _ = read_runs(find_runs([tmp_path / "a", tmp_path / "b"]), tmp_path / "site")
    assert len({run.key for run in found}) == 3


# ---------------------------------------------------------------- what turned


def test_what_turned_agrees_with_a_count_by_hand(tmp_path: Path) -> None:
    old = make_run(tmp_path / "runs", "old", seed=1, day=1)
    new = make_run(tmp_path / "runs", "new", seed=2, day=2)
    after, before = read(tmp_path / "runs", tmp_path / "site")
    found, apart = flips.turned(before, after)
    assert apart == []

    def scores(path: Path, suite: str) -> np.ndarray[Any, Any]:
        of_suite = [e for e in runs.read_entries(path) if e.suite == suite]
        return np.array([e.scores["exact_match"][1].value for e in of_suite])

    for one, guard in zip(found, GUARDS, strict=True):
        assert one.guard == guard.label
        assert one.common == 120
        first, second = scores(old, guard.suite), scores(new, guard.suite)
        assert one.worse == int((second < first).sum()) > 0
        assert len(one.flips) - one.worse == int((second > first).sum())


def test_sets_of_other_content_are_not_compared(tmp_path: Path) -> None:
    (run,) = read_one(tmp_path)
    other = replace(run, suites={**run.suites, "golden/tools@1": "another"})
    found, apart = flips.turned(run, other)
    assert [one.guard for one in found] == ["golden/support@1/exact_match"]
    assert apart == ["golden/tools@1/exact_match: the suite is not the same in both runs"]


# ---------------------------------------------------------------- lineage


def test_without_a_ledger_runs_that_may_be_promoted_are_the_lineage(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "good", gain=0.1, churn=0.12, seed=1, day=1, guards=GUARDS[:1])
    make_run(tmp_path / "runs", "poor", gain=-0.1, seed=2, day=2, guards=GUARDS[:1])
    found = read(tmp_path / "runs", tmp_path / "site")
    (step,) = lineage.steps(found, None)
    assert (step.name, step.over, step.recorded) == ("good", "base", False)
    assert step.tried == {"promote": 1, "block": 1}
    standing = lineage.standing([step])
    assert standing is not None
    assert standing.run == found[1]


def test_a_ledger_says_what_was_promoted_and_rolled_back(tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs", "first", seed=1, day=1)
    second = make_run(tmp_path / "runs", "second", seed=2, day=2)
    found = read(tmp_path / "runs", tmp_path / "site")
    moves = [
        Move("2026-01-02T08:00:00+00:00", "promote", "champion", first.name, "promote"),
        Move("2026-01-03T08:00:00+00:00", "promote", "champion", second.name, "hold", "Ana", "a demo"),
        Move("2026-01-04T08:00:00+00:00", "rollback", "champion", first.name, "promote"),
        Move("2026-01-05T08:00:00+00:00", "promote", "champion", "elsewhere", "promote"),
    ]
    steps = lineage.steps(found, moves)
    assert [step.name for step in steps] == ["elsewhere", "first", "second", "first"]
    assert steps[0].run is None
    assert lineage.standing(steps) == steps[0], "a run that is not here stands all the same"
    beside = [*moves[:3], Move("2026-01-05T08:00:00+00:00", "promote", "trial", "elsewhere", "promote")]
    assert lineage.standing(lineage.steps(found, beside)) == steps[1], "another alias does not move the champion"
    built = site.build([tmp_path / "runs"], tmp_path / "site", moves=moves)
    page = built.index.read_text("utf-8")
    assert "Overridden (the verdict was hold) by Ana: a demo" in page
    assert "Its run is not in this history." in page
    assert "The run that stands, elsewhere, is not in this history" in page
    assert page.count('class="badge">promoted<') == 2


# ---------------------------------------------------------------- plots and tables


def test_a_trend_holds_every_run_once_in_order_of_time(tmp_path: Path) -> None:
    for day in range(5):
        make_run(tmp_path / "runs", f"c{day}", gain=0.03 * day, seed=day, day=day, guards=GUARDS[:1])
    found = read(tmp_path / "runs", tmp_path / "site")
    (trend,) = plots.trends(found, frozenset({found[0].key}))
    assert trend.count == 5
    wide = trend.layouts[0]
    marks = "".join(path for _, path in wide["marks"])
    assert len(re.findall(r"M[\d.]+ ", marks)) == 5
    assert wide["promoted"].count("M") == 1
    newest = max(float(x) for x in re.findall(r"M([\d.]+) ", marks))
    assert float(re.match(r"M([\d.]+) ", wide["promoted"]).group(1)) > newest  # type: ignore[union-attr]
    assert (wide["first"], wide["last"]) == ("2026-01-01", "2026-01-05")


def test_the_margin_of_a_trend_turns_where_a_run_had_another(tmp_path: Path) -> None:
    for day, margin in enumerate((0.05, 0.05, 0.02)):
        guards = (Guard("golden/tools@1", "exact_match", margin=margin),)
        make_run(tmp_path / "runs", f"c{day}", seed=day, day=day, guards=guards)
    (trend,) = plots.trends(read(tmp_path / "runs", tmp_path / "site"), frozenset())
    assert trend.layouts[0]["threshold"].count("V") == 1


def test_learned_and_forgotten_are_the_smallest_gain_and_the_largest_share_of_a_margin(tmp_path: Path) -> None:
    (run,) = read_one(tmp_path)
    (found,) = plots.trade_offs([run])
    gain, kept = run.comparisons
    assert found.learned == pytest.approx(100 * (gain.difference or 0))
    assert found.lost == pytest.approx(-(kept.difference or 0) / 0.05)
    nothing = replace(run, comparisons=())
    assert plots.trade_offs([nothing]) == []


def test_the_tables_hold_every_comparison_and_no_formula(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "=cmd|' /C calc'!A0", gain=0.05)
    (run,) = read(tmp_path / "runs", tmp_path / "site")
    tables.write_tables([run], tmp_path)
    table = pq.read_table(tmp_path / tables.PARQUET).to_pylist()
    assert [row["difference"] for row in table] == [c.difference for c in run.comparisons]
    assert table[0]["candidate"].startswith("=cmd")
    with open(tmp_path / tables.CSV, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["difference"]) for row in rows] == [c.difference for c in run.comparisons]
    assert rows[0]["candidate"].startswith("'=cmd")


def test_looks_at_a_set_are_candidates_not_runs(tmp_path: Path) -> None:
    for day in range(8):
        make_run(tmp_path / "runs", f"c{day}", seed=day, day=day, n=60)
    make_run(tmp_path / "runs", "c7", seed=7, day=9, n=60, guards=GUARDS[1:])
    found = worn_sets(read(tmp_path / "runs", tmp_path / "site"))
    assert {one.version: one.looks for one in found} == {"support@1": 8, "tools@1": 8}
    assert all("draw new samples" in one.warning.lower() for one in found)


# ---------------------------------------------------------------- the site


def test_the_pages_need_nothing_from_elsewhere_and_close_every_tag(tmp_path: Path) -> None:
    class Balanced(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in ("meta", "link", "wbr", "input"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

        def handle_startendtag(self, tag: str, attrs: Any) -> None:
            pass

    read_one(tmp_path)
    site.build([tmp_path / "runs"], tmp_path / "site")
    for name in (site.INDEX, site.COMPARE):
        text = (tmp_path / "site" / name).read_text("utf-8")
        assert not re.search(r"(src|href)=[\"']?(https?:|//)", text)
        parser = Balanced()
        parser.feed(text)
        assert parser.open == []


def test_every_text_of_a_run_is_escaped_or_inside_a_string(tmp_path: Path) -> None:
    guards = (Guard(f"golden/{ATTACK}", "exact_match", margin=0.05),)
    make_run(tmp_path / "runs", ATTACK.replace("/", "-"), guards=guards, said=ATTACK, seed=1, day=1)
    make_run(tmp_path / "runs", "other", guards=guards, said=ATTACK, seed=2, day=2, baseline=ATTACK)
    site.build([tmp_path / "runs"], tmp_path / "site", title=ATTACK)
    for name in (site.INDEX, site.COMPARE):
        text = (tmp_path / "site" / name).read_text("utf-8")
        assert "<img" not in text
        assert "<script>alert" not in text
    files = sorted((tmp_path / "site" / "data").rglob("*.js"))
    assert len(files) == 6
    assert any(ATTACK in json.dumps(texts_of(file)) for file in files)


def test_a_report_that_somebody_else_wrote_runs_no_script_in_the_site(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "one")
    (run / "report.html").write_text(f"<!doctype html>\n<title>{ATTACK}</title><script>alert(1)</script>", "utf-8")
    site.build([tmp_path / "runs"], tmp_path / "site")
    (copied,) = (tmp_path / "site" / "reports").iterdir()
    head, _, rest = copied.read_text("utf-8").partition("<title>")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', head)
    assert policy is not None
    assert "alert(1)" in rest
    own = base64.b64encode(hashlib.sha256(html.asset("report.js").encode()).digest()).decode()
    allowed = ["default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{own}'"]
    assert policy[1].split("; ")[:3] == allowed
    before = copied.stat()
    site.build([tmp_path / "runs"], tmp_path / "site")
    assert (copied.stat().st_ino, copied.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def test_the_data_files_hold_what_the_run_holds(tmp_path: Path) -> None:
    path = make_run(tmp_path / "runs", "one", n=150, guards=GUARDS[:1])
    site.build([tmp_path / "runs"], tmp_path / "site")
    entries = runs.read_entries(path)
    (run,) = read(tmp_path / "runs", tmp_path / "site")
    columns = texts_of(tmp_path / "site" / "data" / f"{run.key}.js")
    assert columns["ids"] == [entry.sample_id for entry in entries]
    assert columns["after"] == [entry.scores["exact_match"][1].value for entry in entries]
    lost = sum(a > b for a, b in zip(columns["before"], columns["after"], strict=True))
    assert columns["change"].count("l") == lost == run.comparisons[0].lost
    second = texts_of(tmp_path / "site" / "data" / run.key / "1.js")
    answers = [outputs[0].text for outputs in (entries[149].baseline, entries[149].candidate)]
    assert second[49][:4] == [entries[149].prompt, entries[149].target, *answers]


def test_building_again_writes_the_same_pages_and_forgets_what_is_gone(tmp_path: Path) -> None:
    gone = make_run(tmp_path / "runs", "gone", seed=1, day=1)
    make_run(tmp_path / "runs", "kept", seed=2, day=2)
    first = site.build([tmp_path / "runs"], tmp_path / "site").index.read_text("utf-8")
    assert site.build([tmp_path / "runs"], tmp_path / "site").index.read_text("utf-8") == first
    shutil.rmtree(gone)
    built = site.build([tmp_path / "runs"], tmp_path / "site")
    assert len(built.runs) == 1
    names = {path.name for path in (tmp_path / "site" / "data").iterdir()}
    assert names == {f"{built.runs[0].key}.js", built.runs[0].key}


def test_what_a_ladder_withholds_is_not_in_the_site(tmp_path: Path) -> None:
    path = make_run(tmp_path / "runs", "secretive", gain=0.05)
    line = {"type": "fact", "name": "wear", "value": {"looks": [], "rungs": {"golden/support@1/exact_match": 0.04}}}
    with open(path / runs.JOURNAL, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    built = site.build([tmp_path / "runs"], tmp_path / "site")
    assert all(c.withheld and c.difference is None for c in built.runs[0].comparisons)
    everything = "".join(p.read_text("utf-8") for p in (tmp_path / "site").rglob("*.*") if p.suffix in (".html", ".js"))
    assert "Question 1 of" not in everything
    assert "support@1-00001" not in everything


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "one")
    other = tmp_path / "project" / "data"
    other.mkdir(parents=True)
    (other / "mine.js").write_text("precious", "utf-8")
    with pytest.raises(ConfigError, match="holds something that is no history"):
        site.build([tmp_path / "runs"], tmp_path / "project")
    assert (other / "mine.js").read_text("utf-8") == "precious"


# ---------------------------------------------------------------- the verb


@pytest.fixture
def report() -> Any:
    app = typer.Typer()
    app.command()(reporting.report)

    def invoke(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], standalone_mode=False)

    return invoke


def test_one_run_is_reported_as_ever_and_several_side_by_side(tmp_path: Path, report: Any) -> None:
    good = make_run(tmp_path, "good", gain=0.1, churn=0.12, seed=1, guards=GUARDS[:1])
    poor = make_run(tmp_path, "poor", gain=-0.1, seed=2, guards=GUARDS[:1])
    one = report(good, "--json")
    assert (json.loads(one.stdout)["verdict"], one.return_value) == ("promote", 0)
    both = report(good, poor, "--json")
    assert [run["verdict"] for run in json.loads(both.stdout)["runs"]] == ["promote", "block"]
    assert both.return_value == 1, "the worst of them"
    shown = report(good, poor)
    assert "PROMOTE" in shown.stdout
    assert "BLOCK" in shown.stdout
    assert (good / "report.html").is_file()


def test_a_history_is_written_by_the_verb(tmp_path: Path, report: Any) -> None:
    make_run(tmp_path / "runs", "one")
    done = report(tmp_path / "runs", "--history", "--out", tmp_path / "site", "--json")
    assert done.return_value == 0
    assert Path(json.loads(done.stdout)["index"]).is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--history",), "--out DIR"), (("--out", "site"), "add --history"),
     (("--history", "--out", "site", "--log", "mlflow"), "--log goes with runs")],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, report: Any, options: Any, message: str) -> None:
    done = report(make_run(tmp_path, "one"), *options)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


def test_the_ledger_of_a_registry_is_the_lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first, second = (gated(tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 2)))
    for arguments in (["key", "new"], ["promote", str(first)], ["promote", str(second)], ["rollback"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    done = report("one", "two", "--history", "--out", "site", "--registry", "registry")
    assert done.return_value == 0, done.exception
    page = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert "What the registry's ledger says" in page
    assert page.count('<li class="promote">') == 2
    assert page.count('<li class="rollback">') == 1
