"""What the engines do at the edges: memory that runs out, contexts that end, calls that are given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.engine._batches import attempt
from harness.engine._encoding import Encoder
from harness.engine._plan import Job, Limits
from harness.engine._store import Store
from harness.engine._walk import Walk
from harness.records import Generate, LogLikelihood, Request, RollingLogLikelihood
from tests.test_engine_radix import HEADER, SCORED, SMALL, WRITTEN, answers, assert_equal, drafts_of

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 1 GiB"

# ---------------------------------------------------------------- fast: the parts that need no model


@pytest.mark.parametrize(
    "words",
    [
        OUT_OF_MEMORY,
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 400000000000 bytes. Error code 12 (Cannot allocate memory)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "not enough memory: you tried to allocate 80 bytes.",
    ],
)
def test_memory_that_runs_out_is_known_by_every_allocators_words(words: str) -> None:
    def run(batch: Sequence[int]) -> None:
        raise RuntimeError(words)

    assert attempt([1], run) is None


class Counting:
    """A tokenizer of characters that counts the texts it was given."""

    bos_token = bos_token_id = None
    eos_token_id = 0

    def __init__(self) -> None:
        self.texts = 0

    def decode(self, _: int) -> str:
        return "\0"

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        self.texts += len(texts)
        return {"input_ids": [list(map(ord, text)) for text in texts]}


def test_more_pairs_than_are_remembered_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.engine._encoding._REMEMBERED", 10)
    tokenizer = Counting()
    encoder = Encoder(tokenizer)
    encoder.prime([("before", "that")])
    pairs = [(f"context {i}", f" {i}") for i in range(25)]
    tokenizer.texts = 0
    encoder.prime(pairs)
    assert [encoder.pair(*pair)[1] for pair in pairs] == [tuple(map(ord, tail)) for _, tail in pairs]
    assert tokenizer.texts == 2 * len(pairs), "each context once and each whole once"


class Computing(Walk):
    """A walk whose shared jobs need no model."""

    def _compute(self, wave: Sequence[Job], *_: Any) -> list[Job]:
        for job in wave:
            self._hand_down(job, self.store.root)
        return list(wave)


class Passing:
    def __init__(self) -> None:
        self.usage: Counter[str] = Counter()


def walk_of(kind: type[Walk]) -> Walk:
    return kind(Passing(), Store(100), Limits(100, 100, 100, 100), share=True)  # type: ignore[arg-type]


def test_a_conversation_may_be_nested_deeper_than_pythons_stack() -> None:
    top = job = Job((1,), 0, 0, ends=[0])
    for depth in range(1, 3000):
        job.children.append(below := Job((1,), depth, 0, ends=[depth]))
        job = below
    walk = walk_of(Computing)
    leaves = [leaf for jobs in walk.leaves([top], lambda *_: None, lambda _: None, split=True) for leaf in jobs]
    assert sorted(end for leaf in leaves for end in leaf.ends) == list(range(3000))
    assert walk.store.root.pins == 0


def test_a_job_that_never_fits_is_given_up_whatever_it_left_behind() -> None:
    walk = walk_of(Walk)
    attempts: list[int] = []

    class Held:
        length = 20

    def run(jobs: Sequence[Job]) -> None:
        attempts.append(len(jobs))
        assert len(attempts) < 20, "it goes on for ever"
        walk.store.add(walk.store.root, tuple(range(20)), Held())  # type: ignore[arg-type]
        raise RuntimeError(OUT_OF_MEMORY)

    jobs = [Job((i,), 0, 0) for i in range(2)]
    assert sorted(id(job) for job in walk.each(jobs, run)) == sorted(map(id, jobs))


# ---------------------------------------------------------------- slow: with a tiny model


@pytest.mark.slow
def test_a_call_that_is_given_up_leaves_nothing_to_the_next(tiny: Any, local_subject: Any) -> None:
    asked: list[Request] = [Generate(f"{i} {HEADER}", max_tokens=20) for i in range(8)]
    others: list[Request] = [Generate(f"The quick {i}", max_tokens=9) for i in range(5)]
    reference = answers(local_subject(model=tiny.model(), engine="plain"), others)
    subject = local_subject(model=tiny.model(), engine_options={"batch_size": 2, **SMALL})
    given_up = subject.answer(asked, [])
    next(given_up)
    assert_equal(answers(subject, others), reference)  # while the first call is still open
    given_up.close()
    assert_equal(answers(subject, others), reference)


@pytest.mark.slow
def test_an_activated_lora_is_left_to_the_plain_engine(tiny: Any, local_subject: Any) -> None:
    requests: list[Request] = [*SCORED[:8], *WRITTEN[:4], LogLikelihood("no such word", " here")]
    adapter = tiny.adapter("llama", "alora")
    plain = answers(local_subject(model=tiny.model(), adapter=adapter, engine="plain"), requests)
    assert plain[0].logprob != answers(local_subject(model=tiny.model()), requests[:1])[0].logprob
    subject = local_subject(model=tiny.model(), adapter=adapter, engine_options=SMALL)
    assert_equal(answers(subject, requests), plain)
    assert any("activated LoRA" in remark for remark in subject.remarks())


ROPES: dict[str, dict[str, Any]] = {
    "phi3": {
        "max_position_embeddings": 256, "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
        },
    },
    "llama": {
        "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROPES)
def test_a_rotary_embedding_that_stretches_does_so_for_its_own_row_alone(
    tmp_path: Path, local_subject: Any, kind: str
) -> None:
    from tests.tiny_models import make_any_model

    model = make_any_model(tmp_path / kind, kind, **ROPES[kind])
    texts = ["The quick brown fox", HEADER, "red blue green " * 30, "x " * 40, "Once upon a time" * 4, HEADER + "A"]
    requests: list[Request] = [LogLikelihood(text, tail) for text in texts for tail in (" fox", " the end")]
    requests += [Generate(text, max_tokens=limit) for text in texts for limit in (4, 30)]
    requests += [RollingLogLikelihood(text) for text in texts]

    def fresh(**options: Any) -> Any:
        return local_subject(model=model, max_length=256, **options)

    lone = [answers(fresh(engine="plain", batch_size=1), [request])[0] for request in requests]
    assert_equal(answers(fresh(engine="plain", batch_size=16), requests), lone)
    subject = fresh(engine_options={"memory": 0.02})
    assert_equal(answers(subject, requests), lone)
    assert_equal(answers(subject, requests[::-1]), lone[::-1])
    assert any("one by one" in remark for remark in subject.remarks())
    assert subject.usage["reused"] > 0, "what is short enough is answered by this engine"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["plain", "radix"])
def test_no_row_runs_past_the_positions_that_a_model_has_learned(tiny: Any, local_subject: Any, engine: str) -> None:
    model = tiny.model("gpt2")
    room = 256
    subject = local_subject(model=model, engine=engine)
    ids = len(subject.tokenizer.encode("x "))
    long = "x " * ((room - 6) // ids)
    requests: list[Request] = [Generate(long, max_tokens=3)]  # is done long before the others
    requests += [Generate(f"The {i}", max_tokens=limit) for i, limit in enumerate((100, 120, 90, 95, 99, 80, 85, 70))]
    requests += [LogLikelihood(long, tail) for tail in (" x", "y")]
    requests += [LogLikelihood("x " * 50, tail) for tail in (" red blue green" * 3, "dog cat hen" * 3)]
    lone = [answers(local_subject(model=model, engine="plain", batch_size=1), [r])[0] for r in requests]
    assert [output.failure for output in lone] == [None] * len(lone)
    assert_equal(answers(subject, requests), lone)


@pytest.mark.slow
def test_memory_that_runs_out_while_a_kept_prefix_is_split_loses_nothing(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine._kv import Segment

    reference = answers(local_subject(model=tiny.model(), engine="plain"), SCORED)
    subject = local_subject(model=tiny.model(), engine_options={"memory": 0.02})
    answers(subject, [LogLikelihood(HEADER * 2, " 5")])  # is kept, and parts from what comes now

    def scarce(self: Any, at: int) -> Any:
        raise RuntimeError(OUT_OF_MEMORY)

    monkeypatch.setattr(Segment, "split", scarce)
    assert_equal(answers(subject, SCORED), reference)
    _, walk, _ = subject._engine._ready
    assert not any(node.pins for node in [walk.store.root, *walk.store._nodes()])


@pytest.mark.slow
def test_scratch_memory_is_given_back_before_a_request_is_called_too_large(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine._writing import Writing

    options = {"adapter": tiny.adapter("llama", "prompt"), "engine_options": {**SMALL, "share_prefixes": False}}
    reference = answers(local_subject(model=tiny.model(), engine="plain", adapter=options["adapter"]), WRITTEN[:1])
    subject = local_subject(model=tiny.model(), **options)
    answers(subject, SCORED)
    _, walk, _ = subject._engine._ready
    assert walk._scratch._held
    step = Writing._step

    def scarce(self: Any, group: Any) -> Any:
        if walk._scratch._held:
            raise RuntimeError(OUT_OF_MEMORY)
        return step(self, group)

    monkeypatch.setattr(Writing, "_step", scarce)
    longer = Generate(WRITTEN[0].prompt, max_tokens=9)  # type: ignore[union-attr]
    reference = answers(local_subject(model=tiny.model(), engine="plain", adapter=options["adapter"]), [longer])
    assert_equal(answers(subject, [longer]), reference)


@pytest.mark.slow
def test_a_prefix_that_does_not_fit_beside_the_pool_waits_for_it(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine._passes import Passes
    from harness.engine._writing import Writing

    prompts: list[Request] = [Generate(f"{i} {HEADER}{end}", max_tokens=12) for i in range(6) for end in ("a", "b")]
    reference = answers(local_subject(model=tiny.model(), engine="plain"), prompts)
    subject = local_subject(model=tiny.model(), engine_options={"memory": 0.005, "batch_tokens": 128})
    subject._engine._prepare()
    forward, step, run = Passes.forward, Writing._step_pool, Writing._run
    writing: list[Writing] = []
    stepping, refused = [False], [0]

    def spied(self: Any, lines: Any) -> Iterator[Any]:
        writing[:] = [self]
        yield from run(self, lines)

    def stepped(self: Any, pool: Any) -> Any:
        stepping[0] = True
        try:
            return step(self, pool)
        finally:
            stepping[0] = False

    def scarce(self: Any, *arguments: Any) -> Any:
        if writing and writing[0]._pool is not None and not stepping[0]:
            refused[0] += 1
            raise RuntimeError(OUT_OF_MEMORY)
        return forward(self, *arguments)

    monkeypatch.setattr(Writing, "_run", spied)
    monkeypatch.setattr(Writing, "_step_pool", stepped)
    monkeypatch.setattr(Passes, "forward", scarce)
    assert_equal(answers(subject, prompts), reference)
    assert refused[0] > 0


@pytest.mark.slow
def test_a_draft_that_is_sure_to_be_right_takes_no_more_room_than_it_is_long(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine._kv import Batch

    subject = local_subject(model=tiny.model(), engine_options={"memory": 0.02})
    written = answers(subject, WRITTEN)
    _, _, decoder = subject._engine._ready
    decoder.odds.learn(10**7, 0)
    widest = [0]
    make = Batch.__init__

    def measured(self: Any, shape: Any, lengths: Any, room: int, scratch: Any = None) -> None:
        widest[0] = max(widest[0], max(lengths, default=0) + room)
        make(self, shape, lengths, min(room, 4096), scratch)

    monkeypatch.setattr(Batch, "__init__", measured)
    drafts = drafts_of(written, subject.describe()["tokenizer_sha256"])
    assert_equal(answers(subject, WRITTEN, drafts), written)
    assert widest[0] <= 256 + 64


@pytest.mark.slow
def test_the_pool_keeps_within_its_memory_when_a_long_answer_joins_it(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine._kv import Batch

    prompts: list[Request] = [Generate(chr(97 + i % 26) + str(i), max_tokens=40) for i in range(24)]
    prompts += [Generate("red blue green " * 16 + f"{i}", max_tokens=12) for i in range(4)]
    reference = answers(local_subject(model=tiny.model(), engine="plain"), prompts)
    subject = local_subject(model=tiny.model(), engine_options={"memory": 0.001, "batch_tokens": 64})
    subject._engine._prepare()
    _, walk, _ = subject._engine._ready
    sizes: list[int] = []
    join = Batch.join

    def measured(parts: Any, room: int) -> Any:
        joined = join(parts, room)
        sizes.append(joined.rows * joined._columns)
        return joined

    monkeypatch.setattr(Batch, "join", staticmethod(measured))
    assert_equal(answers(subject, prompts), reference)
    assert sizes
    # Finished rows are taken out only when they are a quarter of the pool.
    assert max(sizes) <= walk.limits.columns * 4 / 3


@pytest.mark.slow
def test_nested_prefixes_keep_within_the_budget_together_and_the_count_is_true(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [f"{i} " + "red blue " * 8 for i in range(6)]
    middles = [f"{head}{j} " + "green dog " * 6 for head in heads for j in range(4)]
    requests: list[Request] = [LogLikelihood(middle, tail) for middle in middles for tail in (" a b", " c d", " e f")]
    reference = answers(local_subject(model=tiny.model(), engine="plain"), requests)
    subject = local_subject(model=tiny.model(), engine_options={"memory": 0.001, "batch_tokens": 128})
    subject._engine._prepare()
    _, walk, _ = subject._engine._ready
    walk.store.budget = 260
    most, add = [0], Store.add

    def measured(self: Any, *arguments: Any) -> Any:
        node = add(self, *arguments)
        most[0] = max(most[0], self.tokens)
        assert self.tokens == sum(len(kept.tokens) for kept in self._nodes())
        return node

    monkeypatch.setattr(Store, "add", measured)
    for _ in range(2):
        assert_equal(answers(subject, requests), reference)
    longest = max(len(subject.tokenizer.encode(middle)) for middle in middles)
    assert most[0] <= walk.store.budget + longest
    assert walk.store.tokens <= walk.store.budget


@pytest.mark.slow
def test_prompts_with_one_seed_are_not_drawn_alike_and_infinite_logits_are_failures() -> None:
    import torch

    from harness.engine._answers import Answer, Prompt, pick

    request = Generate("", max_tokens=5, temperature=1.0, seed=7)
    flat = torch.zeros(1000)
    drawn = {Answer(Prompt(0, (i,), request, 5)).draw(flat) for i in range(40)}
    assert len(drawn) > 20
    assert Answer(Prompt(3, (1, 2), request, 5)).draw(flat) == Answer(Prompt(9, (1, 2), request, 5)).draw(flat)
    logits = torch.zeros(4, 10)
    logits[0, 3], logits[1, 3], logits[2, :] = torch.inf, torch.nan, -torch.inf
    logits[3, 3] = -torch.inf  # a token ruled out
    greedy = Answer(Prompt(0, (1,), Generate("", max_tokens=5), 5))
    assert [p.broken for p in pick(logits, [greedy] * 4, "float32")] == [True, True, True, False]
