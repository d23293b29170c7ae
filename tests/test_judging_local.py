"""Classifiers and reward models as judges, on tiny models: transformers' own numbers, and nothing cut in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, SubjectError
from harness.judging.building import JudgeSection, build_judge
from harness.judging.criteria import by_criterion
from harness.judging.kinds import JudgeContext
from harness.judging.records import Case, Judge, PairCase
from harness.records import Message, Sample
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow

LEVELS, PAIRS = by_criterion(), by_criterion(pairwise=True)
NLI = ("contradiction", "entailment", "neutral")


def case(output: str, **data: Any) -> Case:
    return Case(Sample("s", "What is 2 + 3?", data=data), output)


def judge(kind: str, model: Path, rubric: Any = LEVELS, **options: Any) -> Judge:
    given = {"model": str(model), "device": "cpu", **options}
    return build_judge(JudgeSection(kind=kind, **given), rubric, JudgeContext(), "judge")


def save_classifier(folder: Path, classes: tuple[str, ...], **config: Any) -> Path:
    """A random BERT with named classes, whose tokenizer knows pairs."""
    import torch
    from tokenizers import processors
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, set_seed

    from tests.tiny_models import make_tokenizer

    make_tokenizer(folder, bos=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s>:0 $A:0 </s>:0 $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.save_pretrained(folder)
    config_path = folder / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]  # BERT is told which of the two texts a token is of
    config_path.write_text(json.dumps({**json.loads(config_path.read_text()), "model_input_names": names}))
    set_seed(0)
    shape = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 2,
        "id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)},
    }  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **shape, **config))
    with torch.no_grad():  # larger weights than training would start from, so that answers differ
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("models") / "nli", NLI)


def probabilities(folder: Path, *texts: str) -> dict[str, float]:
    """By transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**tokenizer(*texts, return_tensors="pt")).logits[0].double()
    shares = logits.sigmoid() if model.config.problem_type == "multi_label_classification" else logits.softmax(-1)
    return {model.config.id2label[i]: float(share) for i, share in enumerate(shares)}


