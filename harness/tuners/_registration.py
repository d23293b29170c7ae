"""PEFT's list of methods is a closed enumeration; this opens it for one more."""

from __future__ import annotations

from typing import Any

from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType


def add_method(name: str, config_class: Any, model_class: Any) -> None:
    """Register a method with PEFT under `name` (lower case), for configs that call `peft_type(name)`.

    Raises:
        KeyError: this PEFT has a method of that name already.
    """
    _add_member(name.upper())
    register_peft_method(name=name, config_cls=config_class, model_cls=model_class)


def _add_member(name: str) -> None:
    """What `enum` does for a member in a class body, in the order that its own checks against changes allow."""
    if name in PeftType.__members__:
        raise KeyError(f"this PEFT has a method {name} of its own")
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member.__objclass__ = PeftType
    setattr(PeftType, name, member)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    PeftType._member_names_.append(name)
