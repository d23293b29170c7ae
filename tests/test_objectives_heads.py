"""Reward models and classifiers: what goes in, where the score is read, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, DataError
from tests import objective_jobs as jobs
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("kind", "rows_kind"), [("reward", "preference"), ("classify", "class")])
@pytest.mark.parametrize("name", ["full", "lora"])
def test_the_loss_falls(tiny: TinyModels, tmp_path: Path, kind: str, rows_kind: Any, name: str) -> None:
    made = jobs.objective(kind)
    job = jobs.job(
        tiny.model(), tmp_path, made, rows_kind, by=jobs.scope(name), max_steps=20, batch_size=8, learning_rate=3e-3
    )
    trainer = made.trainer(job)
    trainer.train()
    losses = jobs.losses(trainer)
    assert losses[-1] < 0.5 * losses[0]
    assert any("score" in parameter for parameter in jobs.trained(job.model)), "the head is not trained"


@pytest.mark.parametrize("pads_with_end", [False, True])
def test_a_score_does_not_depend_on_the_other_rows_of_its_batch(
    tiny: TinyModels, tmp_path: Path, pads_with_end: bool
) -> None:
    import torch

    made = jobs.objective("reward")
    given = jobs.rows("preference", 6)
    job = jobs.job(tiny.model(), tmp_path, made, "preference", train=given, batch_size=6)
    job.model.config.pad_token_id = None
    if pads_with_end:
        job.tokenizer.pad_token = job.tokenizer.eos_token
    trainer = made.trainer(job)
    assert job.model.config.pad_token_id == job.tokenizer.pad_token_id
    batch = next(iter(trainer.get_train_dataloader()))
    model = job.model.eval()
    with torch.no_grad():
        together = model(**batch).logits[:, 0]
        alone = [
            model(input_ids=ids[None, : int(mask.sum())]).logits[0, 0]
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)
    assert len(set(together.tolist())) > 6


def test_a_reward_model_reads_prompt_and_answer_with_one_bos_and_an_end(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("reward")
    given = jobs.rows("preference", 3)
    job = jobs.job(tiny.model(), tmp_path, made, "preference", train=given)
    for row, sent in zip(given, made.trainer(job).train_dataset, strict=True):
        assert job.tokenizer.decode(sent["chosen_ids"]) == f"<s>{row['prompt']}{row['chosen']}</s>"
        assert job.tokenizer.decode(sent["rejected_ids"]) == f"<s>{row['prompt']}{row['rejected']}</s>"


@pytest.mark.parametrize(("kind", "rows_kind"), [("reward", "preference"), ("classify", "class")])
def test_one_batch_of_eight_gives_the_gradient_of_eight_batches_of_one(
    tiny: TinyModels, tmp_path: Path, kind: str, rows_kind: Any
) -> None:
    import torch

    gradients = []
    for size, accumulated in ((8, 1), (1, 8)):
        made = jobs.objective(kind)
        job = jobs.job(
            tiny.model(), tmp_path / str(size), made, rows_kind, by=jobs.scope("full"), batch_size=size,
            gradient_accumulation=accumulated, max_steps=1, optimizer="sgd", max_grad_norm=0, scheduler="constant",
            learning_rate=1.0,
        )  # fmt: skip
        before = jobs.trained(job.model)
        made.trainer(job).train()
        gradients.append({name: before[name] - p for name, p in jobs.trained(job.model).items()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5, rtol=1e-3), name


def test_a_reward_starts_where_it_prefers_nothing(tiny: TinyModels, tmp_path: Path) -> None:
    import torch

    made = jobs.objective("reward", centre=0.01)
    job = jobs.job(tiny.model(), tmp_path, made, "preference", max_steps=1)
    with torch.no_grad():
        for name, parameter in job.model.named_parameters():
            if "score" in name:
                parameter.zero_()
    trainer = made.trainer(job)
    trainer.train()
    assert jobs.losses(trainer)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_classes_are_those_of_the_model_and_no_others(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("classify")
    given = jobs.rows("class", 4)
    trainer = made.trainer(jobs.job(tiny.model(), tmp_path, made, "class", train=given))
    assert trainer.train_dataset["labels"][:] == [2, 1, 0, 2]
    unknown = [*given, {"text": "x", "label": "perhaps"}]
    with pytest.raises(DataError, match=r"row 4 \(its class 'perhaps' is none of the model's: maybe, no, yes\)"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "class", train=unknown))


def test_an_encoder_without_an_end_token_can_be_trained(tmp_path: Path) -> None:
    import transformers

    base = _bert(tmp_path / "bert")
    made = jobs.objective("classify")
    job = jobs.job(base, tmp_path / "out", made, "class", by=jobs.scope("full"))
    assert isinstance(job.model, transformers.BertForSequenceClassification)
    trainer = made.trainer(job)
    first = trainer.train_dataset[0]["input_ids"]
    assert (first[0], first[-1]) == (job.tokenizer.cls_token_id, job.tokenizer.sep_token_id)
    trainer.train()
    assert len(jobs.losses(trainer)) == 2


def _bert(folder: Path) -> Path:
    import transformers

    folder.mkdir()
    words = sorted({w for row in jobs.rows("class") for w in row["text"].lower().replace("?", " ?").split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=5 + len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_scopes_without_the_head_and_models_without_steps_are_refused(tiny: TinyModels, tmp_path: Path) -> None:
    for kind in ("reward", "classify"):
        assert "scope prompt trains texts" in (jobs.objective(kind).refusal(jobs.scope("prompt")) or "")
        assert jobs.objective(kind).refusal(jobs.scope("lora")) is None
    made = jobs.objective("classify")
    features = jobs.scope("features")
    model = features.apply(jobs.load(tiny.model()), "classes")
    with pytest.raises(ConfigError, match="fitted to its rows at once"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "class", by=features, model=model))


def test_a_text_of_one_token_can_be_classified_and_one_of_none_cannot(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("classify")
    base = tiny.model("qwen2")
    given = [{"text": "e", "label": "yes"}, {"text": "a", "label": "no"}]
    trainer = made.trainer(jobs.job(base, tmp_path, made, "class", train=given))
    assert [len(row["input_ids"]) for row in trainer.train_dataset] == [1, 1]
    with pytest.raises(DataError, match="row 2"):
        made.trainer(jobs.job(base, tmp_path, made, "class", train=[*given, {"text": "", "label": "no"}]))
