"""A task's documents: what they ask, whether one is among its own few-shot examples, and what they hash to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from harness.records import content_hash
from harness.suites._capability.metrics import doc_gold

_PUNKT = (
    "IFEval counts sentences with NLTK's punkt_tab model, which is not installed here: on a machine with network run "
    "`python -m nltk.downloader punkt_tab`, copy its nltk_data folder here and name that folder in NLTK_DATA"
)


def leaks(task: Any, docs: Sequence[Any], *, seed: int) -> Iterator[int]:
    """Numbers of the documents whose own question and answer are among the examples drawn for their prompt.

    The sampler is asked again exactly as building the prompts asks it: same seed, same order, same exclusions.
    """
    count = task.get_config("num_fewshot") or 0
    sampler = getattr(task, "sampler", None)
    if not count or sampler is None:
        return
    task.set_fewshot_seed(seed=seed)
    excludes = task.fewshot_cfg.split == task.config.test_split
    shown: dict[int, tuple[str, str]] = {}
    for number, doc in enumerate(docs):
        own = _shown(task, doc)
        for example in sampler.sample(n=count, eval_doc=doc if excludes else None):
            key = id(example)
            if key not in shown:
                shown[key] = _shown(task, example)
            if shown[key] == own:
                yield number
                break


def rows_hash(task: Any, docs: Sequence[Any]) -> str:
    """SHA-256 of the evaluated rows and of those that examples are drawn from."""
    pool = getattr(getattr(task, "sampler", None), "df", None) or []
    drawn = list(pool) if task.get_config("num_fewshot") else []
    return content_hash([[_plain(doc) for doc in rows] for rows in (docs, drawn)])


def question(task: Any, doc: Any) -> str:
    """What a document asks, without examples; the choices stand for it where the task has one text per choice."""
    text = task.doc_to_text(doc)
    return text if isinstance(text, str) else " | ".join(choices(task, doc))


def choices(task: Any, doc: Any) -> tuple[str, ...]:
    """A document's choices, or nothing for an open question."""
    if task.get_config("doc_to_choice") is None:
        return ()
    return tuple(str(choice) for choice in task.doc_to_choice(doc))


def answers(task: Any, doc: Any) -> tuple[str, ...]:
    """What counts as right, as text, for reports; lm-eval's own scorer decides."""
    offered = choices(task, doc)
    gold = doc_gold(task, doc)
    right = gold if isinstance(gold, list) else [gold]
    return tuple(
        offered[g] if isinstance(g, int) and not isinstance(g, bool) and 0 <= g < len(offered) else str(g)
        for g in right
    )


def scoring_failure(error: Exception) -> str:
    """Why lm-eval could not score an answer, in one sentence."""
    text = str(error)
    if isinstance(error, LookupError) and "punkt" in text:
        return _PUNKT
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return f"lm-eval could not score this answer: {type(error).__name__}: {first}"


def _shown(task: Any, doc: Any) -> tuple[str, str]:
    return question(task, doc), " / ".join(answers(task, doc))


def _plain(doc: Any) -> Any:
    return json.loads(json.dumps(doc, default=str))
