"""Measures our engine against lm-eval's Hugging Face model run twice, on real benchmark prompts, in one command.

    python benchmarks/engine.py --data FOLDER [--quick] [--out FILE.json] [--chart FILE.svg]

FOLDER holds the public files of MMLU, GSM8K, IFEval and TruthfulQA (or a folder `benchmarks` that does). The model is
made by the script unless --model and --adapter name one. Every alternative answers the same list of requests, once in
each of several rounds and each time in a process of its own. Every single measurement is in FILE.json as soon as it is
made; the same command goes on with what is missing there. See benchmarks/README.md for what the columns mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.engine_bench import model, scenarios, tables
from benchmarks.engine_bench.comparing import ALTERNATIVES, Comparison, Setup, compare, profile
from benchmarks.engine_bench.jobs import say
from benchmarks.engine_bench.ledger import Ledger
from benchmarks.engine_bench.results import Spread
from benchmarks.engine_bench.workloads import WORKLOADS, Ask, Sizes, build, mmlu, mmlu_subjects

_SMALLEST = 100  # questions of MMLU's smallest subject
SCENARIOS = ("scaling", "candidates", "early", "startup")
SIZES = Sizes(subjects=8, items=50, truthfulqa=200, gsm8k=64, ifeval=64, new_tokens=96)
QUICK = Sizes(subjects=3, items=8, truthfulqa=8, gsm8k=4, ifeval=4, new_tokens=16)


@dataclass(slots=True)
class Report:
    """Everything that was measured, and its Markdown."""

    meta: Mapping[str, Any]
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    scaling: Sequence[Mapping[str, Any]] = ()
    candidates: Mapping[str, Any] = field(default_factory=dict)
    early: Mapping[str, Any] = field(default_factory=dict)
    startup: Mapping[str, Spread | None] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """What goes to stdout, and from there into benchmarks/README.md."""
        parts = [tables.facts(self.meta)]
        parts += [part for comparison in self.comparisons.values() for part in comparison_parts(comparison)]
        if self.scaling:
            parts += ["### Cost against size", scaling_table(self.scaling)]
        if self.candidates:
            parts += ["### Several candidates", candidates_table(self.candidates)]
        if self.early:
            parts += ["### Stopping early", early_table(self.early)]
        if self.startup:
            parts += ["### Start-up", startup_table(self.startup)]
        parts += [f"### Where the time goes: {name}\n\n```\n{text}\n```" for name, text in self.profiles.items()]
        return "\n\n".join(parts) + "\n"


def comparison_parts(made: Comparison) -> list[str]:
    """Heading, what the workload allows, and a table for each candidate."""
    head = (
        f"{made.samples} samples, {made.requests} requests. lm-eval reads {made.lm_eval_tokens:,} prompt tokens a "
        f"subject; {made.unique_tokens:,} are left when every common prefix is read once: ×{made.allowed:.2f}. "
        f"lm-eval's batch sizes on {made.batch_sizes['samples']} samples, base only: best {made.batch_sizes['best']}; "
        f"{'; '.join(f'{size}: {told(took)}' for size, took in made.batch_sizes['seconds'].items())}."
    )
    parts = [f"### {made.title}", head]
    for candidate, rows in made.tables.items():
        shares = made.agreement.get(candidate)
        alike = "" if shares is None else f": {shares:.0%} of its greedy tokens equal the base's"
        parts += [f"Candidate *{candidate}*{alike}", tables.comparison(rows)]
    return parts


def told(took: float | str) -> str:
    """Seconds, or why there are none."""
    return took if isinstance(took, str) else f"{tables.number(took)} s"


def scaling_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds, seconds a sample and memory, against the number of samples."""
    header = (
        "samples (base and one candidate)", "seconds", "cpu s", "ms a sample", "peak, MiB", "of it after loading, MiB",
    )  # fmt: skip
    cells = [
        [str(r["samples"]), r["failure"], "–", "–", "–", "–"]
        if r["failure"]
        else [
            str(r["samples"]), tables.number(r["seconds"]), tables.number(r["cpu_seconds"]),
            f"{1000 * r['seconds'] / r['samples']:.1f}",
            tables.mib(r["peak_bytes"]), tables.mib(r["peak_bytes"] - r["loaded_bytes"]),
        ]
        for r in rows
    ]  # fmt: skip
    return tables.table(header, cells)


