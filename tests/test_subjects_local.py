"""Local subjects: what may be loaded, what is shared, and that base and candidate never leak into each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import AdapterError, ConfigError, SubjectError
from harness.plugins import options as validated
from harness.records import Generate, LogLikelihood, Message, Output, Request, RollingLogLikelihood
from harness.subjects import SubjectContext, _files, local
from harness.subjects._checks import adapter_active, same_chat_template, same_tokenizer
from harness.subjects._weights import Weights

ASKED: list[Request] = [
    LogLikelihood("The quick brown", " fox"),
    LogLikelihood("Question: What is 2 + 3?\nAnswer:", " 5"),
    Generate("Once upon a time", max_tokens=12),
    RollingLogLikelihood("A. red B. green"),
]


def answers(subject: Any, requests: Sequence[Request] = ASKED) -> list[Output]:
    pairs = [pair for batch in subject.answer(requests) for pair in batch]
    assert sorted(i for i, _ in pairs) == list(range(len(requests)))
    return [output for _, output in sorted(pairs, key=lambda p: p[0])]


def build(folder: Path, pool: dict[Any, Any] | None = None, **options: Any) -> Any:
    chosen = local.Options.model_validate({"device": "cpu", **options})
    return local.build(chosen, SubjectContext(folder, {} if pool is None else pool))


# ---------------------------------------------------------------- fast: what may be loaded


def model_folder(folder: Path, *files: str, **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in files:
        (folder / name).write_bytes(b"x")
    return folder


def find(tmp_path: Path, name: str = "m", trusted: Sequence[str] = ()) -> _files.ModelFiles:
    return _files.find_model(name, None, tmp_path, trusted)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    model_folder(tmp_path / "m", "pytorch_model.bin")
    with pytest.raises(SubjectError, match=r"pytorch_model\.bin\) are pickled.*save_pretrained"):
        find(tmp_path)
    adapter = model_folder(tmp_path / "a", "adapter_model.bin", "adapter_config.json")
    with pytest.raises(AdapterError, match="pickled"):
        _files.find_adapter("a", tmp_path)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        _files.find_adapter("a", tmp_path)


def test_a_pickle_beside_safetensors_is_ignored(tmp_path: Path) -> None:
    model_folder(tmp_path / "m", "model.safetensors", "optimizer.pt")
    assert [p.name for p in find(tmp_path).weights] == ["model.safetensors"]


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_models_own_code_runs_only_when_it_is_trusted_by_its_exact_name(tmp_path: Path, file: str) -> None:
    folder = model_folder(tmp_path / "m", "model.safetensors")
    (folder / file).write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(SubjectError, match="trust_remote_code"):
        find(tmp_path)
    with pytest.raises(SubjectError, match="trust_remote_code"):
        find(tmp_path, trusted=["M", "m2", "*"])
    assert find(tmp_path, trusted=["m"]).remote_code


def test_the_code_of_a_trusted_model_is_part_of_its_hash(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "model.safetensors", "modeling.py", auto_map={})
    before = find(tmp_path, trusted=["m"]).hashes()
    (folder / "modeling.py").write_text("changed")
    assert find(tmp_path, trusted=["m"]).hashes() != before


def test_what_is_neither_a_folder_nor_on_the_hub_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SubjectError, match="no such folder"):
        find(tmp_path, "./models/absent")
    with pytest.raises(SubjectError, match="was not found on the hub"):
        find(tmp_path, "some-org/absent-model-7b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SubjectError, match=r"no config\.json"):
        find(tmp_path, "empty")


def test_options_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="did you mean 'adapter'"):
        validated("subjects", "local", {"model": "m", "adaptor": "a"}, where="candidate")
    with pytest.raises(ConfigError, match="merge needs an adapter"):
        validated("subjects", "local", {"model": "m", "merge": True}, where="candidate")
    with pytest.raises(ConfigError, match="quantization"):
        validated("subjects", "local", {"model": "m", "quantization": "3bit"}, where="candidate")


# ---------------------------------------------------------------- slow: with a tiny model


@pytest.mark.slow
def test_two_subjects_share_one_set_of_weights_and_answer_apart(tiny: Any) -> None:
    base, adapter, pool = tiny.model(), tiny.adapter(), {}
    alone = answers(build(tiny.folder, model=str(base)))
    baseline = build(tiny.folder, pool, model=str(base))
    candidate = build(tiny.folder, pool, model=str(base), adapter=str(adapter))
    assert sum(isinstance(held, Weights) for held in pool.values()) == 1
    first, second = baseline.answer(ASKED), candidate.answer(ASKED)
    turns = [(next(first), next(second))]  # interleaved: a batch of one must not see the other's adapter
    for one, two in zip(first, second, strict=True):
        turns.append((one, two))
    ours = [o for _, o in sorted((p for one, _ in turns for p in one), key=lambda p: p[0])]
    theirs = [o for _, o in sorted((p for _, two in turns for p in two), key=lambda p: p[0])]
    assert ours == alone
    assert all(a != b for a, b in zip(ours, theirs, strict=True))
    candidate.close()
    assert answers(baseline) == alone
    baseline.close()
    assert not any(isinstance(held, Weights) for held in pool.values())
    with pytest.raises(SubjectError, match="closed"):
        baseline.answer(ASKED)


@pytest.mark.slow
def test_an_adapter_that_trained_biases_gets_weights_of_its_own(tiny: Any) -> None:
    base, adapter, pool = tiny.model("qwen2"), tiny.adapter("qwen2", "lora_bias"), {}
    baseline = build(tiny.folder, pool, model=str(base))
    before = answers(baseline)
    candidate = build(tiny.folder, pool, model=str(base), adapter=str(adapter))
    assert sum(isinstance(held, Weights) for held in pool.values()) == 2
    assert answers(baseline) == before
    assert answers(candidate) != before


@pytest.mark.slow
def test_an_adapter_that_leaves_its_mark_is_noticed_by_asking_the_base(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.subjects._weights import AdapterSpec

    base, adapter, pool = tiny.model("qwen2"), tiny.adapter("qwen2", "lora_bias"), {}
    baseline = build(tiny.folder, pool, model=str(base))
    before = answers(baseline)
    monkeypatch.setattr(AdapterSpec, "alone", property(lambda self: False))  # as for a method nobody has listed
    candidate = build(tiny.folder, pool, model=str(base), adapter=str(adapter))
    assert sum(isinstance(held, Weights) for held in pool.values()) == 2
    assert answers(baseline) == before
    assert answers(candidate) != before


@pytest.mark.slow
def test_adapters_of_other_methods_do_not_mix_on_one_base(tiny: Any) -> None:
    base, pool = tiny.model(), {}
    build(tiny.folder, pool, model=str(base), adapter=str(tiny.adapter(method="lora")))
    lora2 = build(tiny.folder, pool, model=str(base), adapter=str(tiny.adapter(method="lora", seed=2)))
    ia3 = build(tiny.folder, pool, model=str(base), adapter=str(tiny.adapter(method="ia3")))
    again = build(tiny.folder, pool, model=str(base), adapter=str(tiny.adapter(method="ia3")))
    assert sum(isinstance(held, Weights) for held in pool.values()) == 2
    for shared, method, seed in ((lora2, "lora", 2), (ia3, "ia3", 1), (again, "ia3", 1)):
        alone = build(tiny.folder, model=str(base), adapter=str(tiny.adapter(method=method, seed=seed)))
        assert answers(shared) == answers(alone)
        assert shared.fingerprint == alone.fingerprint


@pytest.mark.slow
def test_a_merged_adapter_answers_like_the_adapter_and_leaves_the_base_alone(tiny: Any) -> None:
    base, pool = tiny.model(), {}
    baseline = build(tiny.folder, pool, model=str(base))
    before = answers(baseline)
    merged = build(tiny.folder, pool, model=str(base), adapter=str(tiny.adapter()), merge=True)
    live = build(tiny.folder, pool, model=str(base), adapter=str(tiny.adapter()))
    for a, b in zip(answers(merged), answers(live), strict=True):
        assert a.text == b.text
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
    assert answers(baseline) == before
    assert merged.fingerprint != live.fingerprint
    with pytest.raises(AdapterError, match="cannot be merged"):
        build(tiny.folder, model=str(base), adapter=str(tiny.adapter(method="prefix")), merge=True)


@pytest.mark.slow
def test_the_fingerprint_covers_what_can_change_an_output_and_nothing_else(tiny: Any, tmp_path: Path) -> None:
    base = shutil.copytree(tiny.model(), tmp_path / "copy")
    (tmp_path / "other.jinja").write_text("{{ messages[0]['content'] }}")

    def mark(**options: Any) -> str:
        return str(build(tmp_path, **{"model": str(base), **options}).fingerprint)

    same = mark()
    assert mark(model=str(tiny.model())) == same, "not where it lies"
    assert mark(batch_size=3) == same, "not the batch size"
    adapter, other = str(tiny.adapter()), str(tiny.adapter(seed=2))
    marks = [
        same, mark(model=str(tiny.model(seed=5))), mark(adapter=adapter), mark(adapter=other), mark(max_length=64),
        mark(adapter=adapter, merge=True), mark(dtype="bfloat16"), mark(truncate="left"),
        mark(chat_template="other.jinja"),
    ]  # fmt: skip
    assert len(set(marks)) == len(marks)
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 99}))
    assert mark() not in marks


@pytest.mark.slow
def test_chat_goes_through_the_template_and_its_hash_is_known(tiny: Any, tmp_path: Path) -> None:
    subject = build(tiny.folder, model=str(tiny.model()))
    turns = (Message("system", "Be brief."), Message("user", "hi"))
    assert subject.render_chat(turns) == "<|system|>Be brief.\n<|user|>hi\n<|assistant|>"
    open_turn = subject.render_chat((*turns, Message("assistant", "Well,")), add_generation_prompt=False)
    assert open_turn.endswith("<|assistant|>Well,")
    text = subject.render_chat(turns)
    by_messages, by_text = answers(subject, [Generate(turns, max_tokens=6), Generate(text, max_tokens=6)])
    assert by_messages == by_text
    bare = shutil.copytree(tiny.model(), tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    other = build(tmp_path, model=str(bare))
    assert other.chat_fingerprint != subject.chat_fingerprint
    with pytest.raises(SubjectError, match="chat_template: FILE"):
        other.render_chat(turns)
    assert not same_chat_template(subject, other).passed
    assert same_chat_template(subject, other, said_otherwise=True).passed
    assert same_tokenizer(subject, subject).passed


@pytest.mark.slow
def test_an_adapter_that_is_not_applied_is_caught(tiny: Any) -> None:
    base, pool = tiny.model(), {}
    baseline = build(tiny.folder, pool, model=str(base))
    active = build(tiny.folder, pool, model=str(base), adapter=str(tiny.adapter()))
    idle = build(tiny.folder, pool, model=str(base), adapter=str(tiny.adapter(scale=0.0)))
    assert adapter_active(baseline, active).passed
    check = adapter_active(baseline, idle)
    assert not check.passed
    assert "not applied" in check.detail


@pytest.mark.slow
def test_a_candidate_that_is_the_baseline_itself_is_caught(tiny: Any, tmp_path: Path) -> None:
    base, pool = tiny.model(), {}
    baseline = build(tiny.folder, pool, model=str(base))
    for same in (str(base), str(shutil.copytree(base, tmp_path / "copy"))):
        failed = [c for c in build(tiny.folder, pool, model=same, batch_size=3).checks(baseline) if not c.passed]
        assert [c.name for c in failed] == ["not-the-baseline"]
        assert "the same model" in failed[0].detail
    for other in ({"model": str(tiny.merged())}, {"model": str(base), "dtype": "bfloat16"}):
        assert build(tiny.folder, pool, **other).checks(baseline)[0].passed
    tuned = {"model": str(base), "adapter": str(tiny.adapter())}
    ours, theirs = build(tiny.folder, pool, **tuned), build(tiny.folder, pool, **tuned)
    assert "not-the-baseline" in [c.name for c in theirs.checks(ours) if not c.passed]


@pytest.mark.slow
def test_a_change_of_the_engines_or_the_tokenizers_changes_the_fingerprint(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = [build(tiny.folder, model=str(tiny.model())).fingerprint]
    monkeypatch.setattr(local, "REVISION", local.REVISION + 1)
    marks.append(build(tiny.folder, model=str(tiny.model())).fingerprint)
    honest = local.version
    monkeypatch.setattr(local, "version", lambda name: "9.9" if name == "tokenizers" else honest(name))
    marks.append(build(tiny.folder, model=str(tiny.model())).fingerprint)
    assert len(set(marks)) == 3


@pytest.mark.slow
def test_a_tokenizer_is_remembered_no_longer_than_its_subjects(tiny: Any) -> None:
    import gc

    pool: dict[Any, Any] = {}
    baseline = build(tiny.folder, pool, model=str(tiny.model()))
    other = build(tiny.folder, pool, model=str(tiny.merged()))
    twin = build(tiny.folder, pool, model=str(tiny.model()))
    assert twin.causal.encoder is baseline.causal.encoder is not other.causal.encoder
    other.close()
    twin.close()
    del other, twin
    gc.collect()
    assert list(pool["encoders"].values()) == [baseline.causal.encoder]


@pytest.mark.slow
def test_answers_do_not_depend_on_the_batch(tiny: Any) -> None:
    base = tiny.model()
    requests: list[Request] = [
        *(Generate("The quick brown fox " * n, max_tokens=10) for n in (1, 5, 2)),
        *(Generate("A" * n, max_tokens=10, temperature=0.8, top_p=0.9, seed=n) for n in (3, 40)),
        *(LogLikelihood("x " * n, "y z") for n in (1, 30, 7)),
    ]
    together = answers(build(tiny.folder, model=str(base), batch_size=8), requests)
    alone = answers(build(tiny.folder, model=str(base), batch_size=1), requests)
    for a, b in zip(together, alone, strict=True):
        assert (a.text, a.is_greedy, a.tokens) == (b.text, b.is_greedy, b.tokens)
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    assert answers(build(tiny.folder, model=str(base)), requests)[3:5] == together[3:5], "a seed repeats its sample"
    other = answers(build(tiny.folder, model=str(base)), [Generate("AAA", max_tokens=10, temperature=0.8, seed=99)])
    assert other[0].text != together[3].text


@pytest.mark.slow
def test_what_does_not_fit_is_a_failure_unless_it_may_be_cut(tiny: Any) -> None:
    long = "red green blue " * 200
    requests: list[Request] = [
        LogLikelihood(long, " x"),
        Generate(long, max_tokens=4),
        Generate("A", max_tokens=100_000),
        LogLikelihood("a", ""),
    ]
    refused = answers(build(tiny.folder, model=str(tiny.model())), requests)
    assert "exceeds the context of 256" in (refused[0].failure or "")
    assert "no room" in (refused[1].failure or "")
    assert "of 100000 new tokens" in (refused[2].failure or "") or refused[2].text is not None
    assert "no token of its own" in (refused[3].failure or "")
    cut = answers(build(tiny.folder, model=str(tiny.model()), truncate="left"), requests)
    assert cut[0].truncated
    assert cut[0].logprob is not None
    assert cut[1].truncated
    assert cut[1].text is not None


@pytest.mark.slow
def test_broken_weights_give_failures_and_not_numbers(tiny: Any) -> None:
    import torch

    subject = build(tiny.folder, model=str(tiny.model()))
    with torch.no_grad():
        subject._weights.base.lm_head.weight[5] = float("nan")
    for output in answers(subject):
        assert "NaN" in (output.failure or ""), output


@pytest.mark.slow
def test_a_model_left_in_training_mode_is_asked_without_dropout_and_left_as_it_was(tiny: Any, tmp_path: Path) -> None:
    base = shutil.copytree(tiny.model("gpt2"), tmp_path / "m")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "resid_pdrop": 0.5, "embd_pdrop": 0.5}))
    subject = build(tmp_path, model="m")
    before = answers(subject)
    subject._weights.base.train()
    assert answers(subject) == before
    assert subject._weights.base.training


@pytest.mark.slow
def test_evaluating_4bit_weights_does_not_spoil_later_training(tiny: Any) -> None:
    pytest.importorskip("bitsandbytes")
    subject = build(tiny.folder, model=str(tiny.model()), quantization="4bit")
    assert all(o.failure is None for o in answers(subject))
    layers = [m for m in subject._weights.base.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    assert layers
    assert not any(m.support_avx512bf16_for_cpu for m in layers)
    assert not any(getattr(m.weight.quant_state, "packing_format_for_cpu", False) for m in layers)
    assert subject.describe()["quantization"] == "4bit"


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "8bit"])
def test_a_checkpoint_with_a_missing_tensor_is_not_filled_up_with_random_numbers(
    tiny: Any, tmp_path: Path, quantization: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny.model(), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SubjectError, match=r"1 weights are missing.*layers\.1\.mlp\.up_proj\.weight"):
        build(tmp_path, model="m", quantization=quantization)


@pytest.mark.slow
def test_an_encoder_decoder_or_a_missing_device_is_refused(tiny: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.model(), tmp_path / "t5")
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(SubjectError, match="encoder-decoder"):
        build(tmp_path, model="t5")
    with pytest.raises(SubjectError, match="not available"):
        local.choose_device("cuda" if not _has_cuda() else "mps")


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())
