"""Is what a server answers what was evaluated? The same form, a damaged one, and one without its adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from harness.cli import main
from harness.config import load_gate
from harness.errors import ConfigError, PromotionError, SubjectError
from harness.parity import Agreement, Parity, Served, _agreement, _Texts, compare_served
from harness.progress import Silent
from harness.records import Output
from tests.loopback_model import LoopbackModel, Messages
from tests.promotion_example import gated

LOST = set(range(0, 120, 3))  # what the candidate answers other than the baseline, which is right throughout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gated(tmp_path_factory.mktemp("parity"), lost=LOST, sequential=False)


def sums(wrong: set[int], say: str = "?") -> Callable[[Messages], str]:
    def answer(messages: Messages) -> str:
        number = int(messages[-1]["content"].split()[0])
        return say if number in wrong else str(2 * number)

    return answer


def compare(run: Path, answer: Callable[[Messages], str], samples: int = 200, **faults: float) -> Parity:
    with LoopbackModel(answer, faults=faults) as server:
        loaded = load_gate(run.parents[1] / "gate.yaml")
        return compare_served(loaded, run, Served(server.base, server.model), samples, 0.05, Silent())


def test_the_evaluated_model_behind_a_server_is_recognised(run: Path) -> None:
    found = compare(run, sums(LOST))
    assert (found.verdict.verdict, found.exit_code) == ("promote", 0)
    assert found.agreement.same == found.agreement.texts > 0
    assert found.agreement.baseline == 0 < found.agreement.candidate
    (comparison,) = found.verdict.comparisons
    assert comparison.difference == 0.0
    assert found.agreement.interval[0] > 0.9
    assert (found.agreement.tokens, found.agreement.tokens_interval[1]) == (1.0, 1.0)
    assert 0.9 < found.agreement.tokens_interval[0] < 1


def test_the_baseline_behind_the_name_is_an_adapter_that_is_not_applied(run: Path) -> None:
    found = compare(run, sums(set()))
    assert found.agreement.unapplied
    assert found.exit_code == 1
    assert "the adapter is not applied" in found.sentence
    assert found.as_json()["agreement"]["unapplied"] is True


def test_tokens_agree_up_to_the_first_difference() -> None:
    said = ["the cat sat", "the dog sat", "a cat sat", "", "x"]
    served = ["the cat sat", "the cat sat", "the cat sat", "", ""]
    pairs = [_Texts(Output(text="?"), Output(text=a), Output(text=b)) for a, b in zip(said, served, strict=True)]
    found = _agreement(pairs)
    shares = [1.0, 2 / 5, 0.0, 1.0, 0.0]  # of the, space, cat, space, sat
    assert found.tokens == pytest.approx(np.mean(shares))
    low, high = stats.t.interval(0.95, 4, np.mean(shares), stats.sem(shares))
    assert found.tokens_interval == pytest.approx((max(low, 0), min(high, 1)))


def test_a_damaged_form_is_told_by_its_scores(run: Path) -> None:
    found = compare(run, sums(set(range(120)), say="0"))
    assert (found.verdict.verdict, found.agreement.unapplied) == ("block", False)
    assert "not what was evaluated" in found.sentence


def test_a_suite_about_a_stream_is_compared_as_one_because_its_order_fits_no_other_test(run: Path) -> None:
    path = run.parents[1] / "stream.yaml"
    document = yaml.safe_load((run.parents[1] / "gate.yaml").read_text("utf-8"))
    document["suites"][0]["estimand"] = "population"
    path.write_text(yaml.safe_dump(document), "utf-8")
    with LoopbackModel(sums(LOST)) as server:
        found = compare_served(load_gate(path), run, Served(server.base, server.model), 200, 0.05, Silent())
    assert [c.estimand for c in found.verdict.comparisons] == ["population"]


def test_too_few_samples_decide_nothing(run: Path) -> None:
    found = compare(run, sums(LOST), samples=4)
    assert (found.verdict.verdict, found.exit_code) == ("hold", 3)
    assert "Ask more with --samples" in found.sentence


def test_a_server_that_fails_too_often_decides_nothing_and_fakes_no_score(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.served._asking._FIRST_WAIT", 0.001)
    found = compare(run, sums(LOST), **{"400": 0.2})
    assert found.verdict.verdict == "hold"
    assert found.agreement.failed > 0
    assert found.agreement.same == found.agreement.texts


def test_another_gate_a_changed_run_and_a_server_that_is_not_there_are_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    other = gated(tmp_path / "other")
    path = other.parents[1] / "gate.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("exact_match", "contains"), encoding="utf-8")
    text = path.read_text(encoding="utf-8").replace("set: sums@1", "set: sums@1\n  metrics: [contains]")
    path.write_text(text, encoding="utf-8")
    where = Served("http://127.0.0.1:9/v1", "m")
    with pytest.raises(ConfigError, match="not the one that the run asked"):
        compare_served(load_gate(path), run, where, 10, 0.05, Silent())
    with pytest.raises(SubjectError):
        compare_served(load_gate(run.parents[1] / "gate.yaml"), run, where, 10, 0.05, Silent())
    changed = Path(shutil.copytree(run, tmp_path / "changed"))
    (changed / "journal.jsonl").write_bytes((run / "journal.jsonl").read_bytes()[:-2] + b" \n")
    with pytest.raises(PromotionError, match="changed since"):
        compare_served(load_gate(run.parents[1] / "gate.yaml"), changed, where, 10, 0.05, Silent())


def test_nearness_is_shown_and_not_guessed_from_a_few() -> None:
    assert not Agreement(texts=4, baseline=4).unapplied
    assert Agreement(texts=5, baseline=5).unapplied
    assert not Agreement(texts=100, candidate=50, baseline=50).unapplied
    assert Agreement().interval == (0.0, 1.0)
    served, other = Output(text="ab"), Output(text="ac")
    for baseline, nearer in (
        (Output(text="ax"), (1, 0)),
        (Output(text="abc"), (0, 1)),
        (Output(failure="lost"), (0, 0)),
    ):
        found = _agreement([_Texts(baseline, other if nearer == (0, 1) else served, served)])
        assert (found.candidate, found.baseline) == nearer


def test_the_command_compares_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LoopbackModel(sums(LOST)) as server, pytest.raises(SystemExit) as ended:
        main(["verify", "--served", server.base, "--model", server.model, "--run", str(run),
              "--policy", str(run.parents[1] / "gate.yaml"), "--json"])  # fmt: skip
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "promote"
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--served", "http://127.0.0.1:9/v1"])
    assert ended.value.code == 2
