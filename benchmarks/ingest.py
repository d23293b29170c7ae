"""Measures the receiver of traces: spans a second, time to the acknowledgement, memory, and what is left after kill -9.

    python benchmarks/ingest.py [--seconds 60] [--rate 5000] [--workers 1] [--kills 20] [--out FILE.json]

Three parts, each with a new store. `steady`: so many spans of 5 KB a second, redacted and durable before each answer.
`overload`: twice what the first part showed to be possible, or as fast as 16 connections can. `kills`: SIGKILL to every
process of the receiver under load, again and again over one store. After each part every acknowledged span has to be in
the store, once. The load generator is this process and runs on the same machine; its own processor time is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])

from benchmarks.ingest_bench.load import Load, Outcome
from benchmarks.ingest_bench.payloads import Payload, payloads
from benchmarks.ingest_bench.receiving import Receiver, until_compacted

_SPANS = 256


def main() -> None:
    """Measure, print, and write the JSON."""
    options = _options()
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    count = round(options.seconds * options.rate / _SPANS)
    say(f"preparing {count} requests of {_SPANS} spans")
    prepared = list(payloads(count, spans=_SPANS))
    found["bytes_a_request"] = len(prepared[0].body)
    for part in options.parts.split(","):
        with tempfile.TemporaryDirectory(prefix="ingest-", dir=options.folder) as folder:
            run = {"steady": steady, "overload": overload, "kills": kills}[part]
            found[part] = run(Path(folder), prepared, options)
            say(json.dumps({part: found[part]}, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def steady(folder: Path, prepared: Sequence[Payload], options: argparse.Namespace) -> dict[str, Any]:
    """A steady rate; retries nothing."""
    return _measured(folder, prepared, options, rate=options.rate / _SPANS, connections=8)


def overload(folder: Path, prepared: Sequence[Payload], options: argparse.Namespace) -> dict[str, Any]:
    """Twice the rate: what is too much has to be refused with 503, and nothing acknowledged lost."""
    return _measured(folder, prepared, options, rate=2 * options.rate / _SPANS, connections=16)


def _measured(
    folder: Path, prepared: Sequence[Payload], options: argparse.Namespace, *, rate: float, connections: int
) -> dict[str, Any]:
    store = folder / "store"
    receiver = Receiver(store, folder / "serve.py", options.workers)
    _warm(receiver.port)
    receiver.look()
    before, own = receiver.usage.receiving, time.process_time()
    outcome = Load(receiver.port, prepared, connections=connections, rate=rate).run()
    own = time.process_time() - own
    receiver.look()
    received = receiver.usage.receiving - before
    waited = until_compacted(store, 900)
    receiver.look()
    memory, compacting = receiver.usage.memory[2:], receiver.usage.compacting
    code = receiver.stop()
    taken = max(1, len(outcome.acknowledged))
    return {
        **_summary(outcome),
        "receiver_cpu_us_a_span": round(1e6 * received / taken, 1),
        "compactor_cpu_us_a_span": round(1e6 * compacting / taken, 1),
        "generator_cpu_us_a_span": round(1e6 * own / (_SPANS * sum(outcome.answers.values())), 1),
        "memory_mib_by_fifths": [round(max(part), 1) for part in _fifths(memory)],
        "seconds_to_compact_the_rest": round(waited, 1),
        "exit_code": code,
        **_compared(store, outcome.acknowledged),
    }


def kills(folder: Path, prepared: Sequence[Payload], options: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL under load; what was sent and not acknowledged is sent again, as a client would."""
    store, acknowledged, answers = folder / "store", list[str](), Counter[str]()
    del prepared
    sent = list(payloads(options.kills * 300, spans=32, templates=24, seed=3))
    chance = random.Random(7)  # noqa: S311 - when to kill, no secret
    for number in range(options.kills):
        part = sent[number * 300 : (number + 1) * 300]
        receiver = Receiver(store, folder / "serve.py", options.workers)
        # Everything twice: a request that comes again is not a second span.
        load = Load(receiver.port, [*part, *part], connections=4, retries=True)
        threading.Timer(chance.uniform(0.5, 4.0), lambda r=receiver, w=load: (r.kill(), w.stop())).start()
        outcome = load.run()
        acknowledged += outcome.acknowledged
        answers += outcome.answers
    return {"kills": options.kills, "answers": dict(answers), **_compared(store, acknowledged)}


def _warm(port: int) -> None:
    Load(port, list(payloads(4, spans=8, templates=4, seed=99)), connections=2).run()


def _summary(outcome: Outcome) -> dict[str, Any]:
    return {
        "seconds": round(outcome.seconds, 1),
        "spans_acknowledged": len(outcome.acknowledged),
        "spans_a_second": round(len(outcome.acknowledged) / outcome.seconds),
        "answers": dict(outcome.answers),
        "p50_ms": round(1000 * outcome.quantile(0.5), 1),
        "p99_ms": round(1000 * outcome.quantile(0.99), 1),
        "slowest_ms": round(1000 * outcome.quantile(1.0), 1),
    }


def _compared(store: Path, acknowledged: Sequence[str]) -> dict[str, Any]:
    """Acknowledged ids against those in the store."""
    from harness.traces.store import Store

    with Store.open(store) as opened:
        opened.compact()
        found = opened.query("SELECT hex(span_id) AS id, count(*) AS n FROM spans GROUP BY 1").to_pylist()
    stored = {row["id"].lower(): row["n"] for row in found}
    wanted = set(acknowledged)
    return {
        "acknowledged": len(wanted),
        "acknowledged_and_missing": len(wanted - stored.keys()),
        "stored_more_than_once": sum(n > 1 for n in stored.values()),
        "stored": len(stored),
        "store_bytes_a_span": round(
            sum(f.stat().st_size for f in (store / "segments").rglob("*.parquet")) / max(1, len(stored))
        ),
    }


def _fifths(values: Sequence[float]) -> list[Sequence[float]]:
    size = max(1, len(values) // 5)
    return [part for start in range(0, 5 * size, size) if (part := values[start : start + size])]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=5000, help="spans a second")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--parts", default="steady,overload,kills")
    parser.add_argument("--folder", default=None, help="where the stores are made; a disk, not memory")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def say(text: str) -> None:
    """Progress and results."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
