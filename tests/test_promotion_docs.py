"""What docs/promotion.md tells people to run is so: the loader that refuses, the core install, the commands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RecordError
from harness.registry.backends.local import LocalRegistry
from harness.registry.keys import new_key
from harness.registry.promoting import prepare
from tests.promotion_example import gated

PAGE = (Path(__file__).parents[1] / "docs" / "promotion.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry and `signing.pub`."""
    folder = tmp_path_factory.mktemp("promoted")
    key = new_key(folder / "signing.pem")
    LocalRegistry(folder / "registry").promote(prepare(gated(folder / "project")), "champion", key)
    return folder


@pytest.mark.slow
def test_verifying_loads_no_library_beyond_the_core_and_none_of_the_heavy_ones(promoted: Path) -> None:
    code = (
        "import sys\nfrom harness.cli import main\ntry:\n    main(['verify', 'registry', '--key', 'signing.pub'])\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'litellm', 'pyarrow', 'numpy', 'scipy', 'huggingface_hub'}\n"
        "heavy |= {'sigstore', 'tuf', 'requests'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=promoted, check=True, env={"PYTHONPATH": str(Path.cwd())})


@pytest.mark.slow
def test_the_start_script_starts_nothing_that_does_not_verify(promoted: Path, tmp_path: Path) -> None:
    (script,) = (block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "vllm serve" in block)
    (tmp_path / "bin").mkdir()
    for name, body in (
        ("vllm", 'echo "$@"'),
        ("harness", f'exec {sys.executable} -m harness "$@"'),
        ("python3", f'exec {sys.executable} "$@"'),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}
    folder = Path(shutil.copytree(promoted, tmp_path / "copy", symlinks=True))

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)

    started = start()
    assert started.returncode == 0, started.stderr
    assert "champion=" in started.stdout
    weights = next(folder.glob("registry/promotions/*/adapter_model.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[::-1])
    refused = start()
    assert refused.returncode != 0
    assert "champion=" not in refused.stdout


@pytest.mark.slow
def test_the_loader_of_the_documentation_loads_what_was_promoted_and_nothing_else(tmp_path: Path, tiny: Any) -> None:
    from transformers import AutoModelForCausalLM

    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)  # noqa: S102 - the page's own code
    key = new_key(tmp_path / "signing.pem")
    registry = LocalRegistry(tmp_path / "registry")
    registry.promote(prepare(gated(tmp_path / "project", adapter=tiny.adapter())), "champion", key)
    base = AutoModelForCausalLM.from_pretrained(tiny.model())
    champion = registry.root / "aliases" / "champion"
    loaded = names["load_promoted"](base, champion, tmp_path / "signing.pub")
    assert loaded.peft_config["default"].peft_type == "LORA"
    with pytest.raises(RecordError, match="there is no record"):
        names["load_promoted"](base, tiny.adapter(), tmp_path / "signing.pub")
    new_key(tmp_path / "other.pem")
    with pytest.raises(RecordError, match="no key that you trust"):
        names["load_promoted"](base, champion, tmp_path / "other.pub")
