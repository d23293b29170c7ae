"""A year of runs as a site: how long its building takes, and how its page of samples feels with 50,000 of them

    python -m benchmarks.history [--samples 50000] [--repeats 5] [--runs 500] [--each 240] [--json FILE]

Two runs of `--samples` samples are made, built into a site and opened in headless Chromium from the disk. Opening
counts from the beginning of the navigation until the first rows are painted; a filter from its event, and a search from
its last letter, until the rows that they leave are painted. Each is done `--repeats` times in a context of its own,
nothing cached. Then a history of `--runs` runs of `--each` samples under two guards is built, built again with nothing
changed, and built again with one more run. Needs the packages of the group `dev`, and Chromium. `--runs 0` leaves the
second part out, `--samples 0` the first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.history import site
from tests.history_example import GUARDS, make_run

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
AIMS = {"open": 2000, "filter": 100, "build": 30_000, "again": 2000}  # ms, what the page and the site are held to

_WATCH = """
window.opened = new Promise((done) => {
  const look = () => /rows/.test(document.getElementById("found")?.textContent)
    ? requestAnimationFrame(() => setTimeout(() => done(performance.now())))
    : requestAnimationFrame(look);
  look();
});
"""
_FILTER = """
([id, value]) => new Promise((done) => {
  const field = document.getElementById(id);
  const painted = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
  new MutationObserver((_, seen) => { seen.disconnect(); painted(); })
    .observe(document.getElementById("found"), { childList: true });
  field.value = value;
  const start = performance.now();
  field.dispatchEvent(new Event(id === "query" ? "input" : "change"));
})
"""
_FILTERS = (
    ("change", "l"), ("change", "w"), ("change", ""), ("guard", "golden/support@1/exact_match"), ("guard", ""),
    ("query", "customer"), ("query", "customer refunds odd"), ("query", "49999"), ("query", "nowhere"), ("query", ""),
)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--each", type=int, default=240)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {}
        if given.samples:
            found["page"] = measure_page(Path(folder) / "page", given.samples, given.repeats)
        if given.runs:
            found["site"] = measure_site(Path(folder) / "site", given.runs, given.each)
    _print(found, given)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), "utf-8")


# ---------------------------------------------------------------- the page


def measure_page(folder: Path, samples: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of opening one run and two, and of each filter on either."""
    for seed in range(2):
        make_run(folder / "runs", f"adapter-{seed}", seed=seed, day=seed, n=samples, guards=GUARDS[:1])
    built = site.build([folder / "runs"], folder / "out")
    page = (built.index.parent / "compare.html").as_uri()
    one, two = f"{page}#a={built.runs[0].key}", f"{page}#a={built.runs[0].key}&b={built.runs[1].key}"
    found: dict[str, list[float]] = {}
    with _chromium() as browser:
        for _ in range(repeats):
            for name, address in (("one run", one), ("two runs", two)):
                opened, filtered, searched = _visit(browser, address)
                found.setdefault(f"open, {name}", []).append(opened)
                found.setdefault(f"filter, {name}", []).extend(filtered)
                found.setdefault(f"filter by search, {name}", []).extend(searched)
    return found


@contextmanager
def _chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no Chromium on this machine"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def _visit(browser: Any, address: str) -> tuple[float, list[float], list[float]]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(_WATCH)
    page = context.new_page()
    page.goto(address)
    opened = page.evaluate("window.opened")
    times: dict[str, list[float]] = {"query": [], "change": [], "guard": []}
    for field, value in _FILTERS:
        times[field].append(page.evaluate(_FILTER, [field, value]))
    context.close()
    return opened, times["change"] + times["guard"], times["query"]


# ---------------------------------------------------------------- the site


def measure_site(folder: Path, runs: int, each: int) -> dict[str, tuple[float, float]]:
    """Milliseconds by the clock and of the processor: built, built again, built with one more run."""
    n = each // len(GUARDS)  # of each guard's suite
    for number in range(runs):
        make_run(folder / "runs", f"adapter-{number}", n=n, seed=number, day=number, gain=0.05 * (number % 3))
    found = {"build": _timed(folder), "again, nothing new": _timed(folder)}
    make_run(folder / "runs", "one-more", n=n, seed=runs, day=runs)
    return {**found, "again, one new run": _timed(folder)}


def _timed(folder: Path) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    site.build([folder / "runs"], folder / "out")
    return 1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - processor)


# ---------------------------------------------------------------- what is printed


def _print(found: dict[str, Any], given: argparse.Namespace) -> None:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"- machine: {platform.machine()}, {os.cpu_count()} cores; load {load} at the end")
    if "page" in found:
        print(f"- {given.samples:,} samples a run; {given.repeats} repeats\n")
        print("| | ms, median | 95th percentile | most | aim |\n| --- | ---: | ---: | ---: | ---: |")
        for name, times in found["page"].items():
            print(f"| {name} | {_spread(times)} | ≤ {AIMS[name.split(',')[0].split(' ')[0]]:,} |")
    if "site" in found:
        print(f"\n{given.runs} runs of {given.each} samples under two guards\n")
        print("| | ms | ms of the processor | aim |\n| --- | ---: | ---: | ---: |")
        for name, (clock, processor) in found["site"].items():
            print(f"| {name} | {clock:,.0f} | {processor:,.0f} | ≤ {AIMS[name.split(',')[0]]:,} |")


def _spread(times: Sequence[float]) -> str:
    ordered = sorted(times)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{statistics.median(ordered):,.0f} | {high:,.0f} | {ordered[-1]:,.0f}"


if __name__ == "__main__":
    main()
