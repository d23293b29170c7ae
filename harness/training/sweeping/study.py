"""Optuna's part: what is tried next, and the books of what was tried, in one SQLite file.

A sweep that was ended goes on as if it had not been: finished trials are kept, the one that was running goes on with
the settings that it has, and what is proposed depends on the sweep's seed, the trial's number and the trials before it
alone (the samplers are seeded anew for every trial, since Optuna does not store the state of their generators).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, StorageError
from harness.records import content_hash
from harness.training.sweeping.outcome import Trial
from harness.training.sweeping.section import Sampler, SweepSection

STUDY = "study.sqlite"


class Study:
    """The trials of a sweep. `key` is what makes trials comparable: the file of another sweep is refused."""

    def __init__(self, out: Path, sweep: SweepSection, key: Mapping[str, Any], first: Mapping[str, Any]) -> None:
        """Open `out/study.sqlite` or make it, with `first` (by path; some may be absent) as what is tried first.

        Raises:
            ConfigError: the folder holds another sweep.
            StorageError: it cannot be written or is damaged.
        """
        import optuna

        self._optuna, self._sweep = optuna, sweep
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        out.mkdir(parents=True, exist_ok=True)
        with _storing(out / STUDY):
            self._study = optuna.create_study(
                storage=f"sqlite:///{(out / STUDY).resolve()}", study_name="sweep", load_if_exists=True,
                directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(sweep.seed),
            )  # fmt: skip
            self._own(out, key)
            if not self._study.trials:
                known = {s.path: s.parameter(first.get(s.path)) for s in sweep.settings}
                self._study.enqueue_trial({path: value for path, value in known.items() if value is not None})

    @property
    def finished(self) -> list[int]:
        """Numbers of the trials that have ended, well or not, in order."""
        return [trial.number for trial in self._study.trials if trial.state.is_finished()]

    def next(self) -> tuple[int, dict[str, Any]] | None:
        """Number and settings of the trial that is to be run now; None when there have been enough."""
        with _storing(STUDY):
            number = len(self.finished)
            if number >= self._sweep.trials:
                return None
            self._study.sampler = self._sampler(number)
            trial = self._running() or self._study.ask()
            return trial.number, {setting.path: setting.propose(trial) for setting in self._sweep.settings}

    def tell(self, trial: Trial) -> None:
        """Enter a finished trial; a failed one has no values, and samplers leave it out."""
        with _storing(STUDY):
            if trial.state == "failed":
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
                return
            running = self._running()
            if running is None or running.number != trial.number:
                raise StorageError(f"{STUDY}: trial {trial.number} is not the one that is running")
            running.set_constraint("regression", trial.violation)
            self._study.tell(running, trial.values_of)

    def _own(self, out: Path, key: Mapping[str, Any]) -> None:
        known = self._study.user_attrs.get("key")
        if known is None and not self._study.trials:
            self._study.set_user_attr("key", dict(key))
        elif known != dict(key):
            changed = ", ".join(sorted(k for k in {*key, *(known or {})} if (known or {}).get(k) != key.get(k)))
            raise ConfigError(
                f"{out} holds another sweep (changed since: {changed}), and its trials cannot be compared with new "
                "ones; name another folder in the sweep's out, or move this one away"
            )

    def _running(self) -> Any | None:
        """The trial that was begun and has not ended; settings that it has been given stay."""
        running = [t for t in self._study.trials if t.state == self._optuna.trial.TrialState.RUNNING]
        return self._optuna.trial.Trial(self._study, running[0]._trial_id) if running else None

    def _sampler(self, number: int) -> Any:
        samplers, seed = self._optuna.samplers, self._sweep.seed
        kinds: dict[Sampler, Any] = {
            "tpe": samplers.TPESampler, "nsga2": samplers.NSGAIISampler, "random": samplers.RandomSampler
        }  # fmt: skip
        return kinds[self._sweep.sampler](seed=int(content_hash({"seed": seed, "trial": number})[:8], 16))


@contextmanager
def _storing(path: Path | str) -> Iterator[None]:
    """Optuna's and SQLite's errors as ours; its warnings of experimental features are not the user's concern."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as error:
        raise StorageError(f"{path}: {error}. Finished trials are kept; free space, then repeat the command") from error
