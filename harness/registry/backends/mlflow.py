"""A registry on an MLflow server: each promotion a version of a registered model, with metrics, tags and artifacts

    mlflow+http://HOST:PORT/MODEL     also mlflow+https://

A version's artifacts are the bundle; MLflow's own aliases `champion` and `candidate` point at versions, so that
`models:/MODEL@champion` is what was promoted. The ledger's entries are tags of the registered model, one a tag. The
server has no transactions, so writers take turns by a registered model `MODEL.harness-lock`, which is there for as long
as an alias is moved; that of a writer who was killed counts for nothing after two minutes. Such a writer leaves at most
a version that no entry names, which the next promotion of the same run uses, or an alias behind the ledger, which
promoting once more moves. Credentials are MLflow's own (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_TOKEN …).
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ConfigError, RecordError, StorageError
from harness.registry import Outcome, Promotion, bundle, card, chain, ledger
from harness.registry.backends.local import check_alias
from harness.registry.ledger import Entry
from harness.registry.signed import Signer

_ADDRESS = re.compile(r"mlflow\+(https?://[^/@]+(?:/[^/]+)*)/([\w. -]+)")
_ENTRY, _IDENTITY = "harness.ledger.", "harness.promotion"
_FOLDER = "bundle"
_EXPERIMENT = "harness promotions"
_LOCK = ".harness-lock"
_PATIENCE = 60.0  # seconds to wait for another writer, who holds the lock for a few requests
_STALE = 120.0  # seconds after which a lock is that of a writer who was killed


class Options(BaseModel):
    """Where the registry is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(description="mlflow+http://HOST:PORT/MODEL")


def build(options: Options) -> MlflowRegistry:
    """The backend plugin contract; nothing is asked yet.

    Raises:
        ConfigError: the address names no server or no model.
    """
    from mlflow import MlflowClient

    match = _ADDRESS.fullmatch(options.address)
    if match is None:
        # A login in the address would be told in every error, so it is none; nor is it told here.
        shown = re.sub(r"//.*@", "//…@", options.address)
        raise ConfigError(f"{shown}: not a model on a server; write mlflow+http://HOST:PORT/MODEL, with a login in "
                          "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")  # fmt: skip
    uri, model = match.groups()
    return MlflowRegistry(uri, model, MlflowClient(tracking_uri=uri, registry_uri=uri))


