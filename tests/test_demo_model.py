"""The demo's checkpoint: small, hashed, made by the committed script, and able to do what it is said to do."""

import hashlib
import json
from dataclasses import asdict

import pytest

from harness.demo.answers import accuracy
from harness.demo.frozen import golden_questions
from harness.demo.pretrain import Settings
from harness.demo.skills import NEW_SKILL, OLD_SKILLS
from harness.demo.tokens import phrase_words, vocabulary
from harness.demo.training import MODEL

CARD = json.loads((MODEL / "card.json").read_text(encoding="utf-8"))


def recorded_hashes() -> dict[str, str]:
    lines = (MODEL / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def test_every_file_is_as_it_was_recorded():
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in MODEL.iterdir()
        if path.name != "SHA256SUMS"
    }
    assert found == recorded_hashes()


def test_the_folder_is_small_and_holds_safetensors():
    files = list(MODEL.iterdir())
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ""}


def test_the_card_records_the_settings_of_the_script():
    assert CARD["settings"] == json.loads(json.dumps(asdict(Settings())))
    assert CARD["seed"] == 0


def test_the_card_says_that_every_skill_is_known():
    assert set(CARD["golden_accuracy"]) == {skill.name for skill in OLD_SKILLS}
    assert min(CARD["golden_accuracy"].values()) >= 0.85


def test_the_tokenizer_file_holds_the_vocabulary_of_the_script():
    stored = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert stored == {token: place for place, token in enumerate(vocabulary())}


def test_words_of_the_new_skill_are_no_tokens():
    assert "Consonants" not in phrase_words()


@pytest.fixture(scope="module")
def loaded():
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32").eval()
    return model, transformers.AutoTokenizer.from_pretrained(MODEL)


@pytest.mark.slow
def test_text_survives_the_tokenizer(loaded):
    _, tokenizer = loaded
    text = "Write bake in capital letters: BAKE\nConsonants of tomivu? tmv\n{a} <b> 3,4"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id


@pytest.mark.slow
def test_a_question_and_its_answer_meet_at_a_token_boundary(loaded):
    _, tokenizer = loaded
    for skill in (*OLD_SKILLS, NEW_SKILL):
        for question in golden_questions(skill)[:20]:
            head = tokenizer(question.prompt)["input_ids"]
            whole = tokenizer(f"{question.prompt} {question.answer}")["input_ids"]
            assert whole[: len(head)] == head
            assert tokenizer.unk_token_id not in whole


@pytest.mark.slow
@pytest.mark.parametrize("skill", OLD_SKILLS, ids=lambda skill: skill.name)
def test_the_model_answers_what_was_kept_from_it(loaded, skill):
    assert accuracy(*loaded, golden_questions(skill)) >= 0.85


@pytest.mark.slow
def test_the_model_does_not_know_the_new_skill(loaded):
    assert accuracy(*loaded, golden_questions(NEW_SKILL)) <= 0.10
