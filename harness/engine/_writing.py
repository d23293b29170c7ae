"""Decoding in batches that stay full: drafts verified many tokens at a time, the rest token by token in one pool.

A prompt's first pass carries the first tokens of its draft. Rows that agree go on verifying, several tokens a pass;
rows that have left their draft join the pool, which takes a step whenever it is full, or nothing else is to be done.
Every token is the largest logit of this subject at its place (or its own draw), whoever proposed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.engine import Answers
from harness.engine._answers import Answer, Endings, Pick, Prompt, pick
from harness.engine._batches import OUT_OF_MEMORY, attempt
from harness.engine._decoding import rules_of
from harness.engine._drafts import Guide, Odds
from harness.engine._kv import Batch
from harness.engine._plan import Job, plan
from harness.engine._walk import Walk
from harness.records import Output

_ROOM = 32  # columns that a batch can grow before it is copied


@dataclass(frozen=True, slots=True)
class Costs:
    """What a pass costs, in units of one more token of compute in it.

    `fixed` for the pass, `row` for a row (its keys and values are read), `move` for a row where the rows accept
    different numbers of tokens and must be moved; `rows` is how many rows a step should have, as more gain little.
    """

    fixed: float
    row: float
    move: float
    rows: int

    def of(self, rows: int, tokens: int, *, moved: bool = False) -> float:
        """Cost of a pass of `tokens` tokens in all."""
        return self.fixed + rows * (self.row + moved * self.move) + tokens

    @property
    def worth(self) -> float:
        """Cost of verifying a token relative to generating it in a full step."""
        return self.rows / self.of(self.rows, self.rows)


_COSTS = {
    # Measured, one core, 23 M parameters in float32, 150 columns: 9 ms a pass, 0.25 ms a row, 0.46 ms a token; moving
    # a row takes 0.8 ms. It depends little on the model, as all of it grows with the layers and their width.
    "cpu": Costs(fixed=20, row=0.55, move=1.7, rows=32),
    # Reckoned, not measured: reading all weights takes as long as computing some hundred tokens with them.
    "cuda": Costs(fixed=150, row=0.2, move=1, rows=256),
}


class Line:
    """An answer on its way, with the draft that it may follow; `last` when it has failed in all company but its own."""

    __slots__ = ("answer", "guide", "last", "proposal")

    def __init__(self, prompt: Prompt, vocabulary: int) -> None:
        """Nothing is written; a sampled answer follows no draft."""
        self.answer = Answer(prompt)
        self.guide = Guide(prompt.draft if self.answer.greedy else (), vocabulary)
        self.proposal: list[int] = []
        self.last = False

    @property
    def unread(self) -> tuple[int, ...]:
        """All tokens of prompt and answer; the last of them the model has never seen."""
        return (*self.answer.prompt.ids, *self.answer.ids)


@dataclass(slots=True)
class Group:
    """Lines with their keys and values, row by row; what the model has not seen of a line is its last token."""

    lines: list[Line]
    batch: Batch

    @property
    def open(self) -> list[int]:
        """Rows whose answer is not finished."""
        return [row for row, line in enumerate(self.lines) if not line.answer.closed]

    @property
    def left(self) -> int:
        """Most tokens that a line can still write."""
        return max((line.answer.prompt.limit - len(line.answer.ids) for line in self.lines), default=0)

    def part(self, rows: Sequence[int], width: int) -> Group:
        """Some of the rows, with room for a pass of `width`; this very group where that is all of them."""
        if len(rows) == len(self.lines):
            return self
        return self.moved(rows, width)

    def moved(self, rows: Sequence[int], width: int) -> Group:
        """Some of the rows, or all, in a batch of their own with room for a pass of `width` and some more."""
        return Group([self.lines[row] for row in rows], self.batch.take(rows, width + min(_ROOM, self.left)))


class Opening(Job):
    """The job that begins a line; its first `base` tokens are the prompt's, the others a proposal."""

    __slots__ = ("base", "line")

    def __init__(self, line: Line, leaf: Job, proposal: Sequence[int]) -> None:
        """Behind the tokens that `leaf` shares; the last token of a line is never shared."""
        base = (*leaf.tokens, line.unread[-1])
        super().__init__((*base, *proposal), leaf.start, 0, past=leaf.past, past_length=leaf.past_length)
        self.reads = {place: [] for place in range(len(base) - 1, len(self.tokens))}
        self.line = line
        self.base = len(base)


