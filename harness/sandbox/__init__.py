"""Running code that a model wrote, where it can harm nothing.

    result = run_python("print(6 * 7)", timeout_s=2.0, memory_mb=256)
    result.state, result.stdout          # ("ok", "42\\n")

Bubblewrap gives the code its own user, process, network and mount namespaces: no network, no host file but the
standard library of Python and the shared libraries it loads, nothing writable but a small `/tmp` in memory. A system
call filter keeps it one process. Without Bubblewrap nothing is run: `SandboxError`, never a silent fallback.

The distinction that matters to a gate: what the *code* did is a `SandboxResult`, however bad; what went wrong with
the *confinement* is a `SandboxError`. Only the first may become a score.
"""

from harness.sandbox.runner import Job, SandboxResult, State, available, run_many, run_python

__all__ = ["Job", "SandboxResult", "State", "available", "run_many", "run_python"]
