"""Two promises of the registry, put to the test at full size: promotions that are killed, and bytes that are changed

`python benchmarks/promotions.py race` lets 8 processes promote three adapters each at once, 100 rounds, and kills some
of them with SIGKILL in each, while a reader polls the champion. `python benchmarks/promotions.py flips` changes 1,000
random bytes, one at a time, over adapter, verdict, evidence, lock, ledger and record, and asks `verify` each time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.errors import RecordError
from harness.registry import Promotion, ledger
from harness.registry.backends.local import LocalRegistry
from harness.registry.keys import PublicKey, SigningKey, new_key
from harness.registry.promoting import prepare
from harness.registry.verifying import intact, verify
from tests.promotion_example import gated

_FORK = multiprocessing.get_context("fork")


@dataclass(slots=True)
class Race:
    """What a race came to: `polls` counts how often a reader found a whole champion."""

    finished: int = 0
    killed: int = 0
    polls: int = 0
    champions: int = 0
    entries: int = 0
    problems: list[str] = field(default_factory=list)


def race(folder: Path, promotions: Sequence[Promotion], key: SigningKey, *, processes: int, rounds: int, kills: int,
         seed: int = 0) -> Race:  # fmt: skip
    """Let processes promote at once, kill some in every round, and look after each whether all is as it should be."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    registry, result = LocalRegistry(folder / "registry"), Race()
    trusted = {key.identity: key.public}
    registry.promote(promotions[0], "champion", key)
    told = folder / "polled"
    reader = _FORK.Process(target=_poll, args=(registry, told))
    reader.start()
    try:
        for number in range(rounds):
            workers = [_FORK.Process(target=_promote, args=(registry, promotions, key, rng.random()))
                       for _ in range(processes)]  # fmt: skip
            for worker in workers:
                worker.start()
            _kill(rng, workers, kills, result)
            result.problems += [f"round {number}: {said}" for said in _problems(registry, trusted)]
    finally:
        os.kill(reader.pid or 0, signal.SIGTERM)
        reader.join()
    lines = told.read_text(encoding="utf-8").splitlines()
    result.polls, result.champions = int(lines[0]), int(lines[1])
    result.problems += lines[2:]
    result.entries = len(registry.log())
    return result


def _promote(registry: LocalRegistry, promotions: Sequence[Promotion], key: SigningKey, seed: float) -> None:
    rng = random.Random(seed)  # noqa: S311 - no secret
    for promotion in rng.sample(list(promotions), 3):
        registry.promote(promotion, "champion", key)


def _kill(rng: random.Random, workers: Sequence[BaseProcess], kills: int, result: Race) -> None:
    for worker in rng.sample(workers, kills):
        time.sleep(rng.random() * 0.03)
        if worker.is_alive():
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, signal.SIGKILL)
    for worker in workers:
        worker.join()
        result.killed += worker.exitcode == -signal.SIGKILL
        result.finished += worker.exitcode == 0
        if worker.exitcode not in (0, -signal.SIGKILL):
            result.problems.append(f"a promotion failed with {worker.exitcode}")


def _problems(registry: LocalRegistry, trusted: Mapping[str, PublicKey]) -> list[str]:
    """What is not as it should be, first as the killed left it and then as the next writer finds it."""
    found = []
    try:
        intact(registry.root / "aliases" / "champion")
        registry.create()
        verified = verify(registry.root, trusted)
        entries = ledger.check(registry.root / ledger.FILE, trusted)
    except RecordError as error:
        return [str(error)]
    if registry.aliases() != ledger.standing(entries) or verified.aliases != ("champion",):
        found.append("an alias stands for something else than the ledger says")
    kept = {path.name for path in (registry.root / "promotions").iterdir()}
    if kept != {entry.promotion for entry in entries}:
        found.append("a promotion is half done")
    if any((registry.root / "staging").iterdir()):
        found.append("something was left in staging")
    return found


def _poll(registry: LocalRegistry, told: Path) -> None:
    """Follow the alias over and over until SIGTERM; each time it has to lead to a whole bundle."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    polls, seen, problems = 0, Counter[str](), []
    while not stopped:
        try:
            seen[intact(registry.root / "aliases" / "champion")] += 1
        except RecordError as error:
            problems.append(f"a reader found no whole champion: {error}")
        polls += 1
    told.write_text("\n".join([str(polls), str(len(seen)), *problems]), encoding="utf-8")


def flips(root: Path, trusted: Mapping[str, PublicKey], count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Change `count` random bytes of a registry one at a time: (refused and named, by file; what was not)."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    champion = (root / "aliases" / "champion").resolve()
    files = [*sorted(p for p in champion.rglob("*") if p.is_file()), root / ledger.FILE]
    refused, missed = Counter[str](), []
    for number in range(count):
        path = files[number % len(files)]
        content = path.read_bytes()
        spot = rng.randrange(len(content))
        changed = bytearray(content)
        changed[spot] ^= rng.randrange(1, 256)
        path.unlink()
        path.write_bytes(changed)
        try:
            verify(root, trusted)
            missed.append(f"{path.name}, byte {spot}: accepted")
        except RecordError as error:
            if path.name in str(error):
                refused[path.name] += 1
            else:
                missed.append(f"{path.name}, byte {spot}: {error}")
        path.unlink()
        path.write_bytes(content)
    return refused, missed


def main() -> None:
    """Run one of the two and print what came of it; exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["race", "flips"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--count", type=int, default=1000)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="promotions-"))
    try:
        promotions = [prepare(gated(folder / str(seed), seed=seed)) for seed in range(6 if given.what == "race" else 2)]
        key = new_key(folder / "signing.pem")
        started = time.perf_counter()
        if given.what == "race":
            result = race(folder, promotions, key, processes=8, rounds=given.rounds, kills=3)
            print(f"{result.finished} promoting processes finished, {result.killed} were killed")
            print(f"{result.entries} entries; {result.polls} polls found {result.champions} champions")
            problems = result.problems
        else:
            registry = LocalRegistry(folder / "registry")
            for promotion in promotions:
                registry.promote(promotion, "champion", key)
            refused, problems = flips(registry.root, {key.identity: key.public}, given.count)
            print(f"{refused.total()} of {given.count} changes refused, each naming its file: {dict(refused)}")
        print(f"{time.perf_counter() - started:.1f} s", *problems, sep="\n")
    finally:
        shutil.rmtree(folder)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
