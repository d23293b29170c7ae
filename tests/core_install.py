"""The wheel of this checkout with the core dependencies alone, in a virtual environment: a machine that only verifies.

The environment is kept in pytest's cache folder for as long as the dependencies stay the same; the wheel is made anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL_LIBRARIES = ("torch", "transformers", "peft", "trl", "lm_eval", "litellm", "datasets", "huggingface_hub")
_UNREACHABLE = re.compile(r"connection broken by|NewConnectionError|Max retries exceeded|Network is unreachable")
_ENDED = "installed"


@dataclass(frozen=True, slots=True)
class Machine:
    """Another machine: the core install, a home of its own, and no word of ours in its environment."""

    installed: Path
    home: Path

    def run(self, *words: object, code: int = 0, program: str = "harness") -> str:
        """A command there, in its home; what it printed on both streams."""
        done = subprocess.run(
            [self.installed / "bin" / program, *map(str, words)], cwd=self.home, env=self._environment(),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def _environment(self) -> Mapping[str, str]:
        return {"HOME": str(self.home), "PATH": f"{self.installed / 'bin'}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


def core_install(cache: Path, scratch: Path) -> Path:
    """The environment's folder; skips the test where no package registry can be reached.

    Args:
        cache: where environments are kept from one test session to the next.
        scratch: where the wheel is built.
    """
    folder = cache / _key()
    if not (folder / _ENDED).exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
        core = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
        _pip(folder, "install", "--constraint", str(ROOT / "constraints.txt"), *core)
        (folder / _ENDED).touch()
    _pip(folder, "wheel", "--no-deps", "--wheel-dir", str(scratch), str(ROOT))
    (wheel,) = scratch.glob("promotion_harness-*.whl")
    _pip(folder, "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    return folder


def _key() -> str:
    named = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join([sys.version.encode(), *named])).hexdigest()[:16]


def _pip(folder: Path, *words: str) -> None:
    command: Sequence[str] = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*command, *words], env=outside, capture_output=True, text=True, timeout=580, check=False)
    if done.returncode and _UNREACHABLE.search(done.stderr):
        pytest.skip("the core install needs a package registry, and none can be reached from here")
    assert done.returncode == 0, done.stderr