def candidates_table(found: Mapping[str, Any]) -> str:
    """Cost of the base with k candidates, in units of the base alone."""
    counts = sorted({k for row in found.values() for k in row["costs"]})
    cells = [
        [title, *(tables.spread(row["costs"].get(k), "{:.2f}".format) for k in counts), row["failure"] or "–"]
        for title, row in found.items()
    ]
    return tables.table(("cost in units of the base alone", *(f"k = {k}" for k in counts), "failed"), cells)


def early_table(found: Mapping[str, Any]) -> str:
    """Both gates, from the command's start to its reports, and what lm-eval would take."""
    text = (
        f"lm-eval run twice on all {found['items']:,} questions would take "
        f"{tables.number(found['lm-eval seconds, extrapolated'])} s: **extrapolated** from a measured "
        f"{found['lm-eval seconds a sample, both']:.3f} s a sample, without loading and padding. The right answers are "
        f"made up, for the first {found['labelled']:,} questions."
    )
    header = (
        "gate",
        "verdict",
        "asked (failed)",
        "base",
        "candidate",
        "seconds, end to end",
        "× lm-eval (extrapolated)",
    )
    cells = [
        [
            f"clear {row['label']}", row["verdict"],
            f"{row['n_used'] + row['n_failed']} of {row['n']} ({row['n_failed']})",
            f"{row['baseline_mean']:.3f}", f"{row['candidate_mean']:.3f}",
            tables.number(row["seconds"]), f"{row['ratio']:.1f}",
        ]
        for row in found.values()
        if isinstance(row, dict)
    ]  # fmt: skip
    return f"{text}\n\n{tables.table(header, cells)}"


def startup_table(found: Mapping[str, Spread | None]) -> str:
    """The help, and the first scored sample."""
    cells = [[name, "failed" if took is None else tables.spread(took, tables.number)] for name, took in found.items()]
    return tables.table(("", "seconds"), cells)


def main() -> None:
    """Measure what was asked for; print the tables, write the JSON and the chart."""
    # As an exception, so that the process of the measurement ends too and does not disturb the next run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = read_arguments()
    sizes = sizes_of(arguments)
    wanted = Wanted.of(arguments.only)
    setup = make_setup(arguments, sizes)
    report = Report(meta(arguments, setup, sizes))
    asks: dict[str, list[Ask]] = {}
    for workload in WORKLOADS:
        if workload.name in wanted.measured:
            asks[workload.name] = build(workload, setup.data, sizes)
    for workload in WORKLOADS:
        if workload.name in wanted.workloads:
            report.comparisons[workload.name] = compare(setup, workload, asks[workload.name], wanted.alternatives)
            save(arguments, setup.ledger, report)
    if arguments.profile:
        report.profiles = {name: profile(setup, found) for name, found in asks.items()}
    run_scenarios(arguments, setup, wanted, asks, report)
    save(arguments, setup.ledger, report)
    print(report.markdown())


