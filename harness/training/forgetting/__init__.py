"""What keeps old skills while a new one is learned: callbacks for any `transformers.Trainer`."""

from __future__ import annotations
