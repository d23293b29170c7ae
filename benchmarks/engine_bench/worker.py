"""The process of one measurement: `python -m benchmarks.engine_bench.worker JOB.json RESULT.json`.

Imports and loading are timed apart from answering. The clock runs while every request of an arm is answered, from text
to text: tokenising, batching and, for ours, the output cache are inside; building prompts and scoring are not.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine_bench.counting import metered, peak_memory, size_of
from benchmarks.engine_bench.jobs import Arm, Job, Result


def main() -> None:
    """Read the job, do it, write the result."""
    job = Job.read(Path(sys.argv[1]))
    began = time.perf_counter()
    import torch
    import transformers

    torch.set_num_threads(job.threads)
    transformers.utils.logging.disable_progress_bar()
    runners: dict[str, Callable[[Job, float], Result]] = {"lm-eval": lm_eval, "ours": ours, "first": first}
    result = runners[job.runner](job, began)
    Path(sys.argv[2]).write_text(json.dumps(asdict(result)), encoding="utf-8")


def lm_eval(job: Job, began: float) -> Result:
    """lm-eval's Hugging Face model, one arm: its user runs it once for the base and once for the adapter."""
    import peft  # noqa: F401  # imported by loading an adapter otherwise
    from lm_eval.models.huggingface import HFLM

    imported = time.perf_counter()
    _exceptions_instead_of_kills(job)
    ((name, adapter),) = job.arms
    size = {"batch_size": job.batch_size, "max_batch_size": 64}
    lm = HFLM(pretrained=job.model, peft=adapter, device=job.device, dtype=job.dtype, **size)
    instances = [ask.instance() for ask in job.asks]
    before = _settled(job.device)
    loaded = time.perf_counter()
    with metered(lm.model) as work, contextlib.redirect_stdout(sys.stderr), _clock(job.device) as took:
        answers = _by_kind(lm, instances)
    arm = Arm(took.seconds, took.cpu_seconds, work, size_of(lm.model), tuple(answers))
    return Result({name: arm}, imported - began, loaded - imported, before, peak_memory(job.device))


def _by_kind(lm: Any, instances: Sequence[Any]) -> list[Any]:
    """The answers of lm-eval's model in the order of the instances."""
    answers: dict[int, Any] = {}
    for kind in dict.fromkeys(i.request_type for i in instances):
        numbers = [n for n, i in enumerate(instances) if i.request_type == kind]
        given = getattr(lm, kind)([instances[n] for n in numbers], disable_tqdm=True)
        answers.update(zip(numbers, given, strict=True))
    return [answers[n] for n in range(len(instances))]


def ours(job: Job, began: float) -> Result:
    """Our subjects as the gate asks them: one set of weights, the output cache, drafts from the arms before."""
    import peft  # noqa: F401

    from harness.cache import OutputCache
    from harness.execution.drafts import Source
    from harness.suites._capability.asking import request_of

    imported = time.perf_counter()
    requests = [request_of(ask.instance(), 1234) for ask in job.asks]
    subjects, load_seconds = _load(job)
    before = _settled(job.device)
    with tempfile.TemporaryDirectory() as folder, OutputCache(Path(folder) / "outputs.sqlite") as cache:
        _warm(job, subjects, cache, requests)
        sources = [Source.of(subject) for subject in subjects.values()]
        with _profiler(job.profile) as report:
            # A warm arm is read from the cache, as the gate does it, on the same clock.
            arms = {name: _answer(job, subjects[name], requests, cache, sources) for name, _ in job.arms}
        profiled = report()
    remarks = tuple(f"{name}: {remark}" for name, subject in subjects.items() for remark in subject.remarks())
    peak = peak_memory(job.device)
    return Result(arms, imported - began, load_seconds, before, peak, remarks, profiled)


def _load(job: Job) -> tuple[dict[str, Any], float]:
    from harness.subjects import SubjectContext, local

    began = time.perf_counter()
    context = SubjectContext(Path("/"))
    common = {
        "model": job.model, "device": job.device, "dtype": job.dtype, "engine": job.engine,
        "engine_options": dict(job.options), "truncate": "left",
    }  # fmt: skip
    if job.batch_size is not None:
        common["batch_size"] = job.batch_size
    subjects = {
        name: local.build(local.Options.model_validate({**common, "adapter": adapter}), context)
        for name, adapter in job.arms
    }
    return subjects, time.perf_counter() - began


