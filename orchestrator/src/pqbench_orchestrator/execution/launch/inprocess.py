"""The compressor as a service in this process, for `benchmark()`, whose live objects cannot leave the process."""

from __future__ import annotations

import importlib
import secrets
from pathlib import Path

import grpc

from pqbench.blob.v1 import blob_pb2_grpc
from pqbench.compressor.v1 import compressor_pb2_grpc
from pqbench_wire.blob_service import BlobServicer
from pqbench_wire.client import Client
from pqbench_wire.errors import Unavailable
from pqbench_wire.server import make_server


class InProcessLauncher:
    """Serves the compressor on a loopback port that the system assigns; a call needs its random token."""

    swapped = False

    def __init__(self, data: Path, allow_code: bool) -> None:
        self._data, self._allow_code = data, allow_code
        self._token = secrets.token_urlsafe()
        self._server: grpc.Server | None = None

    def start(self) -> Client:
        """Start the server and connect to it. Raises Unavailable where the compressor is not installed."""
        # Imported by name, because the orchestrator does not depend on the compressor.
        try:
            service = importlib.import_module("pqbench_compressor.service")
        except ImportError as error:
            raise Unavailable(f"benchmark() runs the compressor in this process: {error}") from error
        servicer = service.CompressorServicer(self._data, None, self._allow_code, in_process=True)
        self._server = make_server(self._token)
        compressor_pb2_grpc.add_CompressorServiceServicer_to_server(servicer, self._server)
        blob_pb2_grpc.add_BlobServiceServicer_to_server(BlobServicer(servicer.store), self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        client = Client(f"127.0.0.1:{port}", token=self._token)
        client.wait_ready(10)
        return client

    def alive(self) -> bool:
        """Whether the server runs."""
        return self._server is not None

    def last_words(self) -> str:
        """Always empty: the compressor's output is that of this process."""
        return ""

    def stop(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None
