"""The radix engine: the plain engine's answers for every architecture and method, whatever is shared or drafted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.engine._drafts import Guide, Odds
from harness.engine._plan import Job, Limits, pack, plan
from harness.engine._store import Store, common_length
from harness.records import Draft, Generate, LogLikelihood, Output, Request, RollingLogLikelihood
from tests.tiny_models import FAMILIES, METHODS

# ---------------------------------------------------------------- fast: the parts that need no model


def tokens_of(jobs: Sequence[Job], before: tuple[int, ...] = ()) -> dict[int, tuple[int, ...]]:
    """Sequence number → the tokens on the path to the job it ends in; asserts that the tree is sound."""
    found: dict[int, tuple[int, ...]] = {}
    for job in jobs:
        assert job.tokens
        assert job.start == len(before)
        assert job.ends or job.children
        whole = before + job.tokens
        below = tokens_of(job.children, whole)
        assert not found.keys() & below.keys()
        found |= below | dict.fromkeys(job.ends, whole)
    return found


def total(jobs: Sequence[Job]) -> int:
    return sum(len(job.tokens) + total(job.children) for job in jobs)


def test_every_sequence_ends_once_on_the_path_of_its_own_tokens() -> None:
    draw = random.Random(0)
    for _ in range(300):
        base = draw.choices(range(3), k=draw.randint(1, 60))
        sequences = [
            (*base[: draw.randint(0, len(base))], *draw.choices(range(3), k=draw.randint(1, 30)))
            for _ in range(draw.randint(1, 12))
        ]
        free = [draw.randint(0, len(ids) - 1) for ids in sequences]
        jobs = plan(sequences, free)
        assert tokens_of(jobs) == dict(enumerate(sequences))
        assert total(jobs) <= sum(map(len, sequences))
        assert tokens_of(plan(sequences, free, share=False)) == dict(enumerate(sequences))


def test_a_long_common_prefix_is_one_job_and_a_short_one_is_none() -> None:
    shared = plan([(*range(50), 90), (*range(50), 91), (*range(50), 92)], [50] * 3)
    assert [len(job.tokens) for job in shared] == [50]
    assert sorted(child.tokens for child in shared[0].children) == [(90,), (91,), (92,)]
    assert len(plan([(1, 2, 3), (1, 2, 4)], [2, 2])) == 2


def test_tokens_whose_logits_are_read_do_not_count_as_free() -> None:
    (job,) = plan([(*range(50), 90), (*range(50), 91)], [50, 20])
    assert job.free == 20


def test_batches_keep_within_every_limit() -> None:
    draw = random.Random(1)
    jobs = [Job(tuple(range(draw.randint(1, 40))), 0, 0, reads={0: []}) for _ in range(200)]
    for limits in (Limits(100, 10_000, 1000, 1000), Limits(10_000, 90, 1000, 1000), Limits(10_000, 10_000, 3, 5)):
        batches = pack(jobs, limits)
        assert sorted(id(job) for batch in batches for job in batch) == sorted(map(id, jobs))
        for batch in batches:
            width = max(len(job.tokens) for job in batch)
            assert len(batch) == 1 or (
                len(batch) * width <= min(limits.tokens, limits.columns)
                and len(batch) <= limits.rows
                and sum(len(job.reads) for job in batch) <= limits.reads
            )


class Marks:
    """Stands in for keys and values: it only knows which tokens they are of."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tuple(tokens)
        self.length = len(self.tokens)

    def split(self, at: int) -> tuple[Marks, Marks]:
        return Marks(self.tokens[:at]), Marks(self.tokens[at:])


def kept(store: Store, tokens: Sequence[int], limit: int | None = None) -> tuple[int, ...]:
    node, length = store.find(tuple(tokens), len(tokens) if limit is None else limit)
    found = tuple(token for segment in node.path for token in segment.tokens)  # type: ignore[attr-defined]
    assert found == tuple(tokens[:length])
    return found


