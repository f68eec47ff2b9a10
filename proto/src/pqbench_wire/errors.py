"""The one exception tree of pqbench and its translation to and from gRPC.

    PqbenchError
    ├── InvalidInput           the caller must change something (exit code 2)
    │   └── TooLarge           a size, shape or count beyond the bounds
    ├── NotFound               a blob, engine or job that is not there
    ├── Refused                known not to work, found before any work: an outcome, not a failure
    ├── Unavailable            the service, library or device is not there; the only one worth a retry
    ├── Failed                 tried and broke
    │   ├── VerificationFailed an export whose outputs differ from PyTorch's
    │   ├── PrecisionMismatch  an engine that does not run in the precision asked for
    │   ├── WorkerCrashed      a worker process died
    │   └── OutOfMemory
    ├── BlobCorrupt            bytes that do not have the announced SHA-256
    ├── Cancelled
    ├── Timeout                a deadline passed
    └── Unauthenticated        a missing or wrong token

`TABLE` maps each class to its gRPC code and reason; a test holds that it is complete.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "pqbench"


class PqbenchError(Exception):
    """Root of every expected failure; its text is one line for a person."""


class InvalidInput(PqbenchError):
    """The caller must change something."""


class TooLarge(InvalidInput):
    """A size, shape or count is beyond the bounds."""


class NotFound(PqbenchError):
    """A blob, engine or job is not there."""


class Refused(PqbenchError):
    """Known not to work, found before any work."""


class Unavailable(PqbenchError):
    """The service, library or device is not there."""


class Failed(PqbenchError):
    """Tried and broke."""


class VerificationFailed(Failed):
    """An exported artifact computes something else than PyTorch."""


class PrecisionMismatch(Failed):
    """An engine does not run in the precision that was asked for."""


class WorkerCrashed(Failed):
    """A worker process died."""


class OutOfMemory(Failed):
    """Memory of host or device ran out."""


class BlobCorrupt(PqbenchError):
    """Bytes do not have the announced SHA-256 or size."""


class Cancelled(PqbenchError):
    """The caller gave up."""


class Timeout(PqbenchError):
    """A deadline passed."""


class Unauthenticated(PqbenchError):
    """A token is missing or wrong."""


TABLE: dict[type[PqbenchError], tuple[grpc.StatusCode, str]] = {
    PqbenchError: (grpc.StatusCode.INTERNAL, "INTERNAL"),
    InvalidInput: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT"),
    TooLarge: (grpc.StatusCode.OUT_OF_RANGE, "TOO_LARGE"),
    NotFound: (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    Refused: (grpc.StatusCode.FAILED_PRECONDITION, "REFUSED"),
    Unavailable: (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    Failed: (grpc.StatusCode.UNKNOWN, "FAILED"),
    VerificationFailed: (grpc.StatusCode.UNKNOWN, "VERIFICATION_FAILED"),
    PrecisionMismatch: (grpc.StatusCode.UNKNOWN, "PRECISION_MISMATCH"),
    WorkerCrashed: (grpc.StatusCode.ABORTED, "WORKER_CRASHED"),
    OutOfMemory: (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY"),
    BlobCorrupt: (grpc.StatusCode.DATA_LOSS, "BLOB_CORRUPT"),
    Cancelled: (grpc.StatusCode.CANCELLED, "CANCELLED"),
    Timeout: (grpc.StatusCode.DEADLINE_EXCEEDED, "TIMEOUT"),
    Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
}
BY_REASON = {reason: cls for cls, (_, reason) in TABLE.items()}
# What gRPC itself raises carries no reason: a dead connection, a deadline, a size limit.
BY_CODE: dict[grpc.StatusCode, type[PqbenchError]] = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DEADLINE_EXCEEDED: Timeout,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
    grpc.StatusCode.UNIMPLEMENTED: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}


def reason_of(error: PqbenchError) -> str:
    """The UPPER_SNAKE reason of an error's class."""
    return TABLE[type(error)][1]


def from_reason(reason: str, message: str) -> PqbenchError:
    """The error that `reason` names; an unknown reason gives the tree's root."""
    return BY_REASON.get(reason, PqbenchError)(message)


def to_status(error: PqbenchError) -> grpc.Status:
    """The error as google.rpc.Status with an ErrorInfo, for a server to abort with."""
    code, reason = TABLE[type(error)]
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    number = code_pb2.Code.Value(code.name)
    return rpc_status.to_status(status_pb2.Status(code=number, message=str(error), details=[detail]))


def from_rpc_error(error: grpc.RpcError) -> PqbenchError:
    """What a client raises in place of gRPC's own error."""
    code, text = error.code(), error.details() or error.code().name
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return from_reason(info.reason, text)
    return BY_CODE.get(code, PqbenchError)(text)
