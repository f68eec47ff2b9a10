"""What a service tells Prometheus of its calls."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_wire.client import Client
from pqbench_wire.errors import InvalidInput
from tests.addresses import free_port


def test_calls_are_counted_by_method_and_status(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "token").write_text("secret")
    command = [
        sys.executable,
        "-m",
        "pqbench_runtime",
        "--data",
        str(tmp_path / "data"),
        "--metrics",
        f"127.0.0.1:{port}",
    ]
    process = subprocess.Popen([*command, "--token-file", str(tmp_path / "token")], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["listening"]
        client = Client(address, token="secret")
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        for _ in range(2):
            client.call(stub.Check, runtime_pb2.CheckRequest(backend="onnxruntime"))
        with pytest.raises(InvalidInput):
            client.call(stub.Check, runtime_pb2.CheckRequest(backend="none"))
        client.close()
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            runtime_pb2_grpc.RuntimeServiceStub(channel).Check(runtime_pb2.CheckRequest(), timeout=10)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    finally:
        process.kill()
        process.communicate()
    check = 'method="/pqbench.runtime.v1.RuntimeService/Check"'
    assert f'pqbench_calls_total{{code="OK",{check}}} 2.0' in lines
    assert f'pqbench_calls_total{{code="INVALID_ARGUMENT",{check}}} 1.0' in lines
    assert f'pqbench_calls_total{{code="UNAUTHENTICATED",{check}}} 1.0' in lines
    assert f"pqbench_call_seconds_count{{{check}}} 4.0" in lines
    assert "pqbench_calls_in_flight 0.0" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "no.such.host.invalid:1"])
def test_an_address_that_cannot_be_is_one_line(address: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pqbench_runtime", "--data", str(tmp_path), "--metrics", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"--metrics {address}" in done.stderr, done.stderr
