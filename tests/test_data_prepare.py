"""A stage's rows from its sources to the two sides: what is refused, what is dropped, and that all is accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.errors import DataError
from harness.records import Sample
from harness.training.data import Prepared, Request, prepare
from harness.training.objectives import Row, RowKind
from harness.training.recipe import DataSection

SFT: frozenset[RowKind] = frozenset({"text", "messages", "completion"})
WORDS = [f"w{i}" for i in range(3000)]
FROZEN = Sample("s7", "A farmer has seventeen sheep and all but nine of them run away, how many are left?", ("nine",))


def line(rng: Random, count: int = 30) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def completions(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = Random(seed)
    return [{"prompt": line(rng), "completion": line(rng, 5)} for _ in range(count)]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(folder: Path, section: Mapping[str, Any] | None = None, **request: Any) -> Prepared:
    wanted = {"train": [{"path": "train.jsonl"}], **(section or {})}
    usual = {"accepted": SFT, "frozen": {"golden": [FROZEN]}, "seed": 0}
    return prepare(Request(DataSection.model_validate(wanted), folder, **{**usual, **request}))


def reasons(result: Prepared) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in result.report.dropped:
        found.setdefault(row.reason, []).append(str(row.origin))
    return found


def accounted(result: Prepared) -> None:
    """Every row that was read is somewhere, once."""
    dropped = Counter(row.source for row in result.report.dropped)
    repeated = result.report.realised.replay_repeated
    assert sum(s.read for s in result.report.sources) == (
        len(result.train) - repeated + len(result.validation)
        + sum(dropped.values()) + sum(s.unused for s in result.report.sources)
    )  # fmt: skip
    for number, source in enumerate(result.report.sources):
        if not repeated:
            assert source.read == dropped[number] + source.train + source.validation + source.unused


# ---------------------------------------------------------------- as a whole


def test_clean_rows_go_to_the_two_sides_and_the_report_says_so(tmp_path: Path) -> None:
    rows = completions(100)
    write(tmp_path / "train.jsonl", rows)
    found = run(tmp_path, out=tmp_path)
    assert (found.kind, found.conversational) == ("completion", False)
    assert (len(found.train), len(found.validation)) == (95, 5)
    assert [rows[o.number - 1] for o in found.train_origins] == found.train
    assert [rows[o.number - 1] for o in found.validation_origins] == found.validation
    accounted(found)
    written = json.loads((tmp_path / "data.json").read_text())
    assert written["realised"]["validation_share"] == 0.05
    assert written["hashes"] == found.report.hashes
    assert written["sources"][0]["hashes"].keys() == {"train.jsonl"}
    assert (tmp_path / "dropped.jsonl").read_text() == ""


def test_the_same_again_gives_the_same_rows_and_another_seed_gives_others(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", completions(60))
    write(tmp_path / "broad.jsonl", completions(60, seed=1))
    section = {"replay": {"sources": [{"path": "broad.jsonl"}], "share": 0.2}, "validation": 0.1}
    first, again, other = run(tmp_path, section), run(tmp_path, section), run(tmp_path, section, seed=1)
    assert first.report.hashes == again.report.hashes
    assert first.report.hashes["train"] != other.report.hashes["train"]
    assert first.report.hashes["validation"] != other.report.hashes["validation"]


def test_who_validates_and_who_is_replayed_does_not_depend_on_the_order_of_the_lines(tmp_path: Path) -> None:
    section = {"replay": {"sources": [{"path": "broad.jsonl"}], "share": 0.2}, "validation": 0.1}
    sides = []
    for turn in (1, -1):
        write(tmp_path / "train.jsonl", completions(60)[::turn])
        write(tmp_path / "broad.jsonl", completions(60, seed=1)[::turn])
        found = run(tmp_path, section)
        sides.append([{row["prompt"] for row in side} for side in (found.train, found.validation)])
    assert sides[0] == sides[1]


def test_every_reason_has_its_column_and_its_lines(tmp_path: Path) -> None:
    rows = completions(40)
    long = line(Random(9), 200)
    rows[3] = {"prompt": rows[2]["prompt"] + "  ", "completion": rows[2]["completion"]}
    rows[5] = {"prompt": "", "completion": "x"}
    rows[7] = {"prompt": long, "completion": "x"}
    rows[8] = {"prompt": long.replace(" ", " extra ", 1), "completion": "x"}
    rows[9] = {"prompt": FROZEN.prompt, "completion": "nine"}
    write(tmp_path / "train.jsonl", rows)
    found = run(tmp_path, {"contaminated": "drop"}, out=tmp_path)
    assert reasons(found) == {
        "empty": ["train.jsonl:6"],
        "contaminated": ["train.jsonl:10"],
        "exact duplicate": ["train.jsonl:4"],
        "near-duplicate": ["train.jsonl:9"],
    }
    accounted(found)
    written = [json.loads(text) for text in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert {"row": "train.jsonl:4", "reason": "exact duplicate", "detail": "of train.jsonl:3"} in written
    assert {"row": "train.jsonl:6", "reason": "empty", "detail": "prompt is empty"} in written
    assert {"row": "train.jsonl:10", "reason": "contaminated", "detail": "golden/s7 (exact)"} in written
    header, (cells,) = found.report.table()
    counts = dict(zip(header, cells, strict=True))
    assert (counts["read"], counts["empty"], counts["near-duplicate"], counts["training"]) == (40, 1, 1, 34)
    assert "near-duplicate" in found.report.text()


def test_sources_that_are_empty_or_all_dropped_are_errors(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [])
    with pytest.raises(DataError, match=r"train\.jsonl holds no row"):
        run(tmp_path)
    write(tmp_path / "train.jsonl", [{"prompt": "", "completion": None}] * 3)
    with pytest.raises(DataError, match="all 3 rows are empty: prompt is empty"):
        run(tmp_path)
    write(tmp_path / "train.jsonl", [{"text": FROZEN.prompt}])
    with pytest.raises(DataError, match="no row is left to train on"):
        run(tmp_path, {"contaminated": "drop"})


# ---------------------------------------------------------------- formats of several sources


def test_completions_join_conversations_and_the_report_says_so(tmp_path: Path) -> None:
    user, said = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    write(tmp_path / "train.jsonl", [{"messages": [user, said, user, said]}])
    write(tmp_path / "alpaca.jsonl", [{"instruction": "Other", "input": "", "output": "B"}])
    found = run(tmp_path, {"train": [{"path": "train.jsonl"}, {"path": "alpaca.jsonl"}], "validation": 0}, chat=True)
    assert found.kind == "messages"
    assert sorted(len(row["messages"]) for row in found.train) == [2, 4]
    assert any("joined to messages" in remark.text for remark in found.report.remarks)
    assert any("format Alpaca (conversations), converted" in remark.text for remark in found.report.remarks)


def test_sources_of_different_kinds_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", completions(2))
    write(tmp_path / "other.jsonl", [{"text": "x"}])
    with pytest.raises(
        DataError, match=r"train\.jsonl holds completion rows as texts, and other\.jsonl holds text rows"
    ):
        run(tmp_path, {"train": [{"path": "train.jsonl"}, {"path": "other.jsonl"}]})


def test_every_prompt_row_gets_every_column(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"prompt": "a"}, {"prompt": "b", "answer": "4"}])
    found = run(tmp_path, {"validation": 0}, accepted=frozenset({"prompt"}))
    assert found.train == [{"prompt": "a", "answer": None}, {"prompt": "b", "answer": "4"}]


# ---------------------------------------------------------------- contamination


def test_contaminated_rows_are_refused_with_a_list(tmp_path: Path) -> None:
    rows = completions(30) + [{"prompt": FROZEN.prompt.upper(), "completion": "9"}] * 25
    write(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError, match="25 training rows overlap with frozen samples") as refusal:
        run(tmp_path, out=tmp_path)
    said = str(refusal.value)
    assert "train.jsonl:31 ↔ golden/s7 (exact): 'a farmer has seventeen" in said
    assert "allow_contaminated" in said
    assert f"… and 5 more, all in {tmp_path / 'contaminated.jsonl'}" in said
    assert len((tmp_path / "contaminated.jsonl").read_text().splitlines()) == 25


def test_rows_that_the_recipe_names_may_stay_and_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*completions(5), {"prompt": FROZEN.prompt, "completion": "nine"}])
    found = run(tmp_path, {"allow_contaminated": ["train.jsonl:6", "train.jsonl:1"], "validation": 0})
    assert len(found.train) == 6
    assert [str(o.origin) for o in found.report.allowed] == ["train.jsonl:6"]
    assert any("names train.jsonl:1, which overlaps with no" in r.text for r in found.report.remarks)


def test_replay_rows_are_compared_too(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", completions(5))
    write(tmp_path / "broad.jsonl", [{"prompt": FROZEN.prompt, "completion": "x"}])
    with pytest.raises(DataError, match=r"broad\.jsonl:1 ↔ golden/s7"):
        run(tmp_path, {"replay": {"sources": [{"path": "broad.jsonl"}]}})


def test_a_sample_that_only_the_assembled_chat_shows_is_found(tmp_path: Path) -> None:
    sample = Sample("chat", "user: what is six by seven assistant: it is forty two of course my friend")
    said = [
        {"role": "user", "content": "What is six by seven?"},
        {"role": "assistant", "content": "It is forty two of course, my friend."},
    ]
    write(tmp_path / "train.jsonl", [{"messages": said}])

    def render(row: Row) -> str:
        return "\n".join(f"{m['role']}: {m['content']}" for m in row["messages"])

    frozen = {"golden": [sample]}
    assert len(run(tmp_path, {"validation": 0}, frozen=frozen).train) == 1
    with pytest.raises(DataError, match="golden/chat"):
        run(tmp_path, {"validation": 0}, frozen=frozen, render=render)


def test_a_template_that_fails_on_a_row_names_it(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"messages": [{"role": "assistant", "content": "x"}]}])

    def render(row: Row) -> str:
        raise ValueError("roles must alternate")

    with pytest.raises(DataError, match=r"train\.jsonl:1: the chat template .*roles must alternate"):
        run(tmp_path, render=render)


def test_redaction_does_not_hide_a_frozen_sample(tmp_path: Path) -> None:
    sample = Sample("mail", "Who is jane@example.org?")
    write(tmp_path / "train.jsonl", [{"text": "Who is jane@example.org?"}])
    with pytest.raises(DataError, match="golden/mail"):
        run(tmp_path, {"redact": "replace"}, frozen={"golden": [sample]})


# ---------------------------------------------------------------- personal data


MAIL = {"prompt": "Write to jane@example.org and bob@example.org.", "completion": "From 203.0.113.7."}


def test_personal_data_is_counted_by_kind_and_row_and_left(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*completions(2), MAIL])
    found = run(tmp_path, {"validation": 0}, out=tmp_path)
    assert found.train[2] == MAIL
    written = json.loads((tmp_path / "data.json").read_text())["redactions"]
    assert written == {
        "email": {"count": 2, "replaced": False, "rows": ["train.jsonl:3"]},
        "ip": {"count": 1, "replaced": False, "rows": ["train.jsonl:3"]},
    }
    assert "email: 2 found and left, in 1 row: train.jsonl:3" in found.report.text()


def test_personal_data_is_replaced_in_every_text_and_never_reported(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*completions(2), MAIL])
    found = run(tmp_path, {"redact": "replace", "validation": 0}, out=tmp_path)
    assert found.train[2] == {"prompt": "Write to <EMAIL> and <EMAIL>.", "completion": "From <IP>."}
    assert all("jane@" not in path.read_text() for path in (tmp_path / "data.json", tmp_path / "dropped.jsonl"))


def test_rows_that_redaction_makes_equal_are_duplicates(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "Write to a@example.org"}, {"text": "Write to b@example.org"}])
    assert reasons(run(tmp_path, {"redact": "replace"})) == {"exact duplicate": ["train.jsonl:2"]}
    assert reasons(run(tmp_path, {"redact": "off"})) == {}


# ---------------------------------------------------------------- preferences, contradictions, clusters


def test_pairs_with_nearly_the_same_answers_are_reported_and_equal_ones_are_an_error(tmp_path: Path) -> None:
    rng = Random(0)
    answer = line(rng, 60)
    rows = [
        {"prompt": line(rng), "chosen": line(rng), "rejected": line(rng)},
        {"prompt": line(rng), "chosen": answer, "rejected": answer + "!"},
        {"prompt": line(rng), "chosen": answer, "rejected": answer + " "},
    ]
    write(tmp_path / "train.jsonl", rows)
    found = run(tmp_path, {"validation": 0}, accepted=frozenset({"preference"}))
    assert len(found.train) == 2
    assert reasons(found) == {"same answers": ["train.jsonl:3"]}
    assert found.report.errors == ["1 pairs have the same answer as chosen and as rejected, which teaches nothing"]
    assert [str(origin) for origin, _ in found.report.alike] == ["train.jsonl:2"]


def test_rows_that_contradict_each_other_stay_and_are_reported(tmp_path: Path) -> None:
    rows = [{"text": "a good film", "label": "good"}, {"text": "a good film", "label": "bad"}]
    write(tmp_path / "train.jsonl", rows)
    found = run(tmp_path, {"validation": 0.5}, accepted=frozenset({"class"}))
    assert len(found.train) == 2  # one cluster, so that both stay on one side
    assert [tuple(map(str, pair)) for pair in found.report.contradictions] == [("train.jsonl:2", "train.jsonl:1")]
    assert any("clusters are kept whole" in remark.text for remark in found.report.remarks)


def test_without_removal_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    rng = Random(5)
    rows = []
    for _ in range(20):
        text = line(rng, 120)
        rows += [{"text": text}, {"text": f"{text} more"}]
    write(tmp_path / "train.jsonl", rows)
    found = run(tmp_path, {"near_duplicates": None, "validation": 0.2})
    sides = [{(o.number - 1) // 2 for o in side} for side in (found.train_origins, found.validation_origins)]
    assert len(found.train) == 32
    assert len(found.validation) == 8
    assert not sides[0] & sides[1]


def test_a_data_set_of_mostly_near_duplicates_gets_a_warning(tmp_path: Path) -> None:
    shared = line(Random(6), 300)
    write(tmp_path / "train.jsonl", [{"prompt": shared + f" {i}", "completion": "x"} for i in range(10)])
    found = run(tmp_path)
    assert any("near-duplicates make up 90%" in remark.text for remark in found.report.remarks)


# ---------------------------------------------------------------- replay and mixture


def replayed(tmp_path: Path, broad: int, **replay: Any) -> Prepared:
    write(tmp_path / "train.jsonl", completions(100))
    write(tmp_path / "broad.jsonl", completions(broad, seed=1))
    return run(tmp_path, {"replay": {"sources": [{"path": "broad.jsonl"}], **replay}, "validation": 0.1})


def test_replay_has_its_share_of_the_training_rows_and_none_validates(tmp_path: Path) -> None:
    found = replayed(tmp_path, 200, share=0.2)
    done = found.report.realised
    assert (done.train, done.replay, done.validation) == (112, 22, 10)
    assert done.replay_share == pytest.approx(22 / 112)
    places = [o.place for o in found.train_origins]
    assert places.count("broad.jsonl") == 22
    assert places[-22:].count("broad.jsonl") < 22  # among the others, not behind them
    assert {o.place for o in found.validation_origins} == {"train.jsonl"}
    accounted(found)


def test_too_few_replay_rows_are_said(tmp_path: Path) -> None:
    found = replayed(tmp_path, 5, share=0.2)
    assert found.report.realised.replay == 5
    assert any("replay has 5 rows, and 22 are wanted: so its share is 5.3%" in r.text for r in found.report.remarks)
    accounted(found)


def test_too_few_replay_rows_are_repeated_if_asked(tmp_path: Path) -> None:
    found = replayed(tmp_path, 5, share=0.2, repeat=True)
    counts = Counter(o for o in found.train_origins if o.place == "broad.jsonl")
    assert sorted(counts.values()) == [4, 4, 4, 5, 5]
    assert any("17 rows are repeats" in r.text for r in found.report.remarks)
    accounted(found)


def test_a_replay_row_that_is_like_a_validation_row_is_left_out(tmp_path: Path) -> None:
    rows = [{"text": line(Random(i), 120)} for i in range(20)]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "broad.jsonl", [{"text": row["text"] + " more"} for row in rows])
    section = {
        "near_duplicates": None,
        "validation": 0.2,
        "replay": {"sources": [{"path": "broad.jsonl"}], "share": 0.3},
    }
    found = run(tmp_path, section)
    validating = {o.number for o in found.validation_origins}
    assert len(validating) == 4
    assert {int(name.split(":")[1]) for name in reasons(found)["replay like validation"]} == validating
    assert not validating & {o.number for o in found.train_origins}
    accounted(found)


def test_a_weighted_mixture_takes_its_shares_and_says_what_it_left(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", completions(90))
    write(tmp_path / "b.jsonl", completions(30, seed=1))
    sources = [{"path": "a.jsonl", "weight": 1}, {"path": "b.jsonl", "weight": 1}]
    found = run(tmp_path, {"train": sources, "mixture": "weighted", "validation": 0})
    assert [(s.train, s.unused) for s in found.report.sources] == [(30, 60), (30, 0)]
    assert len({o.place for o in found.train_origins[:12]}) == 2  # among each other, not one after the other
    accounted(found)


def test_a_weighted_source_without_a_row_left_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", completions(9))
    write(tmp_path / "b.jsonl", completions(9))
    with pytest.raises(DataError, match=r"b\.jsonl: no row of it is left"):
        run(tmp_path, {"train": [{"path": "a.jsonl"}, {"path": "b.jsonl"}], "mixture": "weighted"})


@pytest.mark.slow
def test_importing_it_loads_none_of_the_heavy_libraries() -> None:
    heavy = "{'torch', 'datasets', 'datasketch', 'transformers', 'pyarrow'}"
    code = f"import sys, harness.training.data; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
