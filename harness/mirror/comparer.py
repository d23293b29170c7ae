"""The comparing process: asks the candidate, scores both sides, keeps the books and reads the gate

It is a process of its own, with lower priority, so that nothing it does or suffers can hold up the proxy: a crash, a
library that blocks, a long look at the evidence. What it is told by the proxy is acknowledged once it is in the books.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.mirror import frames
from harness.mirror.brakes import Breaker, DailyBudget, size_of
from harness.mirror.calls import Answer, Asked, read_answer, read_request
from harness.mirror.candidate import Candidate, candidate, prices_of
from harness.mirror.config import Loaded, load_mirror
from harness.mirror.evidence import Evidences
from harness.mirror.frames import Frame, Job
from harness.mirror.judging import LiveJudge
from harness.mirror.ledger import BY_CHOICE, COMPARED, Ledger, Session
from harness.mirror.page import rendered
from harness.mirror.scoring import Scoring
from harness.mirror.spans import Spans, span_of
from harness.records import Verdict
from harness.traces.records import Span

_BOOK_SECONDS = 0.2
_LOOKING = 4  # times as long as a look took passes until the next
_DIFFER = 1e-9
_LONG = 8192  # bytes of a request that is long
_MOST_ANSWER = 32 * 2**20


def main(path: Path, aa: bool, connection: socket.socket) -> None:
    """Run until the proxy ends; the entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the proxy says when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        os.nice(15)
        # Where the system has this class (Linux), what wakes up here does not interrupt the proxy.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    asyncio.run(_serve(load_mirror(path, aa=aa), connection))


async def _serve(loaded: Loaded, connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection, limit=2**20)
    comparer = Comparer(loaded, writer)
    try:
        await comparer.run(reader)
    finally:
        await comparer.close()
        writer.close()


