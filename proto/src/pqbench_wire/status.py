"""Translates errors to gRPC statuses and back: google.rpc.Status with an ErrorInfo that carries the reason."""

from __future__ import annotations

from typing import cast

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from pqbench_wire.errors import (
    TABLE,
    Cancelled,
    PqbenchError,
    Timeout,
    TooLarge,
    Unauthenticated,
    Unavailable,
    from_reason,
)

DOMAIN = "pqbench"
MAX_TEXT = 1000  # characters
MAX_BYTES = 6500  # of the text's two copies in the headers: gRPC sometimes rejects headers over 8 KB
# Errors of gRPC itself carry no reason: a dead connection, a passed deadline, a size limit.
BY_CODE: dict[grpc.StatusCode, type[PqbenchError]] = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DEADLINE_EXCEEDED: Timeout,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
    grpc.StatusCode.UNIMPLEMENTED: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}


def to_status(error: PqbenchError) -> grpc.Status:
    """The error as google.rpc.Status with an ErrorInfo, for a server to abort with."""
    code, reason = TABLE[type(error)]
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    number = code_pb2.Code.Value(code)
    return rpc_status.to_status(status_pb2.Status(code=number, message=_fitting(str(error)), details=[detail]))


def _fitting(text: str) -> str:
    """The longest beginning of a text that fits into headers, which carry it as it is and percent-encoded."""
    size = 0
    for index, character in enumerate(text[:MAX_TEXT]):
        data = character.encode(errors="replace")
        is_plain = len(data) == 1 and character.isprintable() and character != "%"
        size += len(data) * (2 if is_plain else 4)
        if size > MAX_BYTES:
            return text[:index]
    return text[:MAX_TEXT]


def from_rpc_error(error: grpc.RpcError) -> PqbenchError:
    """The PqbenchError that a client raises instead of gRPC's own error."""
    code, text = error.code(), error.details() or error.code().name
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))  # what gRPC raises is the call, too
    except ValueError:  # gRPC changed the status code, but not the details
        status = None
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return from_reason(info.reason, text)
    return BY_CODE.get(code, PqbenchError)(text)