def test_a_store_finds_the_longest_kept_prefix_and_splits_where_sequences_part() -> None:
    store = Store(10_000)
    draw = random.Random(2)
    base = [draw.randrange(4) for _ in range(80)]
    added: list[list[int]] = []
    for _ in range(60):
        ids = base[: draw.randint(0, 80)] + [draw.randrange(4) for _ in range(draw.randint(20, 60))]
        longest = max((common_length(ids, other) for other in added), default=0)
        assert len(kept(store, ids)) == (longest if longest >= 16 else 0)
        node, length = store.find(tuple(ids), len(ids))
        if length < len(ids):
            store.add(node, tuple(ids[length:]), Marks(ids[length:]))  # type: ignore[arg-type]
        added.append(ids)
        assert kept(store, ids, 30) == tuple(ids[:30])


def test_a_store_drops_the_least_recently_used_and_never_what_is_pinned() -> None:
    store = Store(100)
    first, second, third = ([n] * 40 for n in (1, 2, 3))
    pinned = store.add(store.root, tuple(first), Marks(first))  # type: ignore[arg-type]
    pinned.pins += 1
    store.add(store.root, tuple(second), Marks(second))  # type: ignore[arg-type]
    store.add(store.root, tuple(third), Marks(third))  # type: ignore[arg-type]
    assert [len(kept(store, ids)) for ids in (first, second, third)] == [40, 0, 40]
    pinned.pins -= 1
    store.shrink(0)
    assert [len(kept(store, ids)) for ids in (first, second, third)] == [0, 0, 0]
    assert store.tokens == 0


def follow(draft: Sequence[int], answer: Sequence[int], odds: Odds) -> int:
    """How many passes it takes to write `answer` with `draft`; asserts that what is written is the answer."""
    guide, written, passes = Guide(draft, 1000), [], 0
    while len(written) < len(answer):
        proposal = guide.proposal(odds, len(answer) - len(written) - 1)
        passes += 1
        right = common_length(proposal, answer[len(written) :])
        written += list(answer[len(written) : len(written) + right + 1])
        odds.learn(right, int(right < len(proposal)))
        if len(written) < len(answer):
            guide.heed(written, len(proposal), right)
    assert written == list(answer)
    return passes


def test_a_right_draft_takes_few_passes_a_wrong_one_no_more_than_none() -> None:
    answer = list(range(100, 300))
    assert follow(answer, answer, Odds(0.35)) <= 8
    assert follow([5] * 200, answer, Odds(0.35)) == 200
    assert follow([], answer, Odds(0.35)) == 200


def test_a_row_comes_back_to_its_draft_after_a_changed_or_a_missing_token() -> None:
    answer = list(range(100, 200))
    changed = [*answer[:50], 7, *answer[51:]]
    missing = [*answer[:50], *answer[51:]]
    assert follow(changed, answer, Odds(0.35)) <= 20
    assert follow(missing, answer, Odds(0.35)) <= 20


def test_a_draft_ends_where_the_model_knows_no_such_token() -> None:
    assert Guide([3, 4, 1000, 5], 1000).proposal(Odds(0.35), 10) == [3, 4]
    assert Guide([-1, 4], 1000).proposal(Odds(0.35), 10) == []


def test_proposals_follow_the_odds() -> None:
    odds = Odds(0.35)
    before = odds.length
    odds.learn(0, 1000)
    assert odds.length == 1
    odds.learn(10**6, 0)
    assert odds.length > before


def test_a_row_is_trusted_by_its_own_record_and_forgotten_when_it_leaves() -> None:
    odds, guide = Odds(0.5), Guide(list(range(60)), 1000)
    before = guide.expected(odds, 8)
    assert 0 < before < 8 * odds.share
    written: list[int] = []
    for count in (4, 8, 16):
        written += guide.proposal(odds, count)
        written.append(len(written))  # the token after them, which is the draft's too
        guide.heed(written, len(written), len(written))
    assert 7 < guide.expected(odds, 8) < 8
    guide.heed([*written, 999], 4, 0)
    assert guide.expected(odds, 8) == pytest.approx(before)


# ---------------------------------------------------------------- slow: against the plain engine

