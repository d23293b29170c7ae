"""The verbs that make evidence of stored traces: freeze a sample, replay it, tell the traces what came of it"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli._terminal import Json, print_json, watching

if TYPE_CHECKING:
    from harness.gate import GateResult
    from harness.records import Comparison
    from harness.report import Document
    from harness.traces.freezing import Freezing

Root = Annotated[Path | None, typer.Option(help="Folder of the golden sets; found from here upwards by default.")]
_SHOWN = 10  # sessions named for a guard


def freeze(
    store: Annotated[Path, typer.Option("--store", help="Folder of the store.")],
    name: Annotated[str, typer.Option(help="Name of the set.")] = "production",
    version: Annotated[str, typer.Option(help="Version of the set.")] = "1",
    root: Root = None,
    samples: Annotated[int, typer.Option(min=1, help="Calls at most.")] = 1000,
    tenant: Annotated[str | None, typer.Option(help="Whose calls; needed where the store holds several.")] = None,
    days: Annotated[str | None, typer.Option(help="FROM:TO, both included (UTC), as 2026-11-01:2026-11-07.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only calls of this model; repeat for several.")] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Strata: model, tools, length, error, service, dialect, day, metadata.KEY; repeat."),
    ] = None,
    at_least: Annotated[int, typer.Option(min=0, help="From every stratum at least this many.")] = 0,
    per_session: Annotated[int, typer.Option(min=0, help="Calls of one session at most; 0: all.")] = 10,
    per_user: Annotated[int, typer.Option(min=0, help="Calls of one user at most; 0: all.")] = 20,
    likeness: Annotated[
        float, typer.Option(min=0.1, help="From this Jaccard likeness on two questions are one; above 1: never.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Another seed, another order.")] = 0,
    training: Annotated[list[Path] | None, typer.Option(help="Training data; its rows are left out.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Ask without sampling, whatever was recorded.")] = False,
    feedback: Annotated[str, typer.Option(help="Name of the feedback that says whether an answer was liked.")] = "",
    liked_at: Annotated[float | None, typer.Option(help="Score from which on that feedback means liked.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of answers where a call recorded none.")] = 1024,
    allow_images: Annotated[
        list[str] | None,
        typer.Option(
            help="Host that pictures may be fetched from, by https and by this exact name; repeat. None by default."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Draw a sample of stored calls by whole sessions, write it as a golden set, and lock it."""
    from harness.traces.freezing import DEFAULT, FreezeOptions, Liking
    from harness.traces.freezing import freeze as draw
    from harness.traces.store import Store

    options = FreezeOptions(
        name, version, samples, tenant, _days(days), tuple(model or ()), tuple(by or DEFAULT), at_least,
        per_session or None, per_user or None, likeness, seed, tuple(training or ()), greedy,
        Liking(feedback, liked_at), max_tokens, tuple(allow_images or ()),
    )  # fmt: skip
    with Store.open(store, create=False) as opened:
        opened.compact(wait=False)
        made = draw(opened, _root(root, make=True), options)
    if as_json:
        print_json(made.as_json())
    else:
        _print_frozen(made)
    return 0


def replay(
    set_: Annotated[str, typer.Option("--set", help="name@version of a frozen set.")],
    baseline: Annotated[str, typer.Option(help="Model: a folder, a name on the hub, or with --baseline-url a name.")],
    candidate: Annotated[str, typer.Option(help="The same, or a folder with an adapter of the baseline.")],
    root: Root = None,
    baseline_url: Annotated[str, typer.Option(help="Server of the baseline, such as http://127.0.0.1:8000/v1.")] = "",
    candidate_url: Annotated[str, typer.Option(help="Server of the candidate.")] = "",
    key_env: Annotated[str, typer.Option(help="Environment variable with the key of the servers.")] = "",
    metric: Annotated[
        list[str] | None, typer.Option(help="What is compared, as NAME or NAME=MARGIN; repeat. Default: what applies.")
    ] = None,
    margin: Annotated[float, typer.Option(min=1e-9, help="Largest tolerated drop, in score points.")] = 0.05,
    alpha: Annotated[float, typer.Option(min=1e-9, max=0.499, help="Error level of each guard.")] = 0.05,
    baseline_price: Annotated[
        str, typer.Option(help="IN/OUT, dollars per million tokens read and written; for --metric cost.")
    ] = "",
    candidate_price: Annotated[str, typer.Option(help="The same of the candidate.")] = "",
    chat_template: Annotated[Path | None, typer.Option(help="Chat template of local models that have none.")] = None,
    device: Annotated[str, typer.Option(help="Device of local models; chosen by default.")] = "",
    judge: Annotated[str, typer.Option(help="A rubric that answers are graded by as well.")] = "",
    judge_model: Annotated[str, typer.Option(help="Model that applies it.")] = "",
    judge_url: Annotated[str, typer.Option(help="Its server.")] = "",
    judge_key_env: Annotated[str, typer.Option(help="Environment variable with its key.")] = "",
    training: Annotated[list[Path] | None, typer.Option(help="What the candidate was trained on.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that receives the run directory.")] = Path("runs"),
    gate: Annotated[Path, typer.Option(help="Where the gate.yaml of the replay is written.")] = Path("replay.yaml"),
    as_json: Json = False,
) -> int:
    """Ask a frozen set of production calls again of two models, compare, and decide: promote, block or hold.

    Exit code: 0 promote, 1 block, 2 usage, 3 hold, 4 infrastructure failure.
    """
    from harness.errors import ConfigError
    from harness.gate import run_gates
    from harness.traces.replaying import Arm, JudgedBy, Replay, write_gate

    if bool(judge) != bool(judge_model):
        raise ConfigError("--judge RUBRIC and --judge-model MODEL go together")
    metrics, margins = _metrics(metric or ())
    loaded = write_gate(
        gate,
        Replay(
            set_, _root(root), Arm(baseline, baseline_url, key_env), Arm(candidate, candidate_url, key_env),
            metrics, margins, margin, alpha, chat_template, device,
            JudgedBy(judge, judge_model, judge_url, judge_key_env) if judge else None, tuple(training or ()), out,
            _prices(baseline_price, candidate_price),
        ),
    )  # fmt: skip
    with watching() as observer:
        (result,) = run_gates([loaded], observer)
    return _conclude_replay(result, as_json)


