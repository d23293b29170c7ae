"""The requests that every alternative answers, built by lm-eval's own tasks from files on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SEED = 1234  # lm-eval's default for few-shot sampling

LIKELIHOOD, GENERATION = "likelihood", "generation"


@dataclass(frozen=True, slots=True)
class Workload:
    """A benchmark: its tasks in lm-eval, how many examples are shown, what is asked for."""

    name: str
    title: str
    kind: str
    shots: int
    task: str


WORKLOADS = (
    Workload("mmlu", "MMLU, five-shot, one-token choices", LIKELIHOOD, 5, "mmlu_{subject}"),
    Workload("truthfulqa", "TruthfulQA MC1, choices of several tokens", LIKELIHOOD, 0, "truthfulqa_mc1"),
    Workload("gsm8k", "GSM8K, five-shot, generation", GENERATION, 5, "gsm8k"),
    Workload("ifeval", "IFEval, zero-shot, generation", GENERATION, 0, "ifeval"),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request in a form that JSON keeps: `sample` is `task/number`, `arguments` are lm-eval's."""

    sample: str
    kind: str
    arguments: tuple[Any, ...]
    idx: int

    def instance(self) -> Any:
        """As lm-eval's instance."""
        from lm_eval.api.instance import Instance

        task, _, number = self.sample.rpartition("/")
        return Instance(
            request_type=self.kind, doc={}, arguments=self.arguments, idx=self.idx, metadata=(task, int(number), 1)
        )


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is asked: MMLU subjects, items of each, samples of the others, and new tokens of an answer."""

    subjects: int
    items: int
    truthfulqa: int
    gsm8k: int
    ifeval: int
    new_tokens: int


def build(workload: Workload, data: Path, sizes: Sizes) -> list[Ask]:
    """The requests of one workload, sample by sample."""
    if workload.name == "mmlu":
        return mmlu(data, spread(mmlu_subjects(data), sizes.subjects), sizes.items)
    limit = int(getattr(sizes, workload.name))
    return asks_of(workload.task, data, workload.shots, limit, sizes.new_tokens)


def mmlu(data: Path, subjects: Iterable[str], items: int) -> list[Ask]:
    """The first `items` questions of each subject, five-shot."""
    return [ask for s in subjects for ask in asks_of(f"mmlu_{s}", data, 5, items, 0)]


def asks_of(task_name: str, data: Path, shots: int, limit: int, new_tokens: int) -> list[Ask]:
    """lm-eval's instances of the first `limit` documents of a task; a text is limited to `new_tokens`."""
    from harness.suites._capability import asking, loading

    loaded = loading.load(loading.Wanted(task_name, Path.cwd(), data.resolve(), False, SEED))
    made: list[Ask] = []
    with loading.quiet(), loading.seeded(SEED):
        for name, task in loaded.tasks.items():
            task.set_config(key="num_fewshot", value=shots)
            if task.OUTPUT_TYPE == "generate_until":
                task.set_config(key="generation_kwargs", value={"max_gen_toks": new_tokens}, update=True)
            by_doc = asking.instances_by_doc(task, limit=limit, seed=SEED, chat=None, multiturn=False)
            made += [
                Ask(f"{name}/{number}", instance.request_type, instance.args, instance.idx)
                for number, instances in by_doc.items()
                for instance in instances
            ]
    return made


def mmlu_subjects(data: Path) -> list[str]:
    """Names of the subjects whose files are there."""
    folder = next(f for f in (data / "mmlu", data / "benchmarks" / "mmlu", data) if (f / "test").is_dir())
    return sorted(path.name.removesuffix("_test.csv") for path in (folder / "test").glob("*_test.csv"))


def spread(items: Sequence[str], count: int) -> list[str]:
    """`count` of the items, evenly from the whole list."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def samples_of(asks: Sequence[Ask]) -> list[str]:
    """The samples, each once, in order."""
    return list(dict.fromkeys(ask.sample for ask in asks))


def some(asks: Sequence[Ask], count: int) -> list[Ask]:
    """All requests of `count` samples, evenly from the whole list."""
    chosen = set(spread(samples_of(asks), count))
    return [ask for ask in asks if ask.sample in chosen]


def in_turns(asks: Sequence[Ask], count: int) -> list[Ask]:
    """All requests of `count` samples, taken from the tasks in turns, so that any number of them is a fair mix."""
    turn: dict[str, int] = {}
    order = []
    for sample in samples_of(asks):
        task = sample.rpartition("/")[0]
        turn[task] = turn.get(task, 0) + 1
        order.append((turn[task], sample))
    chosen = [sample for _, sample in sorted(order, key=lambda pair: pair[0])][:count]
    by_sample: dict[str, list[Ask]] = {}
    for ask in asks:
        by_sample.setdefault(ask.sample, []).append(ask)
    return [ask for sample in chosen for ask in by_sample[sample]]


def one_token(asks: Sequence[Ask]) -> tuple[Ask, ...]:
    """The same prompts with a single token to write: what is left is the cost of the prompts."""
    return tuple(replace(ask, arguments=(ask.arguments[0], {**ask.arguments[1], "max_gen_toks": 1})) for ask in asks)


def input_rows(asks: Sequence[Ask], tokenizer: Any) -> list[tuple[int, ...]]:
    """What lm-eval puts through a model before it generates anything: distinct inputs, as it groups them itself."""
    from harness.engine._encoding import Encoder

    encoder = Encoder(tokenizer)
    pairs = [ask.arguments for ask in asks if ask.kind == "loglikelihood"]
    encoder.prime(pairs)
    rows = {(head + tail)[:-1] for head, tail in (encoder.pair(*pair) for pair in pairs)}
    rows |= {encoder.prompt(ask.arguments[0]) for ask in asks if ask.kind == "generate_until"}
    return sorted(rows)
