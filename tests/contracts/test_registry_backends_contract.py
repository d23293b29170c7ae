"""What every registry backend keeps: its address, its methods, and an error for an alias that is none."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

from harness import plugins
from harness.errors import HarnessError
from harness.registry import Registry

METHODS = ("promote", "rollback", "aliases", "log", "fetch")


@pytest.fixture(params=plugins.names("registry.backends"))
def backend(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.load("registry.backends", request.param)  # without its extra, too


def test_it_takes_one_address_and_nothing_unknown(backend: ModuleType) -> None:
    assert list(backend.Options.model_fields) == ["address"]
    assert backend.Options.model_config.get("extra") == "forbid"


def test_its_registry_has_the_methods_of_the_protocol_with_their_parameters(backend: ModuleType) -> None:
    (made,) = (kind for name, kind in vars(backend).items() if name.endswith("Registry") and inspect.isclass(kind))
    for name in METHODS:
        ours, demanded = (inspect.signature(getattr(kind, name)).parameters for kind in (made, Registry))
        assert list(ours) == list(demanded), name


@pytest.mark.parametrize("alias", ["../up", "", "Champion", "a b"])
def test_an_alias_that_is_no_name_is_refused_before_anything_is_asked(
    backend: ModuleType, alias: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("registry")
    address = {"local": str(folder), "hub": "hf://team/adapter", "mlflow": "mlflow+http://127.0.0.1:9/m"}
    name = backend.__name__.rpartition(".")[2]
    try:
        registry = backend.build(backend.Options(address=address.get(name, str(folder))))
    except ImportError as error:
        pytest.skip(f"needs its extra: {error}")
    getattr(registry, "create", lambda: None)()
    with pytest.raises(HarnessError, match="alias"):
        registry.fetch(alias, folder)
