"""Measures the client of served models: throughput against the ideal, what a call costs, and memory over many calls.

    python benchmarks/judging_throughput.py [--repeats 5] [--questions 1000] [--calls 2000] [--many 50000]

The server is `tests/loopback_model.py` in a process of its own. Every alternative gets the same prompts of about 1.5 kB
in every repeat, one after the other, in an order that changes from repeat to repeat. `bare litellm` is the named
alternative: `litellm.acompletion` in a gather with a semaphore, with no limits, retries, budget or memory of replies.
The Markdown on stdout says how it was made.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from harness.records import Message
from harness.served import Prices, Question, ServedOptions
from harness.served.client import Client

ROOT = Path(__file__).resolve().parents[1]
LATENCY, CONCURRENCY = 0.2, 64
IDEAL, PER_CALL = 1.3, 2.0  # targets: times the ideal, milliseconds
STEP = 5_000  # calls between two looks at the memory
_CASE = "Question: {n}. " + "Is the following answer faithful to its context, in every one of its claims? " * 19
Way = Callable[[str, int, int], None]
"""(api_base, number of questions, concurrency) → all of them asked."""


@dataclass
class Cost:
    """Of one alternative, one figure a repeat: wall and processor seconds of all calls together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def told(self, calls: int) -> str:
        """Medians with their range, in milliseconds a call."""
        return " | ".join(_spread([1e3 * s / calls for s in seconds]) for seconds in (self.cpu, self.wall))


def ours(model: str, *, stored: bool = False) -> Way:
    """Our client; the file of a store is new each time."""

    def ask(base: str, count: int, concurrency: int) -> None:
        options = ServedOptions(model=model, api_base=base, concurrency=concurrency, prices=Prices(input=1, output=1))
        with (
            tempfile.TemporaryDirectory() as folder,
            Client(options, store=Path(folder) / "replies.sqlite" if stored else None) as client,
        ):
            answered = sum(reply.text is not None for _, reply in client.ask(questions(count)))
        assert answered == count, f"{count - answered} questions stayed without an answer"

    return ask


def bare_litellm(base: str, count: int, concurrency: int) -> None:
    """What one writes without us."""
    import litellm

    async def everything() -> None:
        free = asyncio.Semaphore(concurrency)

        async def one(question: Question) -> None:
            async with free:
                await litellm.acompletion(
                    model="openai/m", api_base=base, api_key="none", num_retries=0, max_tokens=question.max_tokens,
                    messages=[{"role": "user", "content": question.messages[0].content}], temperature=0.0, seed=0,
                )  # fmt: skip

        await asyncio.gather(*(one(question) for question in questions(count)))

    asyncio.run(everything())


WAYS: dict[str, Way] = {
    "ours": ours("openai/m"),
    "ours, replies stored on disk": ours("openai/m", stored=True),
    "ours, through litellm": ours("hosted_vllm/m"),
    "bare litellm": bare_litellm,
}


def questions(count: int, first: int = 0) -> list[Question]:
    """Distinct prompts of about 1.5 kB."""
    return [Question((Message("user", _CASE.format(n=n)),), max_tokens=16) for n in range(first, first + count)]


