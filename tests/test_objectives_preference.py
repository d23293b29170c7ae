"""Objectives over pairs and labelled answers: the reference, the pairs that go in, and the losses at the start."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, DataError
from harness.training.objectives import Intake
from tests import objective_jobs as jobs
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow

PAIRS = ("dpo", "ipo", "orpo", "cpo", "simpo")


def stir(model: Any) -> Any:
    """A model whose trained parameters are no longer what they were on disk, nor an adapter that does nothing."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def first_loss(trainer: Any) -> float:
    trainer.train()
    return jobs.losses(trainer)[0]


@pytest.mark.parametrize("name", ["full", "lora", "ia3", "prefix", "prompt", "ptuning"])
def test_the_reference_is_the_model_at_the_start_of_its_training(tiny: TinyModels, tmp_path: Path, name: str) -> None:
    made = jobs.objective("dpo")
    model = stir(jobs.scope(name).apply(jobs.load(tiny.model()), "language"))
    job = jobs.job(tiny.model(), tmp_path, made, "preference", by=jobs.scope(name), model=model, max_steps=1)
    trainer = made.trainer(job)
    assert trainer.ref_model is None
    assert list(getattr(job.model, "peft_config", {"default": 0})) == ["default"], "an adapter was left behind"
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-5)


def test_the_reference_holds_for_rows_of_validation_and_for_a_model_of_no_folder(
    tiny: TinyModels, tmp_path: Path
) -> None:
    made = jobs.objective("dpo")
    model = stir(jobs.scope("full").apply(jobs.load(tiny.model()), "language"))
    model.config._name_or_path = ""
    job = jobs.job(
        tiny.model(),
        tmp_path,
        made,
        "preference",
        by=jobs.scope("full"),
        model=model,
        validation=jobs.rows("preference", 2),
    )
    trainer = made.trainer(job)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_the_modes_of_all_modules_are_as_they_were_when_the_reference_has_been_asked(
    tiny: TinyModels, tmp_path: Path
) -> None:
    made = jobs.objective("dpo")
    job = jobs.job(tiny.model(), tmp_path, made, "preference", by=jobs.scope("lora", dropout=0.2))
    job.model.train()
    job.model.get_base_model().lm_head.eval()
    before = [module.training for module in job.model.modules()]
    trainer = made.trainer(job)
    assert [module.training for module in job.model.modules()] == before
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-5)


def test_new_rows_cannot_be_evaluated_against_a_reference_that_has_moved(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("dpo")
    trainer = made.trainer(jobs.job(tiny.model(), tmp_path, made, "preference"))
    trainer.train()
    with pytest.raises(ConfigError, match="before training only"):
        trainer.evaluate(trainer.train_dataset.remove_columns(["ref_chosen_logps", "ref_rejected_logps"]))


def test_ipo_starts_at_its_own_target(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("ipo", beta=0.5)
    trainer = made.trainer(jobs.job(tiny.model(), tmp_path, made, "preference", max_steps=1))
    assert first_loss(trainer) == pytest.approx(1 / (4 * 0.5**2), abs=1e-5)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("spoken", [False, True])
def test_every_pair_reaches_the_dataloader_with_the_same_prompt_twice(
    tiny: TinyModels, tmp_path: Path, kind: str, spoken: bool
) -> None:
    made = jobs.objective(kind)
    given = [jobs.chat(row) if spoken else row for row in jobs.rows("preference", 7)]
    told: list[Intake] = []
    job = jobs.job(
        tiny.model(), tmp_path, made, "preference", train=given, template=jobs.UNMARKED, told=told, batch_size=2
    )
    answers = []
    for batch in made.trainer(job).get_train_dataloader():
        answers += _answers(batch, job.tokenizer)
    expected = jobs.rows("preference", 7)
    assert sorted(answers) == sorted((row["chosen"] + "</s>", row["rejected"] + "</s>") for row in expected)
    assert told[0].used == 7


def _answers(batch: dict[str, Any], tokenizer: Any) -> list[tuple[str, str]]:
    """(chosen, rejected) of a batch, after a look at the prompts before them."""
    if "completion_mask" in batch:
        size = len(batch["input_ids"]) // 2
        ids, mask = batch["input_ids"], batch["completion_mask"].bool()
        parts = [(ids[:size], mask[:size]), (ids[size:], mask[size:])]
    else:
        parts = [(batch[f"{n}_input_ids"], batch[f"{n}_labels"] != -100) for n in ("chosen", "rejected")]
    texts = []
    for ids, mask in parts:
        starts = mask.int().argmax(dim=1)
        texts.append(([tokenizer.decode(i[m]) for i, m in zip(ids, mask, strict=True)],
                      [i[:s].tolist() for i, s in zip(ids, starts, strict=True)]))  # fmt: skip
    assert texts[0][1] == texts[1][1], "chosen and rejected stand behind different prompts"
    assert all(prompt[0] == 0 and prompt[1] != 0 for prompt in texts[0][1]), "one BOS"
    return list(zip(texts[0][0], texts[1][0], strict=True))


@pytest.mark.parametrize("kind", ["dpo", "orpo"])
def test_pairs_that_teach_nothing_are_refused(tiny: TinyModels, tmp_path: Path, kind: str) -> None:
    made = jobs.objective(kind)
    same = {"prompt": "Question?", "chosen": " yes", "rejected": " yes"}
    with pytest.raises(DataError, match="1 row has the same tokens chosen and rejected: row 8"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "preference", train=[*jobs.rows("preference"), same]))
    mixed = {"prompt": "Question?", "chosen": [{"role": "assistant", "content": "x"}], "rejected": " yes"}
    with pytest.raises(DataError, match="both be texts"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "preference", train=[mixed]))
    late = {"prompt": "Question?", "chosen": " word" * 50 + " a", "rejected": " word" * 50 + " b"}
    cut = jobs.job(tiny.model(), tmp_path, made, "preference", train=[late], max_length=40, too_long="cut")
    with pytest.raises(DataError, match="same tokens chosen and rejected"):
        made.trainer(cut)