class TestClassifier:
    def test_the_probability_of_a_label_is_the_way_from_worst_to_best(self, nli: Path) -> None:
        outputs, context = ["Five.", "The quick brown fox", "8"], "2 + 3 is five."
        made = judge("classifier", nli, label="entailment", premise="context")
        judged = made.grade([case(output, context=context) for output in outputs])
        expected = [4 * probabilities(nli, context, output)["entailment"] for output in outputs]
        assert [j.value for j in judged] == pytest.approx(expected, abs=1e-6)
        assert len({round(value, 3) for value in expected}) == 3, "the model tells them apart"
        assert {j.usage.calls for j in judged} == {0}
        inverted = judge("classifier", nli, label="entailment", premise="context", inverted=True)
        assert [j.value for j in inverted.grade([case(o, context=context) for o in outputs])] == pytest.approx(
            [4 - value for value in expected], abs=1e-6
        )

    def test_without_a_premise_the_output_is_read_alone(self, nli: Path) -> None:
        (said,) = judge("classifier", nli, label="neutral").grade([case("Five.")])
        assert said.value == pytest.approx(4 * probabilities(nli, "Five.")["neutral"], abs=1e-6)

    def test_the_likeliest_class_is_a_level_where_levels_are_given(self, nli: Path) -> None:
        levels = {"contradiction": 0, "neutral": 1, "entailment": 4}
        outputs = [f"{n} and {n * 7}" for n in range(12)]
        judged = judge("classifier", nli, levels=levels).grade([case(output) for output in outputs])
        found = [probabilities(nli, output) for output in outputs]
        assert [j.value for j in judged] == [levels[max(p, key=p.__getitem__)] for p in found]

    def test_several_labels_at_once_have_a_probability_each(self, tmp_path: Path) -> None:
        folder = save_classifier(tmp_path / "m", ("toxic", "threat"), problem_type="multi_label_classification")
        (said,) = judge("classifier", folder, label="threat", inverted=True).grade([case("Five.")])
        assert said.value == pytest.approx(4 * (1 - probabilities(folder, "Five.")["threat"]), abs=1e-6)

    def test_a_pair_is_decided_by_the_difference(self, nli: Path) -> None:
        first, second = case("Five."), case("The quick brown fox")
        better = [probabilities(nli, c.output)["entailment"] for c in (first, second)]
        expected = 1.0 if better[1] > better[0] else -1.0
        made = judge("classifier", nli, PAIRS, label="entailment")
        assert made.bounds == (-1, 1)
        judged = made.compare([PairCase(first, second), PairCase(second, first), PairCase(first, first)])
        assert [j.value for j in judged] == [expected, -expected, 0]
        wide = judge("classifier", nli, PAIRS, label="entailment", tie=4.0)
        assert [j.value for j in wide.compare([PairCase(first, second)])] == [0]

    def test_what_is_too_long_fails_and_is_never_cut(self, nli: Path) -> None:
        long = "word " * 100
        made = judge("classifier", nli, label="entailment", premise="context")
        short, cut = made.grade([case("Five.", context="5"), case("Five.", context=long)])
        assert short.state == "scored"
        assert (cut.state, cut.failure) == ("failed", "truncated")
        assert "64 can be read" in cut.reason

    def test_windows_read_all_of_it_and_the_highest_counts(self, nli: Path) -> None:
        from transformers import AutoTokenizer

        words = " ".join(f"number {n} is {n * n}" for n in range(40))
        made = judge("classifier", nli, label="entailment", premise="context", windows=True)
        (said,) = made.grade([case("Five.", context=words)])
        assert said.details["windows"] > 5
        parts = made._judge._split(words, "Five.")  # type: ignore[attr-defined]
        tokenizer = AutoTokenizer.from_pretrained(nli)
        assert max(len(part) for part in parts) <= 64
        read = [tokenizer.decode([i for i, segment in part if segment == 0][1:-1]) for part in parts]
        assert all(window in words for window in read)
        covered = set()
        for window in read:
            start = words.index(window)
            covered |= set(range(start, start + len(window)))
        assert len(covered) >= len(words) - 40, "nothing but spaces between windows is left out"
        best = max(probabilities(nli, window, "Five.")["entailment"] for window in read)
        assert said.value == pytest.approx(4 * best, abs=1e-5)

    def test_an_output_that_leaves_no_room_for_its_premise_fails(self, nli: Path) -> None:
        made = judge("classifier", nli, label="entailment", premise="context", windows=True)
        (said,) = made.grade([case("word " * 100, context="5")])
        assert (said.state, said.failure) == ("failed", "truncated")
        alone = judge("classifier", nli, label="entailment", windows=True)
        (said,) = alone.grade([case("word " * 100)])
        assert said.state == "scored"
        assert said.details["windows"] > 1

    def test_a_sample_without_the_premise_is_a_failure(self, nli: Path) -> None:
        (said,) = judge("classifier", nli, label="entailment", premise="context").grade([case("Five.")])
        assert (said.state, said.failure) == ("failed", "rejected")
        assert "has no context" in said.reason

    def test_a_separator_that_is_spelled_out_separates_nothing(self, nli: Path) -> None:
        made = judge("classifier", nli, label="entailment", premise="context")
        parts = made._judge._windows(case("No.</s> Yes.", context="a</s>b"))  # type: ignore[attr-defined]
        ids = [token for token, _ in parts[0]]
        assert ids.count(1) == 2, "the two separators of the pair, and none from the texts"

    def test_a_broken_model_is_a_failure(self, tmp_path: Path, nli: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        broken = shutil.copytree(nli, tmp_path / "broken")
        model = AutoModelForSequenceClassification.from_pretrained(broken)
        with torch.no_grad():
            model.classifier.weight.fill_(float("nan"))
        model.save_pretrained(broken)
        (said,) = judge("classifier", broken, label="entailment").grade([case("Five.")])
        assert (said.state, said.failure) == ("failed", "unreadable")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"label": "entailed"}, r"no class 'entailed': did you mean 'entailment'\?"),
            ({}, "label or levels"),
            ({"levels": {"entailment": 4}}, "class 'contradiction' of .* has no level"),
            ({"levels": {"entailment": 9, "neutral": 0, "contradiction": 0}}, "9 for 'entailment' lies outside"),
            ({"levels": {"entailment": 4, "neutral": 0, "contradiction": 0}, "windows": True}, "go with label"),
        ],
    )
    def test_options_that_do_not_fit_the_model_are_refused(self, nli: Path, options: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            judge("classifier", nli, **options)

    def test_a_model_without_a_classifier_or_with_code_of_its_own_is_refused(
        self, tiny: TinyModels, nli: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(SubjectError, match="LlamaForCausalLM and no classifier"):
            judge("classifier", tiny.model(), label="entailment")
        coded = shutil.copytree(nli, tmp_path / "coded")
        config = json.loads((coded / "config.json").read_text())
        (coded / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "x.Y"}}))
        with pytest.raises(SubjectError, match="ships its own Python code"):
            judge("classifier", coded, label="entailment")
        pickled = shutil.copytree(nli, tmp_path / "pickled")
        (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
        with pytest.raises(SubjectError, match="pickled"):
            judge("classifier", pickled, label="entailment")

    def test_it_is_another_judge_by_its_weights_and_by_what_it_reads(self, nli: Path, tmp_path: Path) -> None:
        other = save_classifier(tmp_path / "o", NLI, hidden_act="relu")
        given: list[tuple[Path, dict[str, Any]]] = [
            (nli, {}), (other, {}), (nli, {"premise": "context"}), (nli, {"label": "neutral"}),
            (nli, {"max_length": 32}),
        ]  # fmt: skip
        made = [judge("classifier", model, **{"label": "entailment", **more}) for model, more in given]
        assert len({m.fingerprint for m in made}) == 5
        json.dumps([m.describe() for m in made], allow_nan=False)


def save_reward_model(folder: Path, base: Path, *, seed: int = 0) -> Path:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    with torch.no_grad():
        model.score.weight.normal_(0, 1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def rewards(folder: Path, conversations: list[list[dict[str, str]]]) -> list[float]:
    """As published reward models are used: the chat template's tokens, one conversation at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for conversation in conversations:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        with torch.no_grad():
            found.append(float(model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, 0]))
    return found


@pytest.fixture(scope="module")
def model(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("reward") / "rm", tiny.model())


class TestRewardModel:
    def test_a_pair_is_decided_by_the_sign_of_the_difference(self, model: Path) -> None:
        outputs = ["Five.", "8", "The quick brown fox", "no", "Answer: 5"]
        conversations = [
            [{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": o}] for o in outputs
        ]
        expected = rewards(model, conversations)
        assert len(set(expected)) == 5
        pairs = [PairCase(case(a), case(b)) for a in outputs for b in outputs]
        made = judge("reward_model", model, PAIRS)
        judged = made.compare(pairs)
        signs = [(b > a) - (b < a) for a in expected for b in expected]
        assert [j.value for j in judged] == signs
        first = judged[1].details["first"]["value"]
        assert first == pytest.approx(expected[0], abs=1e-5)

    def test_a_conversation_is_read_with_its_earlier_answers(self, model: Path) -> None:
        turns = [("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
        (expected,) = rewards(model, [[{"role": r, "content": c} for r, c in turns]])
        sample = Sample("s", "", messages=(Message("user", "One?"), Message("user", "Two?")))
        made = judge("reward_model", model, squash={"centre": 0.0, "width": 2.0})
        (said,) = made.grade([Case(sample, "2", ("1",))])
        assert said.details["reward"] == pytest.approx(expected, abs=1e-5)

    def test_an_answer_cannot_end_its_turn_by_spelling_the_mark(self, model: Path) -> None:
        made = judge("reward_model", model, PAIRS)
        text = made._judge._text(case("No.</s>\n<|user|>Thanks!<|assistant|>Yes."))  # type: ignore[attr-defined]
        assert text.count("<|user|>") == 1
        assert text.count("<|assistant|>") == 1
        assert "</s>" not in text

    def test_a_reward_gets_a_scale_only_where_one_is_declared(self, model: Path) -> None:
        import math

        with pytest.raises(ConfigError, match=r"a reward has no scale: say squash"):
            judge("reward_model", model)
        made = judge("reward_model", model, squash={"centre": 0.5, "width": 2.0})
        (said,) = made.grade([case("Five.")])
        share = 1 / (1 + math.exp(-(said.details["reward"] - 0.5) / 2))
        assert said.value == pytest.approx(4 * share)

    def test_what_is_too_long_fails(self, model: Path) -> None:
        made = judge("reward_model", model, PAIRS)
        (said,) = made.compare([PairCase(case("word " * 200), case("Five."))])
        assert (said.state, said.failure) == ("failed", "truncated")
        assert said.reason.startswith("first output")

    def test_one_that_was_trained_here_is_read_as_the_reward_of_a_training_reads_it(
        self, tiny: TinyModels, tmp_path: Path
    ) -> None:
        from harness.training.objectives._reward_model import RewardModel
        from tests import objective_jobs as jobs

        made = jobs.objective("reward")
        given = [jobs.chat(row) for row in jobs.rows("preference")]
        job = jobs.job(
            tiny.model(), tmp_path / "t", made, "preference", train=given, by=jobs.scope("lora"),
            template=jobs.UNMARKED, learning_rate=1e-2,
        )  # fmt: skip
        made.trainer(job).train()
        folder = tmp_path / "rm"
        job.model.save_pretrained(folder)
        job.tokenizer.save_pretrained(folder)
        (folder / "harness.json").write_text("{}")
        prompt, answer = given[0]["prompt"], given[0]["chosen"][0]["content"]
        (expected,) = RewardModel(folder, None, "cpu")([prompt], [answer], [True])
        sample = Sample("s", "", messages=tuple(Message(m["role"], m["content"]) for m in prompt))
        judged = judge("reward_model", folder, squash={"centre": 0, "width": 1}).grade([Case(sample, answer)])
        assert judged[0].details["reward"] == pytest.approx(expected, abs=1e-5)

    def test_what_is_no_reward_model_is_refused(self, tiny: TinyModels, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"is no reward model: it holds no score\.weight"):
            judge("reward_model", tiny.model(), PAIRS)
        with pytest.raises(ConfigError, match=r"adapter holds no score\.weight"):
            judge("reward_model", tiny.adapter(), PAIRS)
        with pytest.raises(SubjectError, match="no such folder"):
            judge("reward_model", tmp_path / "none", PAIRS)
