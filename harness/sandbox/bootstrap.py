"""First thing that runs inside the sandbox: gives up resources for good, then runs the code it was handed.

This file is not imported there but passed to the interpreter as text (`python -c`), so it uses the standard library
only. It reads a token and the code from one descriptor, closes it, and reports over another: a line `started` once
the limits hold, then `ok <token>` when the code ran to its last line, or `memory <token>`. An exit from within
the code, clean or not, leaves no report. A program that searches the frames of its own interpreter can find the
token; the report guards against an early `sys.exit(0)` passing for success, not against a forger.
"""

import os
import resource
import sys
import traceback
import types

TOKEN_BYTES = 32


def limit(seconds: int, memory: int, file_bytes: int, threads: int) -> None:
    """Set hard limits: CPU seconds, address space, size of one written file (both bytes), and tasks of this user."""
    for what, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NPROC, threads),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (value, value))


def run(source: bytes, name: str = "<code>") -> None:
    """Execute `source` as a fresh `__main__`, as a script would be."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102 - the reason why this package exists


def beyond_this_file(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The part of a traceback that begins in the code itself."""
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    return trace


def main(arguments: list[str]) -> None:
    """`arguments`: descriptor to read, descriptor to report on, then the four numbers of `limit`."""
    source_fd, status_fd, *limits = [int(a) for a in arguments]
    with open(source_fd, "rb") as handed:
        token, source = handed.read(TOKEN_BYTES), handed.read()
    sys.argv[:] = ["code.py"]
    write = os.write  # bound now: the code may replace os.write
    limit(*limits)
    write(status_fd, b"started\n")
    try:
        run(source)
        sys.stdout.flush()
    except SystemExit:
        raise
    except MemoryError:
        write(status_fd, b"memory " + token + b"\n")
        sys.exit(1)
    except BaseException as error:
        traceback.print_exception(error.with_traceback(beyond_this_file(error.__traceback__)))
        sys.exit(1)
    write(status_fd, b"ok " + token + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
