"""From a finished run to a promotion: decided again, and everything held against what the run wrote down

`verdict.json` is never believed. The verdict is made anew from evidence and labels; the evidence has to say what the
journal says, the journal has to be what the run sealed, the labels have to be of the outputs in the journal, and the
adapter has to be, byte for byte, what was evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import labelled, runs
from harness.adapters import promotable
from harness.config import slug
from harness.deciding import decide_again
from harness.errors import DataError, PromotionError, StorageError, at
from harness.records import Evidence, Verdict, content_hash
from harness.registry import Override, Promotion
from harness.registry.dsse import canonical
from harness.registry.statement import EVIDENCE, LOCK, VERDICT, Material, lock_of, make_statement, sha256
from harness.statistics.ppi import committed_draws


def prepare(run: Path, *, adapter: Path | None = None, override: Override | None = None) -> Promotion:
    """The promotion of a run's candidate; nothing is written.

    Args:
        run: a run directory.
        adapter: where the adapter is now; by default where the run found it.
        override: promotes although the verdict is not PROMOTE. It lifts nothing else, and is refused where it is not
            needed.

    Raises:
        PromotionError: the verdict is not PROMOTE; or evidence, journal, labels or adapter are not what they were.
        StorageError: the run has not finished, or a file of it is damaged.
    """
    if not run.is_dir():
        raise StorageError(f"{run}: no such run directory")
    _refuse_changed(run)
    manifest, verdict = _decide(run)
    _refuse_contradiction(run, manifest)
    _refuse_verdict(run, verdict, override)
    files = _files(manifest, adapter)
    return _promotion(run, manifest, verdict, files, override)


def _promotion(
    run: Path, manifest: Mapping[str, Any], verdict: Verdict, files: Mapping[str, tuple[Path, str]],
    override: Override | None,
) -> Promotion:  # fmt: skip
    said = json.dumps(verdict.as_json(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    evidence = (run / runs.EVIDENCE).read_bytes()
    papers = {LOCK: lock_of(manifest), EVIDENCE: evidence, VERDICT: said.encode()}
    statement = make_statement(
        Material(
            run=f"{slug(manifest['candidate']['name'])}-{content_hash(manifest)[:12]}",
            manifest=manifest,
            verdict=verdict,
            gate=runs.read_facts(run)[runs.ENDED]["gate"],
            files={name: digest for name, (_, digest) in files.items()},
            papers=papers,
            stored=stored_digests(run),
            override=None if override is None else {"by": override.by, "reason": override.reason},
        )
    )
    payload = canonical(statement)
    return Promotion(sha256(payload), statement, payload, files, papers)


def _decide(run: Path) -> tuple[dict[str, Any], Verdict]:
    try:
        return decide_again(run)
    except DataError as error:
        raise PromotionError(f"{error}; the labels are not those of this run") from error
    except (KeyError, TypeError, ValueError) as error:  # whoever rewrote the files can have sealed them too
        raise PromotionError(f"{run}: its files do not fit each other ({type(error).__name__}: {error})") from error


def stored_digests(run: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file of a run that its verdict rests on, labels included, by path in the run."""
    named = [run / name for name in (runs.MANIFEST, runs.JOURNAL, runs.EVIDENCE)]
    labels = sorted(path for path in (run / labelled.FOLDER).glob("*") if path.suffix in (".json", ".jsonl"))
    try:
        return {path.relative_to(run).as_posix(): sha256(path.read_bytes()) for path in [*named, *labels]}
    except OSError as error:
        raise StorageError(f"{error.filename}: {error.strerror}") from error


def _refuse_changed(run: Path) -> None:
    changed = runs.unsealed(run)
    if changed:
        names = ", ".join(str(run / name) for name in changed)
        raise PromotionError(f"{names}: changed since the run finished; repeat the gate's command, which asks nothing "
                             "twice, and promote what it comes to")  # fmt: skip
    if "gate" not in (runs.read_facts(run).get(runs.ENDED) or {}):
        raise PromotionError(f"{at(run / runs.JOURNAL)}does not say how the run ended; repeat the gate's command")


def _refuse_verdict(run: Path, verdict: Verdict, override: Override | None) -> None:
    said = verdict.verdict.upper()
    if verdict.verdict == "promote":
        if override is not None:
            raise PromotionError(
                f"{run}: the verdict is PROMOTE, so there is nothing to override; leave --override out"
            )
    elif override is None:
        reasons = "; ".join(verdict.reasons) or "no reason was given"
        way_out = "Whoever answers for it all the same says so by --override NAME --reason TEXT, which the record keeps"
        raise PromotionError(f"{run}: the verdict is {said}, so it is not promoted: {reasons}. {way_out}")


# ---------------------------------------------------------------- the evidence against the journal


