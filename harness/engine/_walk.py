"""Walks a tree of jobs: shared tokens first, each computed once and kept while anything behind it is still to come."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from harness.engine._batches import attempt
from harness.engine._kv import Batch, Scratch
from harness.engine._passes import Passes
from harness.engine._plan import Job, Limits, pack
from harness.engine._store import Kept, Store

Result = TypeVar("Result")
Work = TypeVar("Work", bound=Job)
Reader = Callable[[Sequence[Job], Any], None]
"""Takes jobs and the logits at their `reads`, job after job, [positions, vocabulary]."""

_REMEMBERED = 64  # tokens; a longer sequence that shares nothing yet is kept, as later requests may share it


class Walk:
    """One subject's passes, what it keeps, and how much fits; smaller `limits` are kept after memory ran out."""

    def __init__(self, passes: Passes, store: Store, limits: Limits, *, share: bool) -> None:
        """Nothing is computed yet."""
        self.passes = passes
        self.store = store
        self.limits = limits
        self.share = share
        self._scratch = Scratch()

    def leaves(
        self, roots: Sequence[Job], read: Reader, lose: Callable[[Job], None], *, split: bool = False
    ) -> Iterator[list[Job]]:
        """Jobs without children, in lists; the tokens that they share are computed before they are yielded.

        With `split` a sequence that ends where others go on gets a leaf of its own, without tokens.

        A list must be finished before the next is asked for, as what its jobs stand behind is dropped then. `read` is
        called for shared jobs that somebody needs logits of, `lose` for one that does not fit into memory.
        """
        attached: list[Job] = []
        try:
            for job in roots:
                attached.append(self._attach(job))
            yield from self._run(_split(attached) if split else attached, read, lose)
        finally:
            for job in attached:
                if job.past is not None:
                    job.past.pins -= 1
            self.store.shrink(self.store.budget)

    def each(
        self, jobs: Sequence[Work], run: Callable[[Sequence[Work]], Result], room: int = 0
    ) -> Iterator[Result | Work]:
        """`run` over batches of `jobs`; a job that does not fit even alone comes back itself."""
        waiting = pack(jobs, self.limits, room)
        tried: Work | None = None  # alone, with nothing kept that could be dropped
        while waiting:
            batch = waiting.pop(0)
            result = attempt(batch, run)
            if result is not None:
                yield result
                del result  # before the next batch takes memory
                continue
            self._make_smaller(batch)
            if len(batch) > 1:
                waiting = pack([job for group in [batch, *waiting] for job in group], self.limits, room)
            elif batch[0] is not tried:
                tried = batch[0]
                waiting.insert(0, batch)
            else:
                yield batch[0]

    def forward(self, jobs: Sequence[Job], room: int | None = None, *, keep: bool = True) -> tuple[Any, Batch | None]:
        """Logits at the jobs' reads and the batch behind whose edge the new keys and values stand (None: not kept).

        With `room` the batch can grow by as many columns more; without, it is good until the next pass.
        """
        width = max(len(job.tokens) for job in jobs)
        past = None
        if keep or any(job.past_length for job in jobs):
            lengths = [job.past_length for job in jobs]
            scratch = self._scratch if room is None else None
            past = Batch(self.passes.shape, lengths, width + (room or 0), scratch)
            _fill(past, jobs, {} if scratch is None else scratch.filled)
        return self.passes.forward([j.tokens for j in jobs], [sorted(j.reads) for j in jobs], past), past

    def remember(self, jobs: Sequence[Job], batch: Batch | None, counts: Sequence[int] | None = None) -> None:
        """Keep long sequences that share nothing with what is kept: the next request may share their start.

        `counts[i]` is how many of job i's tokens belong to its request (all by default).
        """
        if not self.share or batch is None:
            return
        for row, job in enumerate(jobs):
            if _memorable(job):
                self._add(job, batch, row, None if counts is None else counts[row])

    def worth_remembering(self, jobs: Sequence[Job]) -> bool:
        """Whether `remember` would keep one of these."""
        return self.share and any(map(_memorable, jobs))

    def _attach(self, job: Job) -> Job:
        """Put a root job behind what is kept of it."""
        found, matched = self.store.root, 0
        if self.share:
            at = attempt([job], lambda jobs: self.store.find(job.tokens, job.free))
            if at is None:  # memory ran out while a kept prefix was split
                self.make_room()
            else:
                found, matched = at
        found.pins += 1
        self.passes.usage["reused"] += matched
        job.past, job.past_length = found, found.length
        job.tokens, job.start = job.tokens[matched:], matched
        job.reads = {offset - matched: reads for offset, reads in job.reads.items()}
        return job

    def _run(self, jobs: Sequence[Job], read: Reader, lose: Callable[[Job], None]) -> Iterator[list[Job]]:
        """Depth first, without recursion: one conversation can be nested deeper than Python's stack."""
        levels: list[tuple[Iterator[list[Job]], list[Job]]] = [(self._waves(jobs), [])]
        try:
            while levels:
                wave = next(levels[-1][0], None)
                if wave is None:
                    self._let_go(levels.pop()[1])
                elif not wave[0].children:
                    yield wave
                else:
                    done = self._compute(wave, read, lose)
                    levels.append((self._waves([child for job in done for child in job.children]), done))
        finally:
            for _, done in levels:
                self._let_go(done)

    def _let_go(self, done: Sequence[Job]) -> None:
        """All that stood behind these shared jobs is finished."""
        for job in done:
            job.children[0].past.pins -= 1  # type: ignore[union-attr]  # set by _compute
        self.store.shrink(self.store.budget)

    def _waves(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """The jobs without children; then the others, in lists whose keys and values may be kept at the same time.

        What is kept already comes first. A single job is a list however little room is left, or nothing would go on.
        """
        if alone := [job for job in jobs if not job.children]:
            yield alone
        waiting = sorted((job for job in jobs if job.children), key=lambda job: len(job.tokens) > 0)
        while waiting:
            left = self.store.budget - self.store.pinned
            sums = itertools.accumulate(len(job.tokens) for job in waiting)
            fitting = max(1, sum(total <= left for total in sums))
            yield waiting[:fitting]
            waiting = waiting[fitting:]

    def _compute(self, wave: Sequence[Job], read: Reader, lose: Callable[[Job], None]) -> list[Job]:
        """Compute shared jobs and hang their children behind them; the jobs for which that worked."""

        def run(jobs: Sequence[Job]) -> list[Job]:
            logits, batch = self.forward(jobs)
            nodes: list[Kept] = []
            try:
                for row, job in enumerate(jobs):
                    nodes.append(self._add(job, batch, row))
                    nodes[-1].pins += 1  # or the next one could drop it
                read(jobs, logits)
                for job, node in zip(jobs, nodes, strict=True):  # last: nothing after it can run out of memory
                    self._hand_down(job, node)
            finally:
                for node in nodes:
                    node.pins -= 1
            return list(jobs)

        done = [job for job in wave if not job.tokens]  # kept from an earlier call
        for job in done:
            self._hand_down(job, job.past or self.store.root)
        for result in self.each([job for job in wave if job.tokens], run):
            if isinstance(result, Job):
                lose(result)
            else:
                done += result
        return done

    def _add(self, job: Job, batch: Batch | None, row: int, count: int | None = None) -> Kept:
        if job.past is None or batch is None:
            raise ValueError("only an attached job's keys and values can be kept")
        tokens = job.tokens[:count]
        return self.store.add(job.past, tokens, batch.segment(row, job.past_length, len(tokens)))

    def _hand_down(self, job: Job, node: Kept) -> None:
        """The children of `job` stand behind `node`, which stays until they are done."""
        node.pins += 1
        for child in job.children:
            child.past, child.past_length = node, node.length
        self.passes.usage["reused"] += len(job.tokens) * (len(job.children) - 1)

    def tidy(self) -> None:
        """Give back what the last passes were laid out in."""
        self._scratch.drop()

    def drop(self) -> None:
        """Keep nothing but what is in use."""
        self._scratch.drop()
        self.store.shrink(0)

    def make_room(self) -> None:
        """Memory ran out, which is counted: keep nothing but what is in use."""
        self.drop()
        self.passes.usage["halved"] += 1

    def _make_smaller(self, batch: Sequence[Job]) -> None:
        """After memory ran out under `batch`: half of everything from now on, unless a job was alone."""
        self.make_room()
        if len(batch) > 1:
            tokens = len(batch) * max(len(job.tokens) for job in batch)
            self.store.budget //= 2
            self.limits = replace(
                self.limits,
                tokens=max(1, min(self.limits.tokens, tokens) // 2),
                columns=max(1, self.limits.columns // 2),
                rows=max(1, len(batch) // 2),
                reads=max(1, self.limits.reads // 2),
            )


def _split(roots: list[Job]) -> list[Job]:
    """Hang a job without tokens under every job that has both ends and children, for its ends."""
    waiting = list(roots)
    while waiting:
        job = waiting.pop()
        waiting += job.children
        if job.ends and job.children:
            job.children.append(Job((), job.stop, job.free, job.ends))
            job.ends = []
    return roots


def _memorable(job: Job) -> bool:
    return job.start == 0 and len(job.tokens) >= _REMEMBERED


def _fill(batch: Batch, jobs: Sequence[Job], filled: dict[int, tuple[int, int, int]]) -> None:
    """The pasts of `jobs` into the rows, neighbours behind one past together; not where `filled` has them already."""
    first = 0
    for row in range(1, len(jobs) + 1):
        if row == len(jobs) or jobs[row].past is not jobs[first].past:
            past = jobs[first].past
            mark = (jobs[first].behind, jobs[first].past_length, batch.end)
            start = next((number for number in range(first, row) if filled.get(number) != mark), row)
            if start < row:
                batch.fill(start, row, past.path if past is not None else [])
                filled.update(dict.fromkeys(range(start, row), mark))
            first = row
