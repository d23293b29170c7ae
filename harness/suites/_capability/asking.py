"""From lm-eval's instances to our requests, and from our outputs back to lm-eval's scores.

Prompts are built by lm-eval's own `build_all_requests`, over all documents in order and with its seeds, so that they
equal those of `simple_evaluate`: the few-shot sampler draws one after the other, so no document may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.errors import ConfigError
from harness.records import Generate, LogLikelihood, Output, Request, RollingLogLikelihood, content_hash

ChatTemplate = Callable[..., str]

_DEFAULT_TOKENS = 256  # new tokens where a task does not say; lm-eval's default for Hugging Face models
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # lm-eval's priority
_KNOWN = frozenset({"until", "do_sample", "temperature", "top_p", *_LENGTHS})
_NEUTRAL = {"num_beams": (1,), "top_k": (0,)}  # values that ask for nothing


def instances_by_doc(
    task: Any, *, limit: int | None, seed: int, chat: ChatTemplate | None, multiturn: bool
) -> dict[int, list[Any]]:
    """lm-eval's instances of every document, by document number, in the order in which its scorer wants them."""
    task.set_fewshot_seed(seed=seed)
    task.build_all_requests(
        limit=limit,
        apply_chat_template=chat is not None,
        chat_template=chat,
        fewshot_as_multiturn=multiturn if chat is not None else False,
    )
    grouped: dict[int, list[Any]] = {}
    for instance in task.instances:
        grouped.setdefault(instance.doc_id, []).append(instance)
    task._instances = None  # the prompts of thousands of documents need not be held twice
    return {doc: sorted(instances, key=lambda i: i.idx) for doc, instances in grouped.items()}


def requests_of(instances: Sequence[Any], seed: int) -> tuple[Request, ...]:
    """Our requests for one document; a repeated instance (self-consistency) becomes one request per repeat."""
    return tuple(request_of(i, seed, repeat) for i in instances for repeat in range(repeats(i)))


def repeats(instance: Any) -> int:
    """How often an instance is asked."""
    return int(instance.repeats or 1)


def request_of(instance: Any, seed: int, repeat: int = 0) -> Request:
    """Our request for one instance; each repeat of a sampled one draws from a stream of its own.

    Raises:
        ConfigError: it asks for something that no subject here can do.
    """
    kind, arguments = instance.request_type, instance.args
    if kind == "loglikelihood":
        return LogLikelihood(arguments[0], arguments[1])
    if kind == "loglikelihood_rolling":
        return RollingLogLikelihood(arguments[0])
    if kind == "generate_until":
        return _generate(arguments[0], arguments[1], _stream(seed, instance, repeat), str(instance.task_name))
    raise ConfigError(f"task {instance.task_name!r} asks for {kind!r}, which no subject here answers")


def _generate(prompt: str, options: Mapping[str, Any], seed: int, task: str) -> Generate:
    unknown = sorted(name for name in set(options) - _KNOWN if options[name] not in _NEUTRAL.get(name, ()))
    if unknown:
        raise ConfigError(
            f"task {task!r} wants generation with {', '.join(unknown)}, which is not supported; known are "
            f"{', '.join(sorted(_KNOWN))}"
        )
    until = options.get("until") or []
    lengths = [options[name] for name in _LENGTHS if options.get(name) is not None]
    # lm-eval reads temperature 0 from silence, and do_sample false as a command to be greedy.
    temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") is not False else 0.0
    if options.get("do_sample") and temperature <= 0:
        raise ConfigError(f"task {task!r} wants do_sample without a temperature above 0, which lm-eval refuses too")
    max_tokens = int(lengths[0]) if lengths else _DEFAULT_TOKENS
    if max_tokens < 1:
        raise ConfigError(f"task {task!r} wants {max_tokens} new tokens; at least one is needed")
    return Generate(
        prompt,
        until=(until,) if isinstance(until, str) else tuple(until),
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=float(options.get("top_p") or 1.0),
        seed=seed if temperature else 0,
    )


def _stream(seed: int, instance: Any, repeat: int) -> int:
    """A seed of its own for every draw, the same for both subjects."""
    return int(content_hash([seed, instance.task_name, instance.doc_id, instance.idx, repeat])[:8], 16)


def filter_names(task: Any) -> list[str]:
    """Names of a task's filter pipelines, in its order."""
    return [f.name for f in task._filters]


def results(task: Any, instances: Sequence[Any], outputs: Sequence[Output], filter_name: str) -> Mapping[str, Any]:
    """lm-eval's per-document result for these outputs, after one of the task's filters."""
    answered = _answered(instances, outputs)
    pipeline = next(f for f in task._filters if f.name == filter_name)
    pipeline.apply(answered)
    scored: Mapping[str, Any] = task.process_results(
        answered[0].doc, [instance.filtered_resps[filter_name] for instance in answered]
    )
    return scored


def _answered(instances: Sequence[Any], outputs: Sequence[Output]) -> list[Any]:
    """Fresh instances that hold the outputs in lm-eval's form; the originals stay unanswered."""
    from lm_eval.api.instance import Instance

    remaining = iter(outputs)
    made = []
    for old in instances:
        new = Instance(
            request_type=old.request_type, doc=old.doc, arguments=old.arguments, idx=old.idx, metadata=old.metadata
        )
        new.resps = [_response(old.request_type, next(remaining)) for _ in range(repeats(old))]
        made.append(new)
    return made


def _response(kind: str, output: Output) -> Any:
    if kind == "loglikelihood":
        return output.logprob, bool(output.is_greedy)
    return output.logprob if kind == "loglikelihood_rolling" else output.text
