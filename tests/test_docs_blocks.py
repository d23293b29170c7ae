"""What the documentation shows besides commands is so: YAML as its reader takes it, Python that finds its imports."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from harness import plugins
from harness.config import GateConfig, OpenSection, SubjectSection, SuiteSection
from harness.goldens.card import Card
from harness.judging.building import JudgeSection, check_section
from harness.judging.rubric import RubricFile
from harness.mirror.config import MirrorConfig
from harness.training.recipe import ObjectiveSection, Recipe, ScopeSection
from harness.training.sweeping.section import SweepSection
from tests.documentation import PAGES, ROOT, Block, blocks

FILES: tuple[type[BaseModel], ...] = (GateConfig, Recipe, SweepSection, RubricFile, Card, MirrorConfig)
"""The readers of our files. A block is read by the first that knows all of its keys, and may be a fragment."""

FOREIGN = {
    "plugins": "axolotl's configuration: tests/test_forgetting_axolotl.py",
    "repos": "pre-commit's configuration",
    "jobs": "a workflow of GitHub",
    "on": "a workflow of GitHub",
    "steps": "a part of a workflow of GitHub",
    "include": "a pipeline of GitLab",
}
"""Files of others by their first key, and what they are."""

KINDS = {SubjectSection: "subjects", SuiteSection: "suites", ScopeSection: "training.scopes"}
KINDS |= {ObjectiveSection: "training.objectives"}


@pytest.mark.parametrize("block", blocks("yaml", "yml"), ids=lambda b: b.place)
def test_yaml_is_taken_by_the_model_that_reads_it(block: Block) -> None:
    document = yaml.safe_load(block.text)
    if isinstance(document, list):
        document = {"suites": document}
    first = "on" if next(iter(document)) is True else str(next(iter(document)))  # YAML 1.1 reads the key `on` as true
    if first == "objective":
        _check_plugin(TypeAdapter(ObjectiveSection).validate_python(document["objective"]), block.place)
    elif first not in FOREIGN and "jobs" not in document:
        readers = [model for model in FILES if set(document) <= set(model.model_fields)]
        assert readers, f"{block.place}: who reads a file with {', '.join(document)}? See FILES and FOREIGN"
        _validate(readers[0], document, block)


def _validate(model: type[BaseModel], document: dict[str, Any], block: Block) -> None:
    """All of a file, or each key of a fragment by itself; then the options of every plugin in it."""
    needed = {name for name, field in model.model_fields.items() if field.is_required()}
    if needed <= set(document):
        found: list[Any] = [model.model_validate(document)]
    else:
        found = [_adapter(model.model_fields[name]).validate_python(value) for name, value in document.items()]
    for section in _open_sections(found):
        _check_plugin(section, block.place)


def _adapter(field: FieldInfo) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)


def _open_sections(value: Any) -> Iterator[OpenSection]:
    """Every section in `value` whose remaining keys belong to a plugin."""
    if isinstance(value, OpenSection):
        yield value
    if isinstance(value, BaseModel):
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _open_sections(inner)


def _check_plugin(section: OpenSection, where: str) -> None:
    kind = KINDS.get(type(section))  # type: ignore[arg-type]
    if kind is None:
        return
    options = plugins.options(kind, str(section.kind), section.options, where=where)  # type: ignore[attr-defined]
    judge = getattr(options, "by", None)
    if isinstance(judge, JudgeSection):
        check_section(judge, where)


def test_the_documentation_shows_every_file_whole_once() -> None:
    whole = [yaml.safe_load(block.text) for block in blocks("yaml")]
    files = ({"baseline", "candidate", "suites"}, {"base", "stages", "gate"}, {"recipe", "settings"}, {"criteria"})
    for needed in files:
        assert any(isinstance(document, dict) and needed <= set(document) for document in whole), needed


@pytest.mark.parametrize("block", blocks("json"), ids=lambda b: b.place)
def test_json_is_json(block: Block) -> None:
    try:
        json.loads(block.text)
    except json.JSONDecodeError:
        assert [json.loads(line) for line in block.text.splitlines()]


# ---------------------------------------------------------------- Python


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: b.place)
def test_python_compiles_and_what_it_imports_is_there(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(importlib.util.find_spec(alias.name.partition(".")[0]) for alias in node.names), block.place
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert importlib.util.find_spec(node.module.partition(".")[0]), block.place
            if node.module.partition(".")[0] == "harness":
                missing = [alias.name for alias in node.names if not _defines(node.module, alias.name)]
                assert missing == [], f"{block.place}: {node.module} has no {missing}"


def _defines(module: str, name: str) -> bool:
    """Whether a module of ours has a name, from its source alone: importing some of them would load torch."""
    base = ROOT.joinpath(*module.split("."))
    source = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if (base / f"{name}.py").exists() or (base / name).is_dir():
        return True
    return re.search(rf"^(def|class|async def) {name}\b|^{name}\b.*=|^from .* import .*\b{name}\b|__all__.*\"{name}\"",
                     source.read_text(encoding="utf-8"), re.MULTILINE) is not None  # fmt: skip


# ---------------------------------------------------------------- tests, links and the site


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8"))
    wrong = [(f, t) for f, t in named if not (ROOT / f).exists() or f"def {t}" not in (ROOT / f).read_text("utf-8")]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere_on_a_code_host_too(page: Path) -> None:
    links = re.findall(r"\]\((?![a-z]+:|#)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    configuration = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.name for page in sorted((ROOT / "docs").glob("*.md"))]
    assert [page for page in pages if f": {page}\n" not in configuration] == []


def test_every_library_that_the_project_is_built_on_has_its_section() -> None:
    page = (ROOT / "docs" / "libraries.md").read_text(encoding="utf-8")
    libraries = ("lm-eval", "torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "evaluate", "litellm")
    assert [name for name in (*libraries, "opentelemetry-sdk") if f"\n## {name}\n" not in page] == []