class Comparer:
    """See the module."""

    def __init__(self, loaded: Loaded, writer: asyncio.StreamWriter) -> None:
        config = loaded.config
        self._loaded, self._writer = loaded, writer
        self._ledger = Ledger(loaded.folder, loaded.comparison_digest())
        self._judge = LiveJudge(loaded, self._ledger) if config.judge is not None else None
        self._evidence = Evidences(loaded, self._ledger, [self._judge.standing()] if self._judge is not None else [])
        self._scoring = Scoring(config.policy)
        self._spans = Spans(loaded)
        self._candidate: Candidate | None = candidate(loaded) if config.mirror is not None else None
        self._room = asyncio.Semaphore(config.mirror.concurrency if config.mirror is not None else 1)
        self._breaker = Breaker(config.breaker)
        self._budget = DailyBudget(config.budget, prices_of(loaded), self._ledger.spent, self._ledger.set_spent)
        self._epoch = ""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._busy: Counter[int] = Counter()
        self._done: list[tuple[int, str]] = []
        self._booked: int | None = None
        self._verdict: Verdict | None = None
        self._changed = True
        self._off = False
        self._stopped = "shutdown"

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Take frames until the proxy ends or says stop."""
        loops = [asyncio.create_task(work) for work in (self._listen(reader), self._book_often(), self._look_often())]
        try:
            ended, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for loop in ended:
                loop.result()  # books that cannot be kept end the process, and the proxy starts another
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def close(self) -> None:
        """Cancel what is under way, take a last look, and close the books."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._candidate is not None:
            await self._candidate.close()
        if self._judge is not None:
            self._judge.close()
        await self._spans.close()
        self._book()
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()
        self._ledger.close()

    # ------------------------------------------------------------ what the proxy says

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (frame := await frames.read(reader)) is not None:
            if frame.kind == "stop":
                await self._finish(float(frame.head["seconds"]))
                return
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        if frame.kind == "job":
            job = Job.of(frame)
            task = self._tasks[job.number] = asyncio.create_task(self._handle(job))
            task.add_done_callback(lambda _: self._conclude(job, None, self._stopped))  # one cancelled before it began
        elif frame.kind == "counts":
            self._count(frame.head)
        elif frame.kind == "switch":
            self._switch(off=bool(frame.head["off"]))
        elif frame.kind == "page":
            html, policy = rendered(self._loaded, self._ledger, self._verdict, self._status())
            self._send(Frame("page", {"id": frame.head["id"], "policy": policy}, html.encode()))
        elif frame.kind == "hello":
            self._epoch = str(frame.head["epoch"])
            booked, finished = self._ledger.open_epoch(self._epoch)
            self._ledger.commit()
            self._send(Frame("ready", {"booked": booked, "finished": finished}))

    def _count(self, head: Any) -> None:
        """One block of counts: [tenant, what, n] of calls, and [kind, n] of those not compared."""
        for tenant, what, n in head["counts"]:
            self._ledger.count(tenant, what, n)
        for kind, n in head["kinds"]:
            self._ledger.kinds([kind], compared=False, n=n)
        self._ledger.set_fact("counts", str(head["number"]))
        self._ledger.forget_finished(self._epoch, head["below"])
        self._booked = head["number"]

    def _switch(self, *, off: bool) -> None:
        self._off = off
        if off:
            self._stopped = "switched_off"
            for task in list(self._tasks.values()):
                task.cancel()
        else:
            self._stopped = "shutdown"

    async def _finish(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)

    # ------------------------------------------------------------ one call

    async def _handle(self, job: Job) -> None:
        asked = read_request(job.path, job.request)
        try:
            outcome = await self._compared(job, asked)
        except asyncio.CancelledError:
            outcome = self._stopped
        except Exception as error:  # a mistake of ours on one call is counted, and does not end the process
            outcome = f"stumbled:{type(error).__name__}"
        self._conclude(job, asked, outcome)

    def _conclude(self, job: Job, asked: Asked | None, outcome: str) -> None:
        """Book what became of a call, once."""
        if self._tasks.pop(job.number, None) is None:
            return
        self._ledger.count(job.tenant, outcome)
        if outcome not in BY_CHOICE:
            split = self._loaded.mode == "split"
            self._ledger.kinds(kinds_of(job, asked, split=split), compared=outcome == COMPARED)
        self._ledger.finish(self._epoch, job.number)
        self._done.append((job.number, outcome))
        self._changed = True

    async def _compared(self, job: Job, asked: Asked) -> str:
        if asked.obstacle:  # in a split it went to the champion whatever its arm, so it speaks for neither
            return f"not_replayable:{asked.obstacle}"
        limits = self._loaded.config.sessions
        if not self._ledger.has_begun(job.cluster, limits.most_sessions):
            return "enough"
        session = self._ledger.session(job.cluster, job.arm, job.began)
        if session.complete:
            return "session_closed"
        if session.calls >= limits.most_calls:
            return "session_cap"
        self._ledger.enter(session, job.began)
        with self._in_session(session):
            if self._candidate is None:
                return self._alone(job, asked, session)
            async with self._room:
                return await self._against(self._candidate, job, asked, session)

    @contextlib.contextmanager
    def _in_session(self, session: Session) -> Iterator[None]:
        self._busy[session.place] += 1
        try:
            yield
        finally:
            self._busy[session.place] -= 1
            self._busy += Counter()  # without those that are at 0
            self._ledger.touch(session.place, time.time())

    def _alone(self, job: Job, asked: Asked, session: Session) -> str:
        """A split: the answer that the user got is all there is."""
        answer = self._users(job)
        base = self._base(job.arm)
        if self._kept(job, span_of(job, asked, answer, arm=job.arm, base=base, began=job.began)) is None:
            return "redaction_failed"
        scores = self._scoring.score(asked, answer)
        held = scores if not answer.rejected else {"answered": scores["answered"]}
        self._ledger.add_pair(self._name(job), session.place, {name: (s, s) for name, s in held.items()})
        return COMPARED

    async def _against(self, other: Candidate, job: Job, asked: Asked, session: Session) -> str:
        """A mirror: the candidate is asked too."""
        ours = self._users(job)
        span = span_of(job, asked, ours, arm="champion", base=self._base("champion"), began=job.began)
        left = self._kept(job, span)
        if left is None:
            return "redaction_failed"
        answer = await self._sent(other, asked)
        if isinstance(answer, str):
            return answer
        began = time.time() - answer.seconds
        right = self._kept(
            job, span_of(job, asked, answer, arm="candidate", base=self._base("candidate"), began=began, beside=span)
        )
        if right is None:
            return "redaction_failed"
        pair = self._scoring.pair(asked, ours, answer)
        if self._judge is not None and not (ours.failure or ours.rejected or answer.failure or answer.rejected):
            question = _texts(left, "gen_ai.input.messages")
            pair |= await self._judge.scores(job.cluster, question, _said(left), _said(right))
        self._ledger.add_pair(self._name(job), session.place, pair)
        differing = [n for n, (a, b) in pair.items() if n not in ("seconds", "output_tokens") and a.value != b.value]
        if differing:
            held = {
                "run_id": str(left.attributes.get("run_id", ""))[:64], "metrics": differing,
                "asked": _texts(left, "gen_ai.input.messages"), "champion": _said(left), "candidate": _said(right),
            }  # fmt: skip
            self._ledger.show(self._name(job), time.time(), job.tenant, held)
        return COMPARED

    async def _sent(self, other: Candidate, asked: Asked) -> Answer | str:
        """The candidate's answer, or why it was not asked."""
        if self._off:
            return "switched_off"
        if not self._breaker.admits():
            return "breaker"
        body = asked.copied()
        reserved = self._budget.reserve(body, size_of(body))
        if reserved is None:
            self._breaker.unsaid()
            return "budget"
        try:
            answer = await other.ask(asked)
        except asyncio.CancelledError:
            self._breaker.unsaid()
            raise
        self._breaker.said(failed=bool(answer.failure))
        self._budget.settle(reserved, answer.input_tokens, answer.output_tokens)
        return answer

    def _users(self, job: Job) -> Answer:
        answer = read_answer(job.status, job.headers, job.answer, _MOST_ANSWER)
        return replace(answer, seconds=job.seconds, first_token=job.first_byte)

    def _kept(self, job: Job, span: Span) -> Span | None:
        """The span redacted, and on its way to wherever spans go."""
        admitted = self._spans.admitted(job.tenant, span)
        if admitted is None:
            return None
        self._spans.send(job.tenant, admitted[0], time.time_ns())
        return admitted[1]

    def _base(self, arm: str) -> str:
        return (
            self._loaded.config.champion.api_base if arm == "champion" else self._loaded.deployments[0].api_base or ""
        )

    def _name(self, job: Job) -> str:
        """The job's name in the books, in the order of arrival."""
        return f"{self._epoch}-{job.number:012d}"

    # ------------------------------------------------------------ books and looks

    async def _book_often(self) -> None:
        while True:
            await asyncio.sleep(_BOOK_SECONDS)
            self._book()

    def _book(self) -> None:
        """Commit, and only then tell the proxy what it need not remember any more."""
        done, self._done = self._done, []
        booked, self._booked = self._booked, None
        self._budget.keep()
        if self._judge is not None:
            self._judge.keep()
        self._ledger.commit()
        if done:
            self._send(Frame("done", {"jobs": done}))
        if booked is not None:
            self._send(Frame("booked", {"number": booked}))

    async def _look_often(self) -> None:
        section = self._loaded.config.sessions
        pause = self._loaded.config.policy.look_seconds
        while True:
            now = time.time()
            self._ledger.complete(now, section.idle_seconds, section.most_seconds, section.most_calls, self._busy)
            grown = self._evidence.grow()
            if grown or self._changed or self._verdict is None:
                self._changed = False
                pause = max(self._loaded.config.policy.look_seconds, _LOOKING * await self._look())
                self._ledger.prune()
            await asyncio.sleep(pause)

    async def _look(self) -> float:
        """Decide; the seconds of processor time that it took."""
        verdict, spent = await asyncio.to_thread(_timed, self._evidence.now())
        self._evidence.note(verdict)
        if self._verdict is None or verdict.verdict != self._verdict.verdict:
            reason = verdict.reasons[0] if verdict.reasons else ""
            self._send(Frame("verdict", {"verdict": verdict.verdict, "reason": reason}))
        self._verdict = verdict
        return spent

    def _status(self) -> dict[str, Any]:
        return {
            "breaker": "open" if self._breaker.is_open else "closed", "off": self._off, "under_way": len(self._tasks),
            "budget": self._budget.as_json(), "spans_lost": self._spans.lost,
        }  # fmt: skip

    def _send(self, frame: Frame) -> None:
        if not self._writer.is_closing():
            self._writer.write(frame.pack())


