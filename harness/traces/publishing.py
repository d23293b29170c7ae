"""Results of a run go out again as `gen_ai.evaluation.result` events on the traces that its samples came from

Two events a call and metric, one of each arm. Trace and span id are those of the production call, and `run_id` joins
them with whatever else is known of it. An event holds `gen_ai.evaluation.name` and `gen_ai.evaluation.score.value`, as
the conventions say, or `error.type` where there is no score; `gen_ai.evaluation.score.label` is what became of the pair
(lost, won, same, tied, failed). What is ours is under `harness.`: run, suite, arm, subject, verdict and the time. An
event bears the time of its call, because stores look for the parts of a trace around the time of the trace.
"""

from __future__ import annotations

import gzip
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from harness import goldens, runs
from harness.errors import ConfigError, DataError, InfrastructureError, StorageError
from harness.records import Sample, Score
from harness.report import change_of
from harness.traces import otlp
from harness.traces.normal import EVALUATION, SOURCE
from harness.traces.records import LogEvent

_BATCH = 512
_TRIES = 5
_RETRYABLE = (429, 502, 503, 504)  # as OTLP/HTTP says
_LONGEST_WAIT = 30.0
_TIMEOUT = 30.0
_LONGEST_REASON = 2000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_RESOURCE = {"service.name": "harness"}


@dataclass(frozen=True, slots=True)
class Published:
    """How many events went out, how many of them the other side rejected, and about how many calls they were."""

    events: int
    rejected: int
    calls: int


def events_of(run: Path, root: Path) -> Iterator[LogEvent]:
    """The events of a finished run, in the order of its journal; `root` holds the golden sets.

    Raises:
        StorageError: it is no run directory that finished.
        DataError: none of its suites replayed calls, or their set is not there.
        LockError: the set is not what was frozen.
    """
    manifest, verdict = runs.read_json(run / runs.MANIFEST), runs.read_json(run / runs.VERDICT)
    sets = {name: _samples(root, said) for name, said in manifest["suites"].items()}
    if not any(sets.values()):
        raise DataError(f"{run}: none of its suites asked calls that came from traces")
    lower = {(c["suite"], c["metric"]) for c in verdict["comparisons"] if not c.get("higher_is_better", True)}
    judged = {name for name, said in manifest["suites"].items() if "judge" in said}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    common = {"harness.run": run.name, "harness.verdict": verdict["verdict"], "harness.evaluated_at": now}
    subjects = {arm: str(manifest[arm]["name"]) for arm in ("baseline", "candidate")}
    for entry in runs.read_entries(run):
        sample = sets.get(entry.suite, {}).get(entry.sample_id)
        if sample is None:
            continue
        source = "llm" if entry.suite in judged else "code"
        for metric, both in entry.scores.items():
            change = _became(both, higher_is_better=(entry.suite, metric) not in lower)
            for (arm, subject), score in zip(subjects.items(), both, strict=True):
                ours = {**common, "harness.suite": entry.suite, "harness.arm": arm, "harness.subject": subject}
                told = {**_said(metric, score, change), **ours, SOURCE: source}
                yield _event(sample, told)


def write(events: Iterator[LogEvent], path: Path) -> Published:
    """Write a new file of OTLP/JSON lines, as the Collector's file exporter does.

    Raises:
        StorageError: it exists, or cannot be written.
    """
    count, calls = 0, set[tuple[str, str]]()
    try:
        with path.open("xb") as file:
            for batch in _batches(events):
                file.write(otlp.encode_logs(batch, otlp.JSON) + b"\n")
                count += len(batch)
                calls |= {(e.trace_id, e.span_id) for e in batch}
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
    return Published(count, 0, len(calls))


def send(events: Iterator[LogEvent], endpoint: str, token: str = "") -> Published:
    """Post the events to an OTLP/HTTP endpoint (`http://host:4318`), in batches, each tried again as OTLP says.

    Raises:
        ConfigError: the endpoint is no URL or has a login in it, the token is none, or it would go over plain HTTP to
            another machine.
        InfrastructureError: the endpoint does not take them.
    """
    token = token.strip()
    url = _logs_url(endpoint, token)
    count = rejected = 0
    calls = set[tuple[str, str]]()
    for batch in _batches(events):
        rejected += _post(url, otlp.encode_logs(batch, otlp.JSON), token)
        count += len(batch)
        calls |= {(e.trace_id, e.span_id) for e in batch}
    return Published(count, rejected, len(calls))