HEADER = "Question: What is 2 + 3?\nAnswer: 5\n\n" * 3
SCORED: list[Request] = [
    LogLikelihood(f"{HEADER}Question: What is {i} + {7 * i}?\nAnswer:", continuation)
    for i in range(6)
    for continuation in (" 5", " 8", " the quick brown fox", " the quick red fox")
]
SCORED += [
    LogLikelihood(*pair) for pair in (("The quick brown ", "fox jumps over"), ("", "Once upon a time"), ("x", "y"))
]
SCORED += [RollingLogLikelihood(text) for text in ("The quick brown fox.", "red blue green " * 60, HEADER)]
WRITTEN: list[Request] = [
    Generate(HEADER + "the quick brown" * i, until=("\n\n",), max_tokens=limit)
    for i, limit in enumerate((1, 5, 24, 40, 24, 24, 17))
]
WRITTEN += [Generate(prompt, max_tokens=20) for prompt in ("A", "", HEADER, "x " * 30)]
WRITTEN += [Generate(HEADER + " the", max_tokens=12, temperature=0.8, top_p=p, seed=3) for p in (1.0, 0.7)]
SMALL = {"batch_tokens": 200, "memory": 0.02}


def answers(subject: Any, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()) -> list[Output]:
    pairs = [pair for batch in subject.answer(requests, drafts) for pair in batch]
    assert sorted(i for i, _ in pairs) == list(range(len(requests))), "every request is answered exactly once"
    return [output for _, output in sorted(pairs, key=lambda pair: pair[0])]


def drafts_of(outputs: Sequence[Output], tokenizer: str) -> list[Draft | None]:
    return [None if o.text is None else Draft(o.text, o.ids, tokenizer) for o in outputs]


def assert_equal(ours: Sequence[Output], theirs: Sequence[Output]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a.text, a.ids, a.is_greedy, a.tokens, a.truncated, a.failure) == (
            b.text, b.ids, b.is_greedy, b.tokens, b.truncated, b.failure,
        )  # fmt: skip
        if a.logprob is not None and b.logprob is not None:
            assert abs(a.logprob - b.logprob) < 1e-4 * max(1.0, abs(b.logprob) / 100)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def compare(local_subject: Any, **options: Any) -> Any:
    """The radix engine equals the plain one: asked twice, without and with drafts; returns the subject."""
    reference = answers(local_subject(engine="plain", **options), SCORED + WRITTEN)
    subject = local_subject(engine="radix", engine_options=SMALL, **options)
    assert_equal(answers(subject, SCORED + WRITTEN), reference)
    assert_equal(answers(subject, SCORED), reference[: len(SCORED)])
    written = reference[len(SCORED) :]
    tokenizer = subject.describe()["tokenizer_sha256"]
    assert_equal(answers(subject, WRITTEN, drafts_of(written, tokenizer)), written)
    draw = random.Random(0)
    noisy = [
        None if d is None else Draft(d.text, tuple(draw.choice([t] * 9 + [5, 10**6, -1]) for t in d.ids), tokenizer)
        for d in drafts_of(written, tokenizer)
    ]
    assert_equal(answers(subject, WRITTEN, noisy), written)
    return subject


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_of_every_family_is_answered_as_by_the_plain_engine(
    tiny: Any, local_subject: Any, family: str
) -> None:
    subject = compare(local_subject, model=tiny.model(family))
    assert subject.usage["reused"] > 0
    assert subject.usage["accepted"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    [("llama", method) for method in METHODS] + [("gpt2", "dora"), ("gemma", "prefix"), ("qwen2", "ia3")],
)
def test_every_adapter_is_answered_as_by_the_plain_engine(
    tiny: Any, local_subject: Any, family: str, method: str
) -> None:
    subject = compare(local_subject, model=tiny.model(family), adapter=tiny.adapter(family, method))
    assert subject.usage["reused"] > 0


@pytest.mark.slow
def test_a_merged_adapter_is_answered_as_by_the_plain_engine(tiny: Any, local_subject: Any) -> None:
    compare(local_subject, model=tiny.model(), adapter=tiny.adapter(), merge=True)


SLIDING = {"sliding_window": 8, "num_hidden_layers": 4}
KINDS = {
    "mistral": SLIDING,
    "gemma2": SLIDING,
    "gemma3_text": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "bloom": {"n_layer": 2, "n_head": 4},  # ALiBi instead of positions
}


