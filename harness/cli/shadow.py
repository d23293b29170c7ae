"""The verbs about production traces: receive them, say what there is, and delete from it; `replaying` has the others"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import mirroring, replaying
from harness.cli._terminal import Json, print_json

if TYPE_CHECKING:
    from harness.traces.store import Stats

shadow = typer.Typer(no_args_is_help=True, help="Production traces as evidence: receive, freeze, replay, mirror.")
shadow.command()(replaying.freeze)
shadow.command()(replaying.replay)
shadow.command()(replaying.publish)
shadow.command()(mirroring.mirror)
shadow.command()(mirroring.verdict)

Folder = Annotated[Path, typer.Option("--store", help="Folder of the store.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant.")]


@shadow.command()
def serve(
    store: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs --token-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 4318,
    token_file: Annotated[Path | None, typer.Option(help="Tokens of tenants, made by `harness shadow token`.")] = None,
    segments: Annotated[
        str | None, typer.Option(help="fsspec URL of the Parquet files, such as s3://b/traces.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that redact and store; a good start is one a core.")
    ] = 1,
    grpc_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Serve OTLP/gRPC there too.")] = None,
    presidio: Annotated[bool, typer.Option("--presidio", help="Also look for names and places; slow.")] = False,
    max_body: Annotated[int, typer.Option(min=1, help="MiB of a request after decompression.")] = 64,
    max_wait: Annotated[float, typer.Option(min=0.01, help="Seconds of work that may wait before 503.")] = 0.2,
) -> int:
    """Receive OTLP traces and logs, redact them, and keep them; answers when they are on disk. Stops on Ctrl-C."""
    from harness.traces.receiver import Limits, ServeOptions, serve

    limits = Limits(most_body=max_body * 2**20, most_wait=max_wait)
    options = ServeOptions(store, host, port, token_file, segments, workers, grpc_port, presidio, limits)
    serve(options, lambda url: typer.echo(f"listening on {url}, storing in {store}", err=True))
    return 0


@shadow.command()
def token(
    tenant: Annotated[str, typer.Argument(help="Whose token: letters, digits, '.', '_', '-'.")],
    token_file: Annotated[Path, typer.Option(help="File that the token's hash is added to.")],
) -> int:
    """Make a token for a tenant and print it, once: only its hash is kept."""
    from harness.traces.receiver import add_token

    typer.echo(add_token(token_file, tenant))
    return 0


@shadow.command()
def stats(store: Folder, tenant: Tenant = None, as_json: Json = False) -> int:
    """Say what there is: spans, calls, how many can be replayed and why the others cannot, sessions, days."""
    from harness.traces.store import Store

    with Store.open(store, create=False) as opened:
        opened.compact(wait=False)
        found = opened.stats(tenant)
    if as_json:
        print_json(found.as_json())
    else:
        _print_stats(found)
    return 0


@shadow.command()
def forget(
    user: Annotated[str, typer.Argument(help="The user's id as the service knows it, or its pseudonym.")],
    store: Folder,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Delete everything of a user that has arrived: their traces, and the sessions that these belong to."""
    from harness.traces.store import Store

    with Store.open(store, create=False) as opened:
        rows = opened.forget(user, tenant)
    if as_json:
        print_json({"deleted": rows})
    else:
        typer.echo(f"{rows} spans and log events deleted")
    return 0


@shadow.command()
def expire(
    store: Folder,
    before: Annotated[str | None, typer.Option(help="Delete all days before this one (UTC), as 2026-11-01.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Or keep this many days, today included.")] = None,
    as_json: Json = False,
) -> int:
    """Delete the traces of old days."""
    from datetime import UTC, datetime, timedelta

    from harness.errors import ConfigError
    from harness.traces.store import Store

    if (before is None) == (days is None):
        raise ConfigError("say either --before DAY or --days N")
    if days is not None:
        before = (datetime.now(UTC) - timedelta(days=days - 1)).strftime("%Y-%m-%d")
    with Store.open(store, create=False) as opened:
        rows = opened.expire(str(before))
    if as_json:
        print_json({"deleted": rows, "before": before})
    else:
        typer.echo(f"{rows} rows from before {before} deleted")
    return 0


def _print_stats(found: Stats) -> None:
    from harness.console import print_table

    rows = [
        ("spans", f"{found.spans:,}"),
        ("log events", f"{found.logs:,}"),
        ("calls", f"{found.calls:,}"),
        ("replayable", f"{found.replayable:,}"),
        *((f"not replayable: {reason}", f"{n:,}") for reason, n in found.not_replayable.items()),
        ("sessions", f"{found.sessions:,}"),
        ("users", f"{found.users:,}"),
        *((f"tenant {name}", f"{n:,} spans") for name, n in found.tenants.items()),
        *((f"day {day}", f"{n:,} spans") for day, n in found.days.items()),
        *((what, f"{n:,}") for what, n in found.counted.items()),
        ("not yet in these numbers", f"{found.waiting_bytes:,} bytes"),
    ]
    print_table("store of traces", ("what", "how much"), rows)
    for reason, settings in found.settings.items():
        typer.echo(f"{reason}: {'; '.join(settings)}")
