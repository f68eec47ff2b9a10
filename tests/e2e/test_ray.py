"""A real Ray cluster of three machines, which are processes here, with a real S3 server as their store."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.addresses import free_port

from .conftest import COMMAND, ROOT, TINY, Pqbench, newest_run, rows_of

pytest.importorskip("ray", reason="skipped: no Ray")
pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]  # a busy machine starts Ray slowly

TARGETS = [
    {"name": "ort", "backend": "onnxruntime", "options": {"threads": 1}},
    {"name": "ov", "backend": "openvino", "options": {"threads": 1}},
]
SAME = ("Model", "Recipe", "Target", "Batch Size", "Outcome", "Accuracy", "Agreement (%)", "SQNR (dB)", "Precision",
        "Executed Precision", "Compressed Size", "Parameters", "Non-zeros", "MACs")  # fmt: skip
S3 = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
BUCKET = "s3://pqbench/shared"


@dataclass
class Cluster:
    """A head, which runs nothing, and its workers."""

    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    client_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log, env=os.environ | self.environment, cwd=ROOT
            )

    def start_worker(self, name: str) -> None:
        self.start(name, *COMMAND[2:], "worker", "--join", self.address, "--device", name, "--data", self.data(name))

    def data(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_for(self, name: str, text: str) -> None:
        deadline = time.monotonic() + 240
        while text not in (log := (self.folder / f"{name}.log").read_text(errors="replace")):
            assert self.processes[name].poll() is None and time.monotonic() < deadline, log
            time.sleep(0.3)

    def kill(self, name: str) -> None:
        """End a machine at once, with all that runs on it."""
        if self.processes[name].poll() is not None:
            return
        process = psutil.Process(self.processes[name].pid)
        for one in [process, *process.children(recursive=True)]:
            if one.is_running():
                one.send_signal(signal.SIGKILL)
        self.processes[name].wait()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A bucket on a real S3 server; yields the environment that reaches it."""
    boto3 = pytest.importorskip("boto3", reason="skipped: no moto")
    folder = tmp_path_factory.mktemp("s3")
    server = Cluster(folder, {})
    server.start("s3", "moto.server", "--host", "127.0.0.1", "--port", str(server.port))
    environment = S3 | {"AWS_ENDPOINT": f"http://{server.address}"}
    try:
        server.wait_for("s3", "Running on")
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT"], **keys).create_bucket(Bucket="pqbench")
        yield environment
    finally:
        server.kill("s3")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, bucket: dict[str, str]) -> Iterator[Cluster]:
    # Ray 2.60's server for ray:// does not start beside gRPC's support for forks.
    found = Cluster(tmp_path_factory.mktemp("cluster"), bucket | {"GRPC_ENABLE_FORK_SUPPORT": "0"})
    set_up = pytest.MonkeyPatch()
    set_up.setenv("RAY_AUTH_MODE", "disabled")  # a machine may have a token
    options = ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000", "--block"]
    found.start("head", "ray.scripts.scripts", "start", "--head", f"--port={found.port}", "--num-cpus=0",
                f"--ray-client-server-port={found.client_port}", *options)  # fmt: skip
    try:
        found.wait_for("head", "This command will now block")
        for name in ("one", "two"):
            found.start_worker(name)
            found.wait_for(name, "This command will now block")
        yield found
    finally:
        for name in reversed(found.processes):
            found.kill(name)
        set_up.undo()


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, pqbench: Pqbench, write_manifest: Callable[..., Path]
) -> list[dict[str, str]]:
    """The rows of a run on one machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = pqbench("run", write_manifest(folder, trained=True, targets=TARGETS), "--data", folder / "data")
    assert done.code == 0, done.err
    return [{name: row[name] for name in SAME} for row in rows_of(newest_run(folder / "data"))]


def command_of(manifest: Path, cluster: Cluster, data: Path) -> list[str]:
    return [*COMMAND, "run", str(manifest), "--on", cluster.address, "--store", BUCKET, "--data", str(data), "--json"]


def steps_of(folder: str, kind: str, outcome: str = "ok") -> int:
    """How many steps of a kind the runs of a machine did."""
    count = 0
    for path in Path(folder).glob("experiments/*/ledger.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as db, contextlib.suppress(sqlite3.OperationalError):
            # A ledger that is being created has no table yet.
            query = "SELECT count(*) FROM steps WHERE kind = ? AND outcome = ?"
            count += db.execute(query, (kind, outcome)).fetchone()[0]
    return count


def test_a_machine_is_lost_and_the_table_is_that_of_an_undisturbed_run(
    cluster: Cluster,
    undisturbed: list[dict[str, str]],
    pqbench: Pqbench,
    write_manifest: Callable[..., Path],
    tmp_path: Path,
) -> None:
    slow = TINY["measure"] | {"min_seconds": 2.0, "max_seconds": 2.0}
    manifest, data = write_manifest(tmp_path, targets=TARGETS, measure=slow), tmp_path / "data"
    process = subprocess.Popen(
        command_of(manifest, cluster, data),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | cluster.environment,
    )  # fmt: skip
    lost = ""
    while not lost:
        assert process.poll() is None, process.communicate()
        lost = next((name for name in ("one", "two") if steps_of(cluster.data(name), "measure", "started")), "")
        time.sleep(0.2)
    at_work = [
        one for one in psutil.Process(cluster.processes[lost].pid).children(recursive=True)
        if "pqbench_runtime" in " ".join(one.cmdline())
    ]  # fmt: skip
    assert {one.nice() for one in at_work} == {psutil.Process().nice()}, "Ray lets its tasks give way to all others"
    cluster.kill(lost)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    answer = json.loads(out)
    assert [{name: row[name] for name in SAME} for row in rows_of(Path(answer["run"]))] == undisturbed
    done = [steps_of(cluster.data(name), "compress") for name in ("one", "two")]
    assert sum(done) == 3, "what the lost machine had compressed was found in the store"
    shards = json.loads((Path(answer["run"]) / "environment.json").read_text())["shards"]
    assert len(shards) == 2
    assert pqbench("export", answer["run"], "int8@ort", "--out", tmp_path / "bundle").code == 0
    again = subprocess.run(
        [*command_of(manifest, cluster, data), "--continue"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | cluster.environment, check=False,
    )  # fmt: skip
    assert again.returncode == 0 and again.stderr.count("kept from") == 2, again.stderr


def test_targets_run_on_machines_of_their_class(
    cluster: Cluster, pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    manifest, inventory = write_manifest(tmp_path, trained=True, targets=TARGETS), tmp_path / "inventory.yaml"
    address = f"ray://127.0.0.1:{cluster.client_port}"
    common = ("run", manifest, "--data", tmp_path / "data", "--inventory", inventory, "--on", address)
    inventory.write_text(yaml.safe_dump({"devices": {"ort": "epyc"}}))
    done = pqbench(*common)
    assert done.code == 2 and "target ort needs a machine of class epyc" in done.err
    inventory.write_text(yaml.safe_dump({"targets": {"ov": {"endpoint": "10.0.0.7:50051"}}}))
    done = pqbench(*common)
    assert done.code == 2 and "must not have an endpoint" in done.err
    inventory.write_text(yaml.safe_dump({"devices": {"nope": "one"}}))
    done = pqbench(*common)
    assert done.code == 2 and "devices: unknown target 'nope'" in done.err
    name = next(name for name, process in cluster.processes.items() if name != "head" and process.poll() is None)
    before = steps_of(cluster.data(name), "measure")
    inventory.write_text(yaml.safe_dump({"devices": {"ort": name, "ov": name}}))
    done = pqbench(*common, "--store", f"file://{tmp_path}/store")
    assert done.code == 0 and "Traceback" not in done.err, done.out + done.err
    assert steps_of(cluster.data(name), "measure") == before + 4


def test_what_does_not_fit_is_one_line(
    cluster: Cluster, pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path)
    common: tuple[Any, ...] = ("run", manifest, "--data", tmp_path / "data")
    for options, message in (
        (("--on", cluster.address, "--shard", "1/1x"), "a shard is written as"),
        (("--on", cluster.address, "--shard", "1/2"), "leave out --shard"),
        (("--on", f"127.0.0.1:{free_port()}"), "no Ray cluster answers"),
        (("--on", "ray://nowhere"), "write ray://HOST:PORT"),
        (("--on", "ray://a..b:1"), "no Ray cluster answers"),
        (("--store", "foo://bar"), "--store foo://bar cannot be used"),
        (("--store", f"file://{manifest}/x"), "cannot be used"),
    ):
        done = pqbench(*common, *options)
        assert done.code == 2 and message in done.err and "Traceback" not in done.err, done.err
        assert done.err.strip().splitlines()[-1].startswith("error: "), done.err
    for address, message in (
        ("nowhere", "write HOST:PORT of the head"),
        (f"127.0.0.1:{free_port()}", "no Ray cluster"),
    ):
        done = pqbench("worker", "--join", address, "--data", tmp_path / "data")
        assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1, done.err