class MlflowRegistry:
    """See the module and `harness.registry.Registry`."""

    def __init__(self, uri: str, model: str, client: Any) -> None:
        self._uri, self._model, self._client = uri, model, client

    def promote(self, promotion: Promotion, alias: str, key: Signer) -> Outcome:
        """See `Registry.promote`."""
        check_alias(alias)
        with self._asking():
            entries = self._entries()
            if _standing(entries, promotion, alias) is None:  # refused, if it is, before anything is uploaded
                ledger.promoted(entries, promotion, alias, key, datetime.now(UTC))
            if self._version(promotion.identity) is None:
                self._upload(promotion, key)
            with self._alone(alias):
                entries = self._entries()
                known = _standing(entries, promotion, alias)
                entry = known or ledger.promoted(entries, promotion, alias, key, datetime.now(UTC))
                if known is None:
                    self._enter(entry)
                self._point(alias, promotion.identity)
        return Outcome(entry, known is None, self._place(alias))

    def rollback(self, alias: str, key: Signer) -> Outcome:
        """See `Registry.rollback`."""
        check_alias(alias)
        with self._asking():
            ledger.rolled_back(self._entries(), alias, key, datetime.now(UTC))  # refused before anything is locked
            with self._alone(alias):
                entry = ledger.rolled_back(self._entries(), alias, key, datetime.now(UTC))
                if self._version(entry.promotion) is None:
                    raise StorageError(f"{self._place(alias)}: the version of {entry.promotion[:16]} was deleted")
                self._enter(entry)
                self._point(alias, entry.promotion)
        return Outcome(entry, True, self._place(alias))

    def aliases(self) -> Mapping[str, str]:
        """See `Registry.aliases`: what MLflow's aliases point at, promoted by Harness or not."""
        with self._asking():
            found = self._aliases()
            versions = {alias: self._client.get_model_version(self._model, number) for alias, number in found.items()}
        return {alias: version.tags.get(_IDENTITY, f"version {version.version}") for alias, version in versions.items()}

    def log(self) -> Sequence[Entry]:
        """See `Registry.log`."""
        with self._asking():
            return self._entries()

    def fetch(self, alias: str, folder: Path) -> Path | None:
        """See `Registry.fetch`; the alias has to point at what the ledger says."""
        from mlflow.artifacts import download_artifacts

        check_alias(alias)
        with self._asking():
            entries = self._entries()
            number = self._aliases().get(alias)
            if number is None:
                return None
            version = self._client.get_model_version(self._model, number)
            identity = version.tags.get(_IDENTITY)
            if identity is None or ledger.standing(entries).get(alias) != identity:
                raise RecordError(f"{self._place(alias)}: version {number} was not put there by a promotion")
            target = folder / f"mlflow-{identity[:16]}"
            target.mkdir(parents=True, exist_ok=True)
            source = f"runs:/{version.run_id}/{_FOLDER}"
            found = Path(download_artifacts(source, dst_path=str(target), tracking_uri=self._uri))
            path = found / bundle.FOLDER / ledger.FILE
            path.unlink(missing_ok=True)
            for entry in entries:
                ledger.append(path, entry)
            return found

    # ------------------------------------------------------------ the server

    def _place(self, alias: str) -> str:
        return f"{self._uri} models:/{self._model}@{alias}"

    def _registered(self) -> Any | None:
        """The registered model; None where nothing was ever promoted to it. Reading never makes it."""
        return self._unless("RESOURCE_DOES_NOT_EXIST", self._client.get_registered_model, self._model)

    def _aliases(self) -> Mapping[str, Any]:
        found = self._registered()
        return {} if found is None else found.aliases

    def _unless(self, codes: str, act: Callable[..., Any], *arguments: Any) -> Any | None:
        """What the server answers, or None where it answers with one of these errors."""
        from mlflow.exceptions import MlflowException

        try:
            return act(*arguments)
        except MlflowException as error:
            if error.error_code not in codes.split():
                raise
        return None

    @contextmanager
    def _alone(self, alias: str) -> Iterator[None]:
        """While nobody else moves an alias. A name can be registered only once, which is the one lock of the server."""
        name, end = f"{self._model}{_LOCK}", time.monotonic() + _PATIENCE
        # A server that refuses a name looks it up once more, and it may be gone by then.
        taken = "RESOURCE_ALREADY_EXISTS RESOURCE_DOES_NOT_EXIST"
        while self._unless(taken, self._client.create_registered_model, name) is None:
            held = self._unless("RESOURCE_DOES_NOT_EXIST", self._client.get_registered_model, name)
            if held is not None and time.time() - held.creation_timestamp / 1000 > _STALE:
                self._unlock(name)
            elif time.monotonic() > end:
                raise StorageError(f"{self._place(alias)}: somebody else promotes at the same time; repeat the command")
            else:
                time.sleep(0.1)
        try:
            yield
        finally:
            self._unlock(name)

    def _unlock(self, name: str) -> None:
        self._unless("RESOURCE_DOES_NOT_EXIST", self._client.delete_registered_model, name)

    def _entries(self) -> list[Entry]:
        """The ledger from the model's tags; its chain has to be whole."""
        found = self._registered()
        tags = {} if found is None else found.tags
        named = sorted((name, text) for name, text in tags.items() if name.startswith(_ENTRY))
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / ledger.FILE
            for name, text in named:
                try:
                    chain.append(path, json.loads(text))
                except ValueError as error:
                    raise RecordError(f"models:/{self._model}: tag {name} is no entry: it was changed") from error
            return ledger.read(path)

    def _version(self, identity: str) -> Any | None:
        """The version that holds a promotion, if there is one."""
        found = self._client.search_model_versions(f"name = '{self._model}' and tags.`{_IDENTITY}` = '{identity}'")
        return found[0] if found else None

    def _upload(self, promotion: Promotion, key: Signer) -> None:
        """A run with figures and the bundle, and a version that is made last, so that it is never without them."""
        experiment = self._client.get_experiment_by_name(_EXPERIMENT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(_EXPERIMENT)
        claim = promotion.claim
        run = self._client.create_run(number, run_name=claim["run"]).info.run_id
        for name, value in card.metrics(promotion).items():
            self._client.log_metric(run, re.sub(r"[^\w./ -]", "_", name), value)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / _FOLDER
            bundle.write(promotion, key, folder)
            self._client.log_artifacts(run, str(folder), _FOLDER)
        self._client.set_terminated(run)
        tags = {_IDENTITY: promotion.identity, "harness.verdict": claim["verdict"], "harness.run": claim["run"],
                "harness.adapter": claim["adapter"]}  # fmt: skip
        source = f"{self._client.get_run(run).info.artifact_uri}/{_FOLDER}"
        self._unless("RESOURCE_ALREADY_EXISTS", self._client.create_registered_model, self._model)
        self._client.create_model_version(self._model, source, run_id=run, tags=tags)

    def _enter(self, entry: Entry) -> None:
        """Write an entry; only by whoever is alone."""
        name = f"{_ENTRY}{entry.number:08}"
        self._client.set_registered_model_tag(self._model, name, json.dumps(entry.as_json(), sort_keys=True))

    def _point(self, alias: str, identity: str) -> None:
        version = self._version(identity)
        if version is None:
            raise StorageError(f"{self._place(alias)}: the version of {identity[:16]} was deleted")
        if str(self._aliases().get(alias)) != str(version.version):
            self._client.set_registered_model_alias(self._model, alias, version.version)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Everything that a server can answer instead, as one error; what MLflow prints is no part of our output."""
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        try:
            with redirect_stdout(sys.stderr):
                yield
        except (MlflowException, RequestException) as error:
            said = str(error).splitlines()[0][:300]
            raise StorageError(f"{self._uri}: {said}") from error
        except OSError as error:
            raise StorageError(f"{self._uri}: {error.strerror or error}") from error


def _standing(entries: Sequence[Entry], promotion: Promotion, alias: str) -> Entry | None:
    """The entry by which an alias stands for a promotion already; it is entered once."""
    stack = ledger.histories(entries).get(alias, [])
    return stack[-1] if stack and stack[-1].promotion == promotion.identity else None
