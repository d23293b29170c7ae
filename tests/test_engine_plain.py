"""The reference engine: equal to lm-eval's Hugging Face backend item by item, whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness.engine._answers import cut
from harness.engine._batches import in_batches
from harness.engine._encoding import Encoder, rolling_windows
from harness.engine._likelihood import Piece, Tally, rows_of
from harness.records import Generate, LogLikelihood, Output, Request, RollingLogLikelihood
from tests.tiny_models import FAMILIES, METHODS


def answers(subject: Any, requests: Sequence[Request]) -> list[Output]:
    pairs = [pair for batch in subject.answer(requests) for pair in batch]
    assert sorted(i for i, _ in pairs) == list(range(len(requests))), "every request is answered exactly once"
    return [output for _, output in sorted(pairs)]


# ---------------------------------------------------------------- fast: the parts that need no model


class Characters:
    """A tokenizer of one token a character; ^ is BOS and is added unless told otherwise."""

    bos_token_id, eos_token_id, bos_token = ord("^"), ord("$"), "^"

    def __call__(self, texts: list[str], add_special_tokens: bool, verbose: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(c) for c in ("^" if add_special_tokens else "") + text] for text in texts]}

    def decode(self, ids: int | Sequence[int]) -> str:
        return chr(ids) if isinstance(ids, int) else "".join(map(chr, ids))


def spelled(pair: tuple[Sequence[int], Sequence[int]]) -> tuple[str, str]:
    return Characters().decode(pair[0]), Characters().decode(pair[1])


def test_trailing_spaces_of_the_context_belong_to_the_continuation() -> None:
    assert spelled(Encoder(Characters()).pair("a b  ", "c")) == ("^a b", "  c")


def test_an_empty_context_is_bos_and_a_leading_bos_is_not_doubled() -> None:
    encoder = Encoder(Characters())
    assert spelled(encoder.pair("", "abc")) == ("^", "abc")
    assert spelled(encoder.pair("", "^abc")) == ("^", "abc")
    assert spelled(encoder.pair("^a", "b")) == ("^a", "b")
    assert encoder.prompt("^ab") == tuple(ord(c) for c in "^ab")


def test_choices_of_one_question_share_the_ids_of_their_context() -> None:
    encoder = Encoder(Characters())
    encoder.prime([("ask ", "a"), ("ask ", "b"), ("", "c")])
    assert encoder.pair("ask ", "a")[0] is encoder.pair("ask ", "b")[0]
    assert spelled(encoder.pair("ask ", "b")) == ("^ask", " b")


def test_rolling_windows_predict_every_token_once_with_full_context() -> None:
    windows = list(rolling_windows(tuple(range(10)), 99, 4))
    assert windows == [((99,), (0, 1, 2, 3)), ((3,), (4, 5, 6, 7)), ((5, 6, 7), (8, 9))]
    assert [t for _, predicted in windows for t in predicted] == list(range(10))
    assert list(rolling_windows((), 99, 4)) == []


def test_choices_of_one_token_share_a_row_and_rows_come_longest_first() -> None:
    pieces = [Piece(0, (1, 2), (7,)), Piece(1, (1, 2), (8,)), Piece(2, (1, 2, 3), (7, 8))]
    rows = rows_of(pieces)
    assert [(row.inputs, len(row.pieces)) for row in rows] == [((1, 2, 3, 7), 1), ((1, 2), 2)]


def test_a_sum_that_is_not_finite_is_a_failure() -> None:
    tally = Tally(2)
    tally.add(-1.0, True, 3)
    tally.add(float("nan"), True, 1)
    assert "not finite" in (tally.output().failure or "")


def test_stop_strings_apply_one_after_the_other() -> None:
    assert cut("one\ntwo</s>three", ("\n", "</s>")) == "one"
    assert cut("abc", ("", "x")) == "abc"


def test_running_out_of_memory_halves_the_batch_and_gives_up_only_alone() -> None:
    sizes: list[int] = []

    def run(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 2 or 5 in batch:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return list(batch)

    done = list(in_batches(range(8), 8, run, lambda item: [-item]))
    assert [i for batch in done for i in batch] == [0, 1, 2, 3, 4, -5, 6, 7]
    assert sizes[:3] == [8, 4, 2]


def test_an_error_that_is_not_about_memory_is_not_swallowed() -> None:
    def run(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        list(in_batches([1], 1, run, lambda item: [item]))


# ---------------------------------------------------------------- slow: against lm-eval

SCORED = [
    ("The quick brown", " fox"),
    ("The quick brown ", "fox jumps over"),
    ("Question: What is 2 + 3?\nAnswer:", " 5"),
    ("Question: What is 2 + 3?\nAnswer:", " 8"),
    ("", "Once upon a time"),
    ("Once upon a time there was a model that had learned", " nothing at all, and it was happy."),
    ("x", "y"),
]
ROLLED = ["The quick brown fox.", "red blue green " * 60]
PROMPTS = ["The quick brown fox jumps", "A", "Question: What is 12 - 4?\nAnswer:", "def add(a, b):\n"]
UNTIL = ("\n", " the")


def lm_eval_answers(
    model: str, peft: str | None, batch: int, max_length: int
) -> tuple[list[tuple[float, bool]], list[float], list[str]]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, peft=peft, device="cpu", dtype="float32", batch_size=batch, max_length=max_length)

    def ask(kind: str, arguments: Sequence[tuple[Any, ...]]) -> Any:
        made = [Instance(kind, {}, a, i, ("task", i, 1)) for i, a in enumerate(arguments)]  # type: ignore[arg-type]
        return getattr(lm, kind)(made, disable_tqdm=True)

    greedy = {"until": list(UNTIL), "max_gen_toks": 24, "do_sample": False}
    return (
        ask("loglikelihood", SCORED),
        ask("loglikelihood_rolling", [(text,) for text in ROLLED]),
        ask("generate_until", [(prompt, greedy) for prompt in PROMPTS]),
    )


def compare_with_lm_eval(subject: Any, model: Any, peft: Any = None) -> float:
    """Asserts per-item equality; the largest difference of a log-likelihood."""
    # With virtual tokens lm-eval's own answers depend on the padding of a batch; alone they are right.
    batch = 1 if subject.causal.virtual_tokens else 3
    # Nor does it know that virtual tokens take room, so it is given what is left of the context.
    room = subject.causal.room
    scored, rolled, texts = lm_eval_answers(str(model), None if peft is None else str(peft), batch, room)
    requests: list[Request] = [LogLikelihood(*pair) for pair in SCORED]
    requests += [RollingLogLikelihood(text) for text in ROLLED]
    requests += [Generate(prompt, until=UNTIL, max_tokens=24) for prompt in PROMPTS]
    ours = answers(subject, requests)
    assert [o.failure for o in ours] == [None] * len(ours)
    likelihoods, rolling, generated = ours[: len(SCORED)], ours[len(SCORED) : -len(PROMPTS)], ours[-len(PROMPTS) :]
    assert [o.is_greedy for o in likelihoods] == [greedy for _, greedy in scored]
    assert [o.text for o in generated] == texts
    theirs = [value for value, _ in scored] + list(rolled)
    differences = [abs((o.logprob or 0.0) - t) for o, t in zip([*likelihoods, *rolling], theirs, strict=True)]
    relative = [d / max(1.0, abs(t) / 100) for d, t in zip(differences, theirs, strict=True)]
    assert max(relative) < 1e-4, differences
    return max(differences)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_equals_lm_eval(tiny: Any, local_subject: Any, family: str) -> None:
    model = tiny.model(family)
    compare_with_lm_eval(local_subject(model=model), model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    [("llama", method) for method in METHODS]
    + [(family, "lora") for family in FAMILIES if family != "llama"]
    + [("gpt2", "dora"), ("gpt2", "prefix"), ("qwen2", "ia3"), ("gemma", "prefix")],
)
def test_every_adapter_equals_lm_eval_and_leaves_the_shared_base_as_it_was(
    tiny: Any, local_subject: Any, family: str, method: str
) -> None:
    model, adapter = tiny.model(family), tiny.adapter(family, method)
    baseline = local_subject(model=model)
    before = answers(baseline, [LogLikelihood(*SCORED[0]), Generate(PROMPTS[0], max_tokens=8)])
    candidate = local_subject(model=model, adapter=adapter)
    compare_with_lm_eval(candidate, model, adapter)
    assert answers(baseline, [LogLikelihood(*SCORED[0]), Generate(PROMPTS[0], max_tokens=8)]) == before


@pytest.mark.slow
def test_a_merged_checkpoint_equals_lm_eval(tiny: Any, local_subject: Any) -> None:
    compare_with_lm_eval(local_subject(model=tiny.merged()), tiny.merged())
