"""Walks a tree of jobs: shared tokens first, each computed once and kept while anything behind it is still to come."""

from __future__ import annotations

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
        attached = [self._attach(job) for job in roots]
        try:
            yield from self._run(_split(attached) if split else attached, read, lose)
        finally:
            for job in attached:
                if job.past is not None:
                    job.past.pins -= 1

    def each(
        self, jobs: Sequence[Work], run: Callable[[Sequence[Work]], Result], room: int = 0
    ) -> Iterator[Result | Work]:
        """`run` over batches of `jobs`; a job that does not fit even alone comes back itself."""
        waiting = pack(jobs, self.limits, room)
        while waiting:
            batch = waiting.pop(0)
            result = attempt(batch, run)
            if result is not None:
                yield result
            elif not self._make_smaller(batch) and len(batch) == 1:
                yield batch[0]
            else:
                waiting = pack([job for group in [batch, *waiting] for job in group], self.limits, room)

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
            _fill(past, jobs)
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
        found, matched = self.store.find(job.tokens, job.free) if self.share else (self.store.root, 0)
        found.pins += 1
        self.passes.usage["reused"] += matched
        job.past, job.past_length = found, found.length
        job.tokens, job.start = job.tokens[matched:], matched
        job.reads = {offset - matched: reads for offset, reads in job.reads.items()}
        return job

    def _run(self, jobs: Sequence[Job], read: Reader, lose: Callable[[Job], None]) -> Iterator[list[Job]]:
        if alone := [job for job in jobs if not job.children]:
            yield alone
        for wave in self._waves([job for job in jobs if job.children]):
            done = self._compute(wave, read, lose)
            try:
                yield from self._run([child for job in done for child in job.children], read, lose)
            finally:
                for job in done:
                    job.children[0].past.pins -= 1  # type: ignore[union-attr]  # set by _compute

    def _waves(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Jobs whose keys and values may be kept at the same time: what is kept already, first."""
        wave: list[Job] = []
        total = 0
        for job in sorted(jobs, key=lambda j: len(j.tokens) > 0):
            if wave and total + len(job.tokens) > self.store.budget:
                yield wave
                wave, total = [], 0
            wave.append(job)
            total += len(job.tokens)
        if wave:
            yield wave

    def _compute(self, wave: Sequence[Job], read: Reader, lose: Callable[[Job], None]) -> list[Job]:
        """Compute shared jobs and hang their children behind them; the jobs for which that worked."""

        def run(jobs: Sequence[Job]) -> list[Job]:
            logits, batch = self.forward(jobs)
            nodes = [self._add(job, batch, row) for row, job in enumerate(jobs)]
            read(jobs, logits)
            for job, node in zip(jobs, nodes, strict=True):  # last: nothing that can run out of memory comes after it
                self._hand_down(job, node)
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

    def _make_smaller(self, batch: Sequence[Job]) -> bool:
        """After memory ran out: half of everything from now on, and nothing kept but what is in use.

        Whether that freed anything; if not, a job alone will not fit either.
        """
        before = self.store.tokens
        self._scratch.drop()
        self.store.shrink(0)
        self.passes.usage["halved"] += 1
        if len(batch) > 1:
            tokens = len(batch) * max(len(job.tokens) for job in batch)
            self.store.budget //= 2
            self.limits = replace(
                self.limits,
                tokens=max(1, min(self.limits.tokens, tokens) // 2),
                columns=max(1, self.limits.columns // 2),
                rows=max(1, len(batch) // 2),
            )
        return self.store.tokens < before


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


def _fill(batch: Batch, jobs: Sequence[Job]) -> None:
    """The pasts of `jobs` into the rows; neighbours behind one past are filled together."""
    first = 0
    for row in range(1, len(jobs) + 1):
        if row == len(jobs) or jobs[row].past is not jobs[first].past:
            past = jobs[first].past
            batch.fill(first, row, past.path if past is not None else [])
            first = row
