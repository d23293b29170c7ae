"""A registry on the Hub's API: one commit a promotion, a card with results, a second writer refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.errors import ConfigError, PromotionError, StorageError
from harness.registry import Promotion, open_registry
from harness.registry.backends.hub import HubRegistry
from harness.registry.keys import SigningKey, new_key
from harness.registry.promoting import prepare
from harness.registry.verifying import verify
from tests.loopback_hub import LoopbackHub
from tests.promotion_example import gated

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def promotions(tmp_path_factory: pytest.TempPathFactory) -> list[Promotion]:
    return [prepare(gated(tmp_path_factory.mktemp(f"p{seed}"), seed=seed)) for seed in range(2)]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return new_key(tmp_path_factory.mktemp("keys") / "signing.pem")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_loopback")
    with LoopbackHub() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.endpoint)
        yield made


@pytest.fixture
def registry(hub: LoopbackHub) -> HubRegistry:
    opened = open_registry("hf://team/adapter")
    assert isinstance(opened, HubRegistry)
    return opened


def test_a_promotion_is_one_commit_that_another_machine_verifies(
    hub: LoopbackHub, registry: HubRegistry, promotions: list[Promotion], key: SigningKey, tmp_path: Path
) -> None:
    assert registry.promote(promotions[0], "champion", key).changed
    assert not registry.promote(promotions[0], "champion", key).changed
    assert sum(request.startswith("POST /api/models/team/adapter/commit") for request in hub.asked) == 1
    assert registry.aliases() == {"champion": promotions[0].identity}
    folder = registry.fetch("champion", tmp_path)
    assert folder is not None
    found = verify(folder, {key.identity: key.public})
    assert (found.identity, found.entries, found.aliases) == (promotions[0].identity, 1, ("champion",))
    assert hub.tags[f"promotion-{promotions[0].identity[:16]}"] == hub.branches["champion"]
    hub.branches["candidate"] = hub.branches["main"]  # as a promotion leaves it that failed before its first commit
    assert registry.fetch("candidate", tmp_path) is None
    assert registry.fetch("other", tmp_path) is None


def test_a_commit_that_is_none_names_no_folder(
    hub: LoopbackHub, registry: HubRegistry, promotions: list[Promotion], key: SigningKey, tmp_path: Path
) -> None:
    registry.promote(promotions[0], "champion", key)
    hub.branches["champion"] = "x/../../../.ssh"
    with pytest.raises(StorageError, match="the commit of 'champion' is none"):
        registry.fetch("champion", tmp_path)


def test_the_card_holds_the_results_of_the_verdict(
    hub: LoopbackHub, registry: HubRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    registry.promote(promotions[0], "champion", key)
    text = hub.files("champion")["README.md"].decode()
    front = yaml.safe_load(text.split("---\n")[1])
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "sums"
    assert result["metrics"] == [{"type": "exact_match", "name": "exact_match", "value": 1.0}]
    assert "hf_loopback" not in text


def test_going_back_restores_every_file_and_keeps_the_ledger(
    hub: LoopbackHub, registry: HubRegistry, promotions: list[Promotion], key: SigningKey, tmp_path: Path
) -> None:
    registry.promote(promotions[0], "champion", key)
    first = dict(hub.files("champion"))
    registry.promote(promotions[1], "champion", key)
    assert hub.files("champion")["adapter_model.safetensors"] != first["adapter_model.safetensors"]
    registry.rollback("champion", key)
    now = dict(hub.files("champion"))
    assert {k: v for k, v in now.items() if "ledger" not in k} == {k: v for k, v in first.items() if "ledger" not in k}
    assert [e.action for e in registry.log()] == ["promote", "promote", "rollback"]
    folder = registry.fetch("champion", tmp_path)
    assert folder is not None
    assert verify(folder, {key.identity: key.public}).aliases == ("champion",)
    with pytest.raises(PromotionError, match="first promotion"):
        registry.rollback("champion", key)


def test_of_two_promotions_at_once_the_second_is_refused_and_nothing_is_lost(
    hub: LoopbackHub, registry: HubRegistry, promotions: list[Promotion], key: SigningKey
) -> None:
    registry.promote(promotions[0], "champion", key)
    hub.before_commit = lambda: hub.commit("champion", dict(hub.files("champion"))) and None
    before = dict(hub.files("champion"))
    with pytest.raises(StorageError, match="somebody else promoted at the same time"):
        registry.promote(promotions[1], "champion", key)
    assert hub.files("champion") == before


@pytest.mark.parametrize(("status", "said"), [(401, "token is missing"), (403, "may not write"), (500, "hub failed")])
def test_a_hub_that_refuses_leaves_the_branch_as_it_was_and_tells_no_token(
    hub: LoopbackHub, registry: HubRegistry, promotions: list[Promotion], key: SigningKey, status: int, said: str
) -> None:
    registry.promote(promotions[0], "champion", key)
    before = dict(hub.branches)
    hub.fails = [status] * 9
    with pytest.raises(StorageError, match=said) as raised:
        registry.promote(promotions[1], "champion", key)
    assert "hf_loopback" not in str(raised.value)
    assert hub.branches == before


def test_a_hub_that_is_offline_and_an_address_that_is_none(
    promotions: list[Promotion], key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9 cannot be reached") as raised:
        open_registry("hf://team/adapter").promote(promotions[0], "champion", key)
    assert raised.value.exit_code == 4
    with pytest.raises(ConfigError, match="hf://OWNER/NAME"):
        open_registry("hf://team")