# ---------------------------------------------------------------- what an event says


def _samples(root: Path, said: Mapping[str, Any]) -> dict[str, Sample]:
    """The samples of a suite that came from traces, by id."""
    reference = said.get("replayed") or said.get("asked")
    if not isinstance(reference, str) or not (root / reference.partition("@")[0]).is_dir():
        return {}
    found = goldens.load(root, reference).samples
    return {sample.id: sample for sample in found if isinstance(sample.data.get("trace"), dict)}


def _became(both: tuple[Score, Score], *, higher_is_better: bool) -> str:
    if all(score.state == "tied" for score in both):
        return "tied"
    change = change_of(*both, higher_is_better=higher_is_better)
    return "same" if change == "changed" else change


def _said(metric: str, score: Score, change: str) -> dict[str, Any]:
    told: dict[str, Any] = {"gen_ai.evaluation.name": metric, "gen_ai.evaluation.score.label": change}
    if score.value is not None:
        told["gen_ai.evaluation.score.value"] = score.value
    elif score.state != "tied":
        told["error.type"] = score.state
    if score.reason:
        told["gen_ai.evaluation.explanation"] = score.reason[:_LONGEST_REASON]
    return told


def _event(sample: Sample, attributes: Mapping[str, Any]) -> LogEvent:
    trace = sample.data["trace"]
    return LogEvent(
        trace_id=str(trace["trace_id"]),
        span_id=str(trace["span_id"]),
        name=EVALUATION,
        time_ns=_time_ns(trace.get("time")),
        severity=9,
        attributes={"run_id": str(trace.get("run_id") or trace["trace_id"]), **attributes},
        resource=_RESOURCE,
        scope="harness",
    )


def _time_ns(told: Any) -> int:
    try:
        return int(datetime.fromisoformat(told).timestamp() * 10**9)
    except (TypeError, ValueError):
        return time.time_ns()


def _batches(events: Iterator[LogEvent]) -> Iterator[Sequence[LogEvent]]:
    while batch := list(islice(events, _BATCH)):
        yield batch


# ---------------------------------------------------------------- the way out


class _Same(urllib.request.HTTPRedirectHandler):
    """Nobody is followed elsewhere: a token goes to whom it was meant for."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _logs_url(endpoint: str, token: str) -> str:
    parts = urlsplit(endpoint)
    if not (token.isascii() and token.isprintable()):  # else an error of the library below would repeat it
        raise ConfigError("the token has characters in it that no token has")
    if parts.username or parts.password:
        raise ConfigError("--endpoint has a login in it, which errors would repeat; name a token with --token-env")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--endpoint {endpoint!r} is no URL such as http://127.0.0.1:4318")
    if token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigError(f"--endpoint {endpoint}: a token is not sent over plain HTTP to another machine; use https")
    return endpoint if parts.path.endswith("/v1/logs") else endpoint.rstrip("/") + "/v1/logs"


def _post(url: str, body: bytes, token: str) -> int:
    """Send one batch; how many of it were rejected."""
    headers = {"Content-Type": otlp.JSON, "Content-Encoding": "gzip"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, gzip.compress(body, 1), headers, method="POST")  # noqa: S310 - http(s) only
    opener = urllib.request.build_opener(_Same)
    for attempt in range(1, _TRIES + 1):
        try:
            with opener.open(request, timeout=_TIMEOUT) as response:
                return _rejected(response)
        except urllib.error.HTTPError as error:
            if error.code not in _RETRYABLE or attempt == _TRIES:
                said = error.read(500).decode("utf-8", "replace").replace(token or "\0", "…")
                raise InfrastructureError(f"{url}: HTTP {error.code}: {said}") from None
            time.sleep(_asked_wait(error.headers.get("Retry-After"), attempt))
        except OSError as error:
            raise InfrastructureError(f"{url}: {getattr(error, 'reason', error)}") from None
    raise AssertionError("the last attempt returns or raises")


def _rejected(response: IO[bytes]) -> int:
    """What a partial success says; an answer that is none of OTLP's rejects nothing."""
    try:
        said = json.loads(response.read(65_536) or b"{}")
        return max(0, int(said.get("partialSuccess", {}).get("rejectedLogRecords", 0)))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return 0


def _asked_wait(header: str | None, attempt: int) -> float:
    try:
        return min(_LONGEST_WAIT, max(0.0, float(header or "")))
    except ValueError:  # an HTTP date, or nothing
        return min(_LONGEST_WAIT, 0.5 * 2.0**attempt)