def make_kind(folder: Path, kind: str, **config: Any) -> Path:
    from tests.tiny_models import make_any_model

    return make_any_model(folder, kind, **config)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_windows_and_relative_positions_stay_exact_behind_padding(
    tmp_path: Path, local_subject: Any, kind: str
) -> None:
    subject = compare(local_subject, model=make_kind(tmp_path / kind, kind, **KINDS[kind]), max_length=256)
    assert subject.usage["reused"] > 0, "the engine must not have fallen back"


@pytest.mark.slow
def test_a_model_without_keys_and_values_is_answered_by_the_plain_engine_and_that_is_said(
    tmp_path: Path, local_subject: Any
) -> None:
    subject = compare(local_subject, model=make_kind(tmp_path, "mamba", state_size=8), max_length=256)
    (remark,) = subject.remarks()
    assert "plain engine" in remark
    assert "linear_attention" in remark


@pytest.mark.slow
def test_a_generation_config_with_rules_of_its_own_is_left_to_generate(
    tiny: Any, tmp_path: Path, local_subject: Any
) -> None:
    import json
    import shutil

    model = tmp_path / "ruled"
    shutil.copytree(tiny.model(), model)
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**config, "repetition_penalty": 1.7}))
    plain = answers(local_subject(model=model, engine="plain"), WRITTEN)
    assert [o.text for o in plain] != [o.text for o in answers(local_subject(model=tiny.model()), WRITTEN)]
    subject = local_subject(model=model, engine_options=SMALL)
    assert_equal(answers(subject, WRITTEN), plain)
    assert any("repetition_penalty" in remark for remark in subject.remarks())


