"""What MkDocs does not do by itself: pages that are made from code, pages from outside of docs/, and no foreign assets

Pages of the reference exist while the site is built and nowhere else: a committed copy would be one more thing to keep
up to date, and nobody reads it in its source.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import api_reference
import cli_reference
import configuration_reference
import places
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from harness.cli import app

_ROOT = Path(__file__).resolve().parents[2]
_MADE: dict[str, Callable[[], str]] = {
    "reference/command-line.md": partial(cli_reference.page, app),
    **{f"reference/{name}.md": partial(configuration_reference.page, name) for name in configuration_reference.PAGES},
    **{f"reference/api/{name}.md": partial(api_reference.page, name) for name in api_reference.PAGES},
}
_log = logging.getLogger("mkdocs.hooks.harness")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what this checkout does not have."""
    written = [page.relative_to(_ROOT / "docs").as_posix() for page in (_ROOT / "docs").rglob("*.md")]
    config.nav = places.kept(config.nav, {*places.TAKEN_IN, *_MADE, *written})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is taken in and what is made."""
    for place in places.TAKEN_IN:
        files.append(File.generated(config, place, abs_src_path=str(_ROOT / place)))
    for place, make in _MADE.items():
        files.append(File.generated(config, place, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    return places.linked(markdown, page.file.src_uri)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Forbid the page every other host. What it would have loaded from one is a warning, and fails a strict build."""
    for loaded in places.loaded_from_elsewhere(output):
        _log.warning("%s loads from another host: %s", page.file.src_uri, loaded)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{places.ALLOWED}">'
    return output.replace("<head>", f"<head>{policy}", 1)
