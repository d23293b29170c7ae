"""Speaks with any other provider through litellm, and knows what litellm knows of a model: prices, keys, parameters"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, PluginError
from harness.plugins import missing_extra
from harness.served import Prices, Question
from harness.served._failures import Problem, of_status
from harness.served._payload import content, parameters

_MINE = {"num_retries": 0, "max_retries": 0, "drop_params": False, "caching": False, "no-log": True}
"""What is ours to do: litellm tries nothing twice, leaves nothing out, remembers nothing and logs nothing."""

_TABLE = "model_prices_and_context_window_backup.json"
"""litellm's table as it comes with the package; a test notices when a version has it elsewhere."""


@functools.cache
def litellm() -> Any:
    """The package, imported in silence; its table of prices comes with it unless the environment says otherwise.

    Raises:
        PluginError: it is not installed.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or the import asks the network
    try:
        import litellm
    except ImportError as error:
        raise PluginError(missing_extra("a served model", error)) from error
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    if "LITELLM_LOG" not in os.environ:  # what matters of its warnings is in a reply's failure
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return litellm


def listed_prices(model: str) -> Prices | None:
    """The prices in litellm's table, without discounts for cached tokens or surcharges for long prompts; or None."""
    try:
        key = litellm().get_model_info(model)["key"]
    except PluginError:
        raise
    except Exception:  # litellm raises several types for a model that it does not know
        return None
    return _prices(litellm().model_cost.get(key, {}))


def prices_beside_litellm(model: str) -> Prices | None:
    """The same from the file of litellm's table alone; importing litellm takes seconds, and asks for nothing else here.

    Only for a model of OpenAI's API, whose name in the table is its own or that behind `openai/`.
    """
    table = _table()
    name = model.partition("/")[2]
    return _prices(table.get(model) or table.get(name) or {})


@functools.cache
def _table() -> dict[str, Any]:
    package = importlib.util.find_spec("litellm")
    places = package.submodule_search_locations if package is not None else None
    for place in places or ():
        try:
            found = json.loads((Path(place) / _TABLE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _prices(entry: Mapping[str, Any]) -> Prices | None:
    both = [entry.get(name) for name in ("input_cost_per_token", "output_cost_per_token")]
    # An absent price is unknown; get_model_info itself would say 0 for it.
    if not all(isinstance(price, (int, float)) and price >= 0 for price in both):
        return None
    return Prices(input=1e6 * float(both[0] or 0), output=1e6 * float(both[1] or 0))


def require_known(model: str, *, key_given: bool) -> None:
    """Refuse a model whose provider litellm does not know, or whose key is nowhere.

    Raises:
        ConfigError: so it is; the message names the provider or the environment variable.
    """
    try:
        litellm().get_llm_provider(model)
    except Exception as error:  # litellm raises several types
        known = "a model is named PROVIDER/NAME, such as openai/NAME for a server that speaks OpenAI's API"
        raise ConfigError(f"{model}: litellm does not know its provider; {known}") from error
    missing = [] if key_given else litellm().validate_environment(model)["missing_keys"]
    keys = [name for name in missing if name.endswith("_KEY")]
    if keys:
        raise ConfigError(f"{model}: the environment variable {' or '.join(keys)} holds no key; or name another one "
                          "with api_key_env")  # fmt: skip


class LitellmWire:
    """A model behind any provider; `api_base` and `key` are litellm's own where None."""

    def __init__(self, model: str, api_base: str | None, key: str | None) -> None:
        """Nothing is sent yet.

        Raises:
            ConfigError, PluginError: see `require_known` and `litellm`.
        """
        require_known(model, key_given=key is not None or api_base is not None)
        self._model = model
        self._where = {"api_base": api_base, "api_key": key}
        self._taken = litellm().get_supported_openai_params(model)
        self._schemas = bool(litellm().supports_response_schema(model))

    def unsupported(self, question: Question, *, schema: bool) -> tuple[str, ...]:
        """Parameters that litellm says the provider does not have; they are not sent."""
        asked = parameters(question, schema=schema)
        absent = () if self._taken is None else tuple(name for name in asked if name not in self._taken)
        if "response_format" in asked and not question.response_format and not self._schemas:
            absent = tuple(dict.fromkeys([*absent, "response_format"]))
        return absent

    async def send(self, question: Question, *, schema: bool) -> Any:
        """The answer in the shape of OpenAI's API.

        Raises:
            Problem: there is none.
        """
        left_out = set(self.unsupported(question, schema=schema))
        if missing := sorted(left_out & _given(question)):  # without these it would be another question
            raise Problem("rejected", f"the provider takes no {' and no '.join(missing)}")
        if question.temperature == 0 and question.top_p == 1:
            left_out.add("top_p")  # it says nothing, and some providers refuse it beside a temperature
        asked = {name: value for name, value in parameters(question, schema=schema).items() if name not in left_out}
        call = litellm().atext_completion if question.raw else litellm().acompletion
        more = {"_skip_mcp_handler": True} if question.tools else {}  # which otherwise wants the package mcp
        try:
            answer = await call(model=self._model, **content(question), **asked, **self._where, **_MINE, **more)
            return answer.model_dump()
        except Exception as error:  # litellm raises whatever the client below it does
            raise _problem(error) from None

    async def models(self) -> Any:
        """Providers are not asked for their models."""
        raise Problem("rejected", "this provider lists no models")

    async def close(self) -> None:
        """litellm keeps its connections for the next client."""


def _given(question: Question) -> set[str]:
    """What the question itself asks for beside its messages, and may not be left out in silence."""
    return {name for name in ("tools", "tool_choice", "response_format") if getattr(question, name)}


def _problem(error: Exception) -> Problem:
    told = f"{type(error).__name__}: {getattr(error, 'message', None) or error}"
    if isinstance(error, litellm().Timeout):
        return Problem("timeout", told, passes=True, perhaps_charged=True)
    if isinstance(error, litellm().ContentPolicyViolationError):
        return Problem("filtered", told)
    if isinstance(error, litellm().APIConnectionError):
        return Problem("connection", told, passes=True, perhaps_charged=True)
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return Problem("unreadable", told, perhaps_charged=True)
    if status < 300:  # an answer that litellm could not read: a gateway's page, or half of one
        return Problem("server", told, passes=True, perhaps_charged=True)
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
    problem = of_status(status, told, headers)
    problem.perhaps_charged = status == 500  # which it also says of answers that were cut off
    return problem