@pytest.mark.slow
def test_a_model_that_answers_otherwise_in_parts_is_found_out(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine._kv import Batch

    monkeypatch.setattr(Batch, "mask", lambda self, width: None)  # as if a model did not heed the mask
    subject = compare(local_subject, model=tiny.model(seed=5))
    assert any("off by" in remark for remark in subject.remarks())


@pytest.mark.slow
@pytest.mark.parametrize("saving", ["share_prefixes", "trim_logits", "draft"])
def test_no_saving_changes_an_answer(tiny: Any, local_subject: Any, saving: str) -> None:
    reference = answers(local_subject(model=tiny.model(), engine="plain"), SCORED + WRITTEN)
    subject = local_subject(model=tiny.model(), engine_options={**SMALL, saving: False})
    drafts: list[Draft | None] = [*[None] * len(SCORED), *drafts_of(reference[len(SCORED) :], "")]
    assert_equal(answers(subject, SCORED + WRITTEN, drafts), reference)
    counter = {"share_prefixes": "reused", "draft": "drafted"}.get(saving)
    assert counter is None or subject.usage[counter] == 0
    assert subject.fingerprint != local_subject(model=tiny.model(), engine_options=SMALL).fingerprint


@pytest.mark.slow
def test_a_draft_of_another_tokenizer_is_encoded_anew_and_counted(tiny: Any, local_subject: Any) -> None:
    subject = local_subject(model=tiny.model(), engine_options={"memory": 0.02})
    request = Generate(HEADER, max_tokens=20)
    (reference,) = answers(subject, [request])
    (drafted,) = answers(subject, [request], [Draft(reference.text or "", (9, 9, 9), "another tokenizer's hash")])
    assert_equal([drafted], [reference])
    assert any("another tokenizer" in remark for remark in subject.remarks())


@pytest.mark.slow
def test_memory_follows_the_budget_and_not_the_number_of_requests(tiny: Any, local_subject: Any) -> None:
    subject = local_subject(model=tiny.model(), engine_options={"memory": 0.001, "batch_tokens": 128})
    requests: list[Request] = [LogLikelihood(f"{i} {HEADER} {i}", " 5") for i in range(60)]
    assert all(output.failure is None for output in answers(subject, requests))
    _, walk, _ = subject._engine._ready
    assert walk.store.tokens <= walk.store.budget


@pytest.mark.slow
@pytest.mark.parametrize("fits", [3, 1])
def test_out_of_memory_makes_batches_smaller_and_loses_nothing(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    from harness.engine._passes import Passes

    reference = answers(local_subject(model=tiny.model(), engine="plain"), SCORED + WRITTEN)
    forward = Passes.forward

    def scarce(self: Any, tokens: Any, reads: Any, past: Any = None) -> Any:
        if len(tokens) > fits:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(self, tokens, reads, past)

    subject = local_subject(model=tiny.model(), engine_options=SMALL)
    subject._engine._prepare()
    monkeypatch.setattr(Passes, "forward", scarce)
    assert_equal(answers(subject, SCORED + WRITTEN), reference)
    assert any("memory ran out" in remark for remark in subject.remarks())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["take", "join", "segment", "fill"])
def test_memory_that_runs_out_between_passes_changes_no_answer(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from harness.engine._kv import Batch

    reference = answers(local_subject(model=tiny.model(), engine="plain"), SCORED + WRITTEN)
    subject = local_subject(model=tiny.model(), engine_options=SMALL)
    subject._engine._prepare()
    drafts = drafts_of(reference, subject.describe()["tokenizer_sha256"])
    draw, original, fails, again = random.Random(4), getattr(Batch, method), [0], [False]

    def scarce(self: Any, *arguments: Any) -> Any:
        if draw.random() < 0.3 and fails[0] < 6 and not again[0]:
            fails[0] += 1
            again[0] = True  # something was freed, so the next attempt succeeds
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        again[0] = False
        return original(self, *arguments)

    monkeypatch.setattr(Batch, method, scarce)
    for given in ((), drafts):
        ours = answers(subject, SCORED + WRITTEN, given)
        lost = [i for i, output in enumerate(ours) if output.failure and "out of memory" in output.failure]
        assert len(lost) <= fails[0]
        kept = [i for i in range(len(ours)) if i not in lost]
        assert_equal([ours[i] for i in kept], [reference[i] for i in kept])
    assert fails[0] > 0


@pytest.mark.slow
def test_a_request_that_never_fits_fails_alone(tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.engine._passes import Passes

    forward = Passes.forward

    def scarce(self: Any, tokens: Any, reads: Any, past: Any = None) -> Any:
        if max(map(len, tokens)) > 60:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(self, tokens, reads, past)

    subject = local_subject(model=tiny.model(), engine_options={"memory": 0.02})
    subject._engine._prepare()
    monkeypatch.setattr(Passes, "forward", scarce)
    short, long = "The quick brown fox", "red blue green " * 12
    requests: list[Request] = [
        LogLikelihood(short, " a"), LogLikelihood(long, " a"), RollingLogLikelihood(long),
        Generate(short, max_tokens=5), Generate(long, max_tokens=5),
    ]  # fmt: skip
    failures = [output.failure for output in answers(subject, requests)]
    assert [bool(failure) for failure in failures] == [False, True, True, False, True]
    assert all("out of memory" in failure for failure in failures if failure)


@pytest.mark.slow
def test_logits_that_are_not_numbers_are_failures(tiny: Any, tmp_path: Path, local_subject: Any) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny.model(), broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], torch.nan)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    subject = local_subject(model=broken, engine_options=SMALL)
    outputs = answers(subject, [LogLikelihood("a", " b"), Generate("a", max_tokens=5), RollingLogLikelihood("a b")])
    assert all(output.failure and "NaN" in output.failure for output in outputs)


@pytest.mark.slow
def test_rows_move_alike_by_slices_and_by_index() -> None:
    import torch

    from harness.engine._kv import _gather_rows, _move_rows

    buffer = torch.randn(4, 2, 30, 3)
    rows, ends, lengths = [2, 0, 3], [30, 17, 21], [12, 5, 9]
    moved, gathered = torch.empty(3, 2, 12, 3), torch.empty(3, 2, 12, 3)
    _move_rows(moved, buffer, rows, ends, lengths)
    _gather_rows(gathered, buffer, rows, ends, lengths)
    for i, (row, end, length) in enumerate(zip(rows, ends, lengths, strict=True)):
        assert torch.equal(moved[i, :, 12 - length :], buffer[row, :, end - length : end])
        assert torch.equal(gathered[i, :, 12 - length :], moved[i, :, 12 - length :])
        assert gathered[i].isfinite().all()
        assert not moved[i, :, : 12 - length].any()
