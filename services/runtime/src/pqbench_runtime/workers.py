"""Starts the runtime's worker processes."""

from __future__ import annotations

from pathlib import Path

from pqbench.runtime.v1.worker_pb2 import WorkerReply
from pqbench_runtime.memory import OwnMemory
from pqbench_wire.workers import WorkerProcess


def start_worker(blobs: Path, memory: OwnMemory | None = None) -> WorkerProcess[WorkerReply]:
    """Start a worker process that reads and writes the blobs in a folder, and tensors of inferences in `memory`."""
    shared = [memory.descriptor] if memory else []
    return WorkerProcess("pqbench_runtime.worker", WorkerReply, [str(blobs), *map(str, shared)], shared)
