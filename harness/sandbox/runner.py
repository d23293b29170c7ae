"""Starts the sandbox, watches the clock and the output, and says what the code did."""

from __future__ import annotations

import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Literal

from harness.errors import SandboxError
from harness.sandbox import bubblewrap, syscalls

State = Literal["ok", "error", "timeout", "memory"]

OUTPUT_BYTES = 64 * 1024
TMP_BYTES = 16 * 1024 * 1024
MINIMUM_MEMORY_MB = 64
_START_SECONDS = 30.0
_END_SECONDS = 5.0
_POLL_SECONDS = 0.25
_THREADS = 32
_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What the code did.

    `ok` means it ran to its last line; leaving early, even by `sys.exit(0)`, is an `error`. `timeout` and `memory`
    mean that it was stopped at the limit. `exit_code` is 128 + n after signal n, and None when it was stopped at
    the time limit. `stdout` and `stderr` hold at most the first `OUTPUT_BYTES` of each; `truncated` says that
    there was more. `seconds` is wall-clock time.
    """

    state: State
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """Whether the code ran to its last line."""
        return self.state == "ok"


@dataclass(frozen=True, slots=True)
class Job:
    """One program for `run_many`, with its limits: wall-clock seconds, and MiB of address space."""

    code: str
    timeout_s: float = 5.0
    memory_mb: int = 512
    stdin: str = ""


def run_python(code: str, *, timeout_s: float, memory_mb: int, stdin: str = "") -> SandboxResult:
    """Run `code` as a script of this Python version, standard library only, confined and bounded.

    Args:
        code: the program; it sees no other file of the host and can start threads but no processes.
        timeout_s: wall-clock seconds, counted from the program's first line; the CPU limit is one second more.
        memory_mb: MiB of address space, at least 64; files in `/tmp` (16 MiB) come on top.
        stdin: what the program reads.

    Raises:
        SandboxError: the code could not be confined, so it was not run.
        ValueError: a limit makes no sense.
    """
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"timeout_s must be a positive number of seconds, not {timeout_s!r}")
    if memory_mb < MINIMUM_MEMORY_MB:
        raise ValueError(f"memory_mb must be at least {MINIMUM_MEMORY_MB}, not {memory_mb!r}")
    token = secrets.token_hex(16)
    handed = token.encode() + code.encode("utf-8", "surrogatepass")
    limits = (math.ceil(timeout_s) + 1, memory_mb * 1024 * 1024, TMP_BYTES, _THREADS)
    with _started(handed, stdin.encode("utf-8", "surrogatepass"), limits) as running:
        timed_out = running.watch(timeout_s)
        running.end()
        return running.result(token, timed_out)


def run_many(jobs: Sequence[Job], *, workers: int | None = None) -> list[SandboxResult]:
    """Run every job, `workers` at a time (default: one per CPU), results in the order of the jobs.

    Raises:
        SandboxError: one of them could not be confined; none of the results is returned.
    """
    count = workers or len(os.sched_getaffinity(0))

    def run(job: Job) -> SandboxResult:
        return run_python(job.code, timeout_s=job.timeout_s, memory_mb=job.memory_mb, stdin=job.stdin)

    with ThreadPoolExecutor(max_workers=max(1, min(count, len(jobs)))) as pool:
        return list(pool.map(run, jobs))


@cache
def available() -> str | None:
    """None when code can be confined here, else the reason and the way out; tried once per process."""
    try:
        result = run_python("print(6 * 7)", timeout_s=_START_SECONDS, memory_mb=256)
    except SandboxError as error:
        return str(error)
    return None if result.ok else f"the sandbox starts but a trivial program fails in it: {result.stderr.strip()}"


class _Bounded:
    """The first `OUTPUT_BYTES` of a stream; the rest is counted and dropped, so that a flood costs no memory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.total = 0

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        self.data += chunk[: OUTPUT_BYTES - len(self.data)]

    @property
    def truncated(self) -> bool:
        return self.total > len(self.data)

    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


