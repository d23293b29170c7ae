"""Measures what keeps old skills on the demo model: replay, L2-SP, EWC and ForgettingGuard, each alone.

    python benchmarks/forgetting.py --out forgetting.jsonl [--chart forgetting.svg] [--settings high early] [--cost N]

One careless LoRA recipe a setting; each arm adds one thing to it and changes nothing else. How strong that thing is
gets chosen first, with a seed of its own, on the frozen samples that the gate holds back for choosing; what is reported
is of other seeds and of the samples that the gate's verdict is made on. Every training goes through `harness train`'s
own code. Each is a line in the file as soon as it is done, and the same command goes on with what is missing there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.forgetting_bench import telling
from benchmarks.forgetting_bench.settings import ARMS, CARELESS, SETTINGS, Arm, Setting, project_hash, write_project
from benchmarks.forgetting_bench.trials import gain, loss, run_trial

CHOOSING = 100  # the seed that strengths are chosen with
SEEDS = (4, 5, 6)  # 1 to 3 have measured another setting
CHOOSER_KEEPS = 0.85  # of the careless gain, where 0.8 is aimed at: chosen on few samples, it may come out lower
QUIET = 1e-6  # a learning rate at which nothing is forgotten, so that all looks are made


class Ledger:
    """Measurements by name, one JSON line each; one of another recipe or other rows is not taken for it."""

    def __init__(self, path: Path) -> None:
        """Take up what is there."""
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.known: dict[str, Any] = {row["name"]: row for row in map(json.loads, lines)}

    def trial(self, name: str, recipe: Path, part: Any, *, curve: bool = False) -> Mapping[str, Any]:
        """A trial of this name: as it was measured, or measured now."""
        key = project_hash(recipe.parent)
        if self.known.get(name, {}).get("project") != key:
            began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            row = {"name": name, "began": began, "project": key, **run_trial(recipe, part, curve=curve)}
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            self.known[name] = row
            said = f"gained {gain(row):+.3f}, worst lost {loss(row):.3f}, {row['seconds']:.0f} s"
            print(f"{name}: {said}", file=sys.stderr, flush=True)
        found: Mapping[str, Any] = self.known[name]
        return found


def choose(setting: Setting, ledger: Ledger, work: Path) -> tuple[dict[str, float | None], list[Any]]:
    """The strength of each arm, and what was tried for it.

    Of the strengths that keep enough of the careless gain the one that loses least; where none does, the one that
    gains most.
    """
    careless = _trial(setting, ARMS[0], None, CHOOSING, ledger, work)
    chosen: dict[str, float | None] = {CARELESS: None}
    tried: list[tuple[str, float, Mapping[str, Any], bool]] = []
    for arm in ARMS[1:]:
        made = {s: _trial(setting, arm, s, CHOOSING, ledger, work) for s in arm.strengths[setting.name]}
        enough = [s for s in made if gain(made[s]) >= CHOOSER_KEEPS * gain(careless)]
        best = min(enough, key=lambda s: loss(made[s])) if enough else max(made, key=lambda s: gain(made[s]))
        chosen[arm.name] = best
        tried += [(arm.title, s, trial, s == best) for s, trial in made.items()]
    return chosen, tried


def measure(
    setting: Setting, chosen: Mapping[str, float | None], seeds: Sequence[int], ledger: Ledger, work: Path
) -> list[telling.Found]:
    """Every arm at its strength with every seed; seeds come first, so that an early end leaves whole seeds."""
    trials: dict[str, list[Mapping[str, Any]]] = {arm.name: [] for arm in ARMS}
    for seed in seeds:
        for arm in ARMS:
            trials[arm.name].append(_trial(setting, arm, chosen[arm.name], seed, ledger, work))
    return [telling.Found(arm.title, arm.name, chosen[arm.name], trials[arm.name]) for arm in ARMS]


def _trial(
    setting: Setting, arm: Arm, strength: float | None, seed: int, ledger: Ledger, work: Path
) -> Mapping[str, Any]:
    name = f"{setting.name} {arm.name} {strength if strength is not None else '-'} seed {seed}"
    recipe = write_project(work / name.replace(" ", "_"), setting, seed, arm, strength)
    return ledger.trial(name, recipe, "sweep" if seed == CHOOSING else "verdict", curve=seed == SEEDS[0])


def cost(setting: Setting, rounds: int, ledger: Ledger, work: Path) -> dict[str, list[Any]]:
    """Pairs of trainings without and with the guard at its defaults; every second round runs the other way round."""
    from dataclasses import replace

    replay = next(arm for arm in ARMS if arm.name == "replay")
    cases = {
        "nothing changes (learning rate 1e-6)": (replace(setting, learning_rate=QUIET), ARMS[0], None),
        "the skill is learned, with replay": (setting, replay, max(replay.strengths[setting.name])),
    }
    found: dict[str, list[Any]] = {}
    for number, (title, (changed, arm, strength)) in enumerate(cases.items()):
        found[title] = []
        for turn in range(rounds):
            pair: dict[bool, Mapping[str, Any]] = {}
            for guard in (False, True) if turn % 2 == 0 else (True, False):
                name = f"cost {number} {'with' if guard else 'without'} round {turn}"
                recipe = write_project(
                    work / name.replace(" ", "_"), changed, SEEDS[0], arm, strength, guard=guard, sequential=True
                )
                pair[guard] = ledger.trial(name, recipe, "verdict")
            found[title].append((pair[False], pair[True]))
    return found


def facts() -> str:
    """How the figures were made."""
    made_with = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    return f"- made with: {made_with}, Python {platform.python_version()}, one thread\n- date: {time.strftime('%F')}\n"


def main() -> None:
    """Measure, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a training; gone on with")
    parser.add_argument("--work", type=Path, help="folder of the trainings (default: beside --out)")
    parser.add_argument("--chart", type=Path, help="write the figure as SVG")
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many")
    parser.add_argument("--cost", type=int, default=0, metavar="ROUNDS", help="also measure what the guard costs")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    ledger, work = Ledger(given.out), (given.work or given.out.with_suffix(".work")).resolve()
    parts, drawn = [facts()], {}
    for name in given.settings:
        setting = SETTINGS[name]
        chosen, tried = choose(setting, ledger, work)
        found = measure(setting, chosen, SEEDS[: given.seeds], ledger, work)
        drawn[name] = (setting, found)
        parts += [f"#### {setting.title}", telling.arms_table(found), "Strengths tried:", telling.choices_table(tried)]
    if given.cost:
        made = cost(SETTINGS["high"], given.cost, ledger, work)
        parts += ["#### What ForgettingGuard costs", telling.cost_table(made)]
    if given.chart and drawn:
        caption = f"Figures beneath: {given.seeds} seeds, mean (smallest to largest), samples of the verdict"
        given.chart.write_text(telling.figure(drawn, caption), encoding="utf-8")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
