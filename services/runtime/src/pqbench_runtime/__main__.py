"""Starts a runtime: python -m pqbench_runtime --listen 127.0.0.1:0 --data data"""

from __future__ import annotations

import grpc

from pqbench.blob.v1 import blob_pb2, blob_pb2_grpc
from pqbench.inference import open_inference_pb2, open_inference_pb2_grpc
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_runtime import oip
from pqbench_runtime.service import RuntimeServicer
from pqbench_wire.blob_service import BlobServicer
from pqbench_wire.server import main, parse_options, serve


def run() -> None:
    """Parse the command line and serve."""
    options, _ = parse_options("pqbench-runtime")
    servicer = RuntimeServicer(options.data, options.locks)

    def add(server: grpc.Server) -> list[str]:
        runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(servicer, server)
        inference = oip.InferenceServicer(servicer.engines, servicer.infer)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, server)
        blob_pb2_grpc.add_BlobServiceServicer_to_server(BlobServicer(servicer.store), server)
        files = (runtime_pb2.DESCRIPTOR, open_inference_pb2.DESCRIPTOR, blob_pb2.DESCRIPTOR)
        return [service.full_name for file in files for service in file.services_by_name.values()]

    serve(options, add, servicer.close, oip.MAX_MESSAGE)


if __name__ == "__main__":
    main(run)
