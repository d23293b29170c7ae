"""The verbs about promotion: promote a run, go back, look at the ledger, verify what is to be served"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli._terminal import Json, print_json, watching
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.registry import Outcome
    from harness.registry.signed import Signer, Trust
    from harness.registry.verifying import Verified

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


TokenOption = Annotated[
    Path | None,
    typer.Option("--identity-token", help="With --sign sigstore: a file with the token; else the CI job's own."),
]
BrowserOption = Annotated[bool, typer.Option("--browser", help="With --sign sigstore: log in with a browser.")]
TrustConfigOption = Annotated[
    Path | None, typer.Option("--trust-config", help="ClientTrustConfig of a private Sigstore; else sigstore.dev.")
]


class KindOption(StrEnum):
    """Which kind of key."""

    ed25519 = "ed25519"
    p256 = "p256"


class SignWith(StrEnum):
    """What signs."""

    key = "key"
    sigstore = "sigstore"


SignOption = Annotated[
    SignWith, typer.Option("--sign", help="Your key, or sigstore: no key, but whom an identity provider names.")
]


def promote(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    registry: RegistryOption = "registry",
    alias: AliasOption = "champion",
    adapter: Annotated[Path | None, typer.Option(help="Where the adapter is now, if it was moved.")] = None,
    override: Annotated[str | None, typer.Option(help="Your name: promote although the gate did not.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; it stands in the record.")] = None,
    key: KeyOption = None,
    sign: SignOption = SignWith.key,
    token: TokenOption = None,
    browser: BrowserOption = False,
    trust_config: TrustConfigOption = None,
    as_json: Json = False,
) -> int:
    """Decide a run again from its evidence and, if it is a PROMOTE, sign it and let an alias stand for its adapter.

    Exit code: 0 promoted, or promoted already; 2 usage, or no key or token; 3 refused; 4 the registry or Sigstore
    failed. After 2, 3 and 4 the registry is as it was.
    """
    from harness.registry import Override, open_registry
    from harness.registry.promoting import prepare

    if override is None and reason is not None:
        raise ConfigError("--reason is the reason of an override: say who overrides with --override NAME")
    given = None if override is None else Override(override, reason or "")
    promotion = prepare(run, adapter=adapter, override=given)
    signer = _signer(sign, key, token, browser, trust_config)
    return _tell(open_registry(registry).promote(promotion, alias, signer), as_json)


def rollback(
    registry: RegistryOption = "registry",
    alias: AliasOption = "champion",
    key: KeyOption = None,
    sign: SignOption = SignWith.key,
    token: TokenOption = None,
    browser: BrowserOption = False,
    trust_config: TrustConfigOption = None,
    as_json: Json = False,
) -> int:
    """Let an alias stand again for what it stood for before.

    Exit code: 0 done; 2 usage, or no key or token; 3 there is nothing to go back to; 4 the registry or Sigstore failed.
    """
    from harness.registry import open_registry

    signer = _signer(sign, key, token, browser, trust_config)
    return _tell(open_registry(registry).rollback(alias, signer), as_json)


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
         e.verdict + (f", overridden by {e.by}: {e.reason}" if e.by else ""), _short(e.signer))
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
    identity: Annotated[
        list[str] | None,
        typer.Option("--certificate-identity", help="Who may have signed by Sigstore: an e-mail address or a URI."),
    ] = None,
    issuer: Annotated[
        list[str] | None,
        typer.Option("--certificate-oidc-issuer", help="URL of who vouches for that identity: one, or one for each."),
    ] = None,
    trust_config: TrustConfigOption = None,
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
    With --certificate-identity and --certificate-oidc-issuer only who signed by Sigstore counts, beside each --key.
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
    from harness.registry.verifying import Demands, verify

    gate = None if policy is None else _policy(policy)
    trusted = _trusted(key, identity or [], issuer or [], trust_config)
    _tell_verified(verify(path, trusted, Demands(gate, accept_override, run)), as_json)
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


def _signer(sign: SignWith, key: Path | None, token: Path | None, browser: bool, trust_config: Path | None) -> Signer:
    """Who signs; options that mean nothing together are refused, since one of them was not meant."""
    if sign is SignWith.key:
        if token is not None or browser or trust_config is not None:
            raise ConfigError("--identity-token, --browser and --trust-config go with --sign sigstore")
        from harness.registry.keys import read_signing_key

        return read_signing_key(key)
    if key is not None and str(key) != os.environ.get("HARNESS_KEY"):
        raise ConfigError("--sign sigstore signs without a key: leave --key out")
    if token is not None and browser:
        raise ConfigError("--identity-token and --browser both say who signs: leave one out")
    from harness.registry.keyless import keyless_signer

    return keyless_signer(token, browser=browser, trust_config=trust_config)


def _trusted(keys: list[Path] | None, identities: list[str], issuers: list[str], trust_config: Path | None) -> Trust:
    """Whom to believe: keys and identities that are named, or the user's own key where nobody is."""
    from harness.registry.keys import trusted_keys

    if not identities and not issuers:
        if trust_config is not None:
            raise ConfigError("--trust-config goes with --certificate-identity and --certificate-oidc-issuer")
        return trusted_keys(keys)
    from harness.registry.identities import trusted_identities

    if len(issuers) == 1:
        issuers = issuers * len(identities)
    if not identities or len(issuers) != len(identities):
        raise ConfigError("give --certificate-identity NAME and --certificate-oidc-issuer URL together: one issuer for "
                          "all identities, or as many as identities, in their order")  # fmt: skip
    pairs = list(zip(identities, issuers, strict=True))
    return {**(trusted_keys(keys) if keys else {}), **trusted_identities(pairs, trust_config)}


def _tell_verified(verified: Verified, as_json: bool) -> None:
    if as_json:
        print_json(verified.as_json())
        return
    signer = verified.keyid[:16] if verified.issuer is None else f"{verified.keyid} ({verified.issuer})"
    typer.echo(f"{verified.path} is what was promoted: {verified.verdict.upper()}, signed by {signer}")
    if verified.override is not None:
        from harness.report._text import stripped

        typer.echo(stripped(f"overridden by {verified.override['by']}: {verified.override['reason']}"))
    if verified.entries is None:
        typer.echo("it lies in no registry, so no ledger was asked whether it still stands for anything")
    else:
        stands = " and ".join(verified.aliases) or "nothing now"
        entries = "1 entry" if verified.entries == 1 else f"{verified.entries} entries"
        typer.echo(f"the ledger of {entries} knows it; it stands for {stands}")


def _short(signer: str) -> str:
    """The beginning of a key's name, or the whole of an identity."""
    return signer[:12] if len(signer) == 64 and signer.isalnum() else signer


def _tell(outcome: Outcome, as_json: bool) -> int:
    entry = outcome.entry
    if as_json:
        print_json({"changed": outcome.changed, "place": outcome.place, "entry": entry.as_json()})
    elif outcome.changed:
        typer.echo(f"{entry.alias} is now {entry.promotion[:12]} of {entry.run}: {outcome.place}")
        if entry.signer != entry.keyid:  # whoever verifies has to expect exactly this
            typer.echo(f"signed by {entry.signer}")
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
