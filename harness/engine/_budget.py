"""How much memory the engine may use, from what is free when it starts."""

from __future__ import annotations

from pathlib import Path

from harness.engine import CausalModel
from harness.engine._kv import Shape
from harness.engine._plan import Limits

_SHARE = 0.25  # of the free memory, for kept and running keys and values together
_MOST = {"cpu": 4 * 2**30, "cuda": 64 * 2**30}
_TOKENS = {"cpu": 512, "cuda": 16384}  # of one pass, with padding; more gains nothing once the processor is busy
_LOGITS = 256 * 2**20  # bytes of the logits that are read in one pass


def free_memory(device: str) -> int:
    """Bytes that can still be allocated on a device; on the CPU the control group's limit counts too."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device if ":" in device else None)[0])
    import psutil

    return min(int(psutil.virtual_memory().available), _group_memory())


def _group_memory() -> int:
    """What the control group (a container's limit) leaves; a great deal where there is none."""
    try:
        group = Path("/sys/fs/cgroup")
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return 2**62


def choose(
    causal: CausalModel, shape: Shape, memory: float | None, tokens: int | None, rows: int | None
) -> tuple[Limits, int]:
    """The limits of one pass, and the tokens whose keys and values may be kept besides.

    `memory` is in GiB, for all keys and values: a third for those kept, one for a running pass, one for the answers
    that are being written. While rows are moved, their copy comes on top for a moment.
    """
    kind = causal.device.partition(":")[0]
    most = _MOST.get(kind, _MOST["cpu"])
    allowed = int(memory * 2**30) if memory is not None else min(int(free_memory(causal.device) * _SHARE), most)
    columns = max(1024, allowed // 3 // shape.bytes)
    limits = Limits(
        tokens=tokens or _TOKENS.get(kind, _TOKENS["cpu"]),
        columns=columns,
        reads=max(16, _LOGITS // (4 * causal.vocabulary)),
        rows=rows or 1024,
    )
    return limits, columns
