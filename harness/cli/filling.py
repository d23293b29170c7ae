"""The verb that takes files of traces, which other tools wrote, into a store"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli._terminal import Json, print_json, watching

if TYPE_CHECKING:
    from harness.traces.filling import Filled

_SHOWN = 5


def import_traces(
    files: Annotated[list[Path], typer.Argument(help="Collector files, Phoenix or Langfuse exports, request logs.")],
    store: Annotated[Path, typer.Option("--store", help="Folder of the store; made where there is none.")],
    tenant: Annotated[str, typer.Option(help="Whose traces these are.")] = "default",
    source: Annotated[str | None, typer.Option(help="Their format, where it is not to be found out.")] = None,
    as_json: Json = False,
) -> int:
    """Import files of traces, redacted like everything that is received; .gz and .zst are unpacked.

    Exit code: 0 when every record could be read, 2 when one was damaged or no file is in a known format.
    """
    from harness.traces.filling import fill
    from harness.traces.store import Store

    with watching() as observer, Store.open(store) as opened:
        observer.stage(f"importing {len(files)} file{'s' if len(files) > 1 else ''}")
        found = fill(opened, tenant, files, source)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found, store)
    return 2 if found.damaged else 0


def _print(found: Filled, store: Path) -> None:
    typer.echo(f"{found.spans:,} spans and {found.events:,} log events are in {store}")
    for reason, count in sorted(found.rejected.items()):
        typer.echo(f"  {count:,} left out: {reason}")
    for problem in found.damaged[:_SHOWN]:
        typer.echo(f"  damaged: {problem}", err=True)
    if len(found.damaged) > _SHOWN:
        typer.echo(f"  … and {len(found.damaged) - _SHOWN:,} more damaged records (--json lists them)", err=True)
    typer.echo(f"See what can be replayed: harness shadow stats --store {store}")
