"""What `harness init` writes: a commented gate.yaml, a golden set to fill in, and the job that runs the gate

The files lie in `files/` as they are written, with a name in @SIGNS@ where an answer goes.
"""

from __future__ import annotations

EXAMPLE_TAG = "harness-init-example"
"""The tag of every row that `harness init` wrote: freezing such rows warns, and every report shows them as a slice."""
