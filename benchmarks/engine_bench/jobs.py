"""One measurement as data: what a fresh process is told to do, and what it tells back. Both travel as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.engine_bench.counting import Size, Work
from benchmarks.engine_bench.workloads import Ask

ROOT = Path(__file__).resolve().parents[2]

BASE = "base"


@dataclass(frozen=True, slots=True)
class Job:
    """`arms` are asked one after the other: (name, folder of the adapter or none). `runner` is lm-eval, ours or first.

    `warm` names arms whose outputs are put into the cache before the clock starts. `most` samples are asked at a time.
    """

    runner: str
    model: str
    arms: tuple[tuple[str, str | None], ...]
    asks: tuple[Ask, ...] = ()
    engine: str = "plain"
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 2
    warm: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    most: int = 2048
    keep: bool = False
    profile: bool = False
    task: str = ""
    data: str = ""

    @classmethod
    def read(cls, path: Path) -> Job:
        """What `write` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        texts = stored.pop("texts")
        asks = tuple(Ask(sample, kind, (texts[n], *rest), idx) for sample, kind, n, rest, idx in stored.pop("asks"))
        return cls(**{**stored, "asks": asks, "arms": tuple((name, adapter) for name, adapter in stored.pop("arms"))})

    def write(self, path: Path) -> None:
        """As JSON; a prompt of several requests is in it, and later in memory, once, as in lm-eval's tasks."""
        texts: dict[str, int] = {}
        asks = [
            (a.sample, a.kind, texts.setdefault(a.arguments[0], len(texts)), a.arguments[1:], a.idx) for a in self.asks
        ]
        rest = asdict(replace(self, asks=()))
        path.write_text(json.dumps({**rest, "asks": asks, "texts": list(texts)}), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Arm:
    """One subject's run: wall and CPU seconds, counted work, and its answers in the order of the requests.

    CPU seconds are those of all threads of the process, user and system, while the clock ran. An answer is
    (log-likelihood, is greedy) or a text; `tokens` are the ids of generated texts where they are known.
    """

    seconds: float
    cpu_seconds: float
    work: Work
    size: Size
    answers: tuple[Any, ...]
    tokens: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[Mapping[str, Any], ...] = ()
    usage: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Arm:
        """From JSON."""
        return cls(
            **{
                **stored,
                "work": Work(**stored["work"]),
                "size": Size(**stored["size"]),
                "answers": tuple(tuple(a) if isinstance(a, list) else a for a in stored["answers"]),
                "tokens": tuple(tuple(ids) for ids in stored["tokens"]),
                "outputs": tuple(stored["outputs"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What a process measured, or why it measured nothing (`failure`)."""

    arms: Mapping[str, Arm] = field(default_factory=dict)
    import_seconds: float = 0.0
    load_seconds: float = 0.0
    loaded_bytes: int = 0
    peak_bytes: int = 0
    remarks: tuple[str, ...] = ()
    profile: str = ""
    first_seconds: float = 0.0
    failure: str = ""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Result:
        """From JSON."""
        arms = {name: Arm.of(arm) for name, arm in stored["arms"].items()}
        return cls(**{**stored, "arms": arms, "remarks": tuple(stored["remarks"])})


def run(job: Job, limit: float | None = None) -> Result:
    """`job` in a process of its own, with clean memory; `limit` is in seconds."""
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as folder:
        asked, told = Path(folder) / "job.json", Path(folder) / "result.json"
        job.write(asked)
        command = [sys.executable, "-m", "benchmarks.engine_bench.worker", str(asked), str(told)]
        code, errors = spawn(command, limit, job.threads)
        if code != 0 or not told.is_file():
            return Result(failure=_reason(code, limit, errors))
        return Result.of(json.loads(told.read_text(encoding="utf-8")))


def spawn(command: Sequence[str], limit: float | None, threads: int) -> tuple[int, str]:
    """Exit code (None of ours: 124 after `limit` seconds) and the end of stderr of a command at the repository root."""
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(  # noqa: S603  # our own command
            command, cwd=ROOT, env=environment, stdout=errors, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = 124
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        errors.seek(0)
        return code, errors.read()[-2000:]


def _reason(code: int, limit: float | None, errors: str) -> str:
    if code == 124:
        return f"not finished within {limit:.0f} s"
    if code in (-signal.SIGKILL, 137):
        return "killed, most likely for memory"
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {code}"


def say(text: str) -> None:
    """Progress, to stderr with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
