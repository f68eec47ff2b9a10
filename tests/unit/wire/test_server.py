"""The server kit: safe by default, tokens, and children that die with their parent."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_wire.client import Client
from pqbench_wire.errors import InvalidInput, Unauthenticated
from pqbench_wire.server import is_loopback, read_token


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    (tmp_path / "token").write_text("secret\n")
    command = [sys.executable, "-m", "pqbench_runtime", "--data", str(tmp_path / "data")]
    process = subprocess.Popen([*command, "--token-file", str(tmp_path / "token")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    yield process, json.loads(process.stdout.readline())["listening"]
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:0", True),
        ("[::1]:50051", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("db:1", False),
    ],
)
def test_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_off_loopback_needs_protection(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pqbench_runtime", "--data", str(tmp_path), "--listen", "0.0.0.0:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "give --token-file" in done.stderr


def test_a_token_travels_unencrypted_only_where_one_says_so(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    command = [sys.executable, "-m", "pqbench_runtime", "--data", str(tmp_path), "--listen", "0.0.0.0:0"]
    done = subprocess.run(
        [*command, "--token-file", str(tmp_path / "token")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--insecure-token" in done.stderr


@pytest.mark.parametrize("content", ["", "zwei Wörter", "schlüssel", "a\nb"])
def test_a_token_is_one_word_of_ascii(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(InvalidInput, match="one word of printable ASCII"):
        read_token(tmp_path / "token")


def test_a_service_on_a_unix_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's'}"
    command = [sys.executable, "-m", "pqbench_runtime", "--data", str(tmp_path / "data"), "--listen", address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["listening"] == address
        client = Client(address)
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        assert "threads" in client.call(stub.Check, runtime_pb2.CheckRequest(backend="onnxruntime")).options_json
        client.close()
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="skipped: a signal is sent to one thread")
def test_a_service_ends_when_another_thread_receives_the_signal(service: tuple[subprocess.Popen[bytes], str]) -> None:
    """The kernel may choose any thread, and none but the main one runs Python's handlers."""
    process, _ = service
    thread = next(one.id for one in psutil.Process(process.pid).threads() if one.id != process.pid)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.tgkill(process.pid, thread, signal.SIGTERM) == 0
    assert process.wait(20) == 0


def test_what_is_no_request_is_invalid_and_what_nobody_foresaw_is_internal(
    service: tuple[subprocess.Popen[bytes], str],
) -> None:
    with grpc.insecure_channel(service[1]) as channel:
        metadata = [("authorization", "Bearer secret")]
        check = channel.unary_unary("/pqbench.runtime.v1.RuntimeService/Check")
        with pytest.raises(grpc.RpcError) as caught:
            check(b"\xff\xff\xff", timeout=10, metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            check(b"", timeout=10, metadata=[("authorization-bin", b"\xff")])
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "flags", [("--tls-certificate", "c.pem"), ("--tls-key", "k.pem"), ("--tls-client-ca", "ca.pem")]
)
def test_half_of_tls_is_refused(tmp_path: Path, flags: tuple[str, str]) -> None:
    (tmp_path / "token").write_text("secret")
    command = [
        sys.executable,
        "-m",
        "pqbench_runtime",
        "--data",
        str(tmp_path),
        "--token-file",
        str(tmp_path / "token"),
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "go together" in done.stderr


def test_health_reflection_token_and_shutdown(service: tuple[subprocess.Popen[bytes], str]) -> None:
    process, address = service
    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="pqbench.runtime.v1.RuntimeService"), timeout=10
        )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stranger, friend = Client(address), Client(address, token="secret")
    stub = runtime_pb2_grpc.RuntimeServiceStub(stranger.channel)
    request = runtime_pb2.CheckRequest(backend="onnxruntime")
    with pytest.raises(Unauthenticated, match="bearer token"):
        stranger.call(stub.Check, request)
    assert "threads" in friend.call(runtime_pb2_grpc.RuntimeServiceStub(friend.channel).Check, request).options_json
    authorised = grpc.intercept_channel(friend.channel, _Token())
    assert "pqbench.runtime.v1.RuntimeService" in ProtoReflectionDescriptorDatabase(authorised).get_services()
    for client in (stranger, friend):
        client.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


class _Token(grpc.StreamStreamClientInterceptor):
    def intercept_stream_stream(self, continuation, details, requests):  # type: ignore[no-untyped-def]
        return continuation(details._replace(metadata=[("authorization", "Bearer secret")]), requests)


def test_a_child_dies_with_its_parent() -> None:
    child = "import os, time; from pqbench_wire.process import die_with_parent; die_with_parent(os.getppid()); print(1, flush=True); time.sleep(60)"
    parent = (
        "import subprocess, sys, time; from pqbench_wire.process import spawn\n"
        f"p = spawn([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE); p.stdout.readline()\n"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
