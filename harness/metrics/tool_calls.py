"""Tool calls: whether the output calls the tools that the sample expects, with the expected arguments.

Bounds 0 to 1, higher is better, chance 0. The row gives `calls`, the expected calls (an empty list: no tool should be
called), and may give `tools`, their definitions in OpenAI's format. A call is right when it is one of the expected ones
with equal arguments (as JSON: 1 equals 1.0, the order of keys says nothing, an argument left out equals the schema's
default), and when the tool and the arguments fit the definitions. The score is the number of right calls divided by the
larger of the numbers of expected and of written calls, so that a missing call and an extra one both cost. With
`mode: valid` no call is expected, and the score is the share of written calls that fit their definitions.

Arguments of free text cannot be compared by machine. Those that `judged_arguments` names, or whose property in the
schema holds `"x-judged": true`, are only held against the schema; what they say is left to a judge, such as
`tool-correctness`. See `harness.metrics._calls` for how calls may be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from harness.errors import ConfigError
from harness.metrics._calls import Call, definitions, expected, spelled, written
from harness.metrics._json import MISSING, TooSlow, equal, validator
from harness.metrics._options import MetricOptions
from harness.metrics._text import answer
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"

_MOST_CALLS = 256


class Options(MetricOptions):
    """Options of `tool_calls`."""

    mode: Literal["share", "all", "valid"] = Field(
        "share", description="all: 1 when every call is right and none is extra; valid: what calls fit their schemas"
    )
    order: bool = Field(False, description="the calls must come in the expected order")
    judged_arguments: tuple[str, ...] = Field(
        (), description="arguments whose text is left to a judge, as `argument` or `tool.argument`"
    )
    judged_from_schema: bool = Field(True, description='arguments marked `"x-judged": true` are left to a judge too')


class _Fault(Exception):
    """The sample, not the output, is wrong."""


class _Tools:
    """The definitions of one sample's tools; without any, every call fits."""

    def __init__(self, sample: Sample, options: Options) -> None:
        self._options = options
        tools = sample.data.get("tools")
        try:
            self._schemas = None if tools is None else definitions(tools)
            self._validators = {name: validator(schema) for name, schema in (self._schemas or {}).items()}
        except (ValueError, ConfigError) as error:
            raise _Fault(f"sample {sample.id!r}: {error}") from error

    def problem(self, call: Call) -> str:
        """Why a call fits no definition; empty where it does."""
        if not call.name:
            return "a call cannot be read"
        if self._schemas is None:
            return ""
        if call.name not in self._schemas:
            return f"there is no tool {call.name[:80]!r}"
        try:
            fits = self._validators[call.name].is_valid(call.arguments)
            return "" if fits else f"the arguments do not fit the schema: {spelled(call)}"
        except RecursionError:  # a fault of the call, which nobody else nested
            return "a call is nested too deeply"
        except TooSlow as error:
            raise _Fault(f"the schema of {call.name!r}, or a pattern in it, takes too long to match") from error
        except Exception as error:  # an unresolvable $ref and other faults of the schema, by any of its libraries
            raise _Fault(f"the schema of {call.name!r} cannot be applied: {type(error).__name__}: {error}") from error

    def same(self, given: Call, wanted: Call) -> bool:
        """Whether two calls are equal but for what is left to a judge."""
        if given.name != wanted.name:
            return False
        ours, theirs = self._complete(given), self._complete(wanted)
        if ours.keys() != theirs.keys():
            return False
        return all(self._is_judged(given.name, key) or equal(ours[key], theirs[key]) for key in ours)

    def _complete(self, call: Call) -> dict[str, Any]:
        properties = self._properties(call.name)
        defaults = {k: p["default"] for k, p in properties.items() if isinstance(p, dict) and "default" in p}
        return {**defaults, **call.arguments}

    def _is_judged(self, tool: str, argument: str) -> bool:
        named = self._options.judged_arguments
        if argument in named or f"{tool}.{argument}" in named:
            return True
        property_ = self._properties(tool).get(argument)
        marked = isinstance(property_, dict) and property_.get("x-judged") is True
        return marked and self._options.judged_from_schema

    def _properties(self, tool: str) -> Mapping[str, Any]:
        found = (self._schemas or {}).get(tool, {}).get("properties")
        return found if isinstance(found, dict) else {}


