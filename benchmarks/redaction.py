"""Recall and precision of redaction on the labelled texts in tests/fixtures/redaction, as the table in docs/traces.md.

    python benchmarks/redaction.py [--write docs/traces.md] [--misses] [--speed]

A labelled value is found when finds cover all of it. Precision is the share of finds that overlap a labelled value,
over all texts, the negatives included: order numbers, hashes, versions, numbers of 16 digits, code, prose.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.redaction import Span, find  # noqa: E402 - after the path

FIXTURES = ROOT / "tests" / "fixtures" / "redaction"
BEGIN, END = "<!-- redaction table: python benchmarks/redaction.py --write -->", "<!-- end of the redaction table -->"


@dataclass(slots=True)
class Found:
    """Labelled values and finds by kind of label; `missed` and `wrong` are texts."""

    labelled: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    negatives: int = 0

    @property
    def recall(self) -> float:
        """Share of labelled values that were found whole."""
        return sum(self.found.values()) / max(1, sum(self.labelled.values()))

    @property
    def precision(self) -> float:
        """Share of finds that belong to a labelled value."""
        return self.right / max(1, self.right + len(self.wrong))


def measure() -> Found:
    """Look at every labelled text."""
    result = Found()
    for row in _rows("positives.jsonl"):
        value = "".join(row["value"])
        text, start = row["before"] + value + row["after"], len(row["before"])
        spans = find(text)
        result.labelled[row["kind"]] += 1
        if _covers(spans, start, start + len(value)):
            result.found[row["kind"]] += 1
        else:
            result.missed.append(f"{row['kind']}: {text!r}")
        for span in spans:
            if span.start < start + len(value) and span.end > start:
                result.right += 1
            else:
                result.wrong.append(f"{span.kind} in {text!r}")
    for row in _rows("negatives.jsonl"):
        result.negatives += 1
        result.wrong += [f"{span.kind} in {row['what']}: {row['text']!r}" for span in find(row["text"])]
    return result


def table(result: Found) -> str:
    """The Markdown table."""
    lines = ["| kind | labelled | found whole | recall |", "|---|---:|---:|---:|"]
    for kind, n in sorted(result.labelled.items()):
        lines.append(f"| {kind.replace('_', ' ')} | {n} | {result.found[kind]} | {result.found[kind] / n:.3f} |")
    n, found = sum(result.labelled.values()), sum(result.found.values())
    lines.append(f"| **all** | {n} | {found} | **{result.recall:.3f}** |")
    lines += ["", (
        f"Precision: **{result.precision:.3f}** ({result.right} finds in labelled values, {len(result.wrong)} "
        f"elsewhere; {result.negatives} of the texts hold nothing to find)."
    )]  # fmt: skip
    return "\n".join(lines)


def _covers(spans: list[Span], start: int, end: int) -> bool:
    covered = sum(max(0, min(span.end, end) - max(span.start, start)) for span in spans)
    return covered == end - start


def _rows(name: str) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines()]


def speed(spans: int = 512, rounds: int = 5) -> str:
    """Processor time of redaction a span, the least of some rounds, by the share of spans with something to find."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from benchmarks.ingest_bench.payloads import export
    from harness.traces.redaction import Pseudonyms, Redactor

    lines = ["| spans with an e-mail address and a phone number | µs a span |", "|---:|---:|"]
    for share in (0.0, 0.05, 1.0):
        body, _ = export(1, spans, personal_share=share)
        times = []
        for _ in range(rounds):
            message = ExportTraceServiceRequest.FromString(body)
            began = time.process_time()
            Redactor(Pseudonyms(b"k" * 32, "acme")).traces(message)
            times.append(time.process_time() - began)
        lines.append(f"| {share:.0%} | {1e6 * min(times) / spans:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or put it where it belongs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--speed", action="store_true", help="Microseconds of one core a span of 5 KB, instead.")
    options = parser.parse_args()
    if options.speed:
        sys.stdout.write(speed() + "\n")
        return
    result = measure()
    sys.stdout.write(table(result) + "\n")
    if options.misses:
        sys.stdout.write("\n".join(["", "missed:", *result.missed, "", "wrong:", *result.wrong, ""]))
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        options.write.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
