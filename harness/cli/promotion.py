"""The verbs about promotion: promote a run, go back, look at the ledger, verify what is to be served"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli._terminal import Json, print_json, watching
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.registry import Outcome

registry = typer.Typer(help="What was promoted, when, and by whom.", no_args_is_help=True)
key = typer.Typer(help="The key that promotions are signed with.", no_args_is_help=True)

RegistryOption = Annotated[
    str,
    typer.Option(envvar="HARNESS_REGISTRY", help="A folder, mlflow+http://HOST:PORT/MODEL, or hf://OWNER/NAME."),
]
AliasOption = Annotated[str, typer.Option(help="What is to stand for the promotion.")]
KeyOption = Annotated[
    Path | None, typer.Option("--key", envvar="HARNESS_KEY", help="The private key that signs; yours by default.")
]
TrustOption = Annotated[
    list[Path] | None, typer.Option("--key", help="A public key that you trust; repeat for more. Yours by default.")
]


class KindOption(StrEnum):
    """Which kind of key."""

    ed25519 = "ed25519"
    p256 = "p256"


def promote(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    registry: RegistryOption = "registry",
    alias: AliasOption = "champion",
    adapter: Annotated[Path | None, typer.Option(help="Where the adapter is now, if it was moved.")] = None,
    override: Annotated[str | None, typer.Option(help="Your name: promote although the gate did not.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; it stands in the record.")] = None,
    key: KeyOption = None,
    as_json: Json = False,
) -> int:
    """Decide a run again from its evidence and, if it is a PROMOTE, sign it and let an alias stand for its adapter.

    Exit code: 0 promoted, or promoted already; 2 usage, or no key; 3 refused; 4 the registry failed. After 2, 3 and 4
    the registry is as it was.
    """
    from harness.registry import Override, open_registry
    from harness.registry.keys import read_signing_key
    from harness.registry.promoting import prepare

    if override is None and reason is not None:
        raise ConfigError("--reason is the reason of an override: say who overrides with --override NAME")
    given = None if override is None else Override(override, reason or "")
    promotion = prepare(run, adapter=adapter, override=given)
    outcome = open_registry(registry).promote(promotion, alias, read_signing_key(key))
    return _tell(outcome, as_json)


def rollback(
    registry: RegistryOption = "registry",
    alias: AliasOption = "champion",
    key: KeyOption = None,
    as_json: Json = False,
) -> int:
    """Let an alias stand again for what it stood for before.

    Exit code: 0 done; 2 usage, or no key; 3 there is nothing to go back to; 4 the registry failed.
    """
    from harness.registry import open_registry
    from harness.registry.keys import read_signing_key

    return _tell(open_registry(registry).rollback(alias, read_signing_key(key)), as_json)


@registry.command("init")
def registry_init(
    folder: Annotated[Path, typer.Argument(help="Folder of the registry.")] = Path("registry"),
    as_json: Json = False,
) -> int:
    """Make an empty registry, so that a gate.yaml may name its champion before there is one."""
    from harness.registry.backends.local import LocalRegistry

    LocalRegistry(folder).create()
    if as_json:
        print_json({"created": str(folder)})
    else:
        typer.echo(f"{folder} is an empty registry, or was one")
    return 0


@registry.command("log")
def registry_log(registry: RegistryOption = "registry", as_json: Json = False) -> int:
    """Every promotion and rollback, oldest first, and what each alias stands for."""
    from harness.registry import open_registry

    opened = open_registry(registry)
    entries, aliases = opened.log(), dict(opened.aliases())
    if as_json:
        print_json({"entries": [entry.as_json() for entry in entries], "aliases": aliases})
        return 0
    from harness.console import print_table
    from harness.report._text import stripped

    columns = ("#", "when", "what", "alias", "promotion", "run", "verdict", "signed by")
    rows = [
        (e.number, e.at, e.action, e.alias, e.promotion[:12], e.run,
         e.verdict + (f", overridden by {e.by}: {e.reason}" if e.by else ""), e.keyid[:12])
        for e in entries
    ]  # fmt: skip
    print_table(registry, columns, rows)
    for alias, identity in aliases.items():
        typer.echo(stripped(f"{alias} is {identity[:12]}"))
    return 0


def verify(
    path: Annotated[
        Path | None, typer.Argument(help="A promoted adapter, an alias of a registry, or a registry.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A gate.yaml that must have been what was demanded.")] = None,
    key: TrustOption = None,
    run: Annotated[Path | None, typer.Option(help="The run directory, to be held against the record too.")] = None,
    accept_override: Annotated[bool, typer.Option("--accept-override", help="Take what was promoted all the same.")] = (
        False
    ),
    served: Annotated[str | None, typer.Option(help="URL of a server: is what it serves what was evaluated?")] = None,
    model: Annotated[str | None, typer.Option(help="With --served: the model's name there.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="With --served: variable that holds its key.")] = None,
    samples: Annotated[int, typer.Option(help="With --served: how many of the run's prompts are asked.")] = 200,
    tolerance: Annotated[float, typer.Option(help="With --served: largest tolerated drop, in score points.")] = 0.02,
    as_json: Json = False,
) -> int:
    """Verify a promoted adapter, offline: adapter, verdict, evidence, lock, ledger and record. Fails closed.

    With --served URL --model NAME --run RUN: put the run's own samples to a server, as the gate.yaml at --policy says,
    and compare the answers with the evaluated ones.
    Exit code: 0 verified; 1 another form is served; 2 usage, or no key; 3 refused or undecided; 4 the server failed.
    """
    if served is not None:
        if path is not None or model is None or run is None:
            raise ConfigError("--served URL needs --model NAME and --run RUN, and takes no path")
        if samples < 1 or tolerance <= 0:
            raise ConfigError("--samples must be at least 1, and --tolerance above 0")
        return _parity(policy or Path("gate.yaml"), run, (served, model, api_key_env), samples, tolerance, as_json)
    if path is None:
        raise ConfigError("say what to verify: a promoted adapter, an alias of a registry, or a registry")
    from harness.registry.keys import trusted_keys
    from harness.registry.verifying import Demands, verify

    gate = None if policy is None else _policy(policy)
    verified = verify(path, trusted_keys(key), Demands(gate, accept_override, run))
    if as_json:
        print_json(verified.as_json())
        return 0
    typer.echo(f"{verified.path} is what was promoted: {verified.verdict.upper()}, signed by {verified.keyid[:16]}")
    if verified.override is not None:
        from harness.report._text import stripped

        typer.echo(stripped(f"overridden by {verified.override['by']}: {verified.override['reason']}"))
    if verified.entries is None:
        typer.echo("it lies in no registry, so no ledger was asked whether it still stands for anything")
    else:
        stands = " and ".join(verified.aliases) or "nothing now"
        typer.echo(f"the ledger of {verified.entries} entries knows it; it stands for {stands}")
    return 0


@key.command("new")
def key_new(
    out: Annotated[Path | None, typer.Option(help="File of the private key; yours by default.")] = None,
    kind: Annotated[KindOption, typer.Option(help="p256 also signs for OpenSSF model-signing.")] = KindOption.ed25519,
    as_json: Json = False,
) -> int:
    """Make a pair of keys: the private one signs promotions, the public one goes to whoever verifies them."""
    from harness.registry.keys import default_path, new_key, public_path

    path = out or default_path()
    made = new_key(path, kind.value)
    said = {"private": str(path), "public": str(public_path(path)), "keyid": made.identity}
    if as_json:
        print_json(said)
    else:
        typer.echo(f"{path} signs promotions (keep it), {public_path(path)} verifies them (give it away)")
    return 0


def _policy(path: Path) -> dict[str, str]:
    from harness.config import load_gate

    return load_gate(path).gate.section_digests()


def _tell(outcome: Outcome, as_json: bool) -> int:
    entry = outcome.entry
    if as_json:
        print_json({"changed": outcome.changed, "place": outcome.place, "entry": entry.as_json()})
    elif outcome.changed:
        typer.echo(f"{entry.alias} is now {entry.promotion[:12]} of {entry.run}: {outcome.place}")
    else:
        typer.echo(f"{entry.alias} was {entry.promotion[:12]} of {entry.run} already; nothing was changed")
    return 0


def _parity(
    gate: Path, run: Path, where: tuple[str, str, str | None], samples: int, tolerance: float, as_json: bool
) -> int:
    from harness.config import load_gate
    from harness.console import print_table
    from harness.parity import Served, compare_served

    served = Served(*where)
    with watching() as observer:
        found = compare_served(load_gate(gate), run, served, samples, tolerance, observer)
    if as_json:
        print_json(found.as_json())
    else:
        rows: list[tuple[Any, ...]] = found.rows()
        print_table(f"{served.model} at {served.url} against {run.name}", ("question", "answer"), rows)
        typer.echo(found.sentence)
    return found.exit_code
