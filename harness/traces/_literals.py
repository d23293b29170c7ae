"""What Python's `repr` wrote of lists, objects, strings, numbers, True, False and None, read without Python's parser

`ast.literal_eval` takes seconds and hundreds of megabytes for a hostile megabyte, and prints warnings about it; here
one pass over the text makes JSON of it, and JSON's own reader and bounds do the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from harness.traces._limits import parse_json

_LONGEST = 1_000_000
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<mark>[\[\]{},:])
    | (?P<word>True|False|None)
    | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.)", re.DOTALL)
_WORDS = {"True": "true", "False": "false", "None": "null"}
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}


def python_literal(text: str) -> Any:
    """The value of which `text` is the `repr`.

    Raises:
        ValueError: it is of something else, too long, or nested too deeply.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters")
    return parse_json(" ".join(_tokens(text)))


def _tokens(text: str) -> Iterator[str]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"no literal at character {position}")
        position = found.end()
        token = found.group(found.lastgroup or 0)
        if found.lastgroup == "text":
            yield json.dumps(_ESCAPE.sub(_unescaped, token[1:-1]))
        else:
            yield _WORDS.get(token, token)


def _unescaped(found: re.Match[str]) -> str:
    body = found.group(1)
    if len(body) == 1:
        return _PLAIN.get(body, body)
    code = int(body[1:], 16)
    if code > 0x10FFFF:
        raise ValueError(f"no character has the code {code:x}")
    return chr(code)
