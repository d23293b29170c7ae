"""A replay as a gate.yaml: a frozen set of production calls, asked again of a baseline and a candidate"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness import goldens
from harness.config import LoadedConfig, load_gate
from harness.errors import ConfigError, StorageError
from harness.goldens.lock import write_atomically
from harness.goldens.pictures import shows_pictures

_ROUTES = ("openai/", "hosted_vllm/", "litellm_proxy/")
_ADAPTER = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a replay: a local model (a folder, or a name on the hub), or with `url` one that is served there.

    A local candidate that is an adapter is put on the baseline's model.
    """

    model: str
    url: str = ""
    key_env: str = ""


@dataclass(frozen=True, slots=True)
class JudgedBy:
    """A rubric that the answers are graded by as well, and the model that applies it."""

    rubric: str
    model: str
    url: str = ""
    key_env: str = ""


@dataclass(frozen=True, slots=True)
class Replay:
    """What is replayed and how it is decided. Without `metrics` all that apply are compared.

    `margins` holds those of single metrics, in score points (for `seconds`: seconds, for `cost`: US dollars); `margin`
    is that of the others. `prices` (dollars per million tokens: input, output) are those of baseline and candidate;
    `cost` needs them.
    """

    set: str
    root: Path
    baseline: Arm
    candidate: Arm
    metrics: tuple[str, ...] = ()
    margins: Mapping[str, float] = field(default_factory=dict)
    margin: float = 0.05
    alpha: float = 0.05
    chat_template: Path | None = None
    device: str = ""
    judge: JudgedBy | None = None
    training: tuple[Path, ...] = ()
    out: Path = Path("runs")
    prices: tuple[Mapping[str, float], Mapping[str, float]] | None = None


def write_gate(path: Path, replay: Replay) -> LoadedConfig:
    """Write the gate.yaml of a replay, or find it as it would be written, and load it.

    Raises:
        ConfigError: there is another file of this name, or what it would say is wrong.
        LockError, DataError: the set is not frozen, or does not exist.
        StorageError: it cannot be written.
    """
    golden = goldens.load(replay.root, replay.set)
    made = document(path.parent, replay, pictures=any(map(shows_pictures, golden.samples)))
    text = _HEADER + str(yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=110))
    try:
        if path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise ConfigError(f"{path}: says something else; run `harness gate {path}`, or name another --gate")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
    return load_gate(path)


_HEADER = "# Written by `harness shadow replay`; `harness gate` runs it too.\n"


def document(folder: Path, replay: Replay, *, pictures: bool = False) -> dict[str, Any]:
    """What a gate.yaml in `folder` says of a replay; its paths are relative to that folder.

    A local model reads texts: of a set with `pictures`, calls that show some are asked where both sides are served.
    """
    root = _place(folder, replay.root)
    asked = {"pictures": False} if pictures and not (replay.baseline.url and replay.candidate.url) else {}
    suites: list[dict[str, Any]] = [{"kind": "shadow", "set": replay.set, "root": root, **asked, **_compared(replay)}]
    if replay.judge is not None:
        suites.append(_judged(replay.judge, replay.set, root))
    return {
        "baseline": {"name": "baseline", **_section(folder, replay.baseline, replay)},
        "candidate": _candidate(folder, replay),
        "suites": suites,
        "policy": {"margin": replay.margin, "alpha": replay.alpha},
        "training_data": [_place(folder, path) for path in replay.training],
        "out": _place(folder, replay.out),
    }


def _compared(replay: Replay) -> dict[str, Any]:
    metrics: dict[str, Any] = {"metrics": list(replay.metrics)} if replay.metrics else {}
    if replay.prices is not None:
        named = zip(("baseline", "candidate"), replay.prices, strict=True)
        metrics["prices"] = {arm: dict(prices) for arm, prices in named}
    if not replay.margins:
        return metrics
    # A suite whose section names guards has no others.
    given = [{"metric": m, "margin": replay.margins.get(m, replay.margin)} for m in replay.metrics]
    return {**metrics, "guards": given}


def _candidate(folder: Path, replay: Replay) -> dict[str, Any]:
    arm = replay.candidate
    if arm.url or not (Path(arm.model) / _ADAPTER).is_file():
        return _section(folder, arm, replay)
    if replay.baseline.url:
        raise ConfigError(
            f"{arm.model} is an adapter, and the baseline is served; serve the adapter too, or name a local model"
        )
    return {**_section(folder, replay.baseline, replay), "adapter": _place(folder, Path(arm.model))}


def _section(folder: Path, arm: Arm, replay: Replay) -> dict[str, Any]:
    if arm.url:
        return {"kind": "served", **_served(arm.model, arm.url, arm.key_env)}
    local = Path(arm.model)
    template = {} if replay.chat_template is None else {"chat_template": _place(folder, replay.chat_template)}
    device = {"device": replay.device} if replay.device else {}
    return {"model": _place(folder, local) if local.exists() else arm.model, **template, **device}


def _judged(judge: JudgedBy, reference: str, root: str) -> dict[str, Any]:
    by = _served(judge.model, judge.url, judge.key_env)
    return {
        "kind": "judge", "judge": judge.rubric, "samples": reference, "root": root, "estimand": "population", "by": by,
    }  # fmt: skip


def _served(model: str, url: str, key_env: str) -> dict[str, Any]:
    named = model if not url or model.startswith(_ROUTES) else f"openai/{model}"
    more = {"api_base": url, "api_key_env": key_env}
    return {"model": named, **{key: value for key, value in more.items() if value}}


def _place(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
