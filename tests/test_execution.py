"""Who asks what together: rounds over all suites, chunks that are bounded, drafts from other subjects' answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import runs
from harness.cache import OutputCache
from harness.config import load_gate
from harness.errors import StorageError
from harness.execution.drafts import Drafting, Source
from harness.execution.local import Schedule, SuiteState, answer_cached, within
from harness.gate import GateResult, run_gate
from harness.progress import Silent
from harness.records import Draft, Generate, LogLikelihood, MetricSpec, Output, Request, Sample
from harness.runs import read_evidence, write_evidence
from harness.subjects import scripted
from tests.scripted_project import add_suite, project


@dataclass
class Asked:
    """One call of a subject's `answer`."""

    subject: str
    requests: list[Request]
    drafts: list[Draft | None]

    @property
    def suites(self) -> set[str]:
        return {str(r.prompt).split()[0] if ":" in str(r.prompt) else "sums" for r in self.requests}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Every call of a scripted subject's `answer`, in order."""
    calls: list[Asked] = []
    honest = scripted.ScriptedSubject.answer

    def noted(self: Any, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()) -> Any:
        calls.append(Asked(self.name, list(requests), list(drafts)))
        return honest(self, requests, drafts)

    monkeypatch.setattr(scripted.ScriptedSubject, "answer", noted)
    return calls


