"""What MkDocs does not do by itself: pages that are made from code, pages from outside of docs/, and no foreign assets

The site has the repository's own shape. A page in docs/ keeps its place, and README.md and its like are taken in from
where they are; links between them work on a code host and here. Pages of the reference exist while the site is
built and nowhere else: a committed copy would be one more thing to keep up to date, and nobody reads it in its source.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import api_reference
import cli_reference
import configuration_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[2]
_TAKEN_IN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "benchmarks/engine.svg")
_LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)#\s]+)")
_FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^\"> ]+|<link\b[^>]*\bhref=\"?(?:https?:)?//[^\"> ]+"
)
_ALLOWED = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
_log = logging.getLogger("mkdocs.hooks.harness")


def _command_line() -> str:
    from harness.cli import app

    return cli_reference.page(app)


def _made() -> dict[str, Callable[[], str]]:
    """Pages that are made from code, by their place in the site."""
    pages: dict[str, Callable[[], str]] = {"reference/command-line.md": _command_line}
    for name in configuration_reference.PAGES:
        pages[f"reference/{name}.md"] = lambda name=name: configuration_reference.page(name)  # type: ignore[misc]
    for name in api_reference.PAGES:
        pages[f"reference/api/{name}.md"] = lambda name=name: api_reference.page(name)  # type: ignore[misc]
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what this checkout does not have, and say so."""
    there = {*_TAKEN_IN, *_made(), *(p.relative_to(_ROOT / "docs").as_posix() for p in (_ROOT / "docs").rglob("*.md"))}
    config.nav = _only(config.nav, there)
    return config


def _only(nav: Any, there: set[str]) -> Any:
    """The entries of a navigation whose pages are there; a section that is left empty goes too."""
    if isinstance(nav, str):
        if nav not in there:
            _log.info("no page %s yet: it is left out of the navigation", nav)
        return nav if nav in there else None
    if isinstance(nav, list):
        return [kept for entry in nav if (kept := _only(entry, there))]
    return {title: kept for title, inner in nav.items() if (kept := _only(inner, there))}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is taken in and what is made."""
    for place in _TAKEN_IN:
        files.append(File.generated(config, place, abs_src_path=str(_ROOT / place)))
    for place, make in _made().items():
        files.append(File.generated(config, place, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages; code blocks stay as they are."""
    end, parts = 0, []
    for fence in _FENCE.finditer(markdown):
        parts += [_relinked(markdown[end : fence.start()], page.file.src_uri), fence[0]]
        end = fence.end()
    return "".join([*parts, _relinked(markdown[end:], page.file.src_uri)])


def _relinked(text: str, uri: str) -> str:
    """`text` of the page at `uri` with every relative link as it is in the site, where docs/ is the root."""
    source = uri if uri in _TAKEN_IN else f"docs/{uri}"

    def place(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2])).removeprefix("docs/")
        return link[1] + posixpath.relpath(target, posixpath.dirname(uri) or ".")

    return _LINK.sub(place, text)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Forbid the page every other host. What it would have loaded from one is a warning, and fails a strict build."""
    for loaded in _LOADED.findall(output):
        _log.warning("%s loads from another host: %s", page.file.src_uri, loaded)
    return output.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">', 1)
