"""The pages of the documentation as tests read them: their code blocks, and the commands in those."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_OUTSIDE = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
PAGES = [*(ROOT / page for page in _OUTSIDE), *sorted(ROOT.glob("docs/*.md"))]

_FENCE = re.compile(r"(<!-- walk: \w+ -->\n)?^( *)(`{3,})(\w*)([^\n`]*)\n(.*?)^\2\3 *$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'title="([^"]+)"')
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n.*?^\s*\2$", re.DOTALL | re.MULTILINE)
_REMARK = re.compile(r"(^|\s)#(\s.*|)$", re.MULTILINE)
_OPERATORS = frozenset("();<>|&\n")
_KEYWORDS = frozenset({"!", "if", "then", "else", "fi", "while", "until", "do", "done", "exec", "{", "}"})
_ASSIGNMENT = re.compile(r"\w+=.*", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its first line there, its language, the file that its title names, part of a walk?"""

    page: Path
    line: int
    language: str
    title: str
    walk: bool
    text: str

    @property
    def place(self) -> str:
        """`docs/page.md:12`."""
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A program with its arguments as a shell would pass them, without redirections and assignments."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(*languages: str, page: Path | None = None) -> list[Block]:
    """The blocks in one of `languages` on one page, or on all."""
    return [b for each in ([page] if page else PAGES) for b in _blocks(each) if b.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        walk, indent, _, language, rest, body = found.groups()
        title = _TITLE.search(rest)
        plain = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        line = text.count("\n", 0, found.start(3)) + 2
        yield Block(page, line, language, title[1] if title else "", walk is not None, plain)


def commands(block: Block) -> list[Command]:
    """Every command of a `console` block, where `$ ` stands before each, or of a script in `sh` or `bash`."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        text = "".join(line[2:] for line in text.splitlines(keepends=True) if line.startswith("$ "))
    return [Command(block.place, words) for words in _simple(_HEREDOC.sub(r"\3", text))]


def _simple(script: str) -> Iterator[tuple[str, ...]]:
    """The simple commands of a script; what is quoted stays one word, a substitution's command is one of its own."""
    lexer = shlex.shlex(_REMARK.sub("", script) + "\n", posix=True, punctuation_chars="".join(_OPERATORS))
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    words: list[str] = []
    redirected = False
    for token in lexer:
        if not _OPERATORS.issuperset(token):
            if not redirected:
                words.append(token)
            redirected = False
            continue
        redirected = token[0] in "<>"
        if not redirected:
            yield from _program(words)
            words = []
    yield from _program(words)


def _program(words: list[str]) -> Iterator[tuple[str, ...]]:
    while words and (words[0] in _KEYWORDS or _ASSIGNMENT.fullmatch(words[0])):
        words = words[1:]
    if words and words[0] == "export":
        return
    if words:
        yield tuple(words)
