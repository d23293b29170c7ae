"""Supervised fine-tuning: which tokens are learnt, which rows go in, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, DataError
from harness.training.objectives import Intake
from tests import objective_jobs as jobs
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow


def batches(trainer: Any) -> list[dict[str, Any]]:
    return list(trainer.get_train_dataloader())


def learnt(trainer: Any, tokenizer: Any) -> list[str]:
    """Text of the learnt tokens of every row that the dataloader yields."""
    texts = []
    for batch in batches(trainer):
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            assert ((labels == -100) | (labels == ids)).all()
            texts.append(tokenizer.decode(ids[labels != -100]))
    return texts


def test_every_row_reaches_the_dataloader_once_and_completions_are_learnt(tiny: TinyModels, tmp_path: Path) -> None:
    told: list[Intake] = []
    made = jobs.objective("sft")
    given = jobs.rows("completion", 7)
    job = jobs.job(tiny.model(), tmp_path, made, "completion", train=given, validation=given[:2], told=told)
    texts = learnt(made.trainer(job), job.tokenizer)
    assert sorted(texts) == sorted(row["completion"] + "</s>" for row in given)
    assert [(i.part, i.given, i.used, i.dropped, i.cut) for i in told] == [
        ("train", 7, 7, (), ()),
        ("validation", 2, 2, (), ()),
    ]


def test_a_prompt_is_trained_on_as_the_subject_will_ask_it(tiny: TinyModels, tmp_path: Path) -> None:
    from harness.engine._encoding import Encoder

    made = jobs.objective("sft")
    given = [{"prompt": "Question: th", "completion": "e quick"}, {"prompt": "<s>Again:", "completion": " brown"}]
    told: list[Intake] = []
    job = jobs.job(tiny.model(), tmp_path, made, "completion", train=given, told=told)
    trainer = made.trainer(job)
    for row, sent in zip(given, trainer.train_dataset, strict=True):
        asked = list(Encoder(job.tokenizer).prompt(row["prompt"]))
        assert sent["input_ids"][: len(asked)] == asked
        assert asked[:2] != [0, 0]
        assert sent["labels"][: len(asked)] == [-100] * len(asked)
        assert sent["labels"][-1] == job.tokenizer.eos_token_id
    together = job.tokenizer("Question: the quick")["input_ids"]
    assert trainer.train_dataset[0]["input_ids"][: len(together)] != together, "the example merges no tokens"
    assert told[0].notes[0].startswith("in 1 row the completion would change")


def test_the_end_token_is_learnt_where_it_serves_for_padding_too(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft")
    job = jobs.job(tiny.model(), tmp_path, made, "completion")
    job.tokenizer.pad_token = job.tokenizer.eos_token
    for batch in batches(made.trainer(job)):
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            last = int(mask.sum()) - 1
            assert labels[last] == ids[last] == job.tokenizer.eos_token_id
            assert (labels[last + 1 :] == -100).all()


@pytest.mark.parametrize(
    ("learn", "expected"),
    [("assistant", " yes</s>Yes.</s>"), ("last", "Yes.</s>")],
)
def test_of_a_conversation_the_assistants_turns_are_learnt(
    tiny: TinyModels, tmp_path: Path, learn: str, expected: str
) -> None:
    made = jobs.objective("sft", learn=learn)
    given = jobs.rows("messages", 1)
    job = jobs.job(tiny.model(), tmp_path, made, "messages", train=given, template=jobs.MARKED)
    assert learnt(made.trainer(job), job.tokenizer) == [expected]


def test_all_of_a_conversation_is_learnt_only_where_it_is_asked_for(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft", learn="all")
    job = jobs.job(tiny.model(), tmp_path, made, "messages", train=jobs.rows("messages", 1), template=jobs.UNMARKED)
    assert learnt(made.trainer(job), job.tokenizer)[0].startswith("<s><|user|>Question 0")


def test_a_template_without_marks_is_refused_with_the_way_out(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft")
    job = jobs.job(tiny.model(), tmp_path, made, "messages", template=jobs.UNMARKED)
    with pytest.raises(DataError, match=r"8 rows, .* row 0 \(.*generation %}.* learn: last"):
        made.trainer(job)


def test_the_last_answer_can_be_learnt_without_marks(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft", learn="last")
    given = jobs.rows("messages", 1)
    job = jobs.job(tiny.model(), tmp_path, made, "messages", train=given, template=jobs.UNMARKED)
    assert learnt(made.trainer(job), job.tokenizer) == ["Yes.</s>"]


@pytest.mark.parametrize("learn", ["assistant", "last"])
def test_a_template_that_never_ends_a_turn_is_refused(tiny: TinyModels, tmp_path: Path, learn: str) -> None:
    made = jobs.objective("sft", learn=learn)
    template = jobs.MARKED.replace("{{ eos_token }}", "")
    job = jobs.job(tiny.model(), tmp_path, made, "messages", template=template)
    with pytest.raises(DataError, match="never learn to stop"):
        made.trainer(job)


def test_an_end_of_turn_that_the_model_names_itself_ends_a_turn(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft", learn="last")
    template = jobs.MARKED.replace("{{ eos_token }}", "<|endoftext|>")
    job = jobs.job(tiny.model(), tmp_path, made, "messages", train=jobs.rows("messages", 1), template=template)
    job.model.generation_config.eos_token_id = [1, 3]
    assert learnt(made.trainer(job), job.tokenizer) == ["Yes.<|endoftext|>"]


def test_a_template_that_renders_an_answered_prompt_otherwise_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft", learn="last")
    template = "{% if add_generation_prompt %}Think first. {% endif %}" + jobs.UNMARKED
    job = jobs.job(tiny.model(), tmp_path, made, "messages", template=template)
    with pytest.raises(DataError, match="otherwise once it is answered"):
        made.trainer(job)


def test_a_second_bos_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft")
    job = jobs.job(tiny.model(), tmp_path, made, "text", train=[{"text": "<s><s>twice"}])
    with pytest.raises(DataError, match="two BOS"):
        made.trainer(job)


LONG = {"prompt": "Question?", "completion": " word" * 200}


def long_job(tiny: TinyModels, folder: Path, told: list[Intake], **settings: Any) -> tuple[Any, Any]:
    made = jobs.objective("sft")
    given = [*jobs.rows("completion", 3), LONG, LONG]
    return made, jobs.job(tiny.model(), folder, made, "completion", train=given, told=told, max_length=60, **settings)


def test_rows_that_are_too_long_are_refused_by_number(tiny: TinyModels, tmp_path: Path) -> None:
    made, job = long_job(tiny, tmp_path, [])
    with pytest.raises(
        DataError, match=r"train: 2 rows, .*row 3 \(\d+ tokens\), row 4 .*60 fit .*too_long: drop or cut"
    ):
        made.trainer(job)


def test_rows_that_are_too_long_are_dropped_and_counted(tiny: TinyModels, tmp_path: Path) -> None:
    told: list[Intake] = []
    made, job = long_job(tiny, tmp_path, told, too_long="drop")
    trainer = made.trainer(job)
    assert sum(len(b["input_ids"]) for b in batches(trainer)) == 3
    assert (told[0].given, told[0].used, told[0].dropped, told[0].cut) == (5, 3, (3, 4), ())


def test_rows_that_are_too_long_are_cut_and_counted(tiny: TinyModels, tmp_path: Path) -> None:
    told: list[Intake] = []
    made, job = long_job(tiny, tmp_path, told, too_long="cut")
    trainer = made.trainer(job)
    assert sorted(len(row["input_ids"]) for row in trainer.train_dataset)[-2:] == [60, 60]
    assert (told[0].used, told[0].dropped, told[0].cut) == (5, (), (3, 4))


def test_a_row_whose_answer_is_cut_off_whole_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft")
    given = [{"prompt": "word " * 100, "completion": " yes"}, *jobs.rows("completion", 3)]
    job = jobs.job(tiny.model(), tmp_path, made, "completion", train=given, max_length=50, too_long="cut")
    with pytest.raises(DataError, match=r"1 row has no token left that is learnt: row 0\. Raise max_length"):
        made.trainer(job)


def test_no_row_left_is_an_error(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft")
    job = jobs.job(tiny.model(), tmp_path, made, "completion", train=[LONG], max_length=50, too_long="drop")
    with pytest.raises(DataError, match="all 1 rows were dropped as longer than 50"):
        made.trainer(job)
    with pytest.raises(DataError, match="no row to train on"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "completion", train=[]))


def test_the_models_context_limits_rows_and_virtual_tokens_take_their_room(tiny: TinyModels, tmp_path: Path) -> None:
    from harness.training.objectives._fitting import limit

    made = jobs.objective("sft")
    plain = jobs.job(tiny.model(), tmp_path, made, "text", max_length=None)
    virtual = jobs.job(tiny.model(), tmp_path, made, "text", max_length=None, by=jobs.scope("prompt"))
    assert (limit(plain), limit(virtual)) == (256, 252)
    assert limit(jobs.job(tiny.model(), tmp_path, made, "text", max_length=100)) == 100


def test_rows_of_another_kind_and_missing_columns_are_refused(tiny: TinyModels, tmp_path: Path) -> None:
    made = jobs.objective("sft")
    with pytest.raises(ConfigError, match="completion or messages or text, not preference"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "preference"))
    with pytest.raises(DataError, match=r"row 0 \(it has no column 'prompt'\)"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "completion", train=[{"completion": "x"}]))


def test_one_batch_of_eight_gives_the_gradient_of_eight_batches_of_one(tiny: TinyModels, tmp_path: Path) -> None:
    import torch

    gradients = []
    for size, accumulated in ((8, 1), (1, 8)):
        made = jobs.objective("sft")
        job = jobs.job(
            tiny.model(), tmp_path / str(size), made, "completion", by=jobs.scope("full"), batch_size=size,
            gradient_accumulation=accumulated, max_steps=1, optimizer="sgd", max_grad_norm=0, scheduler="constant",
            learning_rate=1.0,
        )  # fmt: skip
        before = jobs.trained(job.model)
        made.trainer(job).train()
        gradients.append({name: before[name] - p for name, p in jobs.trained(job.model).items()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5, rtol=1e-3), name


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tiny: TinyModels, tmp_path: Path) -> None:
    from dataclasses import replace

    import torch

    found = []
    for number, seed in enumerate((0, 0, 1)):
        made = jobs.objective("sft")
        job = jobs.job(tiny.model(), tmp_path / str(number), made, "completion", batch_size=2)
        made.trainer(replace(job, seed=seed)).train()
        found.append(torch.cat([p.flatten() for p in jobs.trained(job.model).values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
