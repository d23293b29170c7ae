"""The verbs about live traffic: mirror or split it, and ask for the verdict so far"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli._terminal import Json, print_json

Config = Annotated[Path, typer.Argument(help="A mirror.yaml.")]
Trial = Annotated[bool, typer.Option("--aa", help="Compare the champion with itself, to try the policy.")]


def mirror(
    config: Config = Path("mirror.yaml"),
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs token_file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 4300,
    aa: Trial = False,
) -> int:
    """Serve users with the champion, show the candidate copies of their calls, and decide as evidence comes.

    Stops on Ctrl-C and goes on where it stopped. The live page is at /.
    """
    from harness.mirror import load_mirror, serve

    def tell(text: str) -> None:
        typer.echo(text, err=True)

    loaded = load_mirror(config, aa=aa)
    what = "a trial of the policy" if aa else loaded.mode
    serve(
        loaded, host=host, port=port, tell=tell,
        started=lambda url: tell(f"listening on {url}/v1 ({what}); live page on {url}/"),
    )  # fmt: skip
    return 0


def verdict(config: Config = Path("mirror.yaml"), aa: Trial = False, as_json: Json = False) -> int:
    """Say what the mirror's evidence says so far. Exit code: 0 promote, 1 block, 3 hold."""
    from harness.mirror import load_mirror
    from harness.records import EXIT_CODES

    said = _read(load_mirror(config, aa=aa).folder / "verdict.json")
    if as_json:
        print_json(said)
    else:
        typer.echo(str(said["verdict"]).upper())
        for reason in said["reasons"]:
            typer.echo(f"- {reason}")
    return EXIT_CODES[said["verdict"]]


def _read(path: Path) -> dict[str, Any]:
    from harness.errors import HoldError, StorageError

    if not path.exists():
        raise HoldError(f"{path}: no verdict yet; `harness shadow mirror` writes it at its first look")
    try:
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    return dict(said)