@contextmanager
def server(latency: float) -> Iterator[str]:
    """The address of a loopback server in a process of its own."""
    command = [sys.executable, str(ROOT / "tests" / "loopback_model.py"), "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # our own
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def measured(names: Sequence[str], latency: float, count: int, concurrency: int, repeats: int) -> dict[str, Cost]:
    """Every way in every repeat; the first call of a way is not measured, because it loads libraries."""
    costs = {name: Cost() for name in names}
    with server(latency) as base:
        for name in names:
            WAYS[name](base, concurrency, concurrency)
        for repeat in range(repeats):
            for turn in range(len(names)):
                name = names[(repeat + turn) % len(names)]
                gc.collect()
                wall, cpu = time.perf_counter(), time.process_time()
                WAYS[name](base, count, concurrency)
                costs[name].wall.append(time.perf_counter() - wall)
                costs[name].cpu.append(time.process_time() - cpu)
    return costs


def memory(calls: int) -> None:
    """Print the resident memory in MiB after every `STEP` calls of one client; run in a process of its own."""
    with server(0.0) as base:
        options = ServedOptions(model="openai/m", api_base=base, concurrency=32, prices=Prices(input=1, output=1))
        with tempfile.TemporaryDirectory() as folder, Client(options, store=Path(folder) / "replies.sqlite") as client:
            for first in range(0, calls, STEP):
                assert all(reply.text for _, reply in client.ask(questions(STEP, first)))
                gc.collect()
                print(_resident(), flush=True)


def throughput_table(costs: dict[str, Cost], count: int) -> str:
    """Wall seconds against the ideal."""
    ideal = count / CONCURRENCY * LATENCY
    head = f"ideal: {count} / {CONCURRENCY} × {LATENCY} s = {ideal:.3f} s; target: {IDEAL} × ideal"
    rows = [
        f"| {name} | {_spread(cost.wall)} | {statistics.median(cost.wall) / ideal:.2f} | {_spread(cost.cpu)} |"
        for name, cost in costs.items()
    ]
    columns = "| alternative | wall, s | × ideal | cpu, s |\n| --- | ---: | ---: | ---: |"
    return "\n".join([head, "", columns, *rows])


def overhead_table(costs: dict[str, Cost], calls: int) -> str:
    """Milliseconds a call at no latency."""
    bare = statistics.median(costs["bare litellm"].cpu)
    rows = [
        f"| {name} | {cost.told(calls)} | {bare / statistics.median(cost.cpu):.1f} |" for name, cost in costs.items()
    ]
    columns = "| alternative | cpu, ms a call | wall, ms a call | × bare litellm in cpu |\n| --- | ---: | ---: | ---: |"
    return "\n".join([f"target: {PER_CALL:g} ms a call", "", columns, *rows])


def memory_table(resident: Sequence[float]) -> str:
    """MiB by the number of calls."""
    shown = [i for i in range(len(resident)) if i in (0, len(resident) // 2, len(resident) - 1)]
    rows = [f"| {(i + 1) * STEP:,} | {resident[i]:.1f} |" for i in shown]
    return "\n".join(["| calls | resident, MiB |\n| ---: | ---: |", *rows])


def facts(given: argparse.Namespace) -> str:
    """How the figures were made."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("litellm", "openai", "aiohttp", "httpx"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return "\n".join(
        [
            f"- command: python {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
            f"- machine: {platform.machine()}, {os.cpu_count()} cores shared with other work; load {load} at the end",
            f"- Python {platform.python_version()}, {libraries}",
            f"- medians of {given.repeats} repeats, lowest and highest in parentheses; cpu is the client process's own",
        ]
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--questions", type=int, default=1000, help="of the throughput")
    parser.add_argument("--calls", type=int, default=2000, help="of what a call costs")
    parser.add_argument("--many", type=int, default=50_000, help="calls of the memory")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        memory(given.memory)
        return
    throughput = measured(list(WAYS), LATENCY, given.questions, CONCURRENCY, given.repeats)
    overhead = measured(list(WAYS), 0.0, given.calls, 32, given.repeats)
    command: list[Any] = [sys.executable, __file__, "--memory", str(given.many)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  # our own
    resident = [float(line) for line in done.stdout.split()]
    parts = [
        facts(given),
        f"### {given.questions} questions, latency {LATENCY:g} s, concurrency {CONCURRENCY}",
        throughput_table(throughput, given.questions),
        f"### {given.calls} calls, no latency, concurrency 32",
        overhead_table(overhead, given.calls),
        f"### Memory over {given.many:,} calls, replies stored on disk",
        memory_table(resident),
    ]
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
