"""OTLP/gRPC beside OTLP/HTTP: the same intake behind another protocol (extra `traces-grpc`)

UNAVAILABLE and RESOURCE_EXHAUSTED with RetryInfo may be sent again, everything else not (OTLP 1.x, "OTLP/gRPC").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness.errors import InfrastructureError, PluginError
from harness.plugins import missing_extra
from harness.traces.otlp import PROTOBUF
from harness.traces.receiver._answers import Refusal, success, warning
from harness.traces.receiver._intake import Intake
from harness.traces.receiver._taking import Request, Signal
from harness.traces.receiver._tenancy import tenant_of
from harness.traces.receiver._tokens import Tokens

_SERVICES: Mapping[Signal, str] = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}
_CALLS = 8  # that wait for the intake at the same time; more are queued by gRPC


def start(intake: Intake, tokens: Tokens | None, host: str, port: int) -> tuple[Any, int]:
    """A running server and its port.

    Raises:
        PluginError: grpcio is not installed.
        InfrastructureError: the port is taken.
    """
    try:
        import grpc
    except ImportError as error:
        raise PluginError(missing_extra("--grpc-port", error)) from error
    server = grpc.server(
        ThreadPoolExecutor(_CALLS, thread_name_prefix="grpc"),
        options=[("grpc.max_receive_message_length", intake.most_body), ("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(
                service, {"Export": grpc.unary_unary_rpc_method_handler(_export(grpc, intake, tokens, signal))}
            )
            for signal, service in _SERVICES.items()
        )
    )
    try:
        bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise InfrastructureError(f"{host}:{port} cannot be listened on: {error}") from error
    server.start()
    return server, bound


def _export(grpc: Any, intake: Intake, tokens: Tokens | None, signal: Signal) -> Callable[[bytes, Any], bytes]:
    codes = {
        400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED,
        403: grpc.StatusCode.PERMISSION_DENIED, 413: grpc.StatusCode.RESOURCE_EXHAUSTED,
        503: grpc.StatusCode.UNAVAILABLE,
    }  # fmt: skip

    def export(body: bytes, context: Any) -> bytes:
        try:
            return _taken(intake, tokens, signal, body, dict(context.invocation_metadata()))
        except Refusal as error:
            if error.retry_after is not None:
                context.set_trailing_metadata((("retry-after", str(error.retry_after)),))
            context.abort(codes.get(error.status, grpc.StatusCode.UNKNOWN), error.message)
            raise  # abort has raised already

    return export


def _taken(intake: Intake, tokens: Tokens | None, signal: Signal, body: bytes, metadata: dict[str, Any]) -> bytes:
    tenant = tenant_of(metadata, tokens)
    intake.check(len(body))
    intake.reserve(len(body))
    try:
        taken = intake.take_now(Request(tenant, signal, body, PROTOBUF, ""))
    finally:
        intake.release(len(body))
    return success(signal, PROTOBUF, taken.rejected, warning(taken.clamped))
