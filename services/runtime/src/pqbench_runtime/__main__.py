"""Starts a runtime: python -m pqbench_runtime --listen 127.0.0.1:0 --data data"""

from __future__ import annotations

import grpc

from pqbench.blob.v1 import blob_pb2_grpc
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_runtime.service import RuntimeServicer
from pqbench_wire.blob_service import BlobServicer
from pqbench_wire.server import main, parse_options, serve


def run() -> None:
    """Parse the command line and serve."""
    options, _ = parse_options("pqbench-runtime")
    servicer = RuntimeServicer(options.data, options.locks)

    def add(server: grpc.Server) -> list[str]:
        runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(servicer, server)
        blob_pb2_grpc.add_BlobServiceServicer_to_server(BlobServicer(servicer.store), server)
        return [runtime_pb2.DESCRIPTOR.services_by_name["RuntimeService"].full_name, "pqbench.blob.v1.BlobService"]

    serve(options, add, servicer.close)


if __name__ == "__main__":
    main(run)
