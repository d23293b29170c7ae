"""Asks the candidate what a user asked the champion, by connections and credentials of its own

A server that speaks OpenAI's API (`openai/NAME` with an `api_base`) is asked directly: a call through litellm takes
several milliseconds of processor time, and whatever the process cannot keep up with is not compared. Any other
provider, and several deployments, are asked through litellm's Router, which translates, balances and cools down.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from harness.errors import ConfigError
from harness.mirror.calls import Answer, Asked, failed, of_completion, of_events, read_answer
from harness.mirror.config import Deployment, Loaded, key_of
from harness.served import Prices
from harness.served._failures import Mask
from harness.served._litellm import listed_prices, litellm, require_known

_MOST = 32 * 2**20  # bytes of an answer
_GROUP = "candidate"
_KNOWN = frozenset({
    "messages", "prompt", "suffix", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call",
    "temperature", "top_p", "n", "stream", "stream_options", "stop", "max_tokens", "max_completion_tokens", "seed",
    "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format",
    "reasoning_effort",
})  # fmt: skip
"""Parameters of OpenAI's API. litellm takes its own by the same way (where to send what, with which key), and a user
must not be able to set those."""


class Candidate(Protocol):
    """A model on trial."""

    async def ask(self, asked: Asked) -> Answer:
        """What it answers; never raises but when it is cancelled."""

    async def close(self) -> None:
        """Close its connections."""


def candidate(loaded: Loaded) -> Candidate:
    """The candidate's side of a configuration; to be used in one event loop.

    Raises:
        ConfigError, PluginError: litellm does not know a provider, or is not installed.
    """
    deployments, seconds = loaded.deployments, loaded.config.candidate.timeout
    if len(deployments) == 1 and deployments[0].direct:
        return _Direct(deployments[0], seconds)
    return _Routed(deployments, seconds)


def prices_of(loaded: Loaded) -> Prices | None:
    """What the candidate costs: as the file says, else the dearest of its deployments in litellm's table.

    Raises:
        ConfigError: there is a budget in dollars, and no price is known that it could be held against.
    """
    section = loaded.config.candidate
    if section.prices is not None or loaded.config.budget.dollars is None or loaded.mode == "split":
        return section.prices
    listed = [listed_prices(deployment.model) for deployment in loaded.deployments]
    known = [prices for prices in listed if prices is not None]
    if len(known) < len(listed):
        raise ConfigError("budget.dollars: no price is known of the candidate; give candidate.prices")
    return Prices(input=max(p.input for p in known), output=max(p.output for p in known))


class _Direct:
    """One server that speaks OpenAI's API."""

    def __init__(self, deployment: Deployment, seconds: float) -> None:
        import aiohttp

        self._model = deployment.model.partition("/")[2]
        self._base, self._seconds = str(deployment.api_base), seconds
        key = key_of(deployment.api_key_env)
        self._mask = Mask(key)
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._aiohttp = aiohttp
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, asked: Asked) -> Answer:
        """See `Candidate.ask`."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                answer, first = await self._exchange(asked, began)
        except TimeoutError:
            answer, first = Answer(failure=f"no answer within {self._seconds:g} s", status=0), None
        except (self._aiohttp.ClientError, OSError, ValueError) as error:
            answer, first = Answer(failure=f"no answer: {type(error).__name__}", status=0), None
        failure, rejected = self._mask(answer.failure), self._mask(answer.rejected)
        seconds = time.monotonic() - began
        return replace(answer, failure=failure, rejected=rejected, seconds=seconds, first_token=first)

    async def _exchange(self, asked: Asked, began: float) -> tuple[Answer, float | None]:
        body = {**asked.copied(), "model": self._model or asked.body.get("model")}
        url = self._base + asked.path.removeprefix("/v1")
        async with self._opened().post(
            url, data=json.dumps(body).encode(), headers=self._headers, allow_redirects=False
        ) as response:
            first, parts, size = None, [], 0
            async for part in response.content.iter_any():
                first = first or time.monotonic() - began
                parts.append(part)
                size += len(part)
                if size > _MOST:
                    return Answer(failure=f"the answer is larger than {_MOST >> 20} MiB"), first
            headers = {name.lower(): value for name, value in response.headers.items()}
            headers.pop("content-encoding", None)  # aiohttp has undone it
            return read_answer(response.status, headers, b"".join(parts), _MOST), first

    def _opened(self) -> Any:
        if self._session is None:
            self._session = self._aiohttp.ClientSession(
                connector=self._aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
                timeout=self._aiohttp.ClientTimeout(total=None),
                cookie_jar=self._aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """See `Candidate.close`."""
        if self._session is not None:
            await self._session.close()


class _Routed:
    """One or several deployments behind litellm's Router; it tries nothing twice, remembers and logs nothing."""

    def __init__(self, deployments: tuple[Deployment, ...], seconds: float) -> None:
        for deployment in deployments:
            given = deployment.api_key_env is not None or deployment.api_base is not None
            require_known(deployment.model, key_given=given)
        litellm()
        from litellm import Router

        self._seconds = seconds
        self._router = Router(
            model_list=[{"model_name": _GROUP, "litellm_params": _parameters(d)} for d in deployments],
            num_retries=0, timeout=seconds, stream_timeout=seconds, cache_responses=False, set_verbose=False,
            disable_cooldowns=len(deployments) == 1,  # the breaker sees to a single one
        )  # fmt: skip

    async def ask(self, asked: Asked) -> Answer:
        """See `Candidate.ask`."""
        began, first = time.monotonic(), [0.0]
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._exchange(asked, began, first)
        except TimeoutError:
            answer = Answer(failure=f"no answer within {self._seconds:g} s", status=0)
        except Exception as error:  # litellm raises whatever the client below it does
            status = getattr(error, "status_code", None)
            said = type(error).__name__
            answer = (
                failed(status, said) if isinstance(status, int) and status >= 400 else Answer(failure=said, status=0)
            )
        return replace(answer, seconds=time.monotonic() - began, first_token=first[0] or None)

    async def _exchange(self, asked: Asked, began: float, first: list[float]) -> Answer:
        call = self._router.acompletion if asked.chat else self._router.atext_completion
        body = asked.copied()
        if unknown := sorted(body.keys() - _KNOWN):
            return Answer(failure=f"not sent through litellm, which may read as its own: {', '.join(unknown)[:200]}")
        if asked.stream:
            body["stream_options"] = {"include_usage": True}
        ours = {"drop_params": False, "caching": False, "no-log": True, "_skip_mcp_handler": True}
        said = await call(model=_GROUP, **body, **(ours if asked.chat else {}))
        if not asked.stream:
            return of_completion(said.model_dump())
        pieces = []
        async for piece in _bounded(said):
            first[0] = first[0] or time.monotonic() - began
            pieces.append(piece)
        return of_events(pieces)

    async def close(self) -> None:
        """litellm keeps its connections until the process ends."""


async def _bounded(stream: Any) -> AsyncIterator[Mapping[str, Any]]:
    size = 0
    async for piece in stream:
        held = piece.model_dump()
        size += len(str(held.get("choices")))
        if size > _MOST:
            yield {"error": f"the answer is larger than {_MOST >> 20} MiB"}
            return
        yield held


def _parameters(deployment: Deployment) -> dict[str, Any]:
    given = {
        "model": deployment.model, "api_base": deployment.api_base, "api_key": key_of(deployment.api_key_env),
        "weight": deployment.weight, "max_retries": 0,
    }  # fmt: skip
    if deployment.api_base is not None and given["api_key"] is None:
        given["api_key"] = "none"  # litellm would look for the provider's key in the environment and send that
    return {name: value for name, value in given.items() if value is not None}
