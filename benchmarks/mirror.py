"""What a mirror adds to a user's wait: 200 calls a second at a stub, directly and through the mirror, in turns

    python benchmarks/mirror.py [--rate 200] [--seconds 1.5] [--rounds 12] [--modes ok,slow,hung,crashing] [--json FILE]

Load is offered at fixed times whatever comes back, and a call's latency counts from the time at which it was due, so
that a stall is not hidden by the calls that it held back. Blocks of direct and of mirrored load alternate; a round has
one of each, in turns first. Every number is the median over the rounds, of a block's quantile or of the difference
between the two blocks of a round: so what else the machine does falls on both, and a burst of it on few. The champion
answers after 20 ms. The candidate answers as fast, after 2 s, never, or closes the connection. Every body is compared
with the stub's. The load generator, both stubs, the mirror and its comparing process share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[1]
MODES = ("ok", "slow", "hung", "crashing")
_QUESTION = "Where is my parcel? I ordered it last week and have heard nothing since. " * 14


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a block")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    given = parser.parse_args()
    print(f"{given.rate:g} calls/s, {given.rounds} rounds of {given.seconds:g} s each way, {os.cpu_count()} cores, "
          f"load average {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"{'candidate':10} {'direct p50':>11} {'p99':>8} {'mirror p50':>11} {'p99':>8} {'added p50':>10} {'p99':>8}  "
          "(ms)   same bytes   books     compared / not")  # fmt: skip
    rows = []
    for mode in given.modes.split(","):
        row = measure(mode, given.rate, given.seconds, given.rounds)
        rows.append(row)
        print(_line(row), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"rate": given.rate, "rows": rows, "cores": os.cpu_count()}, indent=2))


def _line(r: dict[str, Any]) -> str:
    d, m, added = r["direct"], r["mirror"], r["added"]
    drops = {w: n for w, n in r["counts"].items() if w not in ("received", "compared")}
    return (f"{r['candidate']:10} {d['p50']:11.1f} {d['p99']:8.1f} {m['p50']:11.1f} {m['p99']:8.1f} "
            f"{added['p50']:10.1f} {added['p99']:8.1f}         {'yes' if r['same'] else 'NO':>10}   "
            f"{r['adds_up']}   {r['counts'].get('compared', 0)} / {drops}")  # fmt: skip


def measure(mode: str, rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """One kind of candidate: latencies in ms both ways, and the books."""
    with tempfile.TemporaryDirectory() as name, _stub("ok") as champion, _stub(mode) as candidate:
        folder = Path(name)
        (folder / "mirror.yaml").write_text(
            f"champion: {{api_base: 'http://127.0.0.1:{champion}/v1'}}\n"
            "candidate:\n  timeout: 5\n"
            f"  deployments: [{{model: openai/m, api_base: 'http://127.0.0.1:{candidate}/v1'}}]\n"
            "mirror: {share: 1.0, concurrency: 32}\nbreaker: {failures: 100000}\npolicy: {tried: false}\n"
            "sessions: {idle_seconds: 2}\n"
        )
        with _mirror(folder) as mirror:
            result = asyncio.run(_turns(champion, mirror, rate, seconds, rounds))
        counts = json.loads(_counts(folder))
    total = sum(n for what, n in counts.items() if what != "received")
    adds_up = (
        "adds up" if total == counts["received"] == result["sent"] + 1 else f"{total} of {counts['received']} booked"
    )
    return {"candidate": mode, **result, "counts": counts, "adds_up": adds_up}


async def _turns(champion: int, mirror: int, rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    direct: list[dict[str, float]] = []
    through: list[dict[str, float]] = []
    same, sent = True, 0
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        want = await _body(session, champion, "warm")
        await _body(session, mirror, "warm")
        await _block(session, champion, 50, 1, want)  # connections
        for number in range(rounds):
            for port, taken in (
                ((champion, direct), (mirror, through)) if number % 2 else ((mirror, through), (champion, direct))
            ):
                times, equal = await _block(session, port, rate, seconds, want)
                taken.append(_quantiles(times))
                sent += len(times) if taken is through else 0
                same = same and equal
    added = [{q: m[q] - d[q] for q in d} for d, m in zip(direct, through, strict=True)]
    medians = {name: _medians(found) for name, found in (("direct", direct), ("mirror", through), ("added", added))}
    return {**medians, "same": same, "sent": sent}


def _medians(blocks: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(block[name] for block in blocks) for name in blocks[0]}


_NUMBERS = itertools.count()


async def _block(
    session: aiohttp.ClientSession, port: int, rate: float, seconds: float, want: bytes
) -> tuple[list[float], bool]:
    start = time.perf_counter() + 0.05
    times: list[float] = []
    equal = True

    async def call(number: int) -> None:
        nonlocal equal
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        body = await _body(session, port, f"call {next(_NUMBERS)}")  # each is a session of its own
        times.append(1000 * (time.perf_counter() - due))
        equal = equal and body == want

    await asyncio.gather(*(call(i) for i in range(round(rate * seconds))))
    return times, equal


async def _body(session: aiohttp.ClientSession, port: int, question: str) -> bytes:
    asked = {"model": "m", "messages": [{"role": "user", "content": f"{question}: {_QUESTION}"}]}
    async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=asked) as answer:
        return await answer.read()


def _quantiles(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in (("p50", 0.5), ("p99", 0.99))}


@contextlib.contextmanager
def _stub(mode: str) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.mirror_bench.stub", mode]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)  # noqa: S603 - our own
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _mirror(folder: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "harness", "shadow", "mirror", str(folder / "mirror.yaml"), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and command
        command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    assert process.stderr is not None
    lines = [process.stderr.readline(), process.stderr.readline()]  # its address, and its first look
    said = next(line for line in lines if line.startswith("listening"))
    port = int(said.split()[2].rpartition(":")[2].removesuffix("/v1"))
    try:
        yield port
    finally:
        process.terminate()
        process.wait(60)


def _counts(folder: Path) -> str:
    code = ("import json,sys; from pathlib import Path; from harness.mirror import load_mirror; "
            "from harness.mirror.ledger import Ledger; l = load_mirror(Path(sys.argv[1])); "
            "print(json.dumps(Ledger(l.folder, l.comparison_digest()).counts()))")  # fmt: skip
    command = [sys.executable, "-c", code, str(folder / "mirror.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)  # noqa: S603 - our own
    return done.stdout


if __name__ == "__main__":
    main()