def _timed(decide: Callable[[], Verdict]) -> tuple[Verdict, float]:
    began = time.thread_time()
    return decide(), time.thread_time() - began


def kinds_of(job: Job, asked: Asked | None, *, split: bool = False) -> list[str]:
    """The kinds that a call is counted under, to see whether one of them is seldom compared.

    In a split an arm is one: what is not compared of one arm and compared of the other makes the two unlike.
    """
    kinds = ["all", "error" if job.status != 200 else "answered", "long" if len(job.request) > _LONG else "short"]
    if asked is not None:
        kinds += ["stream" if asked.stream else "whole", *(["tools"] if asked.body.get("tools") else [])]
        kinds += [job.arm] if split and not asked.obstacle else []
    return kinds


def cluster_of(salt: str, tenant: str, session: str) -> str:
    """What stands for a session in draws and books; two tenants with one session id have two."""
    held = f"{len(salt)}:{salt}{len(tenant)}:{tenant}{session}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(held).hexdigest()[:32]


def _texts(span: Span, name: str) -> str:
    """What a redacted span says under an attribute, for people: a line a part."""
    try:
        held = json.loads(str(span.attributes.get(name, "[]")))
    except ValueError:
        return ""
    lines = []
    for message in held if isinstance(held, list) else []:
        for part in message.get("parts", []):
            said = part.get("content") or part.get("response") or (
                f"→ {part.get('name')}({json.dumps(part.get('arguments'), ensure_ascii=False)})"
                if part.get("type") == "tool_call" else f"[{part.get('type')}]"
            )  # fmt: skip
            lines.append(f"{message.get('role')}: {said}" if name.endswith("input.messages") else str(said))
    return "\n".join(lines)[-6000:]


def _said(span: Span) -> str:
    return span.status_message[:2000] if span.status == "error" else _texts(span, "gen_ai.output.messages")
