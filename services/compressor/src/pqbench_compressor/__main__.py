"""Starts the compressor: python -m pqbench_compressor --listen 127.0.0.1:0 --data data"""

from __future__ import annotations

import grpc

from pqbench.blob.v1 import blob_pb2_grpc
from pqbench.compressor.v1 import compressor_pb2, compressor_pb2_grpc
from pqbench_compressor.service import CompressorServicer
from pqbench_wire.blob_service import BlobServicer
from pqbench_wire.server import main, parse_options, serve
from pqbench_wire.shared.own_code import ALLOW_CODE


def run() -> None:
    """Parse the command line and serve."""
    options, flags = parse_options("pqbench-compressor", flags=(ALLOW_CODE,))
    servicer = CompressorServicer(options.data, options.locks, ALLOW_CODE in flags)

    def add(server: grpc.Server) -> list[str]:
        compressor_pb2_grpc.add_CompressorServiceServicer_to_server(servicer, server)
        blob_pb2_grpc.add_BlobServiceServicer_to_server(BlobServicer(servicer.store), server)
        return [
            compressor_pb2.DESCRIPTOR.services_by_name["CompressorService"].full_name,
            "pqbench.blob.v1.BlobService",
        ]

    serve(options, add, servicer.close)


if __name__ == "__main__":
    main(run)
