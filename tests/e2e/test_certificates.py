"""Mutual TLS by the files of `pqbench certificates`, renewed while services run."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from pqbench_wire.health import serving

from .conftest import ROOT, Pqbench


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts a service on localhost with the certificates in a folder; returns its address."""
    with ExitStack() as stack:

        def run(module: str, folder: Path) -> str:
            flags = [
                "--tls-certificate",
                "localhost.pem",
                "--tls-key",
                "localhost-key.pem",
                "--tls-client-ca",
                "ca.pem",
            ]
            files = [flag if flag.startswith("--") else str(folder / flag) for flag in flags]
            command = [
                sys.executable,
                "-m",
                module,
                "--data",
                str(tmp_path / module),
                "--listen",
                "localhost:0",
                *files,
            ]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.terminate)
            assert process.stdout is not None
            return str(json.loads(process.stdout.readline())["listening"])

        yield run


def served(address: str, folder: Path) -> bytes:
    """The certificate that a service shows now."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "client.pem", folder / "client-key.pem")
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection((host, int(port)), 20)
    with plain, context.wrap_socket(plain, server_hostname=host) as secure:
        found = secure.getpeercert(binary_form=True)
    assert found is not None
    return found


@pytest.mark.long
def test_a_run_over_mutual_tls_and_a_renewal(
    pqbench: Pqbench, write_manifest: Callable[..., Path], start: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "certificates"
    made = pqbench("certificates", folder, "localhost")
    assert made.code == 0 and f"--tls-client-ca {folder}/ca.pem" in made.out.replace("\n", " "), made.err
    compressor, runtime = (start(module, folder) for module in ("pqbench_compressor", "pqbench_runtime"))
    keys = {"tls_ca": "ca.pem", "tls_certificate": "client.pem", "tls_key": "client-key.pem"}
    tls = {key: str(folder / name) for key, name in keys.items()}
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(
        yaml.safe_dump(
            {
                "compressor": {"endpoint": {"address": compressor, "certificates": str(folder)}},
                "targets": {"ort": {"endpoint": {"address": runtime} | tls}},
            }
        )
    )
    manifest = write_manifest(tmp_path)
    done = pqbench("run", manifest, "--data", tmp_path / "own", "--inventory", inventory, "--json")
    assert done.code == 0, done.err
    assert {cell["outcome"] for cell in json.loads(done.out)["cells"]} == {"ok"}

    before = served(runtime, folder)
    assert pqbench("certificates", folder, "localhost").code == 0
    assert served(runtime, folder) != before, "the service took the renewed certificate without a restart"
    again = pqbench("plan", manifest, "--data", tmp_path / "own", "--inventory", inventory)
    assert again.code == 0, again.err

    other = pqbench("certificates", tmp_path / "other", "localhost")
    assert other.code == 0
    inventory.write_text(inventory.read_text().replace(str(folder), str(tmp_path / "other")))
    refused = pqbench("plan", manifest, "--data", tmp_path / "own", "--inventory", inventory, "--json")
    assert "ok" not in {cell["outcome"] for cell in json.loads(refused.out)["cells"]} and "Traceback" not in refused.err


def test_a_service_waits_for_the_certificates_of_its_host(pqbench: Pqbench, tmp_path: Path) -> None:
    """As in Compose, where another container makes them meanwhile; health is asked for with the client's."""
    folder = tmp_path / "certificates"
    command = [sys.executable, "-m", "pqbench_runtime", "--data", str(tmp_path / "data"), "--certificates", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert pqbench("certificates", folder, socket.gethostname()).code == 0
            assert process.stdout is not None
            address = json.loads(process.stdout.readline())["listening"]
            assert serving(address, folder) and not serving(address)
            assert pqbench("certificates", tmp_path / "other", "x").code == 0
            assert not serving(address, tmp_path / "other")
        finally:
            process.terminate()


def test_certificates_stand_for_the_other_tls_options(pqbench: Pqbench, tmp_path: Path) -> None:
    both = [sys.executable, "-m", "pqbench_runtime", "--certificates", str(tmp_path), "--tls-key", "x"]
    done = subprocess.run(both, capture_output=True, text=True)
    assert done.returncode == 2 and "give one or the others" in done.stderr and "Traceback" not in done.stderr
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("compressor: {endpoint: {address: 'x:1', certificates: a, tls_ca: b}}")
    refused = pqbench("plan", ROOT / "data/manifests/quickstart.yaml", "--inventory", inventory, "--data", tmp_path)
    assert refused.code == 2 and "certificates stands for tls_ca" in refused.err and "Traceback" not in refused.err
