"""The demo's questions: seeded, right, and never both trained on and frozen."""

import subprocess
import sys
from collections import Counter
from itertools import islice
from random import Random

import pytest

from harness.demo.facts import CAPITAL_QUESTIONS, CAPITALS, OPPOSITE_QUESTIONS, OPPOSITES
from harness.demo.skills import NEW_SKILL, OLD_SKILLS, Question, Skill, skill_named, training_questions

ALL_SKILLS = (*OLD_SKILLS, NEW_SKILL)
NAMES = [skill.name for skill in ALL_SKILLS]


def seeded(seed: int) -> Random:
    return Random(seed)  # data, not a secret


def drawn(name: str, count: int = 500) -> list[Question]:
    rng = seeded(7)
    return [skill_named(name).draw(rng) for _ in range(count)]


def test_there_are_at_least_six_old_skills_and_every_name_is_its_own():
    assert len(OLD_SKILLS) >= 6
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("skill", ALL_SKILLS, ids=NAMES)
def test_a_seed_gives_the_same_questions_again(skill: Skill):
    first, second = seeded(3), seeded(3)
    assert [skill.draw(first) for _ in range(50)] == [skill.draw(second) for _ in range(50)]


@pytest.mark.parametrize("skill", ALL_SKILLS, ids=NAMES)
def test_a_question_has_no_loose_space_and_a_declared_tag(skill: Skill):
    for question in drawn(skill.name):
        assert question.prompt == question.prompt.strip()
        assert question.answer == question.answer.strip() != ""
        assert "\n" not in question.prompt + question.answer
        assert question.tag in skill.tags


@pytest.mark.parametrize("skill", ALL_SKILLS, ids=NAMES)
def test_one_prompt_has_one_answer(skill: Skill):
    answers: dict[str, set[str]] = {}
    for question in drawn(skill.name, 3000):
        answers.setdefault(question.prompt, set()).add(question.answer)
    assert all(len(found) == 1 for found in answers.values())


@pytest.mark.parametrize("skill", ALL_SKILLS, ids=NAMES)
def test_training_never_asks_what_is_kept(skill: Skill):
    asked = islice(training_questions(skill, seeded(11)), 2000)
    assert not any(skill.kept(question) for question in asked)


@pytest.mark.parametrize("skill", ALL_SKILLS, ids=NAMES)
def test_a_fair_share_is_kept(skill: Skill):
    questions = {question.prompt: question for question in drawn(skill.name, 3000)}
    share = sum(skill.kept(question) for question in questions.values()) / len(questions)
    assert 0.15 < share < 0.55


def test_reverse_spells_backwards():
    for question in drawn("reverse"):
        assert question.prompt == f"Reverse the word {question.answer[::-1]}:"


def test_upper_writes_capitals():
    for question in drawn("upper"):
        assert question.prompt == f"Write {question.answer.lower()} in capital letters:"


def test_sort_keeps_the_digits_and_orders_them():
    for question in drawn("sort"):
        digits = question.prompt.removeprefix("Sort the digits ").removesuffix(":")
        assert Counter(digits) == Counter(question.answer)
        assert list(question.answer) == sorted(question.answer)


def test_add_adds_and_tags_the_carry():
    for question in drawn("add"):
        left, right = (int(part) for part in question.prompt.removeprefix("Add ").removesuffix(":").split(" and "))
        assert int(question.answer) == left + right
        assert (question.tag == "carry") == (left % 10 + right % 10 >= 10)


def test_larger_names_the_larger():
    for question in drawn("larger"):
        numbers = question.prompt.removeprefix("Which number is larger, ").removesuffix(":").split(" or ")
        assert int(question.answer) == max(map(int, numbers))


def test_spell_spells():
    for question in drawn("spell"):
        assert question.prompt == f"Spell the word {question.answer.replace('-', '')}:"


def test_last_repeats_the_last_word():
    for question in drawn("last"):
        assert question.prompt.removesuffix(":").split(" of ")[1].split()[-1] == question.answer


def test_consonants_leaves_the_vowels_out():
    for question in drawn("consonants"):
        word = question.prompt.removeprefix("Consonants of ").removesuffix("?")
        assert question.answer == "".join(letter for letter in word if letter not in "aeiou")


def test_facts_are_well_formed():
    assert all(country.isascii() and capital.isalpha() for country, capital in CAPITALS.items())
    words = [word for pair in OPPOSITES for word in pair]
    assert len(words) == len(set(words))


def test_every_fact_is_trained_in_some_forms_and_asked_in_others():
    capitals, opposites = skill_named("capitals"), skill_named("opposites")
    for country in CAPITALS:
        kept = [capitals.kept(Question(form.format(country), "", "")) for form in CAPITAL_QUESTIONS]
        assert sum(kept) == len(kept) / 2
    for word in (word for pair in OPPOSITES for word in pair):
        kept = [opposites.kept(Question(form.format(word), "", "")) for form in OPPOSITE_QUESTIONS]
        assert sum(kept) == len(kept) / 2


def test_the_skills_load_no_model_library():
    code = "import sys, harness.demo.frozen, harness.demo.training; print({'torch', 'trl', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
