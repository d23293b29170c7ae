"""The documentation site: a reference made from code, links that lead somewhere, and nothing from another host."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import api_reference
import cli_reference
import configuration_reference
import figures
import places
import pytest
import typer
from pydantic import BaseModel

from harness import plugins
from harness.cli import app
from tests.documentation import ROOT


def test_every_verb_and_every_option_is_on_the_page_of_the_command_line() -> None:
    page = cli_reference.page(app)
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}
    seen = list(_parsers(typer.main.get_command(app), "harness"))
    assert sorted(sections) == sorted(path for path, _ in seen)
    for path, parser in seen:
        options = [
            o for p in parser.params for o in (*p.opts, *p.secondary_opts) if o.startswith("--") and o != "--help"
        ]
        assert [option for option in options if f"`{option}`" not in sections[path]] == [], path


def _parsers(parser: typer.core.TyperGroup, path: str) -> list[tuple[str, typer.core.TyperCommand]]:
    if not hasattr(parser, "commands"):
        return [(path, parser)]
    inner = [_parsers(each, f"{path} {name}") for name, each in parser.commands.items()]
    return [one for several in inner for one in several]


def test_usage_says_what_is_needed_and_a_pipe_breaks_no_table() -> None:
    made = typer.Typer()

    @made.command()
    def copy(
        source: Annotated[Path, typer.Argument(help="From.")],
        names: Annotated[list[str], typer.Argument(help="a|b, <c>")],
        to: Annotated[Path, typer.Option(help="Where to.")],
        follow: Annotated[bool, typer.Option("--follow/--stay", help="Links.")] = False,
        as_json: Annotated[bool, typer.Option("--json", "-j", help="JSON.")] = False,
    ) -> None:
        """Copy it."""

    made.command("other")(copy)
    page = cli_reference.page(made)
    assert "harness copy SOURCE NAMES… --to PATH [OPTIONS]" in page
    assert r"| `NAMES` | text | needed | a\|b, &lt;c> |" in page
    assert "| `--follow`, `--stay` |" in page
    assert "| `--json`, `-j` |  |  | JSON. |" in page
    assert "## harness other" in page


@pytest.mark.parametrize("name", configuration_reference.PAGES)
def test_every_key_of_a_file_and_of_every_plugin_in_it_is_on_its_page(name: str) -> None:
    page, about = configuration_reference.page(name), configuration_reference.PAGES[name]
    keys = written(about.model)
    for kind in about.kinds:
        for identifier in plugins.names(kind.plugins):
            assert f"### {identifier} " in page
            keys |= written(plugins.load(kind.plugins, identifier).Options)
    assert [key for key in sorted(keys) if f"| `{key}` |" not in page] == []
    assert all(line.count("|") - line.count("\\|") == 5 for line in page.splitlines() if line.startswith("| "))


def written(model: type[BaseModel]) -> set[str]:
    """The keys of a model as they are written in a file."""
    return {field.alias or name for name, field in model.model_fields.items()}


def test_bounds_defaults_and_descriptions_are_shown() -> None:
    page = configuration_reference.page("gate")
    assert "| `alpha` | number, > 0, < 0.5 | `0.05` |" in page
    assert "| `estimand` | `frozen` or `population` |" in page
    assert "largest tolerated drop, in score points (δ)" in page


def test_every_name_of_the_api_pages_exists() -> None:
    for about in api_reference.PAGES.values():
        assert [name for name in about.names if not _exists(name)] == []


def _exists(name: str) -> bool:
    """Whether a module or a name at the top of one is in the source."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    tree = ast.parse(path.parent.with_suffix(".py").read_text(encoding="utf-8"))
    return any(isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == path.name for n in tree.body)


@pytest.mark.slow
def test_making_the_reference_loads_no_model_library() -> None:
    made = (
        "import sys, cli_reference, configuration_reference as c; from harness.cli import app; "
        "cli_reference.page(app); [c.page(name) for name in c.PAGES]; "
        "sys.exit(bool({'torch', 'transformers', 'litellm', 'lm_eval'} & set(sys.modules)))"
    )
    subprocess.run(
        [sys.executable, "-c", made],
        cwd=ROOT / "docs" / "site",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("decision.md", "[a](validity.md#x)", "[a](validity.md#x)"),
        ("decision.md", "[a](../README.md)", "[a](README.md)"),
        ("decision.md", "[a](../benchmarks/README.md#b)", "[a](benchmarks/README.md#b)"),
        ("README.md", "[a](docs/decision.md) [b](CHANGELOG.md)", "[a](decision.md) [b](CHANGELOG.md)"),
        ("benchmarks/README.md", "[a](../docs/validity.md)", "[a](../validity.md)"),
        ("benchmarks/README.md", "![a](engine.svg)", "![a](engine.svg)"),
        ("README.md", "[a](https://x.org/docs/a.md) [b](#here)", "[a](https://x.org/docs/a.md) [b](#here)"),
        ("README.md", "```yaml\n[a](docs/decision.md)\n```\n", "```yaml\n[a](docs/decision.md)\n```\n"),
    ],
)
def test_a_link_between_files_is_a_link_between_pages(page: str, link: str, there: str) -> None:
    assert places.linked(link, page) == there


def test_every_picture_of_a_page_that_is_taken_in_is_taken_in_too() -> None:
    pages = [ROOT / name for name in places.TAKEN_IN if name.endswith(".md")]
    shown = [
        page.parent / link for page in pages for link in re.findall(r"!\[[^]]*\]\(([^):]+)\)", page.read_text("utf-8"))
    ]
    names = {path.relative_to(ROOT).as_posix() for path in shown}
    assert names
    assert {name for name in names if not name.startswith("docs/")} <= set(places.TAKEN_IN)


def test_a_page_that_is_not_there_is_left_out_and_its_empty_section_too() -> None:
    nav = [{"Home": "README.md"}, {"How to": [{"A": "a.md"}, {"B": "b.md"}]}, {"More": [{"C": "c.md"}]}]
    assert places.kept(nav, {"README.md", "b.md"}) == [{"Home": "README.md"}, {"How to": [{"B": "b.md"}]}]


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<script src="https://cdn.example/x.js"></script>', 1),
        ('<link rel="preconnect" href="//fonts.example">', 1),
        ("<img alt=x src=http://example.org/x.png>", 1),
        ('<a href="https://example.org/">a link</a> <script src="../assets/x.js"></script>', 0),
    ],
)
def test_what_comes_from_another_host_is_found(html: str, found: int) -> None:
    assert len(places.loaded_from_elsewhere(html)) == found


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_what_the_code_that_decides_draws(name: str) -> None:
    kept, drawn = (figures.FOLDER / name).read_text(encoding="utf-8"), figures.FIGURES[name]()
    number = re.compile(r"-?\d+(?:\.\d+)?")
    assert number.sub("#", kept) == number.sub("#", drawn), "out of date: python docs/site/figures.py"
    pixels = [[float(n) for n in number.findall(text)] for text in (kept, drawn)]
    assert pixels[0] == pytest.approx(pixels[1], abs=1.01), "out of date: python docs/site/figures.py"
