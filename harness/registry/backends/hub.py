"""A registry on the Hugging Face Hub, or on a server that speaks its API: an alias is a branch of a repository

Each promotion and each way back is one commit to the branch: the adapter's files, the record, a model card with
`model-index` results, and `promotion/ledger.jsonl` with one more entry. A commit is whole or not there, and it names
the one that it follows, so that of two promotions at once the second is refused and nothing is lost. A tag
`promotion-<identity>` keeps every bundle findable.

`hf://OWNER/NAME`; the token is the one that huggingface_hub finds (HF_TOKEN, or `hf auth login`), HF_ENDPOINT names
another server. A repository that is not there is made, private.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ConfigError, StorageError
from harness.registry import Outcome, Promotion, bundle, card, ledger
from harness.registry.backends.local import check_alias
from harness.registry.ledger import Entry
from harness.registry.signed import Signer
from harness.registry.verifying import intact

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_LEDGER = f"{bundle.FOLDER}/{ledger.FILE}"
_CARD = "README.md"


class Options(BaseModel):
    """Where the registry is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(description="hf://OWNER/NAME")


def build(options: Options) -> HubRegistry:
    """The backend plugin contract; nothing is asked yet.

    Raises:
        ConfigError: the address does not name a repository.
    """
    from huggingface_hub import HfApi

    name = options.address.partition("://")[2]
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{options.address}: not a repository; write hf://OWNER/NAME")
    return HubRegistry(name, HfApi(endpoint=os.environ.get("HF_ENDPOINT")))


