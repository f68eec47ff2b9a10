"""A real Ray cluster of three machines, processes here, over mutual TLS, with real S3 and PostgreSQL servers."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.postgres import Address, runs_of
from tests.addresses import free_port
from tests.chaos.surroundings import ObjectStore
from tests.postgres import Server

from .conftest import COMMAND, ROOT, TINY, Pqbench, newest_run, rows_of

pytest.importorskip("ray", reason="skipped: no Ray")
from tests.ray_cluster import Cluster, cluster_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]  # a busy machine starts Ray slowly

TARGETS = [
    {"name": "ort", "backend": "onnxruntime", "options": {"threads": 1}},
    {"name": "ov", "backend": "openvino", "options": {"threads": 1}},
]
SAME = ("Model", "Recipe", "Target", "Batch Size", "Outcome", "Accuracy", "Agreement (%)", "SQNR (dB)", "Precision",
        "Executed Precision", "Compressed Size", "Parameters", "Non-zeros", "MACs")  # fmt: skip
BUCKET = "s3://pqbench/shared"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers; they reach a bucket on a real S3 server. The tests' environment has the cluster's certificates."""
    pytest.importorskip("moto", reason="skipped: no moto")
    store = ObjectStore()
    store.start()
    set_up = pytest.MonkeyPatch()
    try:
        with cluster_of(tmp_path_factory.mktemp("cluster"), store.environment, "one", "two") as found:
            for name, value in found.own.items():
                set_up.setenv(name, value)
            yield found
    finally:
        set_up.undo()
        store.stop()


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
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=cluster.environment,
    )  # fmt: skip
    lost = ""
    while not lost:
        assert process.poll() is None, process.communicate()
        lost = next((name for name in ("one", "two") if steps_of(cluster.data(name), "measure", "started")), "")
        time.sleep(0.2)
    at_work = [
        one for one in cluster.worker(lost).children(recursive=True)
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
        capture_output=True, text=True, cwd=ROOT, env=cluster.environment, check=False,
    )  # fmt: skip
    assert again.returncode == 0 and again.stderr.count("kept from") == 2, again.stderr


def test_targets_run_on_machines_of_their_class(
    cluster: Cluster, pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    manifest, inventory = write_manifest(tmp_path, trained=True, targets=TARGETS), tmp_path / "inventory.yaml"
    common = ("run", manifest, "--data", tmp_path / "data", "--inventory", inventory, "--on", cluster.client_address)
    inventory.write_text(yaml.safe_dump({"devices": {"ort": "epyc"}}))
    done = pqbench(*common)
    assert done.code == 2 and "target ort needs a machine of class epyc" in done.err
    inventory.write_text(yaml.safe_dump({"targets": {"ov": {"endpoint": "10.0.0.7:50051"}}}))
    done = pqbench(*common)
    assert done.code == 2 and "must not have an endpoint" in done.err
    inventory.write_text(yaml.safe_dump({"devices": {"nope": "one"}}))
    done = pqbench(*common)
    assert done.code == 2 and "devices: unknown target 'nope'" in done.err
    name = cluster.alive[0]
    inventory.write_text(yaml.safe_dump({"devices": {"ort": name, "ov": name}}))
    before = steps_of(cluster.data(name), "measure")
    done = pqbench(*common, "--store", f"file://{tmp_path}/store")
    assert done.code == 0 and "Traceback" not in done.err, done.out + done.err
    assert steps_of(cluster.data(name), "measure") == before + 4


def test_shards_on_machines_write_into_one_database(
    cluster: Cluster,
    postgres_server: Server,
    pqbench: Pqbench,
    write_manifest: Callable[..., Path],
    tmp_path: Path,
) -> None:
    manifest = write_manifest(tmp_path, trained=True, targets=TARGETS)
    done = pqbench(
        "run", manifest, "--data", tmp_path / "data", "--on", cluster.address, "--store", f"file://{tmp_path}/store",
        "--ledger", postgres_server.url,
    )  # fmt: skip
    assert done.code == 0 and "Traceback" not in done.err, done.out + done.err
    recorded = runs_of(postgres_server.url)
    assert len(recorded) == 2
    for shard in recorded:
        with Ledger(Address(postgres_server.url, shard), read_only=True) as ledger:
            assert len([step for step in ledger.steps() if step.kind == "measure" and step.done]) == 2


def test_who_has_no_certificate_is_kept_out(
    cluster: Cluster, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    command = command_of(write_manifest(tmp_path), cluster, tmp_path / "data")
    environment = {name: value for name, value in cluster.environment.items() if "TLS" not in name}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 2 and "the cluster demands certificates" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


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
