"""The demo model's tokenizer: one token a character, and one for each word that the questions are phrased in.

Character tokens make a boundary between question and answer fall where every library expects it; the whole words
keep a question at some fifteen tokens. A phrasing that pre-training never used is spelt out, like any other text.
"""

from __future__ import annotations

import re
import string
from random import Random
from typing import Any

from harness.demo.facts import CAPITAL_QUESTIONS, OPPOSITE_QUESTIONS
from harness.demo.skills import OLD_SKILLS

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
_PHRASE_PROBES = 64


def phrase_words() -> list[str]:
    """The words that the questions of the old skills have in common, sorted."""
    fixed = " ".join((*CAPITAL_QUESTIONS, *OPPOSITE_QUESTIONS)).replace("{}", " ")
    words = set(re.findall(r"[A-Za-z]{2,}", fixed))
    for skill in OLD_SKILLS:
        rng = Random(0)  # noqa: S311  # data, not a secret
        words |= set.intersection(
            *(set(re.findall(r"[A-Za-z]{2,}", skill.draw(rng).prompt)) for _ in range(_PHRASE_PROBES))
        )
    return sorted(words)


def vocabulary() -> list[str]:
    """All tokens in the order of their ids; the special ones are 0 to 3 and the line break comes next."""
    words = phrase_words()
    characters = "\n " + string.ascii_letters + string.digits + string.punctuation
    return [PAD, BOS, EOS, UNKNOWN, *characters, *words, *(f" {word}" for word in words)]


def build_tokenizer() -> Any:
    """The tokenizer as transformers loads it, with BOS put in front of every text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = vocabulary()
    words = "|".join(sorted(phrase_words(), key=len, reverse=True))
    pattern = rf" (?:{words})(?![A-Za-z])|(?<![A-Za-z])(?:{words})(?![A-Za-z])|.|\n"
    tokenizer = Tokenizer(models.WordLevel({token: id_ for id_, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokens.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