class Watching(Silent):
    """Remembers what was told about asking."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int, int]] = []

    def asking(self, suite: str, arm: str, done: int, total: int) -> None:
        self.told.append((suite, arm, done, total))


def run(path: Path, observer: Silent | None = None) -> GateResult:
    return run_gate(load_gate(path), observer or Silent())


# ---------------------------------------------------------------- rounds and chunks


def test_all_waiting_suites_are_asked_in_one_call_an_arm(tmp_path: Path, asked: list[Asked]) -> None:
    path = project(tmp_path, lost=[0], n=20, sequential=False)
    add_suite(path, "left", 9)
    add_suite(path, "right", 30)
    observer = Watching()
    run(path, observer)
    assert [(call.subject, len(call.requests)) for call in asked] == [
        ("before", 16 + 9 + 16), ("after", 16 + 9 + 16), ("before", 4 + 14), ("after", 4 + 14),
    ]  # fmt: skip
    assert asked[0].suites == {"sums", "left", "right"}
    assert ("sums and 2 more", "baseline", 41, 41) in observer.told
    assert ("sums and 1 more", "candidate", 18, 18) in observer.told


def test_a_decided_suite_stops_and_the_others_go_on(tmp_path: Path, asked: list[Asked]) -> None:
    path = project(tmp_path, lost=range(0, 120, 2))  # clearly worse: decided soon
    add_suite(path, "close", 300, lost=range(0, 300, 22))  # just within the margin: takes long
    verdict = run(path).verdict
    used = {c.suite: c.n_used for c in verdict.comparisons if c.slice is None}
    assert used["sums"] < 120
    assert used["close"] > used["sums"]
    assert asked[0].suites == {"sums", "close"}
    assert asked[-1].suites == {"close"}


def test_each_suite_ends_where_it_would_end_alone(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    used = []
    for folder, both in ((together, True), (alone, False)):
        folder.mkdir()
        path = project(folder, lost=[3, 50])
        if both:
            add_suite(path, "other", 200, lost=range(0, 200, 3))
        used.append(run(path).verdict.comparisons[0].n_used)
    assert used[0] == used[1]


def test_a_run_that_ends_between_two_suites_of_a_round_goes_on_without_asking_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for name in ("whole", "cut"):
        folder = tmp_path / name
        folder.mkdir()
        path = project(folder, lost=range(0, 120, 9))
        add_suite(path, "other", 150, lost=range(0, 150, 13))
        if name == "cut":
            with monkeypatch.context() as patch:
                patch.setattr(runs.RunDirectory, "append", failing_from(4))
                with pytest.raises(StorageError):
                    run(path)
            assert runs.read_entries(next((folder / "runs").glob("*/")))
        results.append(run(path))
    for file in ("verdict.json", "report.md", "report.html", "junit.xml"):
        assert (results[0].path / file).read_bytes() == (results[1].path / file).read_bytes(), file
    for arm in ("baseline", "candidate"):
        lines = [(tmp_path / name / f"asked-{arm}.log").read_text("utf-8").splitlines() for name in ("whole", "cut")]
        assert sorted(lines[0]) == sorted(lines[1])
        assert len(lines[1]) == len(set(lines[1]))


def failing_from(number: int) -> Any:
    """`RunDirectory.append` that works until its call of this number."""
    honest, calls = runs.RunDirectory.append, iter(range(1, 1000))

    def append(self: runs.RunDirectory, entries: Sequence[runs.Entry]) -> None:
        if next(calls) >= number:
            raise StorageError("the disk is full")
        honest(self, entries)

    return append


def chunks(schedule: Schedule, n: int) -> list[int]:
    state, sizes = SuiteState(FakeSuite(), tuple(Sample(str(i), "") for i in range(n))), []
    while state.done < n:
        chunk = state.next_chunk(schedule)
        sizes.append(len(chunk))
        state.scores.update({sample.id: {} for sample in chunk})
    return sizes


class FakeSuite:
    """A suite of which only the name is looked at."""

    name = "fake"
    estimand = "frozen"
    metrics: dict[str, Any] = {}  # noqa: RUF012


def test_chunks_grow_up_to_a_bound_and_faster_where_nobody_looks() -> None:
    assert chunks(Schedule(64, 1.5), 500) == [64, 96, 144, 196]
    assert max(chunks(Schedule(64, 1.5), 14_042)) == 2_048
    assert chunks(Schedule(64, 1.5, stop_early=False), 14_042) == [64, 256, 1024] + [2048] * 6 + [410]
    assert chunks(Schedule(16, 10, stop_early=False, most=100), 300) == [16, 100, 100, 84]
    assert chunks(Schedule(5000, 1.0), 12_000) == [5000, 5000, 2000]


def test_evidence_of_a_metric_that_concerns_a_part_keeps_the_whole_sizes_of_frozen_clusters(tmp_path: Path) -> None:
    class Partial(FakeSuite):
        metrics: dict[str, Any] = {"m": MetricSpec("m")}  # noqa: RUF012

        def concerns(self, metric: str, sample: Sample) -> bool:
            return sample.id != "0"

    samples = tuple(Sample(str(i), "", cluster="a" if i < 3 else "") for i in range(5))
    suite = Partial()
    found = SuiteState(suite, samples).evidence("m")
    assert (len(found.pairs), found.sizes) == (4, {"a": 3})
    write_evidence(tmp_path / "evidence.parquet", [found])
    assert read_evidence(tmp_path / "evidence.parquet") == [found]
    suite.estimand = "population"  # clusters of a stream are drawn with equal chances, whatever their size
    assert SuiteState(suite, samples).evidence("m").sizes == {}


def test_no_more_samples_than_the_bound_are_asked_together() -> None:
    states = [SuiteState(FakeSuite(), ()) for _ in range(5)]
    samples = [[Sample(str(i), "") for i in range(n)] for n in (60, 40, 30, 300, 10)]
    groups = [[len(s) for _, s in group] for group in within(zip(states, samples, strict=True), 100)]
    assert groups == [[60, 40], [30], [300], [10]]


def test_the_noise_of_all_suites_is_measured_together(tmp_path: Path, asked: list[Asked]) -> None:
    path = project(tmp_path, lost=[0], n=20, sequential=False, noise_probe=5)
    add_suite(path, "left", 9)
    result = run(path)
    first, again = asked[:2]
    assert (first.subject, len(first.requests), first.suites) == ("before", 10, {"sums", "left"})
    assert again.requests == first.requests[::-1]
    names = ["noise-floor sums", "noise-floor left"]
    assert [c.name for c in result.verdict.checks if c.name.startswith("noise")] == names
    before = len(asked)
    assert run(path).verdict == result.verdict  # what is known is not asked again
    assert len(asked) == before


# ---------------------------------------------------------------- drafts


def test_a_candidate_is_given_what_the_baseline_said(tmp_path: Path, asked: list[Asked]) -> None:
    path = project(tmp_path, lost=[0], n=20, sequential=False, first_chunk=20)
    rows = [json.loads(line) for line in (tmp_path / "before.jsonl").read_text("utf-8").splitlines()]
    rows[3] |= {"ids": [7, 8, 1], "logprobs": [-0.1, -0.2, 0.0]}
    del rows[5]
    (tmp_path / "before.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    run(path)
    first, second = asked
    assert first.drafts == []
    drafts = {str(request.prompt): draft for request, draft in zip(second.requests, second.drafts, strict=True)}
    assert drafts["3 + 3 ="] == Draft("6", (7, 8, 1), "")
    assert drafts["4 + 4 ="] == Draft("8")
    assert drafts["5 + 5 ="] is None  # the baseline failed


def test_a_sampled_answer_is_no_draft(tmp_path: Path, asked: list[Asked]) -> None:
    path = project(tmp_path, lost=[0], n=20, sequential=False)
    add_suite(path, "sampled", 10, lost=[0], temperature=0.7)
    run(path)
    second = asked[1]
    given = {str(r.prompt): d for r, d in zip(second.requests, second.drafts, strict=True)}
    assert given["sampled 1:"] is None
    assert any(draft is not None for draft in second.drafts)


def test_a_changed_baseline_is_given_what_the_candidate_said_before(tmp_path: Path, asked: list[Asked]) -> None:
    path = project(tmp_path, lost=[0], n=20, sequential=False, first_chunk=20)
    run(path)
    (tmp_path / "other.jsonl").write_text((tmp_path / "before.jsonl").read_text("utf-8").replace('"8"', '"88"'))
    document = yaml.safe_load(path.read_text("utf-8"))
    document["baseline"]["answers"] = "other.jsonl"
    path.write_text(yaml.safe_dump(document), "utf-8")
    run(path)
    (last,) = asked[2:]  # the candidate's answers are known
    assert last.subject == "other"
    assert Draft("8") in last.drafts
    assert None not in last.drafts


@dataclass
class Oracle:
    """A subject that says the same to every prompt, or, by prompt, something of its own."""

    fingerprint: str
    text: str
    own: dict[str, str] = field(default_factory=dict)
    drafts: list[Draft | None] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        return {"tokenizer_sha256": f"tokens of {self.fingerprint}"}

    def answer(
        self, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()
    ) -> Iterator[list[tuple[int, Output]]]:
        self.drafts = list(drafts)
        for i, request in enumerate(requests):
            if isinstance(request, Generate):
                yield [(i, Output(text=self.own.get(str(request.prompt), self.text)))]
            else:
                yield [(i, Output(logprob=-1.0))]


def test_of_several_sources_the_one_that_agreed_most_is_followed(tmp_path: Path) -> None:
    base, bad, good = Oracle("base", "the base"), Oracle("bad", "rubbish"), Oracle("good", "the adapter")
    new = Oracle("new", "the adapter says")
    requests: list[Request] = [Generate("a"), Generate("b"), LogLikelihood("c", "d")]
    with OutputCache(tmp_path / "outputs.sqlite") as cache:
        drafting = Drafting(cache, [Source.of(s) for s in (base, bad, good, new)])
        for subject in (base, bad, good):
            answer_cached(subject, requests, cache, lambda _: None)
        answer_cached(new, requests, cache, lambda _: None, drafting)
        # Nothing is known of anyone yet, so the first source counts; a log-likelihood has no draft.
        assert new.drafts == [Draft("the base", (), "tokens of base")] * 2 + [None]
        more: list[Request] = [Generate("e"), Generate("f")]
        for subject in (base, bad):
            answer_cached(subject, more, cache, lambda _: None)
        answer_cached(good, more[:1], cache, lambda _: None)
        answer_cached(new, more, cache, lambda _: None, drafting)
        assert [d.text for d in new.drafts if d] == ["the adapter", "the base"]


def test_equal_requests_share_one_draft(tmp_path: Path) -> None:
    base, new = Oracle("base", "x"), Oracle("new", "y")
    with OutputCache(tmp_path / "outputs.sqlite") as cache:
        answer_cached(base, [Generate("a")], cache, lambda _: None)
        drafting = Drafting(cache, [Source.of(base)])
        outputs = answer_cached(new, [Generate("b"), Generate("a"), Generate("a")], cache, lambda _: None, drafting)
    assert [o.text for o in outputs] == ["y", "y", "y"]
    assert new.drafts == [None, Draft("x", (), "tokens of base")]