@pytest.mark.parametrize("kind", ["dpo", "orpo", "kto"])
def test_answers_that_are_too_long_are_refused_or_counted(tiny: TinyModels, tmp_path: Path, kind: str) -> None:
    made = jobs.objective(kind)
    rows_kind: Any = "labelled" if kind == "kto" else "preference"
    long = {"prompt": "Q?", "completion": " w" * 99, "label": True, "chosen": " w" * 99, "rejected": " no"}
    given = [long, *jobs.rows(rows_kind, 5)]
    job = jobs.job(tiny.model(), tmp_path, made, rows_kind, train=given, max_length=60)
    with pytest.raises(DataError, match=r"1 row is too long: row 0"):
        made.trainer(job)
    told: list[Intake] = []
    job = jobs.job(tiny.model(), tmp_path, made, rows_kind, train=given, max_length=60, too_long="drop", told=told)
    assert len(made.trainer(job).train_dataset) == 5
    assert told[0].dropped == (0,)


def test_one_batch_of_eight_pairs_gives_the_gradient_of_eight_batches_of_one(tiny: TinyModels, tmp_path: Path) -> None:
    import torch

    gradients = []
    for size, accumulated in ((8, 1), (1, 8)):
        made = jobs.objective("dpo")
        job = jobs.job(
            tiny.model(), tmp_path / str(size), made, "preference", batch_size=size, by=jobs.scope("full"),
            gradient_accumulation=accumulated, max_steps=1, optimizer="sgd", max_grad_norm=0, scheduler="constant",
            learning_rate=1.0,
        )  # fmt: skip
        before = jobs.trained(job.model)
        made.trainer(job).train()
        gradients.append({name: before[name] - p for name, p in jobs.trained(job.model).items()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5, rtol=1e-3), name


def test_losses_without_a_reference_are_those_of_the_papers(tiny: TinyModels, tmp_path: Path) -> None:
    import torch

    row = jobs.rows("preference", 1)
    model = jobs.load(tiny.model()).eval()
    found = {}
    for kind, options in (("simpo", {"beta": 2.0, "gamma": 0.7}), ("cpo", {"sft_weight": 0.0}), ("orpo", {})):
        made = jobs.objective(kind, **options)
        job = jobs.job(tiny.model(), tmp_path / kind, made, "preference", train=row, max_steps=1, batch_size=1)
        trainer = made.trainer(job)
        batch = next(iter(trainer.get_train_dataloader()))
        found[kind] = first_loss(trainer)
    sums, counts, nll = {}, {}, 0.0
    for name in ("chosen", "rejected"):
        ids, labels = batch[f"{name}_input_ids"], batch[f"{name}_labels"]
        with torch.no_grad():
            each = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        on = labels[:, 1:] != -100
        sums[name], counts[name] = float(each[on].sum()), int(on.sum())
        nll = float(-each.mean()) if name == "chosen" else nll
    mean = {name: sums[name] / counts[name] for name in sums}

    def softplus(x: float) -> float:
        return math.log1p(math.exp(-x))

    assert found["simpo"] == pytest.approx(softplus(2.0 * (mean["chosen"] - mean["rejected"]) - 0.7), rel=1e-4)
    assert found["cpo"] == pytest.approx(softplus(0.1 * (sums["chosen"] - sums["rejected"])), rel=1e-4)
    odds = {name: value - math.log1p(-math.exp(value)) for name, value in mean.items()}
    assert found["orpo"] == pytest.approx(nll + 0.1 * softplus(odds["chosen"] - odds["rejected"]), rel=1e-4)


def test_an_adapter_on_the_logits_is_refused_where_it_would_not_be_trained(tiny: TinyModels, tmp_path: Path) -> None:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    for kind, rows_kind in (("dpo", "preference"), ("kto", "labelled"), ("sft", "text")):
        made = jobs.objective(kind)
        model = peft.get_peft_model(jobs.load(tiny.model()), config)
        job = jobs.job(tiny.model(), tmp_path, made, rows_kind, model=model)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="lm_head"):
            made.trainer(job)


