"""mirror.yaml: every mistake is named with its line and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.errors import ConfigError
from harness.mirror import load_mirror
from harness.mirror.config import MirrorConfig, json_schema
from tests.mirroring import settings

GOOD = settings("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mirorr": {}}, r"mirror.yaml:\d+: unknown key 'mirorr': did you mean 'mirror'"),
        ({"mirror": {"share": 0}}, r":\d+: mirror.share: .*greater than 0"),
        ({"split": {"weight": 0.5}}, "exactly one of mirror and split"),
        ({"mirror": None}, "exactly one of mirror and split"),
        ({"champion": {"api_base": "localhost:80"}}, r":\d+: champion.api_base: .*is no URL"),
        ({"champion": {"api_base": "http://me:secret@h/v1"}}, "api_key_env"),
        ({"champion": {"api_base": "http://h/v1", "api_key_env": "NOT_THERE"}}, r":\d+: champion.api_key_env.*NOT_"),
        ({"guards": [{"metric": "complyed"}]}, "did you mean 'complied'"),
        ({"guards": [{"metric": "complied", "required": False}]}, "none is required"),
        ({"candidate": {"deployments": []}}, r"candidate.deployments"),
        ({"mirror": None, "split": {"weight": 0.5}, "candidate": {"deployments": [{"model": "a/x"}]}}, "litellm's"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "mirror.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**GOOD, **change}.items() if v is not None}))
    with pytest.raises(ConfigError, match=message) as caught:
        load_mirror(path)
    assert "secret" not in str(caught.value).replace("api_key_env", "")


def test_the_schema_names_every_key() -> None:
    assert set(json_schema()["properties"]) == set(MirrorConfig.model_fields)


def test_another_policy_or_endpoint_is_another_comparison_and_looking_more_often_is_not(tmp_path: Path) -> None:
    def digest(**change: object) -> str:
        path = tmp_path / "mirror.yaml"
        path.write_text(yaml.safe_dump({**GOOD, **change}))
        return load_mirror(path).comparison_digest()

    assert digest() == digest(policy={"tried": False, "look_seconds": 9.0})
    assert digest() != digest(policy={"tried": False, "margin": 0.03})
    assert digest() != digest(champion={"api_base": "http://127.0.0.1:3/v1"})
    assert digest() != digest(salt="other")
