"""Models and requests that an engine has to treat apart: one by one, by the plain engine, or not at all."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SubjectError
from harness.records import Draft, Generate, LogLikelihood, Message, Picture, Request, RollingLogLikelihood
from tests.test_engine_radix import HEADER, SMALL, answers, assert_equal, make_kind

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("rwkv", {"attention_hidden_size": 64, "context_length": 256}),
        ("minimax", {"num_local_experts": 2, "layer_types": ["linear_attention", "full_attention"]}),
    ],
)
def test_a_model_that_answers_otherwise_in_a_batch_is_asked_one_by_one(
    tmp_path: Path, local_subject: Any, kind: str, config: dict[str, Any]
) -> None:
    model = make_kind(tmp_path / kind, kind, **config)
    prompts: list[Request] = [Generate(text, max_tokens=10) for text in ("The quick fox", "x", HEADER, "red")]
    lone = [answers(local_subject(model=model, engine="plain", batch_size=1), [prompt])[0] for prompt in prompts]
    for engine in ("plain", "radix"):
        subject = local_subject(model=model, engine=engine)
        assert_equal(answers(subject, prompts), lone)
        assert any("one by one" in remark for remark in subject.remarks())


def test_a_batch_that_gives_no_answer_does_not_pass_for_exact() -> None:
    from harness.engine._decoding import alike
    from harness.records import Output

    said = Output(text="a", ids=(1, 2), logprobs=(-1.0, -2.0))
    assert alike(said, said, "float32")
    assert not alike(Output(failure="the model's logits are not finite"), said, "float32")
    assert not alike(said, Output(text="b", ids=(1, 3), logprobs=(-1.0, -2.0)), "float32")


def test_a_question_with_a_picture_fails_alone(tiny: Any, local_subject: Any) -> None:
    shown = Message("user", "What is this?", pictures=(Picture("0" * 64, "image/png"),))
    said, refused = answers(local_subject(model=tiny.model()), [Generate("a", max_tokens=2), Generate((shown,))])
    assert said.failure is None
    assert "takes no pictures" in (refused.failure or "")


def test_a_model_that_batches_well_is_not_slowed_down(tiny: Any, local_subject: Any) -> None:
    subject = local_subject(model=tiny.model(), engine="plain")
    answers(subject, [Generate("a", max_tokens=2), Generate("b c d", max_tokens=2)])
    assert list(subject.remarks()) == []


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("mpt", {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
        (
            "gpt_neo",
            {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 256},
        ),
    ],
)
def test_a_model_that_counts_columns_is_never_given_more_than_its_context(
    tmp_path: Path, local_subject: Any, kind: str, config: dict[str, Any]
) -> None:
    model = make_kind(tmp_path / kind, kind, **config)
    long, other = "red blue " * 15, [f"{i} fox " * 12 for i in range(3)]
    requests: list[Request] = [Generate(long + end, max_tokens=20) for end in ("x", "red")]
    requests += [Generate(text, max_tokens=40) for text in other] + [LogLikelihood(long, " a b")]
    lone = [answers(local_subject(model=model, engine="plain", batch_size=1), [r])[0] for r in requests]
    assert_equal(answers(local_subject(model=model), requests), lone)


@pytest.mark.parametrize("rule", [{"min_length": 25}, {"forced_eos_token_id": 1}, {"no_repeat_ngram_size": 1}])
def test_a_rule_that_counts_tokens_counts_a_rows_own(
    tiny: Any, tmp_path: Path, local_subject: Any, rule: dict[str, int]
) -> None:
    model = tmp_path / "ruled"
    shutil.copytree(tiny.model(), model)
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**config, **rule}))
    draw = random.Random(0)
    words = ("red ", "blue ", "The quick ", "fox ", "12 ")
    prompts: list[Request] = [
        Generate("".join(draw.choices(words, k=draw.randint(1, 20))), max_tokens=draw.randint(4, 30)) for _ in range(16)
    ]
    lone = answers(local_subject(model=model, engine="plain", batch_size=1), prompts)
    assert_equal(answers(local_subject(model=model, engine="plain"), prompts), lone)
    assert_equal(answers(local_subject(model=model), prompts), lone)


def test_an_answer_with_a_draft_needs_no_more_memory_than_one_without(
    tiny: Any, local_subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine._passes import Passes

    request = Generate("The quick fox", max_tokens=150)
    subject = local_subject(model=tiny.model(), engine_options={"memory": 0.02})
    (reference,) = answers(subject, [request])
    _, walk, decoder = subject._engine._ready
    decoder.odds.learn(10**6, 0)
    walk.limits = replace(walk.limits, reads=32)
    forward = Passes.forward

    def scarce(self: Any, tokens: Any, reads: Any, past: Any = None) -> Any:
        if sum(map(len, reads)) > 16:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(self, tokens, reads, past)

    monkeypatch.setattr(Passes, "forward", scarce)
    draft = Draft(reference.text or "", reference.ids, subject.describe()["tokenizer_sha256"])
    assert_equal(answers(subject, [request], [draft]), [reference])


@pytest.mark.parametrize("engine", ["plain", "radix"])
def test_one_request_that_cannot_be_put_to_the_model_fails_alone(
    tiny: Any, tmp_path: Path, local_subject: Any, engine: str
) -> None:
    from transformers import AutoTokenizer

    model = tmp_path / "extended"
    shutil.copytree(tiny.model(), model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    tokenizer.save_pretrained(model)
    system = (Message("system", "x"), Message("user", "hi"))
    requests: list[Request] = [
        LogLikelihood("The quick", " fox"), LogLikelihood("a <|new|> b", " c"), Generate("<|new|>", max_tokens=2),
        LogLikelihood("half a pair \ud800", " c"), RollingLogLikelihood("\udfff"), Generate(system, max_tokens=2),
        LogLikelihood(system, " c"), Generate("The", max_tokens=2), Generate(system[1:], max_tokens=2),
    ]  # fmt: skip
    outputs = answers(local_subject(model=model, engine=engine, engine_options={}), requests)
    words = [None, "<|new|>", "<|new|>", "Unicode", "Unicode", "no system turn", "no system turn", None, None]
    for output, word in zip(outputs, words, strict=True):
        assert (output.failure is None) if word is None else (word in str(output.failure))


@pytest.mark.parametrize("engine", ["plain", "radix"])
def test_virtual_tokens_that_fill_the_context_leave_no_text_to_score(
    tiny: Any, local_subject: Any, engine: str
) -> None:
    subject = local_subject(model=tiny.model(), adapter=tiny.adapter("llama", "prefix"), max_length=4, engine=engine)
    outputs = answers(subject, [RollingLogLikelihood("The quick brown fox"), LogLikelihood("a", " b")])
    assert all(output.failure for output in outputs)


def test_a_context_beyond_the_learned_positions_is_refused(tiny: Any, local_subject: Any) -> None:
    with pytest.raises(SubjectError, match="beyond the 256 positions"):
        local_subject(model=tiny.model("gpt2"), max_length=300)
    assert answers(local_subject(model=tiny.model("llama"), max_length=300), [LogLikelihood("a", " b")])


def test_a_temperature_as_good_as_zero_is_greedy(tiny: Any, local_subject: Any) -> None:
    subject = local_subject(model=tiny.model(), engine_options=SMALL)
    cold, greedy = (Generate(HEADER, max_tokens=8, temperature=t) for t in (1e-40, 0.0))
    (one,), (other,) = answers(subject, [cold]), answers(subject, [greedy])
    assert one.ids == other.ids
