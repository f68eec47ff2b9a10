"""What a service tells Prometheus of its calls, beside the memory and CPU time of its process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import grpc
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from pqbench_wire.errors import InvalidInput, first_line

BUCKETS = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)  # seconds: a call lasts from an inference to a build
CALLS = Counter("pqbench_calls", "Calls that have ended.", ["method", "code"])
SECONDS = Histogram("pqbench_call_seconds", "How long calls took.", ["method"], buckets=BUCKETS)
IN_FLIGHT = Gauge("pqbench_calls_in_flight", "Calls that have begun and not ended.")


@contextlib.contextmanager
def counted(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    """Count a call of the gRPC method `method`, with the status in its context, and its duration."""
    began = time.perf_counter()
    with IN_FLIGHT.track_inprogress():
        try:
            yield
        finally:
            gone = grpc.StatusCode.OK if context.is_active() else grpc.StatusCode.CANCELLED
            CALLS.labels(method, (context.code() or gone).name).inc()  # type: ignore[attr-defined]  # the stubs lack it
            SECONDS.labels(method).observe(time.perf_counter() - began)


def serve_metrics(address: str) -> None:
    """Answer http://ADDRESS/metrics, of the form host:port, in a thread. Raises InvalidInput where that cannot be."""
    host, _, port = address.rpartition(":")
    try:
        start_http_server(int(port), host.strip("[]"))
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(
            f"--metrics {address}: not an address that can be listened on: {first_line(error)}"
        ) from error