def _refuse_contradiction(run: Path, manifest: Mapping[str, Any]) -> None:
    entries = runs.read_entries(run)
    evidence = runs.read_evidence(run / runs.EVIDENCE)
    problem = next(_contradictions(entries, evidence, manifest["suites"]), None)
    if problem is not None:
        raise PromotionError(
            f"{at(run / runs.EVIDENCE)}{problem}; one of the two was changed. Repeat the gate's command"
        )
    try:
        bent = next(_bent_plans(run, entries, evidence, manifest), None)
    except ValueError as error:
        bent = f"{at(run / labelled.FOLDER)}a plan is damaged: {error}"
    if bent is not None:
        raise PromotionError(bent)


def _contradictions(
    entries: Sequence[runs.Entry], evidence: Sequence[Evidence], suites: Mapping[str, Any]
) -> Iterator[str]:
    """What evidence, journal and manifest say differently of the samples."""
    said = {(e.suite, metric, e.sample_id): pair for e in entries for metric, pair in e.scores.items()}
    for table in evidence:
        name = f"{table.suite}/{table.metric.name}"
        ids, suite = [pair.sample_id for pair in table.pairs], suites.get(table.suite, {})
        whole = len(ids) == suite.get("samples")  # a metric need not be about every sample
        if len(set(ids)) < len(ids) or (whole and content_hash(ids) != suite.get("order")):
            yield f"{name}: these are not the samples in the order that the manifest committed to"
        for pair in table.pairs:
            sides = (pair.baseline, pair.candidate)
            journal = said.pop((table.suite, table.metric.name, pair.sample_id), None)
            if sides != ((None, None) if journal is None else tuple(journal)):
                yield f"{name}: sample {pair.sample_id!r} has other scores in the journal"
    tables = {(table.suite, table.metric.name) for table in evidence}
    for suite_name, metric, sample in said:
        if (suite_name, metric) in tables:
            yield f"{suite_name}/{metric}: sample {sample!r} of the journal is missing"


def _bent_plans(
    run: Path, entries: Sequence[runs.Entry], evidence: Sequence[Evidence], manifest: Mapping[str, Any]
) -> Iterator[str]:
    """Plans of labels that are about other outputs than the journal's, or that nobody drew by this run's seed."""
    outputs = {(e.suite, e.sample_id): tuple(_digest(side) for side in (e.baseline, e.candidate)) for e in entries}
    specs = {(table.suite, table.metric.name): table.metric for table in evidence}
    for key, labels in labelled.read_run_labels(run).items():
        plan, spec = labels.plan, specs.get(key)
        where = at(labelled.plan_path(run, *key))
        for pair in plan.frame:
            if outputs.get((plan.suite, pair.sample_id)) != (pair.baseline, pair.candidate):
                yield f"{where}sample {pair.sample_id!r} has other outputs in the journal; the plan was changed"
        seed = labelled.seed_of(manifest, *key, plan.frame)
        probabilities = np.array([pair.probability for pair in plan.frame])
        if plan.seed != seed or plan.draws != tuple(
            int(place) for place in committed_draws(probabilities, len(plan.draws), seed.encode())
        ):
            yield f"{where}its draws are not those of this run's seed; the plan was changed"
        if spec is None or (plan.higher_is_better, plan.bounds) != (spec.higher_is_better, tuple(spec.bounds)):
            yield f"{where}its metric is not the evidence's; the plan was changed"


def _digest(side: Sequence[Any]) -> str:
    return labelled.digest_of_turns([output.spoken or "" for output in side])


# ---------------------------------------------------------------- the adapter


def _files(manifest: Mapping[str, Any], adapter: Path | None) -> dict[str, tuple[Path, str]]:
    """The candidate's files where they are now, each as it was when it was evaluated.

    Raises:
        PromotionError: the candidate has no files, they are not there, one was changed, added or taken away, or one is
            a link to somewhere else.
    """
    artifact = manifest["candidate"].get("artifact")
    if artifact is None:
        name, kind = (manifest["candidate"].get(key) for key in ("name", "kind"))
        raise PromotionError(f"{name}: the candidate is {kind or 'refused'}, and has no files that could be promoted")
    folder = adapter or Path(artifact["folder"])
    if not folder.is_dir():
        raise PromotionError(f"{folder}: the adapter is not there any more; say where it is with --adapter DIR")
    found = promotable(folder, artifact["kind"])["files"]
    expected: Mapping[str, str] = artifact["files"]
    changed = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if changed:
        what = ", ".join(str(folder / name) for name in changed[:5]) + (" …" if len(changed) > 5 else "")
        raise PromotionError(f"{what}: not as it was when the run evaluated it; gate the adapter as it is now")
    if not expected:
        raise PromotionError(f"{folder}: holds no file that could be promoted")
    led_out = next((folder / name for name in sorted(expected) if not _lies_in(folder / name, folder)), None)
    if led_out is not None:
        raise PromotionError(f"{led_out}: a link that leads out of its folder, so whatever it leads to would be handed "
                             "on; put a copy in its place and gate that")  # fmt: skip
    return {name: (folder / name, digest) for name, digest in sorted(expected.items())}


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a file's bytes are those of its folder, or of the cache of Hugging Face that the folder is part of."""
    found, home = path.resolve(), folder.resolve()
    return found.is_relative_to(home) or found.parent == home.parent.parent / "blobs"
