"""Log-likelihoods off a tree of jobs: a position is read where it is computed, once for all who need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.engine import Answers
from harness.engine._batches import OUT_OF_MEMORY
from harness.engine._likelihood import Piece, Tally, rows_of, settle
from harness.engine._plan import Job, plan
from harness.engine._walk import Walk
from harness.records import Output


class Reading:
    """What has been read of one piece: the sum of its tokens' log-probabilities, and whether all were the largest."""

    __slots__ = ("greedy", "left", "piece", "total")

    def __init__(self, piece: Piece) -> None:
        """Nothing has been read."""
        self.piece = piece
        self.left = len(piece.continuation)
        self.total = 0.0
        self.greedy = True


class Scoring:
    """The likelihood requests of one call."""

    def __init__(self, walk: Walk, tallies: Mapping[int, Tally]) -> None:
        """`tallies` receive what is read."""
        self._walk = walk
        self._tallies = tallies
        self._finished: list[Reading] = []
        self._lost: Answers = []

    def run(self, pieces: Sequence[Piece]) -> Iterator[Answers]:
        """The answers of all requests that `pieces` belong to, as they are completed."""
        rows = rows_of(pieces)
        free = [min(len(piece.context) for piece in row.pieces) - 1 for row in rows]
        roots = plan([row.inputs for row in rows], free, share=self._walk.share)
        readings = [[Reading(piece) for piece in row.pieces] for row in rows]
        _assign(roots, readings)
        for leaves in self._walk.leaves(roots, self._read, self._lose):
            for done in self._walk.each(leaves, self._forward):
                if isinstance(done, Job):
                    self._lose(done)
                yield from filter(None, (self._settle(),))
        yield from filter(None, (self._settle(),))

    def _forward(self, jobs: Sequence[Job]) -> bool:
        logits, batch = self._walk.forward(jobs, keep=self._walk.worth_remembering(jobs))
        self._walk.remember(jobs, batch)
        self._read(jobs, logits)  # last: what has been read must not be read again after memory ran out
        return True

    def _read(self, jobs: Sequence[Job], logits: Any) -> None:
        """Enter the logits at the jobs' reads, [positions, vocabulary], into the readings."""
        import torch

        wanted = [
            (row, reading, token)
            for row, reads in enumerate(reads for job in jobs for _, reads in sorted(job.reads.items()))
            for reading, token in reads
        ]
        if not wanted:
            return
        where = torch.tensor([[row, token] for row, _, token in wanted], device=logits.device).T
        logprobs = (logits[where[0], where[1]] - logits.logsumexp(-1)[where[0]]).tolist()
        largest = (logits.argmax(-1)[where[0]] == where[1]).tolist()
        for (_, reading, _), logprob, best in zip(wanted, logprobs, largest, strict=True):
            reading.total += logprob
            reading.greedy &= best
            reading.left -= 1
            if not reading.left:
                self._finished.append(reading)

    def _settle(self) -> Answers:
        read = [(reading.piece, reading.total, reading.greedy) for reading in self._finished]
        self._finished = []
        lost, self._lost = self._lost, []
        return lost + settle(read, self._tallies)

    def _lose(self, job: Job) -> None:
        """Memory ran out for a job alone: whoever needs a logit of it, or of what comes behind it, has no answer."""
        waiting = [job]
        while waiting:
            job = waiting.pop()
            waiting += job.children
            for reading in (reading for reads in job.reads.values() for reading, _ in reads):
                tally = self._tallies[reading.piece.index]
                if tally.pending > 0:
                    tally.pending = -1  # the request's other pieces can no longer complete it
                    self._lost.append((reading.piece.index, Output(failure=OUT_OF_MEMORY)))


def _assign(roots: Sequence[Job], readings: Sequence[Sequence[Reading]]) -> None:
    """Tell every job which of its positions are read, by whom and for which token."""
    waiting: list[tuple[Job, tuple[Job, ...]]] = [(job, (job,)) for job in roots]
    while waiting:
        job, path = waiting.pop()
        waiting += [(child, (*path, child)) for child in job.children]
        for reading in (reading for end in job.ends for reading in readings[end]):
            _assign_one(path, reading)


def _assign_one(path: Sequence[Job], reading: Reading) -> None:
    first = len(reading.piece.context) - 1
    depth = len(path) - 1
    for count in range(len(reading.piece.continuation) - 1, -1, -1):  # from the end, where the path's last job is
        while path[depth].start > first + count:
            depth -= 1
        reads = path[depth].reads.setdefault(first + count - path[depth].start, [])
        reads.append((reading, reading.piece.continuation[count]))
