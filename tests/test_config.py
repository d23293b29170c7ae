"""An error in gate.yaml points at its line and names the nearest right key."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import json_schema, load_gate, slug
from harness.errors import ConfigError

GOOD = """\
baseline:
  model: base
candidate:
  model: base
  adapter: adapter
suites:
  - kind: golden
    set: support@1
    guards:
      - metric: exact_match
        margin: 0.05
policy:
  alpha: 0.05
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "gate.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_keeps_plugin_options_apart(tmp_path: Path) -> None:
    loaded = load_gate(write(tmp_path, GOOD))
    assert loaded.gate.suites[0].options == {"set": "support@1"}
    assert loaded.gate.candidate.options == {"model": "base", "adapter": "adapter"}
    assert loaded.gate.policy.max_failures == 0.02
    assert loaded.folder == tmp_path.resolve()
    assert loaded.where("suites", 0, "guards", 0).endswith("gate.yaml:10: suites.0.guards.0")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("policy:", "polcy:", "gate.yaml:12: unknown key 'polcy': did you mean 'policy'?"),
        ("  alpha:", "  alhpa:", "gate.yaml:13: unknown key 'policy.alhpa': did you mean 'alpha'?"),
        ("        margin:", "        margn:", "did you mean 'margin'?"),
        ("alpha: 0.05", "alpha: 0.7", "gate.yaml:13: policy.alpha"),
        ("margin: 0.05", "margin: 0", "greater than 0"),
        ("margin: 0.05", "margin: 0.05\n        must_improve: 0.1", "not both"),
        ("  model: base\ncandidate", "  model: [\ncandidate", "not valid YAML"),
        ("baseline:\n  model: base\n", "", "key 'baseline' is missing"),
        ("policy:", "baseline:\n  model: other\npolicy:", "given twice"),
        ("suites:", "suites: []\nwrong:", "suites"),
    ],
)
def test_each_mistake_has_one_message(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_gate(path)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_gate(tmp_path / "absent.yaml")


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_gate(write(tmp_path, "baseline: !!python/object/apply:os.system ['true']\n"))


def test_the_schema_names_the_sections() -> None:
    assert {"baseline", "candidate", "suites", "policy"} <= set(json_schema()["properties"])


def test_slug_is_a_safe_file_name() -> None:
    assert slug("../My Adapter/v2") == "my-adapter-v2"
    assert slug("///") == "unnamed"
