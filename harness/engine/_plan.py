"""Which tokens are computed once for whom: the common prefixes of many sequences, as a tree of jobs.

The tree is the compressed trie of all sequences, without the nodes that would save less than they cost. A job forwards
its own tokens behind its parent's; every sequence ends in exactly one job.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.engine._store import Kept, common_length

Work = TypeVar("Work", bound="Job")

_WORTH = 16  # tokens that a shared node must save; below, one more pass costs more than it gains


@dataclass(slots=True, eq=False)
class Job:
    """Tokens `tokens` of a sequence from position `start` on, to be forwarded behind `past`.

    `ends` are the sequences (by number) whose last token this is. `children` continue it. `free` is how many of the
    first tokens nobody needs logits of, so that they may come from kept keys and values. `reads` maps a position in
    `tokens` to whoever needs the logits there.
    """

    tokens: tuple[int, ...]
    start: int
    free: int
    ends: list[int] = field(default_factory=list)
    children: list[Job] = field(default_factory=list)
    reads: dict[int, list[Any]] = field(default_factory=dict)
    past: Kept | None = None
    past_length: int = 0

    @property
    def behind(self) -> int:
        """A number that jobs behind one past share."""
        return 0 if self.past is None else self.past.serial

    @property
    def stop(self) -> int:
        """The position behind the last token."""
        return self.start + len(self.tokens)


def plan(sequences: Sequence[tuple[int, ...]], free: Sequence[int], *, share: bool = True) -> list[Job]:
    """Root jobs for `sequences`; `free[i]` leading tokens of sequence i need no logits. Without `share`, one each."""
    if not share:
        return [Job(ids, 0, free[i], [i]) for i, ids in enumerate(sequences)]
    root = Job((), 0, 0)
    stack = [root]
    before: tuple[int, ...] = ()
    for number in _sorted(sequences):
        ids = sequences[number]
        common = common_length(before, ids)
        last = None
        while stack[-1].stop > common:
            last = stack.pop()
        if last is not None and stack[-1].stop < common:
            stack.append(_fork(stack[-1], last, common))
        if stack[-1].stop < len(ids):
            leaf = Job(ids[stack[-1].stop :], stack[-1].stop, free[number])
            stack[-1].children.append(leaf)
            stack.append(leaf)
        stack[-1].ends.append(number)
        before = ids
    return _worthwhile(root, free)


def _sorted(sequences: Sequence[tuple[int, ...]]) -> list[int]:
    """Numbers of the sequences with equal prefixes side by side; big-endian bytes compare faster than tuples."""

    def key(number: int) -> bytes:
        words = array("I", sequences[number])
        words.byteswap()
        return words.tobytes()

    return sorted(range(len(sequences)), key=key)


def _fork(parent: Job, child: Job, at: int) -> Job:
    """A job for the part of `child` before position `at`, in the child's place."""
    cut = at - child.start
    fork = Job(child.tokens[:cut], child.start, child.free, children=[child])
    child.tokens, child.start = child.tokens[cut:], at
    parent.children[-1] = fork
    return fork


def _worthwhile(root: Job, free: Sequence[int]) -> list[Job]:
    """The root's children, after jobs that save too little have handed their tokens down; `free` is filled in."""
    kept: list[Job] = []
    waiting: list[tuple[Job, list[Job]]] = [(child, kept) for child in root.children]
    order: list[Job] = []
    while waiting:
        job, siblings = waiting.pop()
        saved = len(job.tokens) * (len(job.children) + bool(job.ends) - 1)
        if job.children and saved < _WORTH:
            for child in job.children:
                child.tokens, child.start = job.tokens + child.tokens, job.start
                waiting.append((child, siblings))
            if job.ends:
                siblings.append(alone := Job(job.tokens, job.start, job.free, job.ends))
                order.append(alone)
            continue
        siblings.append(job)
        order.append(job)
        children, job.children = job.children, []
        waiting += [(child, job.children) for child in children]
    for job in reversed(order):  # children before parents
        job.free = min([free[number] for number in job.ends] + [child.free for child in job.children])
    return kept


@dataclass(frozen=True, slots=True)
class Limits:
    """What one pass may take: tokens forwarded, tokens of keys and values, positions whose logits are read, rows."""

    tokens: int
    columns: int
    reads: int
    rows: int


def pack(jobs: Iterable[Work], limits: Limits, room: int = 0) -> list[list[Work]]:
    """Batches of jobs of like length behind like pasts, so that little is padding; each within `limits`.

    Jobs are laid in strips by the length of their past, and by their own length within a strip: sorted by one alone,
    a batch would pad the other. `room` columns are kept for every row besides.
    """
    ordered = sorted(jobs, key=lambda j: (-j.past_length, j.behind, -len(j.tokens), j.ends))
    total = sum(len(job.tokens) for job in ordered)
    strips = max(1, round((total / limits.tokens) ** 0.5))
    size = -(-len(ordered) // strips)
    batches: list[list[Work]] = []
    for start in range(0, len(ordered), max(1, size)):
        strip = sorted(ordered[start : start + size], key=lambda j: (-len(j.tokens), -j.past_length, j.behind, j.ends))
        batches += _cut(strip, limits, room)
    return [sorted(batch, key=lambda j: (-j.past_length, j.behind, -len(j.tokens), j.ends)) for batch in batches]


def _cut(jobs: Sequence[Work], limits: Limits, room: int) -> list[list[Work]]:
    batches: list[list[Work]] = []
    width = past = reads = 0
    for job in jobs:
        batch = batches[-1] if batches else []
        rows = len(batch) + 1
        wider, deeper = max(width, len(job.tokens)), max(past, job.past_length)
        fits = (
            batch
            and rows <= limits.rows
            and rows * wider <= limits.tokens
            and rows * (wider + deeper + room) <= limits.columns
            and reads + len(job.reads) <= limits.reads
        )
        if not fits:
            batches.append([])
            wider, deeper, reads = len(job.tokens), job.past_length, 0
        batches[-1].append(job)
        width, past, reads = wider, deeper, reads + len(job.reads)
    return batches
