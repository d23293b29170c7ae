"""The demo's skills: seeded generators of short questions with one right answer. No model, no torch.

Every question has a home for ever: `held_out` decides by a hash of its text whether it may be asked by a frozen
golden set or may be trained on, so that the two are disjoint whatever the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

from harness.demo.facts import CAPITAL_QUESTIONS, CAPITALS, OPPOSITE_QUESTIONS, OPPOSITES

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
HELD_OUT_SHARE = 0.2
"""Share of the questions of a generated skill that only golden sets may ask."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `prompt` ends without a space, `answer` starts without one, `tag` is its slice."""

    prompt: str
    answer: str
    tag: str


@dataclass(frozen=True, slots=True)
class Skill:
    """A family of questions. `tags` gives every slice its meaning; `draw` makes a random question."""

    name: str
    description: str
    tags: Mapping[str, str]
    draw: Callable[[Random], Question]
    kept: Callable[[Question], bool]
    """Whether a question is kept for golden sets."""


def _rank(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def held_out(question: Question) -> bool:
    """The rule of the generated skills: a fixed fifth of all questions, chosen by hash."""
    return _rank(question.prompt) < HELD_OUT_SHARE


def _word(rng: Random, length: int) -> str:
    """A pronounceable invented word: consonants and vowels in turn."""
    return "".join(rng.choice(VOWELS if place % 2 else CONSONANTS) for place in range(length))


def _number_tags(digits: range) -> dict[str, str]:
    return {f"digits-{count}": f"{count} digits" for count in digits}


def _length_tags(lengths: range) -> dict[str, str]:
    return {f"length-{count}": f"a word of {count} letters" for count in lengths}


# ---------------------------------------------------------------- the old skills


def _reverse(rng: Random) -> Question:
    word = _word(rng, rng.randint(3, 6))
    return Question(f"Reverse the word {word}:", word[::-1], f"length-{len(word)}")


def _upper(rng: Random) -> Question:
    word = _word(rng, rng.randint(3, 7))
    return Question(f"Write {word} in capital letters:", word.upper(), f"length-{len(word)}")


def _sort(rng: Random) -> Question:
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(3, 4)))
    return Question(f"Sort the digits {digits}:", "".join(sorted(digits)), f"digits-{len(digits)}")


def _add(rng: Random) -> Question:
    left, right = rng.randint(1, 49), rng.randint(1, 49)
    tag = "carry" if left % 10 + right % 10 > 9 else "no-carry"
    return Question(f"Add {left} and {right}:", str(left + right), tag)


def _larger(rng: Random) -> Question:
    left = rng.randint(1, 99)
    near = rng.randint(max(1, left - 9), min(99, left + 9))
    right = rng.choice((near, rng.randint(1, 99)))
    tag = "close" if abs(left - right) < 10 else "far"
    return Question(f"Which number is larger, {left} or {right}:", str(max(left, right)), tag)


def _spell(rng: Random) -> Question:
    word = _word(rng, rng.randint(3, 5))
    return Question(f"Spell the word {word}:", "-".join(word), f"length-{len(word)}")


def _last(rng: Random) -> Question:
    words = [_word(rng, rng.randint(3, 5)) for _ in range(rng.randint(2, 4))]
    return Question(f"Give the last word of {' '.join(words)}:", words[-1], f"words-{len(words)}")


def _capital(rng: Random) -> Question:
    country, form = rng.choice(tuple(CAPITALS)), rng.choice(CAPITAL_QUESTIONS)
    return Question(form.format(country), CAPITALS[country], f"form-{CAPITAL_QUESTIONS.index(form) + 1}")


def _opposite(rng: Random) -> Question:
    pair = rng.choice(OPPOSITES)
    word, answer = pair if rng.random() < 0.5 else pair[::-1]
    return ask_opposite(word, answer, rng.choice(OPPOSITE_QUESTIONS))


def ask_opposite(word: str, answer: str, form: str) -> Question:
    """The question after the opposite of `word`, in one of the `OPPOSITE_QUESTIONS`."""
    return Question(form.format(word), answer, f"form-{OPPOSITE_QUESTIONS.index(form) + 1}")


def _kept_half(prompts: list[str]) -> set[str]:
    """The half of the ways of asking one fact that stays unseen in training."""
    return set(sorted(prompts, key=_rank)[: len(prompts) // 2])


_KEPT_CAPITALS = {
    prompt for country in CAPITALS for prompt in _kept_half([form.format(country) for form in CAPITAL_QUESTIONS])
}
_KEPT_OPPOSITES = {
    prompt
    for pair in OPPOSITES
    for word in pair
    for prompt in _kept_half([form.format(word) for form in OPPOSITE_QUESTIONS])
}


# ---------------------------------------------------------------- the new skill


def _consonants(rng: Random) -> Question:
    word = _word(rng, rng.randint(4, 6))
    answer = "".join(letter for letter in word if letter not in VOWELS)
    return Question(f"Consonants of {word}?", answer, f"length-{len(word)}")


_WORD_TAGS = {f"words-{count}": f"a list of {count} words" for count in range(2, 5)}

OLD_SKILLS: tuple[Skill, ...] = (
    Skill("reverse", "Spell an invented word backwards.", _length_tags(range(3, 7)), _reverse, held_out),
    Skill("upper", "Write an invented word in capital letters.", _length_tags(range(3, 8)), _upper, held_out),
    Skill("sort", "Put the digits of a number in ascending order.", _number_tags(range(3, 5)), _sort, held_out),
    Skill(
        "add",
        "Add two numbers below fifty.",
        {"carry": "the units add up to ten or more", "no-carry": "the units stay below ten"},
        _add,
        held_out,
    ),
    Skill(
        "larger",
        "Name the larger of two numbers below one hundred.",
        {"close": "less than ten apart", "far": "ten or more apart"},
        _larger,
        held_out,
    ),
    Skill("spell", "Spell an invented word, letter by letter.", _length_tags(range(3, 6)), _spell, held_out),
    Skill("last", "Repeat the last of a few invented words.", _WORD_TAGS, _last, held_out),
    Skill(
        "capitals",
        "Name the capital of a country, asked in a way that was not trained for that country.",
        {f"form-{place}": f"asked as “{form}”" for place, form in enumerate(CAPITAL_QUESTIONS, 1)},
        _capital,
        lambda question: question.prompt in _KEPT_CAPITALS,
    ),
    Skill(
        "opposites",
        "Name the opposite of a word, asked in a way that was not trained for that word.",
        {f"form-{place}": f"asked as “{form}”" for place, form in enumerate(OPPOSITE_QUESTIONS, 1)},
        _opposite,
        lambda question: question.prompt in _KEPT_OPPOSITES,
    ),
)
"""What the base model is pre-trained to do."""

NEW_SKILL = Skill(
    "consonants", "Keep only the consonants of an invented word.", _length_tags(range(4, 7)), _consonants, held_out
)
"""What the base model has never seen and the adapters are trained for."""


def skill_named(name: str) -> Skill:
    """The skill of that name."""
    return next(skill for skill in (*OLD_SKILLS, NEW_SKILL) if skill.name == name)


def training_questions(skill: Skill, rng: Random) -> Iterator[Question]:
    """An endless stream of questions that no golden set asks."""
    while True:
        question = skill.draw(rng)
        if not skill.kept(question):
            yield question
