"""Which sessions are copied, and which arm answers: by hash, so that a conversation stays where it is"""

from __future__ import annotations

import hashlib


def below(share: float, purpose: str, salt: str, cluster: str) -> bool:
    """Whether a session is among a share of all. Draws for two purposes are independent; a larger share only adds."""
    held = f"{purpose}\0{len(salt)}:{salt}{cluster}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(held).digest()[:8], "big") < share * 2.0**64