class HubRegistry:
    """See the module and `harness.registry.Registry`."""

    def __init__(self, name: str, api: Any) -> None:
        self.name = name
        self._api = api

    def promote(self, promotion: Promotion, alias: str, key: Signer) -> Outcome:
        """See `Registry.promote`."""
        check_alias(alias)
        with self._asking(), tempfile.TemporaryDirectory() as scratch:
            self._api.create_repo(self.name, private=True, exist_ok=True)
            head = self._branch(alias)
            entries = self._entries(head, Path(scratch))
            if ledger.standing(entries).get(alias) == promotion.identity:
                self._tag(promotion.identity, head)
                return Outcome(ledger.histories(entries)[alias][-1], False, self._place(alias))
            entry = ledger.promoted(entries, promotion, alias, key, datetime.now(UTC))
            folder = Path(scratch) / "bundle"
            bundle.write(promotion, key, folder)
            (folder / _CARD).write_text(card.render(promotion, self.name, alias, key.verified_with), encoding="utf-8")
            self._commit(folder, [*entries, entry], alias, head)
        return Outcome(entry, True, self._place(alias))

    def rollback(self, alias: str, key: Signer) -> Outcome:
        """See `Registry.rollback`."""
        check_alias(alias)
        with self._asking(), tempfile.TemporaryDirectory() as scratch:
            head = self._heads().get(alias)
            entries = self._entries(head, Path(scratch))
            entry = ledger.rolled_back(entries, alias, key, datetime.now(UTC))
            folder = self._download(_tag_of(entry.promotion), Path(scratch) / "before")
            if intact(folder) != entry.promotion:
                raise StorageError(f"{self.name}: the tag {_tag_of(entry.promotion)} was moved to something else")
            self._commit(folder, [*entries, entry], alias, str(head))
        return Outcome(entry, True, self._place(alias))

    def aliases(self) -> Mapping[str, str]:
        """See `Registry.aliases`."""
        return ledger.standing(self.log())

    def log(self) -> Sequence[Entry]:
        """See `Registry.log`: the ledgers of all branches together, each numbered by itself."""
        with self._asking(), tempfile.TemporaryDirectory() as scratch:
            found = [self._entries(head, Path(scratch) / str(i)) for i, head in enumerate(self._heads().values())]
        return sorted((entry for entries in found for entry in entries), key=lambda e: (e.at, e.alias, e.number))

    def fetch(self, alias: str, folder: Path) -> Path | None:
        """See `Registry.fetch`."""
        check_alias(alias)
        with self._asking(), tempfile.TemporaryDirectory() as scratch:
            head = self._heads().get(alias)
            if head is None or alias not in ledger.standing(self._entries(head, Path(scratch))):
                return None
            return self._download(head, folder / f"{self.name.replace('/', '--')}-{head[:16]}")

    # ------------------------------------------------------------ the repository

    def _place(self, alias: str) -> str:
        return f"{self._api.endpoint}/{self.name}/tree/{alias}"

    def _heads(self) -> dict[str, str]:
        heads = {ref.name: ref.target_commit for ref in self._api.list_repo_refs(self.name).branches}
        if strange := [
            name for name, commit in heads.items() if not _COMMIT.fullmatch(commit)
        ]:  # part of a folder's name
            raise StorageError(f"hf://{self.name}: what the hub names as the commit of {strange[0]!r} is none")
        return heads

    def _branch(self, alias: str) -> str:
        """The commit that a branch stands at; it is made where it is not there."""
        heads = self._heads()
        if alias not in heads:
            self._api.create_branch(self.name, branch=alias, exist_ok=True)
            heads = self._heads()
        return heads[alias]

    def _entries(self, head: str | None, scratch: Path) -> list[Entry]:
        """The ledger of a commit; its chain has to be whole."""
        if head is None or not self._api.file_exists(self.name, _LEDGER, revision=head):
            return []
        return ledger.read(Path(self._api.hf_hub_download(self.name, _LEDGER, revision=head, local_dir=scratch)))

    def _download(self, revision: str, folder: Path) -> Path:
        return Path(self._api.snapshot_download(self.name, revision=revision, local_dir=folder))

    def _commit(self, folder: Path, entries: Sequence[Entry], alias: str, head: str) -> None:
        """One commit that makes the branch hold exactly the bundle, with the ledger of `entries`."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        path = folder / _LEDGER
        path.unlink(missing_ok=True)
        for entry in entries:
            ledger.append(path, entry)
        files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
        files = {name: p for name, p in files.items() if not name.startswith(".")}
        there = set(self._api.list_repo_files(self.name, revision=head))
        gone = [name for name in sorted(there - files.keys()) if not name.startswith(".")]
        operations = [
            *(CommitOperationAdd(name, str(p)) for name, p in files.items()),
            *(CommitOperationDelete(name) for name in gone),
        ]
        last = entries[-1]
        with warnings.catch_warnings():  # evidence is a data file in a model's repository, and meant to be
            warnings.simplefilter("ignore")
            made = self._api.create_commit(
                self.name, operations, commit_message=f"{last.action} {last.promotion[:16]}", revision=alias,
                parent_commit=head,
            )  # fmt: skip
        self._tag(last.promotion, made.oid)

    def _tag(self, identity: str, commit: str) -> None:
        self._api.create_tag(self.name, tag=_tag_of(identity), revision=commit, exist_ok=True)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Everything that a hub can answer instead, as one error without a token in it."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            yield
        except HfHubHTTPError as error:
            status = error.response.status_code
            said = {
                401: "the token is missing or wrong (HF_TOKEN, or hf auth login)",
                403: "the token may not write here",
                404: "there is no such repository, or the token may not see it",
                409: "somebody else promoted at the same time; repeat the command",
                412: "somebody else promoted at the same time; repeat the command",
            }.get(status, "the hub failed; repeat the command")
            raise StorageError(f"hf://{self.name}: HTTP {status}: {said}. The branch is as it was") from error
        except HFValidationError as error:
            raise ConfigError(f"hf://{self.name}: {error}") from error
        except OSError as error:
            raise StorageError(f"hf://{self.name}: {error.strerror or error}; the branch is as it was") from error
        except Exception as error:
            # Which HTTP library lies below is not ours to know; its errors of connection share no base with OSError.
            if type(error).__module__.split(".")[0] not in ("httpx", "requests", "httpcore"):
                raise
            raise StorageError(
                f"hf://{self.name}: {self._api.endpoint} cannot be reached ({type(error).__name__}); the branch is as "
                "it was"
            ) from error


def _tag_of(identity: str) -> str:
    return f"promotion-{identity[:16]}"
