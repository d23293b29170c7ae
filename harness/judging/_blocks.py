"""Untrusted text as a block of a question: made visible, bounded, each line marked, between lines with a code.

Marking every line follows *spotlighting* (Hines et al. 2024, arXiv 2403.14720, "datamarking"): whatever a text holds,
none of its lines can pass for one of ours, because ours alone do not start with `MARK`. The code, a hash of all that is
shown, is the second lock: nobody can write it into a text whose hash it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MARK = "| "
_TAIL = 4  # one part in four of a text that is too long is kept from its end

# Everything that Unicode or Python takes for the end of a line.
_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Controls, bidirectional overrides, fillers without a width, tag characters and lone surrogates: what a reader cannot
# see, a tokenizer can.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b"
    "\u202a-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
# Scripts and emoji need joiners, direction marks and variation selectors, but no more than two of them together.
_RUNS = re.compile("[\u200c-\u200f\ufe00-\ufe0f]{3,}")
# Marks by which chat templates part turns: a server may read them as such even inside a message.
_CHAT_MARKS = re.compile(
    r"[<\[](?:(?<=<)(?=\|[^<>|\n]{1,60}\|>|｜[^<>｜\n]{1,60}｜>|/?s>|/?(?:start|end)_of_[a-z]{1,12}>|(?:bos|eos|pad|unk|mask"
    r"|cls|sep)>|/?(?:image|audio|video)(?:_[a-z]{1,20})*>|/?think(?:ing)?>|</?SYS>>)"
    r"|(?<=\[)(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG|CLS|SEP|MASK)\]))",
    re.IGNORECASE,
)
_BROKEN = {"<": "‹", "[": "⁅"}


@dataclass(frozen=True, slots=True)
class Block:
    """A text on its way into a question; `left_out` counts the characters between `head` and `tail` that are not."""

    title: str
    head: str
    tail: str = ""
    left_out: int = 0

    def rendered(self, code: str) -> str:
        """The block, its first and its last line ours."""
        lines = [f"--- begin {self.title} {code} ---", _marked(self.head)]
        if self.left_out:
            lines += [f"[{self.left_out:,} characters are left out here {code}]", _marked(self.tail)]
        return "\n".join([*lines, f"--- end {self.title} {code} ---"])


def blocks(texts: Sequence[tuple[str, str]], limit: int) -> list[Block]:
    """A block for each (title, text), cut where they hold more than `limit` characters together: the longest first."""
    most = _most([len(text) for _, text in texts], limit)
    return [_block(title, text, most) for title, text in texts]


def visible(text: str) -> str:
    """`text` with line ends unified, characters that cannot be seen written out, and marks of chat templates broken."""
    shown = _UNSEEN.sub(_written_out, _LINE_ENDS.sub("\n", text))
    if not shown.isascii():
        shown = _RUNS.sub(_written_out, shown)
    return _CHAT_MARKS.sub(lambda found: _BROKEN[found[0]], shown)


def _written_out(found: re.Match[str]) -> str:
    return "".join(f"⟨U+{ord(character):04X}⟩" for character in found[0])


def _block(title: str, text: str, most: int) -> Block:
    if len(text) <= most:
        return Block(title, visible(text))
    tail = most // _TAIL
    head = most - tail
    return Block(title, visible(text[:head]), visible(text[len(text) - tail :]), len(text) - most)


def _most(lengths: Sequence[int], limit: int) -> int:
    """How long one text may be so that all together stay within `limit` and none is cut without need."""
    left = limit
    for index, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - index)
        if length > share:
            return share
        left -= length
    return limit


def _marked(text: str) -> str:
    return "\n".join(MARK + line for line in text.split("\n"))
