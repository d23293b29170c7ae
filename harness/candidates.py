"""Another candidate, or another engine, in place of the one that a gate.yaml names."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import plugins
from harness.config import ARMS, Arm, GateConfig, LoadedConfig, SubjectSection
from harness.errors import ConfigError, nearest


def with_candidates(loaded: LoadedConfig, candidates: Sequence[Path]) -> list[LoadedConfig]:
    """One configuration a candidate, named by its folder and by as many folders above it as tell it from the others.

    Raises:
        ConfigError: a folder is neither an adapter nor a model, or is given twice.
    """
    resolved = [candidate.resolve() for candidate in candidates]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise ConfigError(f"--candidate {path} is given twice")
    return [with_candidate(loaded, path, _distinct(path, resolved)) for path in resolved]


def with_candidate(loaded: LoadedConfig, candidate: Path, name: str | None = None) -> LoadedConfig:
    """The configuration with another candidate: an adapter on the baseline's model, or a full checkpoint.

    Where the configured candidate reads recorded answers, another file of answers is a candidate too.

    Raises:
        ConfigError: the path is none of these.
    """
    candidate = candidate.resolve()
    if (candidate / "adapter_config.json").is_file() and not (candidate / "classifier.json").is_file():
        like, chosen = _on_baseline(loaded.gate), {"adapter": str(candidate)}
    elif (candidate / "config.json").is_file():
        made = _classifier_itself if _classifies(candidate) else _by_itself
        like, chosen = made(loaded.gate), {"model": str(candidate)}
    elif (candidate / "classifier.json").is_file():
        like, chosen = _classifying(loaded.gate), {"head": str(candidate)}
    elif candidate.is_file() and "answers" in loaded.gate.candidate.options:
        # Whoever gave the configured answers did not give these.
        like, chosen = _without(loaded.gate.candidate, ("answered_by",)), {"answers": str(candidate)}
    else:
        raise ConfigError(
            f"{candidate}: neither an adapter (adapter_config.json), a classifier's head (classifier.json) nor a model "
            "(config.json) is there"
        )
    section = SubjectSection(kind=like.kind, name=name or candidate.name, **{**like.options, **chosen})
    command = f"{loaded.command} --candidate {shlex.quote(str(candidate))}"
    return replace(loaded, gate=loaded.gate.model_copy(update={"candidate": section}), command=command)


def _on_baseline(gate: GateConfig) -> SubjectSection:
    """What an adapter is put on: the baseline's model, as the configured candidate has it if it is on that model."""
    baseline, old = gate.baseline, gate.candidate
    # As paths, because ./base and base are one folder.
    names = [(Path(str(s.options.get("model"))), s.options.get("revision")) for s in (baseline, old)]
    if names[0] == names[1] or "model" not in baseline.options:
        return old
    return _without(baseline, ("merge",))


def _classifying(gate: GateConfig) -> SubjectSection:
    """What a trained head is put on: the baseline's model, which need not be a classifier itself."""
    shared = ("model", "revision", "tokenizer", "dtype", "device", "max_length", "trust_remote_code")
    given = {key: gate.baseline.options[key] for key in shared if key in gate.baseline.options}
    return SubjectSection(kind="classifier", **given)


def _classifies(candidate: Path) -> bool:
    """Whether a full checkpoint is a classifier of texts, by what its config says that it is."""
    try:
        config = json.loads((candidate / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # loading it will say so
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _classifier_itself(gate: GateConfig) -> SubjectSection:
    """What of the configuration holds for a checkpoint that is a classifier and brings its own tokenizer."""
    if gate.candidate.kind == "classifier":
        return _without(_by_itself(gate), ("head",))
    return _without(_classifying(gate), ("revision", "tokenizer"))


def _by_itself(gate: GateConfig) -> SubjectSection:
    """What of the configured candidate holds for any full checkpoint; it brings its own tokenizer and chat template,
    unless both subjects were given the same.
    """
    like = gate.candidate if "model" in gate.candidate.options else gate.baseline
    given = [key for key in ("tokenizer", "chat_template") if like.options.get(key) != gate.baseline.options.get(key)]
    return _without(like, ("revision", "adapter", "merge", *given))


def _without(section: SubjectSection, keys: Sequence[str]) -> SubjectSection:
    kept = {key: value for key, value in section.options.items() if key not in keys}
    return SubjectSection(kind=section.kind, name=section.name, **kept)


def with_engine(loaded: LoadedConfig, engine: str) -> LoadedConfig:
    """The configuration with both subjects answered by another engine; options of the engine before are dropped.

    Raises:
        ConfigError: there is no such engine, or a subject is of a kind that has none.
    """
    known = plugins.names("engine")
    if engine not in known:
        raise ConfigError(f"--engine: there is no engine {engine!r}: {nearest(engine, known)}")
    update: dict[str, SubjectSection] = {arm: _on_engine(loaded, arm, engine) for arm in ARMS}
    command = f"{loaded.command} --engine {shlex.quote(engine)}"
    return replace(loaded, gate=loaded.gate.model_copy(update=update), command=command)


def _on_engine(loaded: LoadedConfig, arm: Arm, engine: str) -> SubjectSection:
    section: SubjectSection = getattr(loaded.gate, arm)
    fields = plugins.load("subjects", section.kind).Options.model_fields
    if "engine" not in fields:
        raise ConfigError(f"{loaded.where(arm)}: --engine: a subject of kind {section.kind!r} has no engine to choose")
    changed = section.options.get("engine", fields["engine"].default) != engine
    kept = _without(section, ("engine_options",)) if changed else section
    return SubjectSection(kind=kept.kind, name=kept.name, **{**kept.options, "engine": engine})


def _distinct(path: Path, among: Sequence[Path]) -> str:
    """The shortest end of `path` that no other path has."""
    others = [other.parts for other in among if other != path]
    lengths = range(1, len(path.parts) + 1)
    size = next((n for n in lengths if all(other[-n:] != path.parts[-n:] for other in others)), len(path.parts))
    return Path(*path.parts[-size:]).as_posix()
