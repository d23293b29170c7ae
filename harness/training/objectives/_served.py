"""Asks a model behind an OpenAI-compatible API, through litellm, and remembers on disk what it answered.

An answer is stored the moment it arrives: a killed process asks nothing twice. A failure is an output of its own kind
and is never stored, so that it is asked again; an answer that ran into its token limit says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.cache import OutputCache
from harness.errors import ConfigError, PluginError
from harness.plugins import missing_extra
from harness.records import Generate, Output, content_hash


class ServedOptions(BaseModel):
    """A served model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="litellm's name of it, such as openai/NAME for a server that speaks OpenAI's API")
    api_base: str | None = Field(None, description="URL of the server, such as http://127.0.0.1:8000/v1")
    api_key_env: str | None = Field(None, description="environment variable that holds the key; it is never written")
    concurrency: int = Field(4, ge=1, description="requests under way at a time")
    timeout: float = Field(120, gt=0, description="seconds that an answer may take")
    retries: int = Field(2, ge=0, description="further attempts at a request that failed")


class Served:
    """A served model with a memory in the file `cache` (None: none)."""

    def __init__(self, options: ServedOptions, cache: Path | None = None) -> None:
        """Nothing is asked yet.

        Raises:
            ConfigError: the variable of the key is not set.
            PluginError: litellm is not installed.
        """
        self._options = options
        self._key = _key(options)
        self._cache = cache
        self.fingerprint = content_hash({"model": options.model, "api_base": options.api_base})
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or the import asks the network
        try:
            import litellm
        except ImportError as error:
            raise PluginError(missing_extra("a served model", error)) from error
        litellm.suppress_debug_info = True
        self._litellm = litellm

    def ask(self, requests: Sequence[Generate]) -> list[Output]:
        """One output a request, in order; what cannot be answered is an output with a failure."""
        if self._cache is None:
            found = dict(self._answers(list(enumerate(requests))))
            return [found[i] for i in range(len(requests))]
        with OutputCache(self._cache) as cache:
            found = cache.get(self.fingerprint, requests)
            first: dict[Generate, int] = {}
            for i, request in enumerate(requests):
                if i not in found:
                    first.setdefault(request, i)  # the same request is asked once
            for i, output in self._answers([(i, request) for request, i in first.items()]):
                cache.put(self.fingerprint, [(requests[i], output)])
                found[i] = output
        return [found[i] if i in found else found[first[request]] for i, request in enumerate(requests)]

    def _answers(self, asked: Sequence[tuple[int, Generate]]) -> Iterator[tuple[int, Output]]:
        """Outputs as they arrive; no more requests are under way than allowed, whatever stops the reader."""
        waiting = iter(asked)
        under_way: dict[Future[Output], int] = {}
        with ThreadPoolExecutor(self._options.concurrency) as pool:
            try:
                while True:
                    while len(under_way) < self._options.concurrency and (following := next(waiting, None)):
                        under_way[pool.submit(self._answer, following[1])] = following[0]
                    if not under_way:
                        return
                    for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                        yield under_way.pop(done), done.result()
            finally:
                for future in under_way:
                    future.cancel()

    def _answer(self, request: Generate) -> Output:
        try:
            answer = self._litellm.completion(
                model=self._options.model,
                messages=_messages(request),
                api_base=self._options.api_base,
                api_key=self._key,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                stop=list(request.until) or None,
                timeout=self._options.timeout,
                num_retries=self._options.retries,
            )
            return _output(answer)
        except Exception as error:  # litellm raises whatever the client below it does
            text = f"{type(error).__name__}: {error}"
            return Output(failure=text.replace(self._key, "***")[:500])


def _key(options: ServedOptions) -> str:
    if options.api_key_env is None:
        return "none"  # the client insists on one, and a server of one's own ignores it
    key = os.environ.get(options.api_key_env)
    if not key:
        raise ConfigError(f"{options.model}: the environment variable {options.api_key_env} holds no key")
    return key


def _messages(request: Generate) -> list[dict[str, str]]:
    if isinstance(request.prompt, str):
        return [{"role": "user", "content": request.prompt}]
    return [{"role": m.role, "content": m.content} for m in request.prompt]


def _output(answer: Any) -> Output:
    if not answer.choices:
        return Output(failure="the server answered with no choice")
    choice = answer.choices[0]
    if not choice.message.content:
        return Output(failure=f"the server answered with no text (finish_reason {choice.finish_reason})")
    if choice.finish_reason not in ("stop", "length"):
        return Output(failure=f"the answer ended with finish_reason {choice.finish_reason}")
    usage = getattr(answer, "usage", None)
    return Output(
        text=choice.message.content,
        tokens=int(getattr(usage, "completion_tokens", 0) or 0),
        truncated=choice.finish_reason == "length",
    )
