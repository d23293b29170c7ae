"""A receiver started as a user starts it, with its memory and processor time watched, and killed when asked"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_START = (
    "import sys; from pathlib import Path; from harness.traces.receiver import ServeOptions, serve\n"
    "if __name__ == '__main__':\n"
    "    serve(ServeOptions(Path(sys.argv[1]), port=0, workers=int(sys.argv[2])), lambda url: print(url, flush=True))\n"
)


@dataclass(slots=True)
class Usage:
    """Seconds of processor time by role, and the resident memory of all processes over time, in MiB."""

    receiving: float = 0.0
    compacting: float = 0.0
    memory: list[float] = field(default_factory=list)


class Receiver:
    """A receiver with a store; its processes are a group of their own, so that they can be killed together."""

    def __init__(self, store: Path, script: Path, workers: int = 1) -> None:
        script.write_text(_START, encoding="utf-8")
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            [sys.executable, str(script), str(store), str(workers)], stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        with self._process.stdout as said:
            self.port = int(said.readline().rsplit(":", 1)[1])
        self.usage = Usage()
        self._watching = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """SIGKILL to all its processes at once."""
        self._watching.set()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, as a supervisor stops it; the exit code."""
        self.look()
        self._watching.set()
        self._process.terminate()
        return self._process.wait(timeout=60)

    def helpers(self) -> list[int]:
        """Processes that compact: those of low priority."""
        return [pid for pid in _group(self._process.pid) if os.getpriority(os.PRIO_PROCESS, pid) > 0]

    def look(self) -> None:
        """Read the usage of every process of the group."""
        receiving = compacting = memory = 0.0
        for pid in _group(self._process.pid):
            try:
                fields = _stat(pid)
                nice = int(fields[16])
                pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
            except (OSError, IndexError):
                continue
            seconds = (int(fields[11]) + int(fields[12])) / _TICKS
            memory += pages * _PAGE / 2**20
            if nice > 0:
                compacting += seconds
            else:
                receiving += seconds
        self.usage.receiving, self.usage.compacting = receiving, compacting
        self.usage.memory.append(memory)

    def _watch(self) -> None:
        while not self._watching.wait(1.0):
            self.look()


def _group(leader: int) -> list[int]:
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = _stat(int(entry.name))
            except OSError:
                continue
            if int(fields[2]) == leader:
                members.append(int(entry.name))
    return members


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on, which is number 0 here (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def until_compacted(store: Path, seconds: float) -> float:
    """Wait until nothing waits in the journal but the file that is open; how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if not any((store / "journal").glob("*.wal")):
            break
        time.sleep(0.5)
    return time.monotonic() - began