def test_the_types_of_an_adapter_on_a_quantised_base_are_left_as_they_were(tiny: TinyModels, tmp_path: Path) -> None:
    import torch

    for kind, rows_kind in (("dpo", "preference"), ("sft", "text")):
        made = jobs.objective(kind)
        job = jobs.job(tiny.model(), tmp_path, made, rows_kind)  # type: ignore[arg-type]
        job.model.is_loaded_in_4bit = True  # all that TRL looks at before it casts
        made.trainer(job)
        assert {p.dtype for p in jobs.trained(job.model).values()} == {torch.float32}


@pytest.mark.parametrize("kind", PAIRS[2:])
@pytest.mark.parametrize("name", ["prompt", "ptuning"])
def test_virtual_tokens_are_refused_where_trl_reads_logits_by_place(kind: str, name: str) -> None:
    assert "objective dpo" in (jobs.objective(kind).refusal(jobs.scope(name)) or "")


def test_kto_shuffles_once_and_estimates_the_divergence_from_other_rows(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("kto")
    given = jobs.rows("labelled", 9)
    job = jobs.job(
        tiny.model(), tmp_path, made, "labelled", train=given, validation=given[:3], batch_size=4, max_steps=1
    )
    trainer = made.trainer(job)
    prompts = [job.tokenizer.decode(row["prompt_ids"], skip_special_tokens=True) for row in trainer.train_dataset]
    assert sorted(prompts) == sorted(row["prompt"] for row in given)
    assert prompts != [row["prompt"] for row in given], "wanted and unwanted rows come in the order of the file"
    seen = sum(len(batch["label"]) for batch in trainer.get_train_dataloader())
    assert seen == 9
    lone = trainer.train_dataset[8]
    assert lone["KL_completion_ids"] == trainer.train_dataset[7]["completion_ids"], "a row paired with itself"
    assert first_loss(trainer) == pytest.approx(0.5 * sum(_weights(trainer)) / 4, abs=1e-5)


def _weights(trainer: Any) -> list[float]:
    return [
        trainer.desirable_weight if label else trainer.undesirable_weight
        for label in trainer.train_dataset["label"][:4]
    ]


def test_kto_gives_both_labels_the_same_weight_in_total_unless_told_otherwise() -> None:
    given = [{"label": n < 2} for n in range(8)]
    assert jobs.objective("kto").weights(given) == (3.0, 1.0)  # type: ignore[attr-defined]
    assert jobs.objective("kto").weights([{"label": not row["label"]} for row in given]) == (1.0, 3.0)  # type: ignore[attr-defined]
    assert jobs.objective("kto", wanted_weight=1.5).weights(given) == (1.5, 1.0)  # type: ignore[attr-defined]


def test_kto_refuses_what_it_cannot_learn_from(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("kto")
    with pytest.raises(ConfigError, match="batch_size must be 2"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "labelled", batch_size=1))
    wanted = [row for row in jobs.rows("labelled") if row["label"]]
    with pytest.raises(DataError, match="of 4 rows, 4 are wanted"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "labelled", train=wanted))