class _Running:
    """One sandbox while it runs."""

    def __init__(self, process: subprocess.Popen[bytes], status: int, info: int) -> None:
        self.process, self._info = process, info
        self.stdout, self.stderr, self.status = _Bounded(), _Bounded(), _Bounded()
        self._streams: dict[int, Callable[[bytes], None]] = {
            _descriptor(process.stdout): self.stdout.add,
            _descriptor(process.stderr): self.stderr.add,
            status: self.status.add,
        }
        self._start = time.monotonic()
        self._first_line: float | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - (self._first_line or self._start)

    def watch(self, timeout_s: float) -> bool:
        """Read until the process ends (False) or the time is up (True)."""
        with selectors.DefaultSelector() as selector:
            for fd in self._streams:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                left = self._seconds_left(timeout_s)
                if left <= 0:
                    return True
                ready = selector.select(min(left, _POLL_SECONDS))
                for key, _ in ready:
                    self._read(selector, key.fd)
                # A process that someone else forked meanwhile may hold a pipe open: its end alone is not to be trusted.
                if not ready and self.process.poll() is not None:
                    return False
        try:
            self.process.wait(max(0.0, self._seconds_left(timeout_s)))
        except subprocess.TimeoutExpired:
            return True
        return False

    def result(self, token: str, timed_out: bool) -> SandboxResult:
        """What happened, judged by the report of the bootstrap rather than by an exit code that the code chose."""
        if self._first_line is None:
            raise SandboxError(self._no_start(timed_out))
        code = None if timed_out else self.process.returncode
        return SandboxResult(
            self._state(token, timed_out), code, self.stdout.text(), self.stderr.text(), self.seconds,
            self.stdout.truncated or self.stderr.truncated,
        )  # fmt: skip

    def _state(self, token: str, timed_out: bool) -> State:
        report = self.status.text().splitlines()[1:]
        if timed_out or self.process.returncode == 128 + signal.SIGXCPU:
            return "timeout"
        if f"memory {token}" in report:
            return "memory"
        return "ok" if f"ok {token}" in report and self.process.returncode == 0 else "error"

    def _no_start(self, timed_out: bool) -> str:
        said = self.stderr.text().strip()
        if timed_out:
            return f"the sandbox did not start within {_START_SECONDS:g} s: {said or 'it said nothing'}"
        lowered = said.lower()
        blocked = any(s in lowered for s in ("namespace", "uid map", "operation not permitted", "permission denied"))
        return f"the sandbox did not start: {said or 'it said nothing'}" + (
            f"; {bubblewrap.NAMESPACES}" if blocked else ""
        )

    def _seconds_left(self, timeout_s: float) -> float:
        if self._first_line is None:
            return self._start + _START_SECONDS - time.monotonic()
        return self._first_line + timeout_s - time.monotonic()

    def _read(self, selector: selectors.BaseSelector, fd: int) -> None:
        chunk = os.read(fd, 65536)
        if not chunk:
            selector.unregister(fd)
            return
        self._streams[fd](chunk)
        if self._first_line is None and self.status.data.startswith(b"started\n"):
            self._first_line = time.monotonic()

    def end(self) -> None:
        """Kill what is left, and return when nothing is.

        The first process inside goes first: the kernel ends its whole process namespace with it, and Bubblewrap,
        which waits for it, leaves no orphan behind.
        """
        if self.process.poll() is not None:
            return
        try:
            os.kill(int(json.loads(os.read(self._info, 4096))["child-pid"]), signal.SIGKILL)
            self.process.wait(_END_SECONDS)
        except (BlockingIOError, ProcessLookupError, ValueError, KeyError, subprocess.TimeoutExpired):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def _started(handed: bytes, stdin: bytes, limits: tuple[int, int, int, int]) -> Iterator[_Running]:
    with ExitStack() as stack, ExitStack() as given:  # `given` is what only the sandbox keeps once it has started
        status, status_inside = _pipe(stack, given)
        info, info_inside = _pipe(stack, given)
        os.set_blocking(info, False)
        source = given.enter_context(_holding(handed)).fileno()
        rules = given.enter_context(_holding(syscalls.program())).fileno()
        words = [*bubblewrap.command(rules, info_inside, TMP_BYTES), "-c", _BOOTSTRAP.read_text("utf-8")]
        process = subprocess.Popen(  # noqa: S603 - no shell, and the words are ours; the code is not among them
            [*words, *(str(n) for n in (source, status_inside, *limits))],
            stdin=given.enter_context(_holding(stdin)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(source, status_inside, rules, info_inside),
            start_new_session=True,
        )
        given.close()
        stack.enter_context(process)
        running = _Running(process, status, info)
        stack.callback(running.end)  # runs first, whatever happens: nothing outlives the call
        yield running


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    return read, write


def _holding(content: bytes) -> IO[bytes]:
    """An unnamed file with `content`, rewound: nothing to clean up, and no pipe that could fill."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's stack closes it
    file.write(content)
    file.seek(0)
    return file


def _descriptor(stream: IO[bytes] | None) -> int:
    if stream is None:
        raise SandboxError("a stream of the sandbox is not a pipe")
    return stream.fileno()
