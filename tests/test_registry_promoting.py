"""From a run to a promotion: what is decided again, and every way in which a run is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import runs
from harness.config import load_gate
from harness.errors import ConfigError, PromotionError, StorageError
from harness.gate import run_gate
from harness.progress import Silent
from harness.records import PairedScore
from harness.registry import Override
from harness.registry.promoting import prepare
from harness.registry.statement import parse_statement
from tests.promotion_example import gated


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each verdict."""
    lost = {"promote": range(0), "block": range(60), "hold": range(0)}
    silent = {"promote": range(0), "block": range(0), "hold": range(40)}
    return {
        verdict: gated(tmp_path_factory.mktemp(verdict), lost=lost[verdict], silent=silent[verdict])
        for verdict in ("promote", "block", "hold")
    }


@pytest.fixture
def run(made: dict[str, Path], tmp_path: Path) -> Path:
    """A PROMOTE that a test may spoil; its adapter stays where the gate found it."""
    return Path(shutil.copytree(made["promote"], tmp_path / made["promote"].name))


def test_a_promotion_names_the_digest_of_everything_that_it_rests_on(made: dict[str, Path]) -> None:
    promotion = prepare(made["promote"])
    subjects, claim = parse_statement(json.loads(promotion.payload), "")
    adapter = made["promote"].parents[1] / "adapter"
    assert set(promotion.files) == {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert all(subjects[name] == digest for name, (_, digest) in promotion.files.items())
    assert {"goldensets/LOCK.yaml", "suites/sums"} <= set(subjects)
    assert set(claim["evidence"]) == {"manifest.json", "journal.jsonl", "evidence.parquet"}
    assert (claim["verdict"], claim["override"]) == ("promote", None)
    assert promotion.statement["predicate"]["result"] == "PASSED"
    assert "sums/exact_match" in promotion.statement["predicate"]["passedTests"]
    assert str(adapter) not in promotion.payload.decode(), "a path of this machine is signed and handed on"


def test_the_same_run_gives_the_same_promotion(made: dict[str, Path], run: Path) -> None:
    assert prepare(run).identity == prepare(made["promote"]).identity


@pytest.mark.parametrize("verdict", ["block", "hold"])
def test_anything_but_promote_is_refused_with_its_reasons(made: dict[str, Path], verdict: str) -> None:
    with pytest.raises(PromotionError, match=f"the verdict is {verdict.upper()}.*sums/exact_match") as raised:
        prepare(made[verdict])
    assert raised.value.exit_code == 3


def test_an_override_is_recorded_with_name_and_reason(made: dict[str, Path]) -> None:
    promotion = prepare(made["hold"], override=Override("Ada", "the silent ones were a broken proxy"))
    assert promotion.claim["override"] == {"by": "Ada", "reason": "the silent ones were a broken proxy"}
    assert promotion.claim["verdict"] == "hold"
    assert promotion.statement["predicate"]["result"] == "WARNED"


def test_an_override_needs_a_name_and_a_reason_and_something_to_override(made: dict[str, Path]) -> None:
    for by, reason in (("", "because"), ("Ada", " "), ("Ada", "x" * 3000), ("Ada\x1b[2J", "because")):
        with pytest.raises(ConfigError):
            Override(by, reason)
    with pytest.raises(PromotionError, match="nothing to override"):
        prepare(made["promote"], override=Override("Ada", "to be sure"))


@pytest.mark.parametrize("name", ["manifest.json", "journal.jsonl", "evidence.parquet", "verdict.json"])
def test_a_changed_file_of_the_run_is_named_and_refused(run: Path, name: str) -> None:
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(PromotionError, match=f"{name}: changed since the run finished"):
        prepare(run)


def test_a_verdict_that_was_rewritten_and_sealed_again_does_not_help(made: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(made["block"], tmp_path / "run"))
    stored = runs.read_json(run / runs.VERDICT)
    runs.write_json(run / runs.VERDICT, {**stored, "verdict": "promote"})
    runs.write_seal(run)
    with pytest.raises(PromotionError, match="the verdict is BLOCK"):
        prepare(run)


def test_evidence_that_says_other_than_the_journal_is_refused_however_it_is_sealed(
    made: dict[str, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(made["block"], tmp_path / "run"))
    shutil.copy(made["promote"] / runs.EVIDENCE, run / runs.EVIDENCE)
    runs.write_seal(run)
    with pytest.raises(PromotionError, match=r"evidence\.parquet: sums/exact_match: sample 's\d+' has other scores"):
        prepare(run)


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda pairs: pairs[1:], "of the journal is missing"),
        (lambda pairs: pairs[::-1], "not the samples in the order"),
        (lambda pairs: (*pairs, pairs[0]), "not the samples in the order"),
        (lambda pairs: (*pairs[:-1], replace(pairs[-1], sample_id="invented")), "not the samples in the order"),
    ],
)
def test_samples_that_were_taken_out_turned_round_or_added_are_noticed(
    run: Path, forge: Callable[[tuple[PairedScore, ...]], tuple[PairedScore, ...]], said: str
) -> None:
    (table,) = runs.read_evidence(run / runs.EVIDENCE)
    runs.write_evidence(run / runs.EVIDENCE, [replace(table, pairs=tuple(forge(table.pairs)))])
    runs.write_seal(run)
    with pytest.raises(PromotionError, match=said):
        prepare(run)


