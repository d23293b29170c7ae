"""What every kind of judge keeps to. A new kind is found and covered without an edit here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from harness import plugins
from harness.errors import ConfigError
from harness.judging.building import JudgeSection, check_section

KINDS = plugins.names("judging.kinds")


def options(kind: str) -> type[BaseModel]:
    found: type[BaseModel] = plugins.load("judging.kinds", kind).Options
    return found


def test_the_kinds_that_ship_are_found() -> None:
    assert {"served", "classifier", "reward_model", "jury", "ai_evaluation"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_it_builds_a_judge_for_a_rubric(kind: str) -> None:
    module = plugins.load("judging.kinds", kind)
    assert list(inspect.signature(module.build).parameters) == ["options", "rubric", "context"]
    made = inspect.signature(module.build).return_annotation
    judge = vars(module)[made]
    for method in ("grade", "compare", "describe", "close"):
        assert callable(getattr(judge, method))


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_options_are_refused_and_known_ones_are_told(kind: str) -> None:
    model = options(kind)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted|extra_forbidden"):
        model.model_validate({"no_such_option": 1})
    with pytest.raises(ConfigError, match=r"judges\.yaml: unknown key 'no_such_option'"):
        check_section(JudgeSection(kind=kind, **{"no_such_option": 1}), "judges.yaml")
    untold = [name for name, field in model.model_fields.items() if not field.description]
    assert not untold
    assert model.model_config.get("frozen")


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_is_in_one_line(kind: str) -> None:
    doc: Any = plugins.load("judging.kinds", kind).__doc__
    assert doc
    assert 20 < len(doc.splitlines()[0]) <= 120
