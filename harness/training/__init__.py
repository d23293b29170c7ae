"""Training wrapped by the gate: evaluation first, then a recipe's stages, then the verdict.

A recipe names what moves (a *scope*, one module each in `scopes`), towards what (an *objective*, one module each in
`objectives`) and on which rows (`data`). `forgetting` holds what keeps old skills while a new one is learned, as
callbacks that any `transformers.Trainer` takes. Nothing here decides: the gate does.
"""

from __future__ import annotations