def publish(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    root: Root = None,
    endpoint: Annotated[str, typer.Option(help="OTLP/HTTP endpoint, such as http://127.0.0.1:4318.")] = "",
    file: Annotated[Path | None, typer.Option(help="Or a new file of OTLP/JSON lines.")] = None,
    token_env: Annotated[str, typer.Option(help="Environment variable with the endpoint's token.")] = "",
    as_json: Json = False,
) -> int:
    """Send the results of a run as `gen_ai.evaluation.result` events on the traces that its samples came from."""
    from harness.errors import ConfigError
    from harness.traces.publishing import events_of, send, write

    if bool(endpoint) == (file is not None):
        raise ConfigError("say either --endpoint URL or --file PATH")
    token = os.environ.get(token_env, "") if token_env else ""
    if token_env and not token:
        raise ConfigError(f"--token-env: the environment variable {token_env} holds no token")
    events = events_of(run, _root(root))
    done = write(events, file) if file is not None else send(events, endpoint, token)
    if as_json:
        print_json({"events": done.events, "rejected": done.rejected, "calls": done.calls})
    else:
        rejected = f", {done.rejected:,} rejected" if done.rejected else ""
        typer.echo(f"{done.events:,} results of {done.calls:,} calls published{rejected}")
    return 0


def _root(given: Path | None, *, make: bool = False) -> Path:
    from harness import assets

    if make and given is None and not _near():
        return Path("goldensets")
    if make and given is not None:
        return given
    return assets.find("goldensets", given)


def _near() -> bool:
    """Whether this folder, or one above it, has golden sets: a set of production calls belongs to no other project."""
    here = Path.cwd()
    return any((folder / "goldensets").is_dir() for folder in (here, *here.parents))


def _metrics(given: Sequence[str]) -> tuple[tuple[str, ...], dict[str, float]]:
    """Names in order, and the margins of those that have one of their own."""
    from harness.errors import ConfigError

    pairs = [text.partition("=") for text in given]
    margins: dict[str, float] = {}
    for name, _, margin in pairs:
        if not margin:
            continue
        try:
            margins[name] = float(margin)
        except ValueError:
            raise ConfigError(f"--metric {name}={margin}: the margin is no number") from None
    return tuple(dict.fromkeys(name for name, _, _ in pairs)), margins


def _prices(baseline: str, candidate: str) -> tuple[dict[str, float], dict[str, float]] | None:
    from harness.errors import ConfigError
    from harness.served import Prices

    if not baseline and not candidate:
        return None
    made = []
    for option, text in (("--baseline-price", baseline), ("--candidate-price", candidate)):
        read, _, written = text.partition("/")
        try:
            made.append(Prices(input=float(read), output=float(written)).model_dump())
        except ValueError:
            raise ConfigError(f"{option} {text!r}: expected IN/OUT, for example 0.5/1.5; both sides need one") from None
    return made[0], made[1]


def _days(text: str | None) -> tuple[str, str] | None:
    from datetime import date

    from harness.errors import ConfigError

    if text is None:
        return None
    first, _, last = text.partition(":")
    try:
        days = date.fromisoformat(first), date.fromisoformat(last or first)
    except ValueError:
        raise ConfigError(f"--days {text!r}: expected FROM:TO, for example 2026-11-01:2026-11-07") from None
    if days[0] > days[1]:
        raise ConfigError(f"--days {text}: the last day comes before the first")
    return days[0].isoformat(), days[1].isoformat()


def _print_frozen(made: Freezing) -> None:
    from harness.console import print_table

    rows = [("calls in the store", f"{made.calls:,}"), ("frozen", f"{made.samples:,} of {made.sessions:,} sessions")]
    rows += [(f"left out: {reason}", f"{count:,}") for reason, count in made.left_out.items()]
    print_table(made.reference, ("what", "how many"), rows)
    strata = [(name, f"{calls:,}", f"{frozen:,}") for name, (calls, frozen) in made.strata.items()]
    print_table("strata", ("calls with", "to draw from", "frozen"), strata)
    typer.echo(f"{made.folder}: frozen and locked")


def _conclude_replay(result: GateResult, as_json: bool) -> int:
    from harness.document import read_run
    from harness.records import EXIT_CODES

    found = read_run(result.path)
    sessions = {c.label: _sessions(found, c) for c in result.verdict.comparisons if c.outcome == "regressed"}
    if as_json:
        document: dict[str, Any] = {"run": str(result.path), "sessions": sessions, **result.verdict.as_json()}
        print_json(document)
    else:
        from harness.console import print_verdict

        print_verdict(result.verdict, report=result.reports[0])
        for label, lost in sessions.items():
            told = ", ".join(f"{session} ({count})" for session, count in lost.items())
            typer.echo(f"{label}: sessions that show it, with the calls that each lost: {told}")
    return EXIT_CODES[result.verdict.verdict]


def _sessions(document: Document, comparison: Comparison) -> dict[str, int]:
    from harness.report import lost_clusters

    return dict(lost_clusters(document.items, comparison)[:_SHOWN])