def _warm(job: Job, subjects: dict[str, Any], cache: Any, requests: Sequence[Any]) -> None:
    """Put the outputs of the warm arms where an earlier gate would have left them."""
    from harness.records import Output

    for name, outputs in job.warm.items():
        known = [Output.from_json(output) for output in outputs]
        cache.put(subjects[name].fingerprint, list(zip(requests, known, strict=True)))


def _answer(job: Job, subject: Any, requests: Sequence[Any], cache: Any, sources: Sequence[Any]) -> Arm:
    """All requests of one arm, at most `most` samples at a time."""
    from harness.execution.drafts import Drafting
    from harness.execution.local import answer_cached

    drafting = Drafting(cache, sources)
    outputs: list[Any] = []
    with subject.causal.activate() as model:
        size, counter = size_of(model), metered(model)
    with counter as work, _clock(job.device) as took:
        for part in _parts(job, requests):
            outputs += answer_cached(subject, part, cache, lambda _: None, drafting)
    failed = [output.failure for output in outputs if output.failure is not None]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed: {failed[0]}")
    return Arm(
        took.seconds, took.cpu_seconds, work, size,
        tuple((o.logprob, bool(o.is_greedy)) if o.text is None else o.text for o in outputs),
        tuple(o.ids for o in outputs if o.text is not None),
        tuple(asdict(o) for o in outputs) if job.keep else (),
        {key: int(count) for key, count in dict(getattr(subject, "usage", {})).items()},
    )  # fmt: skip


def _parts(job: Job, requests: Sequence[Any]) -> Iterator[Sequence[Any]]:
    part: list[Any] = []
    samples: set[str] = set()
    for ask, request in zip(job.asks, requests, strict=True):
        if ask.sample not in samples and len(samples) == job.most:
            yield part
            part, samples = [], set()
        samples.add(ask.sample)
        part.append(request)
    if part:
        yield part


def first(job: Job, began: float) -> Result:
    """Seconds from loaded weights to the first scored sample of a task; as in a gate, the task is loaded before."""
    from harness.suites import SuiteContext, capability

    options = capability.Options(task=job.task, data=job.data, num_fewshot=5)
    suite = capability.build(options, SuiteContext(folder=Path("/")))
    imported = time.perf_counter()
    ((name, _),) = job.arms
    subjects, load_seconds = _load(job)
    before = _settled(job.device)
    loaded = time.perf_counter()
    sample, subject = suite.samples()[0], subjects[name]
    answers = {i: output for batch in subject.answer(suite.requests(sample, subject)) for i, output in batch}
    scores = suite.score_one(sample, [answers[i] for i in range(len(answers))])
    took = time.perf_counter() - loaded
    if any(score.value is None for score in scores.values()):
        raise RuntimeError("the first sample was not scored")
    return Result({}, imported - began, load_seconds, before, peak_memory(job.device), first_seconds=took)


def _exceptions_instead_of_kills(job: Job) -> None:
    """lm-eval's `auto` looks for its batch size by running out of memory, which on a CPU would be a kill."""
    if job.device != "cpu" or not str(job.batch_size).startswith("auto"):
        return
    pages = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (int(pages * 0.9), resource.RLIM_INFINITY))


def _settled(device: str) -> int:
    """Bytes in use once everything is loaded; the peak counts from here, where the system lets it be set back."""
    import gc

    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest resident size is the present one again
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    return peak_memory(device)


@dataclass(slots=True)
class _Took:
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextlib.contextmanager
def _clock(device: str) -> Iterator[_Took]:
    """Wall and CPU seconds of what is done inside; read them after it."""
    took = _Took()
    began, busy = time.perf_counter(), time.process_time()
    yield took
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
    took.seconds, took.cpu_seconds = time.perf_counter() - began, time.process_time() - busy


@contextlib.contextmanager
def _profiler(wanted: bool) -> Iterator[Callable[[], str]]:
    """Where the time goes, by operator and by function; asking for the report after the context gives the text."""
    if not wanted:
        yield lambda: ""
        return
    import cProfile
    import io
    import pstats

    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    python = cProfile.Profile()

    def report() -> str:
        functions = io.StringIO()
        pstats.Stats(python, stream=functions).strip_dirs().sort_stats("tottime").print_stats(25)
        operators = watched.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=50)
        return f"{operators}\n{functions.getvalue()}"

    with torch.profiler.profile(activities=activities) as watched:
        python.enable()
        yield report
        python.disable()


if __name__ == "__main__":
    main()
