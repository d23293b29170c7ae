"""The arithmetic of benchmarks/engine.py, its requests, and one measurement from end to end."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import engine
from benchmarks.engine import Wanted
from benchmarks.engine_bench import comparing, counting, jobs, ledger, model, results, scenarios, tables, workloads
from benchmarks.engine_bench.counting import Size, Work
from benchmarks.engine_bench.jobs import Arm, Job, Result
from benchmarks.engine_bench.ledger import Ledger
from benchmarks.engine_bench.results import Round, Row, Spread
from benchmarks.engine_bench.workloads import Ask


def test_unique_prefix_tokens_are_the_distinct_prefixes() -> None:
    dice = random.Random(0)
    for _ in range(30):
        rows = [[dice.randrange(3) for _ in range(dice.randrange(9))] for _ in range(12)]
        prefixes = {tuple(row[:n]) for row in rows for n in range(1, len(row) + 1)}
        assert counting.unique_prefix_tokens(rows) == len(prefixes)


def test_flops_are_two_for_every_use_of_a_parameter() -> None:
    work = Work(tokens=10, positions=3, attention=7)
    assert counting.flops(Size(body=100, head=40), work) == 2 * 100 * 10 + 2 * 40 * 3 + 7
    assert counting.flops(Size(body=100, head=40, adapter=5), work) == 2 * 105 * 10 + 2 * 40 * 3 + 7
    assert counting.attention_flops([2, 4, 6, 8], [2, 4, 6, 8], [2, 4, 6, 8], causal=False) == 2 * 2 * 4 * 36 * 16
    assert counting.attention_flops([2, 4, 6, 8], [2, 4, 6, 8], [2, 4, 6, 8], causal=True) == 2 * 2 * 4 * 21 * 16
    assert counting.attention_flops([1, 1, 2, 8], [1, 1, 9, 8], [1, 1, 9, 4], causal=True) == 2 * 18 * 12


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True])
def test_the_count_is_that_of_torchs_own_counter(tiny: Any, adapted: bool) -> None:
    import torch
    from peft import PeftModel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    found = AutoModelForCausalLM.from_pretrained(tiny.model()).eval()
    if adapted:
        found = PeftModel.from_pretrained(found, str(tiny.adapter())).eval()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, counting.metered(found) as work:
        found(ids, use_cache=False)
    assert (work.tokens, work.positions, work.passes) == (40, 40, 1)
    # torch's counter does not know the attention kernel of the CPU, and the norms' parameters are next to nothing.
    assert work.attention == 2 * counting.attention_flops([2, 4, 20, 16], [2, 4, 20, 16], [2, 4, 20, 16], causal=True)
    mine = counting.flops(counting.size_of(found), work) - work.attention
    assert mine == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_disagreement_counts_picks_ties_and_texts() -> None:
    asks = [Ask(f"t/{i // 2}", "loglikelihood", ("c", "x"), i % 2) for i in range(6)]
    theirs = [(-1.0, True), (-2.0, False), (-3.0, False), (-3.00005, False), (-5.0, False), (-4.0, False)]
    mine = [(-1.0, True), (-2.5, False), (-3.00005, False), (-3.0, False), (-4.0, False), (-4.5, False)]
    gap = results.disagreement(asks, theirs, mine)
    assert (gap.logprob, gap.picks, gap.ties, gap.texts) == (1.0, 2, 1, 0)
    texts = [Ask(f"t/{i}", "generate_until", ("c", {}), 0) for i in range(3)]
    assert results.disagreement(texts, ["a", "b", "c"], ["a", "x", "c"]).texts == 1
    assert (gap | results.Disagreement(0.5, 1, 0, 2)) == results.Disagreement(1.0, 3, 1, 2)


def measured(name: str, seconds: float, tokens: int = 5, answers: tuple[Any, ...] = ()) -> dict[str, Arm]:
    return {name: Arm(seconds, 2 * seconds, Work(tokens, tokens), Size(10, 1), answers)}


def test_two_runs_of_lm_eval_are_added_and_their_memory_is_not() -> None:
    rounds = [
        Round.of([Result(measured("base", a), peak_bytes=7), Result(measured("c", b, 6), peak_bytes=9)])
        for a, b in ((3.0, 4.0), (1.0, 5.0), (2.0, 4.0))
    ]
    row = results.row_of("x", rounds, "base", "c")
    assert row.seconds is not None
    assert (row.seconds.values, row.seconds.median, row.seconds.low, row.seconds.high) == ((7, 6, 6), 6, 6, 7)
    assert row.cpu_seconds == Spread((14.0, 12.0, 12.0))
    assert row.candidate_seconds == Spread((4.0, 5.0, 4.0))
    assert (row.tokens, row.peak_bytes, row.note) == (11, 9, "")


def test_a_round_that_failed_is_named_and_the_others_count() -> None:
    good, bad = Round.of([Result(measured("base", 1.0) | measured("c", 2.0))]), Round.of([Result(failure="killed")])
    row = results.row_of("x", [good, bad], "base", "c")
    assert (row.seconds, row.note) == (Spread((3.0, None)), "round 2: killed")
    assert results.row_of("x", [bad], "base", "c").seconds is None


def test_a_ratio_is_of_one_round_and_not_of_two_medians() -> None:
    # The machine is twice as slow in the second round: each round's ratio is 4, whatever the medians are.
    assert results.per_round(Spread((8.0, 16.0, 8.8)), Spread((2.0, 4.0, 2.2))) == Spread((4.0, 4.0, 4.0))
    assert results.per_round(Spread((8.0, None)), Spread((2.0, 4.0)), 8.0) == Spread((0.5, None))
    assert results.per_round(Spread((8.0, None)), Spread((None, 4.0))) is None
    assert results.per_round(Spread((8.0,)), Spread((2.0,)), None) is None


def test_every_round_runs_all_with_lm_eval_in_the_middle_and_every_second_backwards() -> None:
    assert results.order(["lm-eval", "a", "b", "c", "d"], 0) == ["a", "b", "lm-eval", "c", "d"]
    assert results.order(["lm-eval", "a", "b", "c", "d"], 1) == ["d", "c", "lm-eval", "b", "a"]
    assert results.order(["lm-eval"], 1) == ["lm-eval"]


def test_the_alternatives_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(job: Job, limit: float | None = None) -> Result:
        asked.append(job.runner if job.runner == "lm-eval" else job.engine)
        return Result({name: measured(name, 1.0)[name] for name, _ in job.arms})

    monkeypatch.setattr(ledger, "run", run)
    jobs = {"lm-eval": [Job("lm-eval", "m", (("base", None),)), Job("lm-eval", "m", (("c", "f"),))],
            "a": [Job("ours", "m", (("base", None), ("c", "f")), engine="a")],
            "b": [Job("ours", "m", (("base", None), ("c", "f")), engine="b")]}  # fmt: skip
    found = comparing.in_rounds(comparing.Setup(Path(), {}, Path(), repeats=2), "w", jobs)
    assert asked == ["a", "lm-eval", "lm-eval", "b", "b", "lm-eval", "lm-eval", "a"]
    assert {title: len(rounds) for title, rounds in found.items()} == {"lm-eval": 2, "a": 2, "b": 2}


def test_a_table_compares_each_round_with_its_own_lm_eval() -> None:
    asks = [Ask("t/0", "loglikelihood", ("c", "x"), 0)]

    def rounds(*pairs: tuple[float, float, float]) -> list[Round]:
        return [
            Round(measured("base", a, answers=((p, True),)) | measured("c", b, answers=((p, True),)))
            for a, b, p in pairs
        ]

    made = comparing.table_of(
        asks, "c",
        {comparing.LM_EVAL: rounds((4.0, 4.0, -1.0), (8.0, 8.0, -1.0)),
         comparing.NO_DRAFT: rounds((2.0, 2.0, -1.0), (2.0, 6.0, -1.5)),
         "all": rounds((1.0, 1.0, -1.0), (1.0, 3.0, -1.25))},
        {"all": 8.0},
    )  # fmt: skip
    theirs, undrafted, ours = made
    assert (theirs.ratio, theirs.disagreement, theirs.share) == (Spread((1.0, 1.0)), None, None)
    assert (ours.ratio, ours.share, ours.drafting) == (Spread((4.0, 4.0)), Spread((0.5, 0.5)), Spread((2.0, 2.0)))
    assert ours.cpu_ratio == Spread((4.0, 4.0))
    assert undrafted.disagreement == results.Disagreement(0.5)
    assert ours.disagreement == results.Disagreement(0.25)


def test_lm_evals_batch_size_is_looked_for_once_and_a_slow_one_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float | None] = []

    def run(job: Job, limit: float | None = None) -> Result:
        limits.append(limit)
        if job.batch_size == "auto":
            return Result(failure="not finished within 21 s")
        return Result(
            measured("base", {1: 2.0, 8: 1.0}[int(job.batch_size or 0)]), import_seconds=1.5, load_seconds=0.5
        )

    monkeypatch.setattr(ledger, "run", run)
    setup = comparing.Setup(Path(), {}, Path(), batch_sizes=(1, 8, "auto"))
    best, told = comparing.best_batch(setup, "w", [])
    assert (best, told) == (8, {"1": 2.0, "8": 1.0, "auto": "not finished within 21 s"})
    assert limits == [None, 3 * (2.0 + 2.0) + 15, 3 * (2.0 + 1.0) + 15]
    assert comparing.best_batch(setup, "w", []) == (best, told)
    assert len(limits) == 3


def test_a_busy_machine_does_not_choose_lm_evals_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {1: Arm(3.4, 1.6, Work(), Size(1, 1), ()), 8: Arm(2.9, 2.4, Work(), Size(1, 1), ())}

    def run(job: Job, limit: float | None = None) -> Result:
        return Result({"base": arms[int(job.batch_size or 0)]})

    monkeypatch.setattr(ledger, "run", run)
    for threads, best in ((1, 1), (2, 8)):
        setup = comparing.Setup(Path(), {}, Path(), batch_sizes=(1, 8), threads=threads)
        assert comparing.best_batch(setup, "w", [])[0] == best


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, key = tmp_path / "out.json", {"threads": "1"}
    made: list[str] = []

    def measure(name: str) -> dict[str, Any]:
        made.append(name)
        if len(made) == 3:
            raise KeyboardInterrupt
        return {"seconds": len(made)}

    for _ in range(2):
        book = Ledger(path, key)
        with contextlib.suppress(KeyboardInterrupt):
            found = [book.once(name, functools.partial(measure, name)) for name in ("a", "b", "c")]
    assert made == ["a", "b", "c", "c"]
    assert found == [{"seconds": 1}, {"seconds": 2}, {"seconds": 4}]
    stored = json.loads(path.read_text())["measurements"]
    assert set(stored) == {"a", "b", "c"}
    assert Ledger(path, key).began == stored["a"]["began"]
    with pytest.raises(SystemExit, match=r"holds another run \(it differs in threads\)"):
        Ledger(path, {"threads": "2"})


def test_a_stored_measurement_is_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = Result(measured("base", 1.5, answers=((-1.0, True), "text")), 1.0, 2.0, 3, 4, ("remark",))
    monkeypatch.setattr(ledger, "run", lambda job, limit: result)
    job = Job("ours", "m", (("base", None),))
    assert Ledger(tmp_path / "out.json").run("a", job) == result
    assert Ledger(tmp_path / "out.json").run("a", job) == result


def test_what_a_run_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(*words: str) -> dict[str, str]:
        monkeypatch.setattr("sys.argv", ["engine.py", "--data", "d", *words])
        return engine.key_of(engine.read_arguments())

    assert key("--out", "a", "--repeats", "3") == key("--out", "b", "--chart", "c")
    assert key("--threads", "1") != key("--threads", "2")
    assert key("--only", "mmlu") != key()


def test_costs_and_shares() -> None:
    assert results.costs({"base": 2.0, "a": 1.0, "b": 3.0}, "base") == [(1, 1.5), (2, 3.0)]
    rounds = [Result(measured("base", 2.0) | measured("a", n)) for n in (1.0, 2.0)] + [Result(failure="killed")]
    found = scenarios.cost_spreads(rounds)
    assert found == {"failure": "round 3: killed", "costs": {1: Spread((1.5, 2.0, None))}}
    assert "| gsm8k | 1.75 (1.50–2.00) | round 3: killed |" in engine.candidates_table({"gsm8k": found})
    assert results.agreement([[1, 2, 3], [4]], [[1, 9, 3], [4, 5]]) == pytest.approx(3 / 5)


def test_a_scale_is_found_by_bisection_and_left_set() -> None:
    asked: list[float] = []

    def agreement_at(scale: float) -> float:
        asked.append(scale)
        return max(0.0, 1.0 - scale * 100)

    scale, share = model.search(agreement_at, (0.8, 0.9))
    assert 0.8 <= share <= 0.9
    assert asked[-1] == scale


def test_samples_are_chosen_evenly_and_in_turns() -> None:
    asks = [Ask(f"{task}/{n}", "loglikelihood", ("c", str(i)), i) for task in "ab" for n in range(4) for i in range(2)]
    assert workloads.samples_of(workloads.some(asks, 4)) == ["a/0", "a/2", "b/0", "b/2"]
    turns = workloads.in_turns(asks, 3)
    assert workloads.samples_of(turns) == ["a/0", "b/0", "a/1"]
    assert [ask.idx for ask in turns] == [0, 1] * 3


def test_a_table_leaves_out_what_says_nothing() -> None:
    rows = [
        Row("lm-eval, twice", Spread((10.0,)), Spread((9.0,)), Spread((5.0,)), 2_000_000, 3 * 10**12, 2**30,
            ratio=Spread((1.0,))),
        Row("ours | all", Spread((2.0, 4.0, 2.5)), Spread((2.0, 2.2, 2.1)), Spread((1.0, 2.0, None)), 1_000_000, 10**12,
            2**29, ratio=Spread((5.0, 4.0, 4.5)), disagreement=results.Disagreement(1e-6)),
        Row("broken", note="round 1: killed, most likely for memory"),
    ]  # fmt: skip
    text = tables.comparison(rows)
    header, _, first, second, third = text.splitlines()[:5]
    assert "of allowed" not in header
    assert "no drafts" not in header
    assert first.startswith("| lm-eval, twice | 10 | 9 | 1.00 | 5 |")
    assert second.startswith("| ours \\| all | 2.5 (2–4) | 2.1 (2–2.2) | 4.50 (4.00–5.00) | 1.5 (1–2) |")
    assert "1.0e-06 | 0 (0)" in second
    assert third.startswith("| broken | failed |")
    assert text.endswith("- broken: round 1: killed, most likely for memory")
    assert {line.count("|") for line in (header, first, third)} == {header.count("|")}


def test_the_chart_is_well_formed_and_shows_every_median_with_its_range() -> None:
    rows = [
        Row("one", Spread((1.0,)), ratio=Spread((1.0,))),
        Row("x & y", Spread((1.0,)), ratio=Spread((2.0, 4.0, 2.5))),
        Row("no", note="no"),
    ]
    root = ElementTree.fromstring(tables.chart({"a < b": rows}, "one & only"))  # noqa: S314  # our own text
    texts = [element.text for element in root.iter() if element.text]
    assert {"a < b", "x & y", "2.5×", "one & only"} <= set(texts)
    (whisker,) = (element.attrib["d"] for element in root.iter() if element.tag.endswith("path"))
    bars = [element.attrib for element in root.iter() if element.tag.endswith("rect")][1:]
    start, unit = float(bars[0]["x"]), float(bars[0]["width"])
    assert whisker.startswith(f"M{start + 2 * unit:.1f} ")
    assert f"H{start + 4 * unit:.1f}" in whisker
    assert float(bars[1]["width"]) == pytest.approx(2.5 * unit)


def test_only_leaves_what_was_named() -> None:
    everything = Wanted.of([])
    assert (len(everything.workloads), len(everything.scenarios), len(everything.alternatives)) == (4, 4, 8)
    some = Wanted.of(["mmlu", "plain", "all"])
    assert (some.workloads, some.scenarios, some.alternatives) == (("mmlu",), (), ("plain", "all"))
    assert Wanted.of(["candidates"]).measured == {"mmlu", "gsm8k"}
    with pytest.raises(SystemExit, match="known are mmlu"):
        Wanted.of(["mmul"])


def test_a_job_survives_json(tmp_path: Path) -> None:
    asks = (Ask("t/0", "generate_until", ("p", {"until": ["\n"], "max_gen_toks": 4}), 0),
            Ask("t/1", "loglikelihood", ("q", " A"), 0), Ask("t/1", "loglikelihood", ("q", " B"), 1))  # fmt: skip
    job = Job("ours", "m", (("base", None), ("c", "folder")), asks, options={"draft": False}, batch_size="auto")
    job.write(tmp_path / "job.json")
    read = Job.read(tmp_path / "job.json")
    assert read == job
    assert read.asks[1].arguments[0] is read.asks[2].arguments[0]


@pytest.mark.slow
def test_lm_eval_and_ours_are_measured_alike_in_processes_of_their_own(tiny: Any) -> None:
    arms = (("base", None), ("adapter", str(tiny.adapter())))
    asks = [Ask(f"t/{n}", "loglikelihood", (f"Question {n}:", f" {word}"), i)
            for n in range(3) for i, word in enumerate(("red", "green and blue"))]  # fmt: skip
    asks += [Ask(f"g/{n}", "generate_until", (f"Once {n}", {"until": ["\n"], "max_gen_toks": 8}), 0) for n in range(2)]
    job = Job("ours", str(tiny.model()), arms, tuple(asks), threads=1, keep=True)
    ours = jobs.run(job)
    assert not ours.failure
    assert min(ours.arms["base"].seconds, ours.arms["base"].cpu_seconds, ours.loaded_bytes) > 0
    for arm in arms:
        theirs = jobs.run(Job("lm-eval", str(tiny.model()), (arm,), tuple(asks), batch_size=4, threads=1))
        assert not theirs.failure
        gap = results.disagreement(asks, theirs.arms[arm[0]].answers, ours.arms[arm[0]].answers)
        assert gap.logprob < 1e-4
        assert (gap.picks, gap.texts) == (0, 0)
        assert theirs.arms[arm[0]].size == ours.arms[arm[0]].size
        assert theirs.arms[arm[0]].work.tokens > 0
    warm = jobs.run(Job("ours", str(tiny.model()), arms, tuple(asks), threads=1,
                        warm={"base": ours.arms["base"].outputs}))  # fmt: skip
    assert warm.arms["base"].work.tokens == 0
    assert warm.arms["adapter"].answers == ours.arms["adapter"].answers


def test_a_process_that_fails_says_why() -> None:
    result = jobs.run(Job("lm-eval", "/nonexistent", (("base", None),), (), batch_size=1, threads=1), limit=0.2)
    assert result.failure == "not finished within 0 s"


@pytest.fixture
def data() -> Path:
    folder = Path(os.environ.get("HARNESS_DATA", "/nonexistent"))
    if not (folder / "benchmarks" / "mmlu").is_dir():
        pytest.skip("HARNESS_DATA does not name the folder with the public benchmark files")
    return folder


@pytest.mark.slow
@pytest.mark.data
def test_mmlu_is_asked_five_shot_as_published(data: Path) -> None:
    """Against prompts put together here from the files, and not by lm-eval."""
    asks = workloads.mmlu(data, ["high_school_biology"], 3)
    folder = data / "benchmarks" / "mmlu"
    with (folder / "dev" / "high_school_biology_dev.csv").open(newline="") as file:
        shots = list(csv.DictReader(file))
    with (folder / "test" / "high_school_biology_test.csv").open(newline="") as file:
        questions = list(csv.DictReader(file))[:3]

    def shown(row: dict[str, str]) -> str:
        return row["question"].strip() + "".join(f"\n{'ABCD'[i]}. {row[f'choice{i}']}" for i in range(4)) + "\nAnswer:"

    head = "The following are multiple choice questions (with answers) about high school biology.\n\n"
    head += "".join(f"{shown(row)} {'ABCD'[int(row['answer'])]}\n\n" for row in shots)
    expected = [(head + shown(row), f" {letter}") for row in questions for letter in "ABCD"]
    assert [ask.arguments for ask in asks] == expected
    assert [ask.sample for ask in asks[::4]] == [f"mmlu_high_school_biology/{n}" for n in range(3)]


@pytest.mark.slow
@pytest.mark.data
def test_the_other_workloads_are_what_their_names_say(data: Path) -> None:
    sizes = workloads.Sizes(1, 1, 2, 2, 2, 33)
    made = {w.name: workloads.build(w, data, sizes) for w in workloads.WORKLOADS[1:]}
    assert len(workloads.samples_of(made["truthfulqa"])) == 2
    assert len(made["truthfulqa"]) > 4
    assert {ask.arguments[1]["max_gen_toks"] for name in ("gsm8k", "ifeval") for ask in made[name]} == {33}
    assert made["gsm8k"][0].arguments[0].count("\nAnswer:") == 6
    assert made["ifeval"][0].arguments[1]["until"] == []
