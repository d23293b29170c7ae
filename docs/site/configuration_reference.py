"""The pages of the files that users write, made from the pydantic models that read those files"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from harness import plugins
from harness.config import GateConfig
from harness.judging.rubric import RubricFile
from harness.mirror.config import MirrorConfig
from harness.training.recipe import Recipe
from harness.training.sweeping.section import SweepSection

_BOUNDS = {
    "exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤", "minLength": "length ≥",
    "minItems": "at least",
}  # fmt: skip


class Kind(NamedTuple):
    """A kind of plugin whose options belong into a file: its title, and the key under which they are written."""

    title: str
    plugins: str
    key: str


class Page(NamedTuple):
    """A file that users write."""

    file: str
    model: type[BaseModel]
    introduction: str
    kinds: tuple[Kind, ...] = ()


_SUBJECTS = Kind("Subjects", "subjects", "kind")
_METRICS = Kind("Metrics", "metrics", "metrics: {NAME: {…}}")
PAGES = {
    "gate": Page(
        "gate.yaml",
        GateConfig,
        "What is compared, on which samples, and what is demanded. Paths are relative to the file; an unknown key is "
        "an error that names the nearest known one. A section with a `kind` takes the options of that kind as well: "
        "those of each [subject](#subjects) and each [suite](#suites) follow, then those of judges and of "
        "[metrics](#metrics).",
        (_SUBJECTS, Kind("Suites", "suites", "kind"), Kind("Judges", "judging.kinds", "by: {kind: …}"), _METRICS),
    ),
    "recipe": Page(
        "recipe.yaml",
        Recipe,
        "What is trained on what, in which stages, and the gate that decides. Paths are relative to the file. A scope "
        "or objective takes the options of its `kind` as well; they follow.",
        (Kind("Scopes", "training.scopes", "kind"), Kind("Objectives", "training.objectives", "kind")),
    ),
    "sweep": Page("sweep.yaml", SweepSection, "Which settings of a recipe are tried, between which bounds."),
    "rubric": Page(
        "A judge's rubric",
        RubricFile,
        "`judges/NAME.yaml`: what is judged by, and on which scale. Beside it stands `NAME.prompt.md`.",
    ),
    "mirror": Page(
        "mirror.yaml", MirrorConfig, "Whose traffic is mirrored to which candidate, and within which bounds."
    ),
}


class _Lenient(GenerateJsonSchema):
    """A schema also where a type has none, such as a protocol: shown as any value."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}


def page(name: str) -> str:
    """One file's page in Markdown; `name` is a key of `PAGES`."""
    about = PAGES[name]
    lines = [f"# {about.file}", "", about.introduction, ""]
    schema = f"`harness schema {name}` prints the same as a JSON schema."
    lines += [f"Written from the code when this site is built. {schema}", ""]
    lines += _sections(about.model)
    for kind in about.kinds:
        lines += [f"## {kind.title}", "", f"Chosen by `{kind.key}`.", ""]
        for identifier in plugins.names(kind.plugins):
            lines += _plugin(kind, identifier)
    return "\n".join(lines)


def _plugin(kind: Kind, identifier: str) -> list[str]:
    module = plugins.load(kind.plugins, identifier)
    about = (module.__doc__ or "").partition("\n\n")[0]
    title = f"### {identifier} {{ #{kind.title.lower()}-{identifier.replace('_', '-')} }}"
    return [title, "", _plain(about), "", *_sections(module.Options, top=False)]


def _sections(model: type[BaseModel], *, top: bool = True) -> Iterator[str]:
    """A table for the model and one for each model in it, the outer ones first."""
    schema = model.model_json_schema(schema_generator=_Lenient)
    parts: Mapping[str, Any] = schema.get("$defs", {})
    yield from _table(schema)
    for name, part in parts.items():
        if "properties" in part:
            mark = "## " if top else "**"
            yield f"{mark}{_words(name)}{'' if top else '**'}"
            yield ""
            if part.get("description"):
                yield _plain(part["description"])
                yield ""
            yield from _table(part)


def _table(schema: Mapping[str, Any]) -> Iterator[str]:
    fields = schema.get("properties", {})
    if not fields:
        yield "No options."
        yield ""
        return
    yield "| key | value | default | |"
    yield "| --- | --- | --- | --- |"
    for key, field in fields.items():
        default = "needed" if key in schema.get("required", ()) else _default(field)
        yield f"| `{key}` | {_value(field)} | {default} | {_cell(_plain(field.get('description', '')))} |"
    yield ""


def _value(field: Mapping[str, Any]) -> str:
    return _cell("".join([_type(field), *_bounds(field)]))


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        return _words(str(field["$ref"]).rpartition("/")[2])
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " or ".join(dict.fromkeys(_value(part) for part in field[several] if part.get("type") != "null"))
    if field.get("type") == "array":
        item = field.get("items") or (field.get("prefixItems") or [{}])[0]
        return f"list of {_type(item)}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {_type(field['additionalProperties'])}"
    names = {"string": "text", "boolean": "true or false", "object": "mapping", "path": "path"}
    kind = str(field.get("type", "any"))
    return "path" if field.get("format") == "path" else names.get(kind, kind)


def _bounds(field: Mapping[str, Any]) -> list[str]:
    return [f", {sign} {field[bound]}" for bound, sign in _BOUNDS.items() if bound in field]


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    if default is None or default == "" or default == [] or isinstance(default, dict):
        return ""
    return f"`{_cell(json.dumps(default, ensure_ascii=False))}`"


def _words(name: str) -> str:
    """`GuardSection` → Guard."""
    plain = name.removesuffix("Section").removesuffix("Options")
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in plain).strip()
    return spaced[:1].upper() + spaced[1:]


def _plain(text: str) -> str:
    """A docstring's text as one paragraph."""
    return " ".join(text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
