"""Whatever is sent to the receiver, the answer is one that OTLP knows, and never a 500.

HARNESS_FUZZ_EXAMPLES says how many requests each test sends.
"""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from harness.traces.receiver import Limits
from tests.receiving import JSON, PROTOBUF, Answer, Receiving
from tests.trace_requests import chat, logs, traces

EXAMPLES = int(os.environ.get("HARNESS_FUZZ_EXAMPLES", "60"))
MANY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
PATHS = {
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse, traces(chat(), chat())),
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse, logs("a", [{"b": 1.5}], trace=b"t" * 16)),
}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    with Receiving(tmp_path_factory.mktemp("fuzz"), limits=Limits(most_body=2**20, most_wait=60)) as running:
        yield running


def check(answer: Answer, path: str, kind: str) -> None:
    assert answer.status in (200, 400, 413), answer
    assert answer.headers["content-type"] == kind
    if kind == JSON:
        assert set(answer.json) <= ({"partialSuccess"} if answer.status == 200 else {"code", "message"})
    elif answer.status == 200:
        PATHS[path][1].FromString(answer.body)
    else:
        assert Status.FromString(answer.body).message


@MANY
@given(st.sampled_from(sorted(PATHS)), st.binary(max_size=200), st.sampled_from([PROTOBUF, JSON]))
def test_any_bytes(receiver: Receiving, path: str, body: bytes, kind: str) -> None:
    check(receiver.post(body, path=path, kind=kind), path, kind)


@MANY
@given(st.sampled_from(sorted(PATHS)), st.data())
def test_a_good_request_with_some_bytes_changed(receiver: Receiving, path: str, data: st.DataObject) -> None:
    kind, _, good = PATHS[path]
    body = bytearray(good.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    answer = receiver.post(gzip.compress(bytes(body)), path=path, content_encoding="gzip")
    check(answer, path, PROTOBUF)
    try:
        kind.FromString(bytes(body))
    except DecodeError:
        assert answer.status == 400
    else:
        assert answer.status == 200


WEIRD = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10),
        st.sampled_from(["0" * 32, "f" * 16, "18446744073709551616", "-1", "NaN", "2"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
VALUE = st.one_of(
    WEIRD,
    st.builds(dict, stringValue=WEIRD), st.builds(dict, intValue=WEIRD), st.builds(dict, doubleValue=WEIRD),
    st.builds(dict, arrayValue=st.builds(dict, values=st.lists(WEIRD, max_size=2))),
    st.builds(dict, kvlistValue=st.builds(dict, values=st.lists(WEIRD, max_size=2))), st.builds(dict, bytesValue=WEIRD),
)  # fmt: skip
KEY = st.one_of(st.text(max_size=8), st.just("gen_ai.input.messages"), WEIRD)
ATTRIBUTE = st.one_of(WEIRD, st.builds(dict, key=KEY, value=VALUE))
ID = st.one_of(st.just("ab" * 16), st.just("cd" * 8), WEIRD)
SPAN = st.one_of(WEIRD, st.fixed_dictionaries({"traceId": ID, "spanId": ID}, optional={
    "parentSpanId": ID, "name": WEIRD, "kind": WEIRD, "startTimeUnixNano": WEIRD, "endTimeUnixNano": WEIRD,
    "attributes": st.one_of(WEIRD, st.lists(ATTRIBUTE, max_size=3)), "events": WEIRD, "links": WEIRD, "status": WEIRD,
    "body": VALUE, "timeUnixNano": WEIRD, "unknown": WEIRD,
}))  # fmt: skip


def document(names: tuple[str, str, str]) -> Any:
    scopes = st.one_of(WEIRD, st.lists(st.fixed_dictionaries({names[2]: st.lists(SPAN, max_size=3)}), max_size=2))
    groups = st.one_of(
        WEIRD, st.lists(st.fixed_dictionaries({names[1]: scopes}, optional={"resource": WEIRD}), max_size=2)
    )
    return st.fixed_dictionaries({names[0]: groups}, optional={"more": WEIRD})


@settings(MANY, max_examples=2 * EXAMPLES)
@given(st.one_of(
    st.tuples(st.just("/v1/traces"), document(("resourceSpans", "scopeSpans", "spans"))),
    st.tuples(st.just("/v1/logs"), document(("resourceLogs", "scopeLogs", "logRecords"))),
))  # fmt: skip
def test_documents_that_are_nearly_otlp(receiver: Receiving, sent: tuple[str, Any]) -> None:
    path, value = sent
    check(receiver.post(json.dumps(value).encode(), path=path, kind=JSON), path, JSON)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not_are_kept_in_protobuf(receiver: Receiving, number: float) -> None:
    assert receiver.post(traces({"x": number, "y": [number]}).SerializeToString()).status == 200


def test_what_was_taken_of_all_this_can_be_compacted_and_counted(receiver: Receiving) -> None:
    assert receiver.post(traces(chat("last")).SerializeToString()).status == 200
    stats = receiver.compacted().stats()
    assert stats.spans >= stats.calls >= 1
    assert stats.waiting_bytes == 0