class Decoder:
    """What writing knows of one subject from call to call: how often its drafts were right, how many rows fit."""

    def __init__(self, walk: Walk) -> None:
        """Nothing is written yet."""
        causal = walk.passes.causal
        self.costs = _COSTS.get(causal.device.partition(":")[0], _COSTS["cpu"])
        self.odds = Odds(self.costs.worth)
        self.rows = self.costs.rows
        with walk.passes.run() as model:
            self.endings = Endings(causal.tokenizer, model)
            self.rules = rules_of(model)


class Writing:
    """The generations of one call; one that is given up on leaves nothing to the next."""

    def __init__(self, walk: Walk, decoder: Decoder) -> None:
        """Nothing is written yet."""
        self._walk = walk
        self._causal = walk.passes.causal
        self._decoder = decoder
        self._pool: Group | None = None
        self._again: list[Line] = []
        self._pace = 0.0  # tokens that the pool writes in the time of one token's compute

    def run(self, prompts: Sequence[Prompt]) -> Iterator[Answers]:
        """The answers to `prompts`, as they are finished."""
        lines = [Line(prompt, self._causal.vocabulary) for prompt in prompts]
        while lines:
            alone = [line for line in lines if line.last]
            yield from self._run([line for line in lines if not line.last])
            for line in alone:
                self._walk.drop()
                yield from self._run([line])
            lines, self._again = self._again, []  # memory ran out under these; now less is used

    def _run(self, lines: Sequence[Line]) -> Iterator[Answers]:
        room = max((line.answer.prompt.limit for line in lines), default=0)
        company = max(1, min(self._decoder.rows, self._walk.limits.rows, len(lines)))
        self._pace = company / self._decoder.costs.of(company, company)
        lost: Answers = []
        for jobs in self._openings(lines, lost):
            for begun in self._walk.each(jobs, self._begin, max(room, _ROOM)):
                if isinstance(begun, Opening):
                    lost += self._give_up([begun.line])
                else:
                    yield from self._go_on(begun)
                    yield from self._steps(lambda: self._most(room))
                del begun  # before the next batch takes memory
        yield from self._steps(lambda: 0)
        if lost:
            yield lost

    def _go_on(self, group: Group) -> Iterator[Answers]:
        """Follow the drafts of lines that have begun; those that leave theirs, or have none, come into the pool."""
        with self._walk.passes.session():
            left = attempt([group], self._follow)
        yield self._finished(group.lines)
        if left is None:
            yield self._give_way(group.lines)
            return
        if joining := [rest for rest in left if rest.open]:
            yield from self._steps(lambda: self._beside(joining))
            if attempt(joining, self._join) is None:
                yield self._give_way([line for rest in joining for line in rest.lines])

    def _most(self, room: int) -> int:
        """Rows below which the pool waits for more before it takes a step."""
        rows = min(self._decoder.rows, self._walk.limits.rows)
        return max(0, min(rows, self._walk.limits.columns // max(1, self._widest() + room)) - 1)

    def _beside(self, groups: Sequence[Group]) -> int:
        """Rows that the pool may have when `groups` join it: it is padded to the widest of all."""
        pool = [] if self._pool is None else [self._pool]
        width = max(group.batch.width for group in (*pool, *groups)) + max(group.left for group in (*pool, *groups))
        return max(0, self._walk.limits.columns // width - sum(len(group.open) for group in groups))

    def _widest(self) -> int:
        return self._pool.batch.width if self._pool is not None else 0

    # ---------------------------------------------------------------- the first pass

    def _openings(self, lines: Sequence[Line], lost: Answers) -> Iterator[list[Opening]]:
        """A job for every line, in lists, behind the tokens that it shares; its last token is never shared."""
        sequences = [line.unread[:-1] for line in lines]
        longer = [number for number, ids in enumerate(sequences) if ids]
        if bare := [number for number, ids in enumerate(sequences) if not ids]:
            root = self._walk.store.root
            yield [self._open(lines[number], Job((), 0, 0, past=root, past_length=root.length)) for number in bare]
        chosen = [sequences[number] for number in longer]
        roots = plan(chosen, [len(ids) for ids in chosen], share=self._walk.share)

        def lose(job: Job) -> None:
            waiting = [job]
            while waiting:
                gone = waiting.pop()
                waiting += gone.children
                lost.extend(self._give_up([lines[longer[end]] for end in gone.ends]))

        for leaves in self._walk.leaves(roots, _read_nothing, lose, split=True):
            yield [self._open(lines[longer[end]], leaf) for leaf in leaves for end in leaf.ends]

    def _open(self, line: Line, leaf: Job) -> Opening:
        line.proposal = self._propose(line, self._walk.limits.reads - 1)
        return Opening(line, leaf, line.proposal)

    def _begin(self, jobs: Sequence[Opening]) -> Group:
        """The pass over the prompts, and what it says of the first tokens."""
        logits, batch = self._walk.forward(jobs, _ROOM)
        if batch is None:
            raise ValueError("the keys and values of a prompt are always kept")
        if not jobs[0].line.last:
            self._walk.remember(jobs, batch, [job.base for job in jobs])
        return self._take(Group([job.line for job in jobs], batch), logits, [job.base for job in jobs])

    def _follow(self, groups: Sequence[Group]) -> list[Group]:
        """Go on with the rows whose drafts go on being right, while that is quicker than the pool; what is left."""
        left = [groups[0]]
        while follows := [row for row in left[-1].open if left[-1].lines[row].guide.at is not None]:
            last = left[-1]
            width = self._offer([last.lines[row] for row in follows])
            if not width:
                break
            others = [row for row in last.open if row not in set(follows)]
            left[-1:] = [last.part(others, 0)] if others else []
            left.append(self._step(last.part(follows, width)))
        return left

    def _offer(self, lines: Sequence[Line]) -> int:
        """Let `lines` propose; the tokens of a pass over them, or 0 where they are better off in the pool."""
        most = self._walk.limits.reads // len(lines) - 1
        for line in lines:
            line.proposal = self._propose(line, most)
        width = 1 + max(len(line.proposal) for line in lines)
        gained = sum(1 + self._expected(line, len(line.proposal)) for line in lines)
        cost = self._decoder.costs.of(len(lines), len(lines) * width, moved=True)
        return width if gained / cost >= self._pace else 0

    def _expected(self, line: Line, count: int) -> float:
        return line.guide.expected(self._decoder.odds, count)

    def _join(self, groups: Sequence[Group]) -> bool:
        """Put the open rows of `groups` into the pool, which loses its finished ones on the way."""
        together = [*([] if self._pool is None else [self._pool]), *groups]
        lines = [group.lines[row] for group in together for row in group.open]
        room = min(_ROOM, max(group.left for group in together))
        self._pool = Group(lines, Batch.join([(group.batch, group.open) for group in together], room))
        return True

    # ---------------------------------------------------------------- the pool

    def _steps(self, most: Callable[[], int]) -> Iterator[Answers]:
        """Step the pool until at most as many rows are left in it as `most` says, which can change with every step."""
        while self._pool is not None and len(self._pool.open) > most():
            with self._walk.passes.session():
                answers: Answers = []
                while self._pool is not None and not answers:
                    answers = self._step_pool(self._pool)
            yield answers

    def _step_pool(self, pool: Group) -> Answers:
        """One step of the pool; what it finished."""
        asked = [pool.lines[row] for row in pool.open]
        self._choose_proposals(pool)
        stepped = attempt([pool], lambda groups: self._step(groups[0]))
        compacted = None if stepped is None else attempt([stepped], lambda groups: [_compact(groups[0])])
        self._pool = None if compacted is None else compacted[0]
        lost = self._give_way(asked) if compacted is None else []
        return self._finished(asked) + lost

    def _choose_proposals(self, pool: Group) -> None:
        """Let rows that have come back to their draft propose, as far as that pays for the whole batch.

        A step of w tokens computes w for every row, so what it gains must be worth what the others waste.
        """
        count, asking = len(pool.lines), len(pool.open)
        most = self._walk.limits.reads // count - 1
        offers = {row: self._propose(pool.lines[row], most) for row in pool.open}
        costs = self._decoder.costs
        best, width = asking / costs.of(count, count), 0
        for longest in sorted({len(offer) for offer in offers.values()} - {0}):
            gained = asking + sum(self._expected(pool.lines[r], min(len(o), longest)) for r, o in offers.items())
            pace = gained / costs.of(count, count * (1 + longest), moved=True)
            if pace > best:
                best, width = pace, longest
        for row, line in enumerate(pool.lines):
            line.proposal = offers.get(row, [])[:width]

    def _give_way(self, lines: Sequence[Line]) -> Answers:
        """Memory ran out: start those of `lines` that are not finished again later, from what they have written."""
        lines = [line for line in lines if not line.answer.closed]
        self._walk.make_room()
        if len(lines) < 2:
            return self._give_up(lines)
        rows = self._decoder.rows = max(1, min(self._decoder.rows, len(lines)) // 2)
        limits = self._walk.limits
        self._walk.limits = replace(limits, rows=min(rows, limits.rows), reads=max(1, limits.reads // 2))
        self._again += lines
        return []

    def _give_up(self, lines: Sequence[Line]) -> Answers:
        """Memory ran out for each of `lines` alone: once more with nothing else in memory, and then it is lost."""
        lost = [(line.answer.prompt.index, Output(failure=OUT_OF_MEMORY)) for line in lines if line.last]
        again = [line for line in lines if not line.last]
        for line in again:
            line.last = True
        self._again += again
        return lost

    # ---------------------------------------------------------------- a step

    def _propose(self, line: Line, most: int) -> list[int]:
        if line.last:  # it gets by with as little memory as it can
            return []
        left = line.answer.prompt.limit - len(line.answer.ids) - 1
        return line.guide.proposal(self._decoder.odds, min(most, left))

    def _step(self, group: Group) -> Group:
        """One pass over all rows: the last token of each and what is proposed after it."""
        tokens = [[line.unread[-1], *line.proposal] for line in group.lines]
        width = max(map(len, tokens))
        if group.batch.room < width:
            group = group.moved(range(len(group.lines)), width)
        logits = self._walk.passes.forward(tokens, [range(len(row)) for row in tokens], group.batch)
        return self._take(group, logits, [1] * len(tokens))

    def _take(self, group: Group, logits: Any, bases: Sequence[int]) -> Group:
        """Write down what the logits say, as far as they agree with the proposals and one token beyond.

        `bases[i]` tokens of row i were certain before; the proposals came behind them.
        """
        answers = [line.answer for line in group.lines for _ in range(1 + len(line.proposal))]
        picks = iter(pick(logits, answers, self._causal.dtype))
        mine = [[next(picks) for _ in range(1 + len(line.proposal))] for line in group.lines]
        right = [_agreeing(line.proposal, chosen) for line, chosen in zip(group.lines, mine, strict=True)]
        group.batch.keep([base + count for base, count in zip(bases, right, strict=True)])
        for line, chosen, count in zip(group.lines, mine, right, strict=True):
            if not line.answer.closed:
                self._write(line, chosen[: count + 1], count)
        return group

    def _write(self, line: Line, picks: Sequence[Pick], right: int) -> None:
        """Write down `picks`: the `right` proposed tokens that were right, and the model's own token after them."""
        usage = self._walk.passes.usage
        for chosen in picks:
            line.answer.take(chosen, self._decoder.endings)
            usage.update(chosen=line.answer.greedy, near_ties=chosen.near)
            if line.answer.closed:
                break
        if line.proposal:
            usage.update(drafted=len(line.proposal), accepted=right)
            self._decoder.odds.learn(right, int(right < len(line.proposal)))
        if not line.answer.closed:
            line.guide.heed(line.answer.ids, len(line.proposal), right)

    def _finished(self, lines: Sequence[Line]) -> Answers:
        return [
            (line.answer.prompt.index, line.answer.output(self._decoder.endings))
            for line in lines
            if line.answer.closed
        ]


def _compact(pool: Group) -> Group | None:
    """Without the finished rows, once there are enough of them to be worth moving the others, or these move anyway."""
    rows = pool.open
    if not rows:
        return None
    finished = len(pool.lines) - len(rows)
    enough = finished and (pool.batch.ragged or finished >= max(1, len(pool.lines) // 4))
    return pool.part(rows, 1) if enough else pool


def _agreeing(proposal: Sequence[int], picks: Sequence[Pick]) -> int:
    """How many tokens of a proposal are the model's own choice, up to the first that is not."""
    pairs = enumerate(zip(proposal, picks, strict=False))  # there is one pick more, behind the proposal
    return next((place for place, (token, chosen) in pairs if token != chosen.id), len(proposal))


def _read_nothing(jobs: Sequence[Job], logits: Any) -> None:
    """Prompts share tokens, not logits."""
