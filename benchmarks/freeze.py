"""Measures freezing: how long and in how much memory a sample is drawn from a store of very many calls.

    python benchmarks/freeze.py [--calls 1000000] [--samples 1000] [--folder DIR] [--out FILE.json]

The store is made first, with segments as the compactor writes them: sessions of two to eight calls with 2 to 3 KB of
text each, a third with tools, of three models and a hundredth as many users as sessions. Then `freeze` runs in a
process of its own, whose time and peak memory are reported. With `--by metadata.KEY` every stored call is opened.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ingest_bench.payloads import MODELS, prose
from harness.traces.freezing import DEFAULT, FreezeOptions, freeze
from harness.traces.records import Call, ChatMessage, Parameters, Part, Tool, ToolCall
from harness.traces.store import Store
from harness.traces.store._catalogue import Change
from harness.traces.store._rows import call_row, session_key

_DAY_NS = 86_400 * 10**9
_BEGIN = 20_400 * _DAY_NS  # in November 2025
_DAYS = 7
_SEGMENT = 50_000  # calls
_TEMPLATES = 4_000  # calls that are really made; the others are these with other ids, sessions, times and numbers
_TOOL = Tool("lookup", "Looks an order up.", {"type": "object", "properties": {"order": {"type": "string"}}})


def main() -> None:
    """Make the store, freeze, and print."""
    options = _options()
    if options.child:
        _freeze(options)
        return
    with tempfile.TemporaryDirectory(prefix="freeze-", dir=options.folder) as folder:
        began = time.perf_counter()
        fill(Path(folder), options.calls)
        made = time.perf_counter() - began
        command = [sys.executable, __file__, "--child", "--folder", folder, "--samples", str(options.samples)]
        command += [word for name in options.by for word in ("--by", name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - this file itself
        found = {"calls": options.calls, "seconds_to_make_the_store": round(made, 1), **json.loads(done.stdout)}
        found["store_megabytes"] = round(sum(f.stat().st_size for f in Path(folder).rglob("*.parquet")) / 1e6)
        found |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _freeze(options: argparse.Namespace) -> None:
    began, used = time.perf_counter(), time.process_time()
    with Store.open(options.folder, create=False) as store:
        wanted = FreezeOptions("production", samples=options.samples, by=tuple(options.by or DEFAULT))
        made = freeze(store, Path(options.folder) / "goldensets", wanted)
    found = {
        "samples": made.samples,
        "sessions": made.sessions,
        "seconds": round(time.perf_counter() - began, 2),
        "processor_seconds": round(time.process_time() - used, 2),
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "left_out": dict(made.left_out),
    }
    print(json.dumps(found))


def fill(folder: Path, calls: int) -> None:
    """A store of so many calls in `folder`."""
    source = random.Random(1)  # noqa: S311 - a workload, no secret
    templates = [_template(source, number) for number in range(min(_TEMPLATES, calls))]
    with Store.open(folder) as store:
        change = Change([])
        rows: list[dict[str, Any]] = []
        for number, row in enumerate(_rows(source, templates, calls), start=1):
            rows.append(row)
            if len(rows) == _SEGMENT or number == calls:
                day = f"2025-11-{8 + (number - 1) * _DAYS // calls:02d}"
                change.added.append(store._segments.write("calls", "acme", day, number, rows))
                rows = []
        store._catalogue.apply(change)


def _template(source: random.Random, number: int) -> dict[str, Any]:
    turns = source.randint(0, 3)
    messages = [ChatMessage("system", (Part(text=prose(source, 600)),))]
    for _ in range(turns):
        messages += [_said("user", source, 150), _said("assistant", source, 250)]
    messages.append(_said("user", source, 400))
    tools = (_TOOL,) if number % 3 == 0 else ()
    calls = (ToolCall("lookup", '{"order": "ORDER"}', "c1"),) if tools else ()
    answer = ChatMessage("assistant", () if calls else (Part(text=prose(source, 500)),), calls)
    model = MODELS[number % len(MODELS)]
    call = Call(
        "RUN", "0" * 32, "0" * 16, tenant="acme", session="SESSION", user="USER", service="support", latency=1.0,
        provider="openai", model_asked=model, model_answered=model, messages=tuple(messages), tools=tools,
        parameters=Parameters(temperature=0.2, max_tokens=500), outputs=(answer,), finish_reasons=("stop",),
        input_tokens=400, output_tokens=100, dialect="otel_genai",
    )  # fmt: skip
    return call_row(call, _BEGIN, 1)


def _said(role: str, source: random.Random, characters: int) -> ChatMessage:
    return ChatMessage(role, (Part(text=prose(source, characters)),))


def _rows(source: random.Random, templates: list[dict[str, Any]], calls: int) -> Iterator[dict[str, Any]]:
    made = session = 0
    while made < calls:
        session += 1
        name, user = f"session-{session}", f"<USER_{session // 100:016x}>"
        for _ in range(min(source.randint(2, 8), calls - made)):
            template = templates[source.randrange(len(templates))]
            time_ns = _BEGIN + made * _DAYS * _DAY_NS // calls
            trace, span = source.randbytes(16), source.randbytes(8)
            text = template["call"].replace('"0' + "0" * 31 + '"', f'"{trace.hex()}"')
            text = text.replace('"0' + "0" * 15 + '"', f'"{span.hex()}"').replace("SESSION", name)
            text = text.replace('"USER"', f'"{user}"').replace('"RUN"', f'"{trace.hex()}"')
            text = text[:-1] + f', "time_ns": {time_ns}}}'
            yield {
                **template, "trace_id": trace, "span_id": span, "start_ns": time_ns, "received_ns": time_ns,
                "session": name, "session_key": session_key(name), "user_key": user, "run_id": trace.hex(),
                "signature": source.getrandbits(64), "call": text, "replayable": made % 50 != 0,
                "reason": "" if made % 50 else "no-content",
            }  # fmt: skip
            made += 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--by", action="append", default=[], help="dimensions of the strata")
    parser.add_argument("--folder", type=Path, default=None, help="where the store is made for a while")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
