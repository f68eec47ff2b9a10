"""The compressor's worker process: it imports torch and runs users' modules, and the service can kill it.

    python -m pqbench_compressor.worker REQUESTS REPLIES PARENT DATA [allow-code]

REQUESTS and REPLIES are inherited pipe descriptors, PARENT is the service's process id, DATA its data folder. A worker
does not use gRPC.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

from pqbench.common.v1.common_pb2 import Progress
from pqbench.compressor.v1.worker_pb2 import WorkerReply, WorkerRequest
from pqbench_compressor.checks import Checker
from pqbench_compressor.loading import Loader
from pqbench_compressor.pipeline import Pipeline
from pqbench_wire.blobs import BlobStore
from pqbench_wire.shared.own_code import ALLOW_CODE
from pqbench_wire.workers import answer

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's numbers for mallopt


class Worker:
    """Answers check, analyse and compress requests; it sends progress through `send` meanwhile."""

    def __init__(self, loader: Loader, resume: Path, send: Callable[[WorkerReply], None]) -> None:
        self._checker, self._pipeline, self._send = Checker(loader), Pipeline(loader, resume), send

    def handle(self, request: WorkerRequest) -> WorkerReply:
        """The reply to one request; the memory that it needed is given back to the system afterwards."""
        try:
            return self._handled(request)
        finally:
            _give_back_memory()

    def _handled(self, request: WorkerRequest) -> WorkerReply:
        if request.HasField("check"):
            return WorkerReply(check=self._checker.check(request.check))
        if request.HasField("analyse"):
            return WorkerReply(analyse=self._pipeline.analyse(request.analyse, self._report))
        return WorkerReply(compress=self._pipeline.compress(request.compress, self._report))

    def _report(self, stage: str, fraction: float, message: str) -> None:
        self._send(WorkerReply(progress=Progress(stage=stage, fraction=fraction, message=message)))


def loader_over(data: Path, allow_code: bool) -> Loader:
    """A loader over the blobs in the service's data folder."""
    return Loader(store=BlobStore(data / "blobs"), allow_code=allow_code)


def worker_over(data: Path, loader: Loader, send: Callable[[WorkerReply], None]) -> Worker:
    """A worker that keeps the state of unfinished trainings in the service's data folder."""
    return Worker(loader, data / "training", send)


def reuse_memory() -> None:
    """Let glibc reuse large blocks.

    It would map each anew, and the kernel fill each with zeros: half of the time of a step such as compensate.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def _give_back_memory() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def main() -> None:
    """Answer requests from the pipe until the service closes it."""
    reuse_memory()
    data, allow_code = Path(sys.argv[4]), ALLOW_CODE in sys.argv[5:]
    answer(lambda send: worker_over(data, loader_over(data, allow_code), send), WorkerRequest, WorkerReply)


if __name__ == "__main__":
    main()
