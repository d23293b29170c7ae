"""Sweeps: settings by path, the trade-off, the books that a killed sweep goes on from."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import ConfigError, DataError, StorageError
from harness.progress import Silent
from harness.records import Check, Guard
from harness.training.recipe import load_recipe
from harness.training.sweeping import sweep as sweeping
from harness.training.sweeping.candidates import read_template
from harness.training.sweeping.outcome import front, measured, read_trial, recommended, refuse_one_sided
from harness.training.sweeping.section import LoadedSweep, load_sweep
from harness.training.sweeping.study import Study
from tests.sweep_example import RANK, RATE, SETTINGS, SHARE, Formula, result, sweep


@pytest.fixture(autouse=True)
def _unsynced() -> Iterator[None]:
    """SQLite that does not wait for the disk: these tests kill sweeps, not machines."""
    from sqlalchemy import Engine, event

    def off(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", off)
    yield
    event.remove(Engine, "connect", off)


# ---------------------------------------------------------------- sweep.yaml


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"path": RATE, "low": 1.0}, "low and high, or choices"),
        ({"path": RATE, "low": 1.0, "high": 2.0, "choices": [1]}, "low and high, or choices"),
        ({"path": RATE, "low": 2.0, "high": 1.0}, "must be below"),
        ({"path": RATE, "low": 0.0, "high": 1.0, "log": True}, "above 0"),
        ({"path": RATE, "choices": [1, 2, 1]}, "given twice"),
        ({"path": "gate", "choices": ["a", "b"]}, "no setting of the training"),
        ({"path": "seed", "low": 0, "high": 9}, "no setting of the training"),
        ({"path": RATE, "lo": 1}, "did you mean 'low'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        sweep(tmp_path, settings=[setting])
    assert "sweep.yaml:" in str(caught.value)


def test_a_setting_is_swept_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="swept twice"):
        sweep(tmp_path, settings=[SETTINGS[0], SETTINGS[0]])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"path": "stages.0.settings.learning_rte", "low": 0.1, "high": 0.2}, "did you mean 'learning_rate'"),
        ({"path": "scope.rnk", "choices": [1]}, "did you mean 'rank'"),
        ({"path": "stages.3.settings.epochs", "low": 1, "high": 2}, "no stages.3"),
        ({"path": SHARE, "low": 0.1, "high": 1.5}, "less than 1"),
        ({"path": RATE, "choices": [0.1, "much"]}, "valid number"),
    ],
)
def test_what_the_recipe_does_not_have_or_allow_is_said_before_anything_is_trained(
    tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    loaded = sweep(tmp_path, settings=[SETTINGS[2] if setting["path"] == RATE else SETTINGS[0], setting])
    with pytest.raises(ConfigError, match=message) as caught:
        read_template(loaded)
    assert str(loaded.path) in str(caught.value)


def test_replay_that_the_recipe_lacks_has_no_share(tmp_path: Path) -> None:
    stage = {"name": "tune", "data": {"train": [{"path": "rows.jsonl"}]}}
    with pytest.raises(ConfigError, match="sources"):
        read_template(sweep(tmp_path, recipe={"stages": [stage]}))


def test_a_value_is_set_where_the_path_leads_and_nowhere_else(tmp_path: Path) -> None:
    template = read_template(sweep(tmp_path, settings=[{"path": "stages.tune.settings.epochs", "low": 1, "high": 9}]))
    trial = template.recipe({"stages.tune.settings.epochs": 3, "stages.0.forgetting.l2_sp": 0.5}, tmp_path / "t")
    stage = trial.recipe.stages[0]
    assert (stage.settings.epochs, stage.forgetting.l2_sp, stage.settings.learning_rate) == (3, 0.5, 1e-3)
    assert not stage.gate, "the verdict's samples are not asked in a trial"
    assert (trial.folder / trial.recipe.out).resolve() == tmp_path / "t"
    assert template.loaded.recipe.stages[0].settings.epochs == 1


@pytest.mark.slow
def test_whole_bounds_give_whole_numbers(tmp_path: Path) -> None:
    settings = [{"path": "stages.0.settings.batch_size", "low": 1, "high": 32, "log": True}]
    loaded, calls = sweep(tmp_path, settings=settings, trials=5), []

    def trainer(recipe: Any, observer: Any) -> Any:
        calls.append(recipe.recipe.stages[0].settings.batch_size)
        return result(tmp_path / "x", 0.1, 0.0)

    _run(loaded, trainer)
    assert all(isinstance(size, int) and 1 <= size <= 32 for size in calls)


# ---------------------------------------------------------------- the trade-off


def test_the_front_is_what_no_other_point_outdoes() -> None:
    draw = random.Random(0)
    for _ in range(300):
        points = [(draw.randint(0, 6) / 6, draw.randint(0, 6) / 6) for _ in range(draw.randint(1, 14))]
        brute = [
            i
            for i, (gain, loss) in enumerate(points)
            if not any(g >= gain and x <= loss and (g, x) != (gain, loss) for g, x in points)
        ]
        found = front(points)
        assert sorted(found) == brute
        assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


@pytest.mark.slow
def test_the_most_that_was_learned_without_a_regression_is_recommended(tmp_path: Path) -> None:
    trials, _ = _run(sweep(tmp_path, trials=12), Formula())
    chosen = recommended(trials)
    assert {t.state for t in trials} == {"feasible", "regressed"}
    assert chosen is not None
    assert chosen.state == "feasible"
    assert chosen.least.gain == max(t.least.gain for t in trials if t.state == "feasible")
    assert all((t.violation > 0) == (t.worst.difference <= -0.05) for t in trials)


@pytest.mark.slow
def test_nothing_is_recommended_that_gained_nothing(tmp_path: Path) -> None:
    trials, _ = _run(sweep(tmp_path, trials=2), lambda recipe, observer: result(tmp_path, 0.0, 0.01))
    assert recommended(trials) is None


@pytest.mark.parametrize(("improve", "message"), [(None, "must_improve: 0.0"), (0.1, "nothing can be seen")])
def test_a_gate_that_knows_only_one_side_is_refused(improve: float | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_one_sided([Guard("s", "m", must_improve=improve), Guard("s", "n", must_improve=improve)], "gate.yaml")


@pytest.mark.slow
def test_a_gate_that_holds_nothing_back_is_refused_with_the_line_to_add(tmp_path: Path) -> None:
    loaded = sweep(tmp_path)
    subject = {"kind": "local", "model": "base"}
    gate = {"baseline": subject, "candidate": subject, "suites": [{"kind": "golden", "set": "s@1"}]}
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(gate), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"add for_sweeps: 0\.3"):
        sweeping.run_sweep(loaded, Silent())


# ---------------------------------------------------------------- the books


def _run(loaded: LoadedSweep, trainer: Any, key: str = "k") -> tuple[list[Any], Study]:
    template = read_template(loaded)
    given = {setting.path: template.given(setting.path) for setting in loaded.sweep.settings}
    study = Study(loaded.out, loaded.sweep, {"recipe": key}, given)
    return sweeping.run_trials(loaded, template, study, Silent(), trainer), study


@pytest.mark.slow
def test_the_recipe_as_it_stands_is_tried_first(tmp_path: Path) -> None:
    trainer = Formula()
    _run(sweep(tmp_path, trials=2), trainer)
    assert trainer.calls[0] == (1e-3, 4, 0.1)


def test_a_default_of_the_scope_is_known_too(tmp_path: Path) -> None:
    template = read_template(sweep(tmp_path, recipe={"scope": {"kind": "lora"}}))
    assert template.given(RANK) == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "trials", "killed_at"),
    [
        ("tpe", 13, 12),  # beyond the ten that TPE draws at random
        ("random", 4, 1),
        pytest.param("nsga2", 56, 53, marks=pytest.mark.slow),  # in its second generation
    ],
)
def test_a_killed_sweep_goes_on_as_if_it_had_not_been(
    tmp_path: Path, sampler: str, trials: int, killed_at: int
) -> None:
    """Killed while a trial trains: nothing finished is trained again, and the same settings come as without."""
    through = Formula()
    whole, _ = _run(sweep(tmp_path / "a", trials=trials, sampler=sampler), through)

    def kill(call: int) -> None:
        if call == killed_at:
            raise KeyboardInterrupt

    first, second = Formula(kill), Formula()
    loaded = sweep(tmp_path / "b", trials=trials, sampler=sampler)
    with pytest.raises(KeyboardInterrupt):
        _run(loaded, first)
    resumed, _ = _run(loaded, second)
    assert [*first.calls[:-1], *second.calls] == through.calls
    assert first.calls[-1] == second.calls[0]
    assert [dict(t.values) for t in resumed] == [dict(t.values) for t in whole]


@pytest.mark.slow
def test_killed_between_the_result_and_the_books_it_is_not_trained_again(tmp_path: Path, monkeypatch: Any) -> None:
    loaded, tell = sweep(tmp_path, trials=3), Study.tell

    def killed(self: Study, trial: Any) -> None:
        if trial.number == 1:
            raise KeyboardInterrupt
        tell(self, trial)

    monkeypatch.setattr(Study, "tell", killed)
    first, second = Formula(), Formula()
    with pytest.raises(KeyboardInterrupt):
        _run(loaded, first)
    monkeypatch.setattr(Study, "tell", tell)
    trials, _ = _run(loaded, second)
    assert (len(first.calls), len(second.calls), len(trials)) == (2, 1, 3)


@pytest.mark.slow
def test_more_trials_can_be_asked_for_later_and_none_is_repeated(tmp_path: Path) -> None:
    _run(sweep(tmp_path, trials=3), Formula())
    again, more = Formula(), Formula()
    _run(sweep(tmp_path, trials=3), again)
    trials, _ = _run(sweep(tmp_path, trials=5), more)
    assert (len(again.calls), len(more.calls), len(trials)) == (0, 2, 5)


@pytest.mark.slow
def test_the_same_seed_proposes_the_same_and_another_seed_something_else(tmp_path: Path) -> None:
    calls = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer = Formula()
        _run(sweep(tmp_path / name, trials=3, seed=seed), trainer)
        calls.append(trainer.calls)
    assert calls[0] == calls[1] != calls[2]


@pytest.mark.slow
def test_another_sweep_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    _run(sweep(tmp_path, trials=1), Formula())
    with pytest.raises(ConfigError, match=r"another sweep \(changed since: recipe\)"):
        _run(sweep(tmp_path, trials=1), Formula(), key="other")


@pytest.mark.slow
def test_settings_that_were_tried_are_not_trained_twice(tmp_path: Path) -> None:
    trainer = Formula()
    two = [{"path": RANK, "choices": [2, 4]}]
    trials, _ = _run(sweep(tmp_path, trials=8, settings=two), trainer)
    assert len(trainer.calls) <= 2 < len(trials)
    repeated = [t for t in trials if t.same_as is not None]
    assert all(t.values_of == trials[t.same_as].values_of for t in repeated)


# ---------------------------------------------------------------- failure


@pytest.mark.slow
def test_a_trial_that_fails_says_why_and_is_never_a_number(tmp_path: Path) -> None:
    def fail(call: int) -> None:
        if call == 2:
            raise DataError("every row is too long")

    loaded = sweep(tmp_path, trials=4)
    trials, study = _run(loaded, Formula(fail))
    assert [t.state == "failed" for t in trials] == [False, True, False, False]
    assert trials[1].reason == "every row is too long"
    assert read_trial(sweeping.folder_of(loaded.out, 1)) == trials[1]
    assert study.finished == [0, 1, 2, 3]


@pytest.mark.slow
def test_an_error_before_anything_was_measured_ends_the_sweep_and_can_be_mended(tmp_path: Path) -> None:
    def fail(call: int) -> None:
        raise DataError("contaminated")

    loaded = sweep(tmp_path, trials=2)
    with pytest.raises(DataError, match="contaminated"):
        _run(loaded, Formula(fail))
    trials, _ = _run(loaded, Formula())
    assert [t.state for t in trials if t.state == "failed"] == []


@pytest.mark.slow
@pytest.mark.parametrize("error", [StorageError("disk full"), RuntimeError("a bug")])
def test_a_full_disk_or_a_bug_is_no_result_of_a_trial(tmp_path: Path, error: Exception) -> None:
    def fail(call: int) -> None:
        if call == 2:
            raise error

    loaded = sweep(tmp_path, trials=3)
    with pytest.raises(type(error)):
        _run(loaded, Formula(fail))
    trials, _ = _run(loaded, Formula())
    assert len(trials) == 3


def test_answers_that_failed_or_a_failed_check_make_no_measurement(tmp_path: Path) -> None:
    from harness.errors import SubjectError

    broken = result(tmp_path, 0.2, 0.0, reason="7 of 50 pairs failed")
    idle = result(tmp_path, 0.2, 0.0, checks=(Check("adapter-active", False, "it changes nothing"),))
    for training, message in ((broken, "7 of 50 pairs failed"), (idle, "it changes nothing")):
        assert training.verdict is not None
        with pytest.raises(SubjectError, match=message):
            measured(training.verdict)


@pytest.mark.slow
def test_checkpoints_of_a_finished_trial_are_gone(tmp_path: Path) -> None:
    loaded = sweep(tmp_path, trials=2)
    _run(loaded, Formula())
    assert list(loaded.out.rglob("checkpoint-*")) == []


# ---------------------------------------------------------------- what is left


@pytest.mark.slow
def test_the_recommended_recipe_is_the_recipe_with_its_settings(tmp_path: Path) -> None:
    loaded = sweep(tmp_path, trials=6)
    trials, _ = _run(loaded, Formula())
    chosen = recommended(trials)
    assert chosen is not None
    template = read_template(loaded)
    template.write(chosen.values, sweeping.folder_of(loaded.out, chosen.number), tmp_path / "recipe-swept.yaml", "why")
    written = load_recipe(tmp_path / "recipe-swept.yaml")
    stage = written.recipe.stages[0]
    assert stage.settings.learning_rate == chosen.values[RATE]
    assert written.recipe.scope.options["rank"] == chosen.values[RANK]
    assert stage.gate, "what the user asked of a stage holds for the final training"
    assert written.folder / written.recipe.out == loaded.out / f"trial-{chosen.number}"


def test_the_schema_names_every_key() -> None:
    from harness.training.sweeping.section import json_schema

    assert {"recipe", "settings", "trials", "sampler", "seed", "out"} == set(json_schema()["properties"])


def test_a_list_may_be_a_choice(tmp_path: Path) -> None:
    modules = [["q_proj"], ["q_proj", "v_proj"]]
    loaded = load_sweep(sweep(tmp_path, settings=[{"path": "scope.targets", "choices": modules}]).path)
    setting = loaded.sweep.settings[0]
    assert setting.parameter(["q_proj"]) == json.dumps(["q_proj"])
