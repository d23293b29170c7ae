"""Measures choosing 1,000 calls out of 1,000,000 stored ones: time and memory, in a process of its own.

    python benchmarks/sampling.py [--calls 1000000] [--sample 1000] [--folder FOLDER]

The store is made of segments as the compactor writes them; their calls have about 2 KB of messages each, which repeat,
while sessions, users, times and signatures are all different.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_ROWS = 20_000  # of a segment


def main() -> None:
    """Make the store, then measure in a child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.sample)
        return
    with tempfile.TemporaryDirectory(prefix="sampling-", dir=options.folder) as folder:
        fill(Path(folder), options.calls)
        again = [sys.executable, __file__, "--measure", folder, "--sample", str(options.sample)]
        subprocess.run(again, check=True, env=dict(os.environ))  # noqa: S603 - this script


def fill(folder: Path, calls: int) -> None:
    """Segments with so many calls."""
    import pyarrow as pa

    from harness.traces.store import Store
    from harness.traces.store._catalogue import Change

    table = _template()
    source = np.random.default_rng(1)
    with Store.open(folder) as store:
        for run in range(1, calls // _ROWS + 1):
            changed = {
                "span_id": pa.array([source.bytes(8) for _ in range(_ROWS)], pa.binary()),
                "session_key": pa.array(source.integers(0, 2**63, _ROWS // 4, dtype=np.uint64).repeat(4)),
                "signature": pa.array(source.integers(0, 2**63, _ROWS, dtype=np.uint64)),
                "user_key": pa.array([f"<USER_{n:032x}>" for n in source.integers(0, 50_000, _ROWS)]),
                "start_ns": pa.array(source.integers(17 * 10**17, 18 * 10**17, _ROWS)),
            }
            for name, column in changed.items():
                table = table.set_column(table.schema.get_field_index(name), name, column)
            segment = store._segments.write("calls", "acme", f"2026-11-{1 + run % 28:02d}", run, table)
            store._catalogue.apply(Change([segment]))


def _template() -> object:
    from benchmarks.ingest_bench.payloads import export
    from harness.traces import otlp
    from harness.traces.normal import normalise
    from harness.traces.store._rows import call_row
    from harness.traces.store._segments import _table

    spans = otlp.decode_traces(export(1, 500, characters=1800)[0]).items
    calls = normalise(spans, tenant="acme", pseudonym=lambda user: user).calls
    rows = [call_row(replace(call), call.time_ns, 1) for call in calls]
    return _table(__import__("pyarrow"), "calls", [rows[i % len(rows)] for i in range(_ROWS)])


def measure(folder: Path, sample: int) -> None:
    """Choose, and say what it took."""
    from harness.traces.store import Store

    with Store.open(folder) as store:
        began, cpu = time.monotonic(), time.process_time()
        calls = len(store.candidates("acme", replayable=True))
        listed = time.monotonic() - began
        chosen = store.calls_sample(sample, salt="frozen", tenant="acme", most_per_session=2, most_per_user=10)
        took = time.monotonic() - began - listed
    found = {
        "calls": calls, "chosen": len(chosen), "seconds_candidates_alone": round(listed, 1),
        "seconds_sample": round(took, 1), "cpu_seconds_both": round(time.process_time() - cpu, 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