def test_a_manifest_that_fits_nothing_is_an_error_and_no_crash(run: Path) -> None:
    manifest = runs.read_json(run / runs.MANIFEST)
    runs.write_json(run / runs.MANIFEST, {**manifest, "guards": [{"suite": "other", "metric": "none"}]})
    runs.write_seal(run)
    with pytest.raises(PromotionError, match="do not fit each other"):
        prepare(run)


def _edit(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


def _add(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")


def _remove(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("change", "name"), [(_edit, "adapter_config.json"), (_add, "chat_template.jinja"), (_remove, "tokenizer.json")]
)
def test_an_adapter_that_changed_since_the_run_is_refused(
    made: dict[str, Path], tmp_path: Path, change: Callable[[Path], None], name: str
) -> None:
    adapter = Path(shutil.copytree(made["promote"].parents[1] / "adapter", tmp_path / "adapter"))
    assert prepare(made["promote"], adapter=adapter).identity == prepare(made["promote"]).identity
    change(adapter)
    with pytest.raises(PromotionError, match=f"{name}: not as it was when the run evaluated it"):
        prepare(made["promote"], adapter=adapter)


def test_notes_and_pickled_leftovers_of_a_trainer_are_no_part_of_the_adapter(
    made: dict[str, Path], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(made["promote"].parents[1] / "adapter", tmp_path / "adapter"))
    (adapter / "README.md").write_text("other words", encoding="utf-8")
    (adapter / "training_args.bin").unlink()
    (adapter / "checkpoint-8").mkdir()
    assert prepare(made["promote"], adapter=adapter).identity == prepare(made["promote"]).identity


def test_a_link_in_an_adapter_hands_nothing_of_this_machine_on(tmp_path: Path) -> None:
    """An adapter from elsewhere may hold a link to a key, which a promotion would copy to a hub."""
    secret = tmp_path / "id_ed25519"
    secret.write_text("a private key", encoding="utf-8")
    adapter = gated(tmp_path / "gated").parents[1] / "adapter"
    (adapter / "notes.txt").symlink_to(secret)
    run = run_gate(load_gate(adapter.parent / "gate.yaml"), Silent()).path
    with pytest.raises(PromotionError, match=r"notes\.txt: a link that leads out of its folder"):
        prepare(run)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"  # as Hugging Face's cache holds it
    shutil.copytree(adapter, snapshot, symlinks=True)
    blob = snapshot.parents[1] / "blobs" / "abc"
    blob.parent.mkdir()
    shutil.copy(secret, blob)
    (snapshot / "notes.txt").unlink()
    (snapshot / "notes.txt").symlink_to("../../blobs/abc")
    assert "notes.txt" in prepare(run, adapter=snapshot).files


def test_what_is_no_finished_run_and_what_has_no_files_is_told_so(
    made: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="no such run directory"):
        prepare(tmp_path / "nothing")
    with pytest.raises(PromotionError, match="--adapter DIR"):
        prepare(run, adapter=tmp_path / "gone")
    (run / runs.SEAL).unlink()
    with pytest.raises(StorageError, match="a run directory that finished"):
        prepare(run)


def test_answers_of_somebody_else_do_not_promote_the_configured_adapter(tmp_path: Path) -> None:
    from harness.candidates import with_candidate
    from harness.config import load_gate

    path = gated(tmp_path).parents[1] / "gate.yaml"
    other = with_candidate(load_gate(path), tmp_path / "before.jsonl")
    assert "answered_by" not in other.gate.candidate.options


def test_a_candidate_without_files_cannot_be_promoted(tmp_path: Path) -> None:
    from harness.config import load_gate
    from harness.gate import run_gate
    from harness.progress import Silent
    from tests import scripted_project

    result = run_gate(load_gate(scripted_project.project(tmp_path)), Silent())
    assert result.verdict.verdict == "promote"
    with pytest.raises(PromotionError, match="has no files that could be promoted"):
        prepare(result.path)
