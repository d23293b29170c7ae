"""What the documents say about the code is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for p in (ROOT / "harness").rglob("*.py") if "_assets" not in p.parts)


def test_the_tree_in_contributing_names_every_file() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = [str(p.relative_to(ROOT)) for p in SOURCES if not _named(p, tree)]
    assert missing == []


def _named(path: Path, tree: str) -> bool:
    if path.name == "__init__.py" and path.parent.name != "harness":
        return f" {path.parent.name}/" in tree
    return re.search(rf"[ /]{re.escape(path.name)} ", tree) is not None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.match(r'r?"""\S', text)
    assert text.count("\n") <= 500


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "docs/decision.md", "docs/safety.md", "docs/training.md"]
)
def test_links_inside_the_repository_lead_somewhere(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_names_every_metric() -> None:
    from harness import plugins

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in plugins.names("metrics") if f"`{name}`" not in text] == []


def test_the_recipe_in_the_documentation_is_one(tmp_path: Path) -> None:
    from harness.training.recipe import load_recipe

    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (shown,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if block.startswith("base:")]
    (tmp_path / "recipe.yaml").write_text(shown, encoding="utf-8")
    recipe = load_recipe(tmp_path / "recipe.yaml").recipe
    assert [stage.objective.kind for stage in recipe.stages] == ["sft", "dpo"]


@pytest.mark.parametrize(("kind", "title"), [("training.scopes", "Scopes"), ("training.objectives", "Objectives")])
def test_the_documentation_names_every_scope_and_objective(kind: str, title: str) -> None:
    from harness import plugins

    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    paragraph = page[page.index(f"**{title}**") :].partition("\n\n")[0].partition("\n**")[0]
    assert [name for name in plugins.names(kind) if f"`{name}`" not in paragraph] == []
