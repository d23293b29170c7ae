"""How long `harness verify` takes on an adapter of 100 MiB

    python benchmarks/verifying.py [--mebibytes 100] [--rounds 11]

The command is timed beside what it cannot do without, the start of Python and the SHA-256 of the same file: in turns,
so that whatever else the machine does falls on all alike. Beside the seconds stand those of the processor, which
do not depend on who else uses it.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.registry.backends.local import LocalRegistry
from harness.registry.keys import new_key
from harness.registry.promoting import prepare
from tests.promotion_example import gated, make_adapter

_ROOT = Path(__file__).parents[1]
_WEIGHTS = "adapter_model.safetensors"
_HASHING = "import hashlib, sys; hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256')"


def promoted(folder: Path, mebibytes: int) -> Path:
    """A registry whose champion has weights of that size; its public key is `signing.pub` in `folder`."""
    adapter = make_adapter(folder / "adapter")
    with (adapter / _WEIGHTS).open("wb") as stream:
        for _ in range(mebibytes):
            stream.write(os.urandom(2**20))
    registry = LocalRegistry(folder / "registry")
    registry.promote(prepare(gated(folder / "gated", adapter=adapter)), "champion", new_key(folder / "signing.pem"))
    return registry.root


def verifying(folder: Path, mebibytes: int, rounds: int) -> None:
    """Time the command and its unavoidable parts, and print a table."""
    registry = promoted(folder, mebibytes)
    harness = [sys.executable, "-m", "harness"]
    commands: Mapping[str, Sequence[str]] = {
        "python, doing nothing": [sys.executable, "-c", "pass"],
        f"SHA-256 of {mebibytes} MiB": [sys.executable, "-c", _HASHING, str(registry / "aliases/champion" / _WEIGHTS)],
        "harness --help": [*harness, "--help"],
        f"harness verify, {mebibytes} MiB": [*harness, "verify", str(registry), "--key", str(folder / "signing.pub")],
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seen[name].append(_timed(lambda command=command: _run(command)))  # type: ignore[misc]
    _print(seen)


def _run(command: Sequence[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603 - our own commands


def _timed(act: Callable[[], object]) -> tuple[float, float]:
    """(seconds, processor seconds), those of processes that were started among them."""
    before, started = _processor(), time.perf_counter()
    act()
    return time.perf_counter() - started, _processor() - before


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _print(seen: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians, and the range of the seconds")
    print(f"{'':32}{'seconds':>9}{'range':>18}{'cpu s':>9}")
    for name, measured in seen.items():
        seconds, processor = ([one[i] for one in measured] for i in (0, 1))
        between = f"{min(seconds):.2f}-{max(seconds):.2f}"
        print(f"{name:32}{statistics.median(seconds):9.2f}{between:>18}{statistics.median(processor):9.2f}")


def main() -> None:
    """Make the adapter, promote it, and time the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=11)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="verifying-"))
    try:
        verifying(folder, given.mebibytes, given.rounds)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