class ToolCalls:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.spec = MetricSpec(options.named("tool_calls"))
        validator({})  # a missing package is noticed here, not at scoring

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """The share of right calls, with the counts as reason; failed without usable `calls` and `tools`."""
        text = answer(outputs)
        if isinstance(text, Score):
            return text
        try:
            return self._compared(sample, written(text))
        except _Fault as fault:
            return Score.failed(str(fault))
        except RecursionError:
            return Score.failed(f"sample {sample.id!r} expects a call that is nested too deeply")

    def _compared(self, sample: Sample, given: list[Call]) -> Score:
        if self._options.mode == "valid":
            return self._valid(sample, given)
        wanted = _wanted(sample)
        tools = _Tools(sample, self._options)
        for index, call in enumerate(wanted):
            if problem := tools.problem(call):
                raise _Fault(f"sample {sample.id!r}: calls[{index}]: {problem}")
        problems = [tools.problem(call) for call in given[:_MOST_CALLS]]
        usable = [call for call, problem in zip(given, problems, strict=False) if not problem]
        count = _in_order if self._options.order else _in_any_order
        right = count(tools, usable, wanted)
        whole = max(len(given), len(wanted))
        value = right / whole if whole else 1.0
        said = f"{right} right, {len(wanted) - right} missing, {len(given) - right} extra or wrong"
        reason = "; ".join([said, *dict.fromkeys(p for p in problems if p)])[:1000]
        return Score("scored", float(value == 1) if self._options.mode == "all" else value, reason)

    def _valid(self, sample: Sample, given: list[Call]) -> Score:
        """The share of calls that name a tool of the sample and fit its schema; 1 where nothing was called."""
        if sample.data.get("tools") is None:
            raise _Fault(f"sample {sample.id!r} has no `tools` to hold calls against")
        tools = _Tools(sample, self._options)
        problems = [problem for call in given[:_MOST_CALLS] if (problem := tools.problem(call))]
        wrong = len(problems) + max(0, len(given) - _MOST_CALLS)
        value = 1.0 - wrong / len(given) if given else 1.0
        return Score("scored", value, "; ".join(dict.fromkeys(problems))[:1000])


def _wanted(sample: Sample) -> list[Call]:
    calls = sample.data.get("calls", MISSING)
    if calls is MISSING or calls is None:
        raise _Fault(f"sample {sample.id!r} has no `calls` to compare with; an empty list says that none is expected")
    try:
        wanted = expected(calls)
    except ValueError as error:
        raise _Fault(f"sample {sample.id!r}: {error}") from error
    if len(wanted) > _MOST_CALLS:
        raise _Fault(f"sample {sample.id!r} expects more than {_MOST_CALLS} calls")
    return wanted


def _in_any_order(tools: _Tools, given: list[Call], wanted: list[Call]) -> int:
    """Pairs of equal calls. Equality parts the calls into classes, so that taking the first match loses none."""
    left = list(wanted)
    for call in given:
        match = next((i for i, other in enumerate(left) if tools.same(call, other)), None)
        if match is not None:
            del left[match]
    return len(wanted) - len(left)


def _in_order(tools: _Tools, given: list[Call], wanted: list[Call]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(wanted) + 1)
    for call in given:
        above = row
        row = [0]
        for index, other in enumerate(wanted):
            row.append(above[index] + 1 if tools.same(call, other) else max(above[index + 1], row[index]))
    return row[-1]


def build(options: Options) -> ToolCalls:
    """The metric; it needs jsonschema."""
    return ToolCalls(options)