def run_scenarios(
    arguments: argparse.Namespace, setup: Setup, wanted: Wanted, asks: Mapping[str, Sequence[Ask]], report: Report
) -> None:
    """Those that were asked for; what is finished is saved before the next begins."""
    if "startup" in wanted.scenarios:
        report.startup = scenarios.startup(setup)
        save(arguments, setup.ledger, report)
    if "candidates" in wanted.scenarios:
        shown = {name: asks[name] for name in ("mmlu", "gsm8k") if name in asks}
        report.candidates = scenarios.candidates(setup, shown)
        save(arguments, setup.ledger, report)
    if "scaling" in wanted.scenarios:
        counts = arguments.scaling or ((12, 24, 48) if arguments.quick else (250, 500, 1000, 2000))
        subjects = mmlu_subjects(setup.data)
        # In turns, a smaller number needs no more of a subject than its share; a larger one, all that the others have.
        share = -(-max(counts) // len(subjects)) + 1
        mixed = mmlu(setup.data, subjects, share if share <= _SMALLEST else scenarios.ITEMS)
        report.scaling = scenarios.scaling(setup, mixed, counts)
        save(arguments, setup.ledger, report)
    if "early" in wanted.scenarios and len(setup.adapters) > 1:
        measured = report.comparisons.get("mmlu")
        batch = measured.batch_sizes["best"] if measured else None
        labelled, limit = (8 * 57, 8) if arguments.quick else (arguments.labelled, None)
        report.early = scenarios.early(setup, arguments.work / "early", batch, labelled, limit)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What --only leaves: a kind of which nothing is named is measured whole, unless only other kinds are named."""

    workloads: tuple[str, ...]
    scenarios: tuple[str, ...]
    alternatives: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> Wanted:
        """From the names given; none means everything."""
        known = [w.name for w in WORKLOADS]
        ways = [a.name for a in ALTERNATIVES]
        for name in names:
            if name not in (*known, *SCENARIOS, *ways):
                raise SystemExit(f"--only {name}: known are {', '.join((*known, *SCENARIOS, *ways))}")
        workloads = tuple(n for n in names if n in known)
        scenes = tuple(n for n in names if n in SCENARIOS)
        chosen = tuple(n for n in names if n in ways)
        if not workloads and not scenes:
            workloads, scenes = tuple(known), () if chosen else SCENARIOS
        return cls(workloads, scenes, chosen or tuple(ways))

    @property
    def measured(self) -> set[str]:
        """Workloads whose requests are needed."""
        return {*self.workloads, *(("mmlu", "gsm8k") if "candidates" in self.scenarios else ())}


def make_setup(arguments: argparse.Namespace, sizes: Sizes) -> Setup:
    """The model, given or made, and how it is run."""
    data = arguments.data.resolve()
    if arguments.model is not None:
        base = arguments.model.resolve()
        adapters = {path.name: path.resolve() for path in arguments.adapter}
        if not adapters:
            raise SystemExit("--model needs at least one --adapter, the one that agrees with it first")
    else:
        say("making the model, or taking the one made before")
        few = replace(sizes, gsm8k=8, ifeval=8)
        prompts = [ask.arguments[0] for w in WORKLOADS[2:] for ask in build(w, data, few)]
        settings = model.QUICK if arguments.quick else model.Settings()
        made = model.make(arguments.work, data, settings, prompts, sizes.new_tokens, arguments.device)
        base, adapters = made.base, made.adapters
    quick = arguments.quick
    return Setup(
        base, adapters, data, arguments.device, arguments.dtype, arguments.threads,
        repeats=arguments.repeats or (2 if quick else 3), batch_sizes=(1, 8) if quick else (1, 8, 32, "auto"),
        probe=min(arguments.probe, 6) if quick else arguments.probe, engine=arguments.engine,
        ledger=Ledger(arguments.out, key_of(arguments)),
    )  # fmt: skip


def key_of(arguments: argparse.Namespace) -> dict[str, str]:
    """What a measurement depends on beside its name; more repeats of the same run are the same run."""
    given = {name: str(value) for name, value in vars(arguments).items() if name not in ("out", "chart", "repeats")}
    return {**given, "sources": scenarios.sources(), **scenarios.versions()}


def sizes_of(arguments: argparse.Namespace) -> Sizes:
    """The options' numbers over the defaults."""
    defaults = asdict(QUICK if arguments.quick else SIZES)
    return Sizes(**{key: value if (v := getattr(arguments, key)) is None else v for key, value in defaults.items()})


def meta(arguments: argparse.Namespace, setup: Setup, sizes: Sizes) -> dict[str, Any]:
    """How the figures were made."""
    described: dict[str, Any] = {
        "command": _command(arguments),
        "date": (setup.ledger.began or time.strftime("%Y-%m-%d"))[:10],
        "commit": scenarios.revision(),
        "processor": f"{_processor()}, {arguments.threads} thread{'s' if arguments.threads > 1 else ''}",
        "device": f"{_device(arguments.device)}, {arguments.dtype}",
        "versions": ", ".join(f"{k} {v}" for k, v in scenarios.versions().items()),
        "sizes": ", ".join(f"{k} {v}" for k, v in asdict(sizes).items()),
        "model": _described(setup),
        "rounds": setup.repeats,
    }
    if arguments.quick:
        described["quick"] = "a tiny model and a handful of samples: this shows that the script works, and no speed"
    return described


def _command(arguments: argparse.Namespace) -> str:
    """What was typed, with names in place of this machine's folders."""
    folders = [arguments.data, arguments.work, arguments.model, *arguments.adapter]
    named = {str(path): "FOLDER" if path == arguments.data else path.name for path in folders if path is not None}
    return shlex.join(["python", "benchmarks/engine.py", *(named.get(word, word) for word in sys.argv[1:])])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _device(name: str) -> str:
    if not name.startswith("cuda"):
        return name
    import torch

    return str(torch.cuda.get_device_name(name))


def _described(setup: Setup) -> str:
    config = json.loads((setup.model / "config.json").read_text(encoding="utf-8"))
    keys = ("hidden_size", "num_hidden_layers", "vocab_size")
    shape = ", ".join(f"{key} {config[key]}" for key in keys if key in config)
    stored = sum(path.stat().st_size for path in setup.model.glob("*.safetensors"))
    names = ", ".join(setup.adapters)
    return f"{config.get('model_type')}, {shape}, {tables.mib(stored)} MiB of weights; adapters {names}"


def save(arguments: argparse.Namespace, ledger: Ledger, report: Report) -> None:
    """Write what is there so far."""
    ledger.report = asdict(report)
    ledger.save()
    if arguments.chart is not None and report.comparisons:
        groups = {
            f"{made.title}{f' – {candidate}' if len(made.tables) > 1 else ''}": rows
            for made in report.comparisons.values()
            for candidate, rows in made.tables.items()
        }
        caption = f"{report.meta['processor']}, {report.meta['device']}, {report.meta['date']}"
        arguments.chart.write_text(tables.chart(groups, caption), encoding="utf-8")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the benchmark files")
    add("--quick", action="store_true", help="a tiny model and a handful of samples, to see that it works")
    add("--only", nargs="+", default=[], metavar="NAME", help="workloads, scenarios and alternatives to measure")
    add("--work", type=Path, default=Path(".harness-cache/engine-bench"), help="folder of the model that is made")
    add("--model", type=Path, help="folder of another model")
    add("--adapter", type=Path, nargs="+", default=[], help="its adapters; the first should agree with it mostly")
    add("--device", default="cpu")
    add("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--engine", default="radix", help="of the scenarios and the profile")
    for key, value in asdict(SIZES).items():
        add(f"--{key.replace('_', '-')}", type=int, help=f"default {value}")
    add("--probe", type=int, default=64, help="samples on which lm-eval's batch size is chosen")
    add("--labelled", type=int, default=1024, help="questions that get an answer for the gates that stop early")
    add("--scaling", type=int, nargs="+", metavar="N", help="numbers of samples for cost against size")
    add("--repeats", type=int, help="rounds in each of which every alternative runs once (default 3, quick 2)")
    add("--profile", action="store_true", help="also show where the time of ours goes")
    add("--out", type=Path, help="JSON of every measurement; what is in it is not made again")
    add("--chart", type=Path, help="write a bar chart as SVG")
    return parser.parse_args()


if __name__ == "__main__":
    main()
