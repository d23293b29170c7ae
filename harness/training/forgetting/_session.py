"""One training under `ForgettingGuard`, on the process that looks: baseline, looks, what is kept, and the files."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.cache import OutputCache
from harness.config import LoadedConfig
from harness.errors import ConfigError, StorageError
from harness.gate import build_subject
from harness.records import Comparison
from harness.runs import read_json, write_json
from harness.subjects import SubjectContext
from harness.subjects._loading import keep_trainable
from harness.training.forgetting._cost import LOOK_PRICE, LookPlan, Meter, plan_looks
from harness.training.forgetting._kept import KeptWeights
from harness.training.forgetting._live import Asking
from harness.training.forgetting._looks import CHUNK, Look, Watch
from harness.training.forgetting._model import undisturbed

FOLDER = "forgetting-guard"
LOOKS, _STATE, _KEPT = "looks.jsonl", "state.json", "kept.safetensors"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for; see `ForgettingGuard`."""

    loaded: LoadedConfig
    cost: float
    baseline: Literal["start", "gate"]
    patience: int
    on_regression: Literal["stop", "lower_rate"] = "stop"


class Session:
    """See the module. `points` is at how many places of the whole training a look may be made."""

    def __init__(
        self, settings: Settings, watch: Watch, points: int, args: Any, state: Any, model: Any, processing: Any
    ) -> None:
        """Ask the baseline and keep the starting weights; a resumed training goes on from its files.

        Raises:
            ConfigError: the model cannot be asked, or a resumed training's baseline is no longer known.
            StorageError: the folder cannot be written.
        """
        self.looks: list[Look] = []
        self.streak = 0  # looks in a row, up to now, that showed a regression
        self.kept_step = 0
        self.lowered = 0  # times that the training went back to the kept weights at a lower rate
        self._kept_loss: float | None = None
        self._plan: LookPlan | None = None
        self._hopeless = False
        self._settings, self._watch, self._points = settings, watch, points
        self._folder = Path(args.output_dir) / FOLDER
        self._kept = KeptWeights(self._folder / _KEPT)
        keep_trainable(model)  # before the first forward pass
        self._asking = Asking.of(settings.loaded, args, model, processing)
        stored = self._resumed() if state.global_step else {}
        self._meter = Meter(model, stored.get("trained", 0.0), stored.get("looked", 0))
        self._begin(model, state.global_step, stored.get("baseline"))

    @property
    def share(self) -> float:
        """Compute of looks over compute of training."""
        return self._meter.share

    @property
    def shown(self) -> bool:
        """Whether as many looks in a row have shown a regression as it takes."""
        return self.streak >= self._settings.patience

    def look(self, step: int, of: int, model: Any, point: int, loss: float | None) -> None:
        """Look at the model after `step` of `of` steps, if a look is due at this point and can be paid."""
        plan = self._planned(step, of)
        if plan is None or not plan.due(point):
            return
        subject = self._asking.present(model, step)
        with undisturbed(model), self._meter.look():
            look = self._watch.look(subject, step, looks=plan.looks, samples=plan.samples, affords=self._affords)
        if look is None:
            self._write("skipped", step, reason="looks have already cost what they may", share=self.share)
        else:
            self._judge(replace(look, loss=loss), model)

    def go_back(self, step: int, model: Any) -> None:
        """Put the kept weights back, for the training to go on from them; the caller lowers its rate."""
        self._kept.restore(model)
        self.streak = 0
        self.lowered += 1
        _log.warning(
            "ForgettingGuard: step %d goes on from the weights of step %d, at a lower rate", step, self.kept_step
        )
        self._write("back", step, kept_step=self.kept_step)
        self._store()

    def end(self, step: int, model: Any) -> bool:
        """The training is over: put the kept weights back where the last look showed a regression, and say so."""
        self._meter.stop()
        restored = self.streak > 0
        if restored:
            self._kept.restore(model)
        self._write(
            "end", step, looks=len(self.looks), planned=self._plan.looks if self._plan else 0, share=self.share,
            restored=self.kept_step if restored else None,
        )  # fmt: skip
        _log.info("ForgettingGuard: %d looks took %.1f %% of the training's compute", len(self.looks), 100 * self.share)
        return restored

    def abandon(self) -> None:
        """The training was broken off."""
        self._meter.stop()

    def _begin(self, model: Any, step: int, known: str | None) -> None:
        before = self._meter.looked
        with undisturbed(model), self._meter.look():
            self._fingerprint = self._ask_baseline(model, known)
        # Reported by itself: it is paid once for all trainings of this start and gate.
        asked, self._meter.looked = round((self._meter.looked - before) / LOOK_PRICE), before
        expected = self._watch.expected_cost(self._asking.present(model, step), self._asking.encoder.prompt)
        self._full = LOOK_PRICE * expected
        if not step:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / LOOKS).unlink(missing_ok=True)
            self._kept.save(model)
        guards = [guard.label for guard in self._watch.guards]
        self._write("begin", step, guards=guards, points=self._points, baseline_tokens=asked)
        self._store()

    def _ask_baseline(self, model: Any, known: str | None) -> str:
        """Fingerprint of what was asked. `known` is that of the starting weights, which a resumed training has not."""
        loaded = self._settings.loaded
        with OutputCache(loaded.folder / loaded.gate.cache / "outputs.sqlite") as cache:
            if self._settings.baseline == "gate":
                subject = build_subject(loaded, "baseline", SubjectContext(loaded.folder))
                try:
                    self._watch.ask_baseline(subject, cache, subject.fingerprint)
                finally:
                    subject.close()
                return subject.fingerprint
            start = self._asking.starting(model)
            self._watch.ask_baseline(start, cache, known or start.fingerprint)
            return known or start.fingerprint

    def _affords(self, part: float) -> bool:
        """Whether this part of a full look still fits into what training has paid for so far."""
        return self._meter.looked + part * self._full <= self._settings.cost * self._meter.trained

    def _planned(self, step: int, of: int) -> LookPlan | None:
        """How many looks there will be and how large, fixed as soon as the training's compute can be foreseen."""
        if self._plan is not None or self._hopeless:
            return self._plan
        budget = self._settings.cost * self._meter.trained / step * of
        wanted = self._points, self._watch.samples
        self._plan = plan_looks(*wanted, self._full, budget, smallest=CHUNK, suites=len(self._watch.suites))
        if self._plan is None:
            self._hopeless = True
            said = f"a look costs {self._full:.0f} passes of a token, and all of them may cost {budget:.0f}"
            _log.warning("ForgettingGuard: no look can be afforded: %s. Raise cost, or lower samples", said)
            self._write("skipped", step, reason=f"no look can be afforded: {said}", share=0.0)
        elif (self._plan.looks, self._plan.samples) != wanted:
            _log.warning(
                "ForgettingGuard: to keep to %g %% of the training's compute, %d looks of %d samples a suite instead "
                "of %d of %d; suites that do worse than tolerated are asked further",
                100 * self._settings.cost, self._plan.looks, self._plan.samples, *wanted,
            )  # fmt: skip
        self._store()
        return self._plan

    def _judge(self, look: Look, model: Any) -> None:
        """Keep the checkpoint, or say that it has regressed."""
        self.looks.append(look)
        self.streak = self.streak + 1 if look.regressed else 0
        if look.regressed:
            _log.warning(
                "ForgettingGuard: step %d has regressed: %s. %s the weights of step %d",
                look.step, "; ".join(map(_sentence, look.regressed)),
                "Training goes back to" if self.shown else "Training goes on; kept are", self.kept_step,
            )  # fmt: skip
        elif look.clear and self._better(look.loss):
            self._kept.save(model)
            self.kept_step, self._kept_loss = look.step, look.loss
        self._write("look", look.step, **look.as_json(), kept_step=self.kept_step, share=self.share)
        self._store()

    def _better(self, loss: float | None) -> bool:
        """Whether a checkpoint is to be kept instead of the kept one; a loss that is no number never is."""
        if loss is None or self._kept_loss is None:
            return loss is None or not math.isnan(loss)
        return loss < self._kept_loss

    def _write(self, event: str, step: int, **facts: Any) -> None:
        line = json.dumps({"event": event, "step": step, **facts}, ensure_ascii=False)
        try:
            with (self._folder / LOOKS).open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise StorageError(f"{self._folder}: {error}. Free space, then resume the training") from error

    def _store(self) -> None:
        """What a resumed training has to know."""
        plan = self._plan
        write_json(
            self._folder / _STATE,
            {
                "baseline": self._fingerprint, "trained": self._meter.trained, "looked": self._meter.looked,
                "kept_step": self.kept_step, "kept_loss": self._kept_loss, "streak": self.streak,
                "lowered": self.lowered,
                "plan": [plan.points, plan.looks, plan.samples] if plan else None,
            },
        )  # fmt: skip

    def _resumed(self) -> Mapping[str, Any]:
        path = self._folder / _STATE
        if not path.is_file():
            raise ConfigError(
                f"a training is resumed, and {path} is not there: it began without ForgettingGuard, so what it had not "
                "yet forgotten is not known. Start it anew, or resume it without the guard"
            )
        stored: Mapping[str, Any] = read_json(path)
        self.kept_step, self._kept_loss, self.streak = stored["kept_step"], stored["kept_loss"], stored["streak"]
        self.lowered = stored["lowered"]
        self._plan = LookPlan(*stored["plan"]) if stored["plan"] else None
        return stored


def _sentence(comparison: Comparison) -> str:
    difference = comparison.difference or 0.0
    return (
        f"{comparison.label} lost {comparison.lost} and won {comparison.won} of {comparison.n_used} samples "
        f"({difference:+.3f}; tolerated: {-comparison.margin:g})"
    )
