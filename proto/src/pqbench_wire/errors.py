"""The one exception tree of pqbench, with the gRPC code and reason of each class.

    PqbenchError
    ├── InvalidInput           the caller must change something (exit code 2)
    │   └── TooLarge           a size, shape or count beyond the bounds
    ├── NotFound               a blob, engine or job that is not there
    ├── Refused                cannot work with this model, target or machine: an outcome, not a failure
    ├── Unavailable            the service, library or device is not there; a retry may help
    │   └── Busy               the service does as much as it can already
    ├── Failed                 the work was tried and went wrong
    │   ├── VerificationFailed an export that does not compute the same as the model
    │   ├── PrecisionMismatch  an engine that does not run in the requested precision
    │   ├── WorkerCrashed      a worker process died
    │   ├── Frozen             a service or worker gives no sign of life
    │   ├── OutOfMemory
    │   └── Internal           an unexpected exception; the service's log has it under the id in the message
    ├── BlobCorrupt            bytes that do not have the announced SHA-256 or size
    ├── Cancelled              the caller gave up
    ├── Timeout                a deadline passed
    └── Unauthenticated        a missing or wrong token

`TABLE` maps each class to its gRPC code and reason; a test checks that it is complete. The
translation itself is in `status`, because workers raise these errors without gRPC.
"""

from __future__ import annotations


class PqbenchError(Exception):
    """Base class of every expected failure; its text is one line for a person."""


class InvalidInput(PqbenchError):
    """The caller must change something."""


class TooLarge(InvalidInput):
    """A size, shape or count is beyond the bounds."""


class NotFound(PqbenchError):
    """A blob, engine or job is not there."""


class Refused(PqbenchError):
    """What was requested cannot work with this model, target or machine; usually found before any work."""


class Unavailable(PqbenchError):
    """The service, library or device is not there."""


class Busy(Unavailable):
    """The service has as many calls as it takes."""


class Failed(PqbenchError):
    """The work was tried and went wrong."""


class VerificationFailed(Failed):
    """An exported artifact does not compute the same as the model, or lost a property such as N:M sparsity."""


class PrecisionMismatch(Failed):
    """An engine does not run in the requested precision."""


class WorkerCrashed(Failed):
    """A worker process died."""


class Frozen(Failed):
    """A service or a worker gives no sign of life."""


class Internal(Failed):
    """An unexpected exception."""


class OutOfMemory(Failed):
    """The memory of the host or the device ran out."""


class BlobCorrupt(PqbenchError):
    """Bytes do not have the announced SHA-256 or size."""


class Cancelled(PqbenchError):
    """The caller gave up."""


class Timeout(PqbenchError):
    """A deadline passed."""


class Unauthenticated(PqbenchError):
    """A token is missing or wrong."""


TABLE: dict[type[PqbenchError], tuple[str, str]] = {
    PqbenchError: ("UNKNOWN", "UNKNOWN"),
    InvalidInput: ("INVALID_ARGUMENT", "INVALID_INPUT"),
    TooLarge: ("OUT_OF_RANGE", "TOO_LARGE"),
    NotFound: ("NOT_FOUND", "NOT_FOUND"),
    Refused: ("FAILED_PRECONDITION", "REFUSED"),
    Unavailable: ("UNAVAILABLE", "UNAVAILABLE"),
    Busy: ("RESOURCE_EXHAUSTED", "BUSY"),
    Failed: ("UNKNOWN", "FAILED"),
    VerificationFailed: ("UNKNOWN", "VERIFICATION_FAILED"),
    PrecisionMismatch: ("UNKNOWN", "PRECISION_MISMATCH"),
    WorkerCrashed: ("ABORTED", "WORKER_CRASHED"),
    Frozen: ("ABORTED", "FROZEN"),
    Internal: ("INTERNAL", "INTERNAL"),
    OutOfMemory: ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY"),
    BlobCorrupt: ("DATA_LOSS", "BLOB_CORRUPT"),
    Cancelled: ("CANCELLED", "CANCELLED"),
    Timeout: ("DEADLINE_EXCEEDED", "TIMEOUT"),
    Unauthenticated: ("UNAUTHENTICATED", "UNAUTHENTICATED"),
}
BY_REASON = {reason: cls for cls, (_, reason) in TABLE.items()}


def reason_of(error: PqbenchError) -> str:
    """The UPPER_SNAKE reason of an error's class."""
    return TABLE[type(error)][1]


def from_reason(reason: str, message: str) -> PqbenchError:
    """The error that `reason` names; for an unknown reason a plain PqbenchError."""
    return BY_REASON.get(reason, PqbenchError)(message)


def first_line(error: BaseException) -> str:
    """The first line of an exception's text that is not empty, at most 500 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else "no message"
