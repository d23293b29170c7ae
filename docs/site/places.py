"""Where a file of the repository is in the site, what its links become there, and what a page may load

The site has the repository's own shape, with docs/ as its root. README.md and its like are taken in from where they
are, so that a link between two files works on a code host and in the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from typing import Any

TAKEN_IN = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md",
    "benchmarks/README.md", "benchmarks/engine.svg", "benchmarks/forgetting.svg",
)  # fmt: skip
"""Files from outside of docs/; in the site they are where they are in the repository."""

ALLOWED = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
"""The Content-Security-Policy of every page."""

_LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)#\s]+)")
_FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_ELSEWHERE = r"\"?(?:https?:)?//[^\"> ]+"
_LOADED = re.compile(rf"<(?:script|img|iframe|source)\b[^>]*\bsrc={_ELSEWHERE}|<link\b[^>]*\bhref={_ELSEWHERE}")


def linked(markdown: str, uri: str) -> str:
    """The page at `uri` with links between files turned into links between pages; code blocks stay as they are."""
    end, parts = 0, []
    for fence in _FENCE.finditer(markdown):
        parts += [_linked(markdown[end : fence.start()], uri), fence[0]]
        end = fence.end()
    return "".join([*parts, _linked(markdown[end:], uri)])


def _linked(text: str, uri: str) -> str:
    source = uri if uri in TAKEN_IN else f"docs/{uri}"

    def place(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2])).removeprefix("docs/")
        return link[1] + posixpath.relpath(target, posixpath.dirname(uri) or ".")

    return _LINK.sub(place, text)


def kept(nav: Any, there: Collection[str]) -> Any:
    """The entries of a navigation whose pages are there; a section that is left empty goes too."""
    if isinstance(nav, str):
        return nav if nav in there else None
    if isinstance(nav, list):
        return [entry for each in nav if (entry := kept(each, there))]
    return {title: entry for title, inner in nav.items() if (entry := kept(inner, there))}


def loaded_from_elsewhere(html: str) -> list[str]:
    """The beginnings of what a page loads from another host."""
    return _LOADED.findall(html)
