"""What the machine has free, without loading a model library: the GPU with the most free memory, else RAM."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError
from harness.training.advice.memory import GIB, Device

_METAL_SHARE = 0.75  # of RAM: about what Metal recommends as the largest working set of one process
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True, slots=True)
class Machine:
    """One device that trains; `free` is in bytes."""

    name: str
    device: Device
    free: int


def parse_bytes(text: str) -> int:
    """`24GB`, `24 GiB`, `512M` or a plain number of bytes; units are powers of 1024, as GPUs are sold.

    Raises:
        ConfigError: it is none of these, or not positive.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise ConfigError(f"{text!r} is no amount of memory; write for example 24GB")
    return size


def detect() -> Machine:
    """The device that a training here would choose: CUDA, then Metal, then the CPU."""
    gpus = _nvidia()
    if gpus:
        return max(gpus, key=lambda gpu: gpu.free)
    free = _ram()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return Machine("this Mac's GPU (assumed: 75 % of memory)", "mps", int(_METAL_SHARE * free))
    return Machine("this machine's RAM, on the CPU", "cpu", free)


def _nvidia() -> list[Machine]:
    """Every GPU that nvidia-smi lists, with what is free on it now; none where it is missing or fails."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout  # noqa: S603
        rows = [line.rsplit(",", 1) for line in said.splitlines() if line.strip()]
        return [Machine(name.strip(), "cuda", int(free) * 2**20) for name, free in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _ram() -> int:
    """Bytes that this process may still take: what the system has free, and no more than its container's limit."""
    return min([_free(), *_container_limit()])


def _free() -> int:
    info = Path("/proc/meminfo")
    if info.is_file():
        found = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024
    try:
        return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError) as error:
        raise ConfigError("the memory of this machine cannot be read; give it with --memory 24GB") from error


def _container_limit() -> list[int]:
    """What the control group allows beyond what it uses, where there is a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        return [max(0, int(limit) - used)] if limit.isdigit() else []
    except (OSError, ValueError):
        return []


def human_bytes(size: int) -> str:
    """`23.6 GiB`, or `412 MiB` below one."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.3g} MiB"
