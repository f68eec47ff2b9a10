"""docker compose up, for real: results, owners, restrictions, health, a runtime that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.container.conftest import UID, Project
from tests.e2e.conftest import ROOT, newest_run, rows_of

pytestmark = pytest.mark.container
SERVICES = ("pqbench-orchestrator", "pqbench-compressor", "pqbench-runtime:onnxruntime", "pqbench-runtime:openvino",
            "pqbench-runtime:pytorch")  # fmt: skip
MB = 1_000_000


def test_up_runs_the_quickstart(project: Project, engine: Any) -> None:
    """With the digests that `make up` adds."""
    command = ["make", "-s", "-C", str(ROOT), "image-digests"]
    digests = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    done = project.command("up", "--no-build", "--exit-code-from", "orchestrator", timeout=550, PQBENCH_IMAGES=digests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    run = newest_run(project.folder / "data")
    rows = rows_of(run)
    assert len(rows) == 36 and {row["Outcome"] for row in rows} == {"ok", "refused"}
    assert {row["Target"] for row in rows if row["Outcome"] == "ok"} == {
        "onnxruntime-cpu",
        "openvino-cpu",
        "pytorch-cpu",
    }
    images = json.loads((run / "environment.json").read_text())["images"]
    assert images == {name: engine.images.get(name).id for name in SERVICES}
    assert {path.stat().st_uid for path in [project.experiments, run, *run.iterdir()]} == {UID}


def test_the_runs_code_is_the_commands(project: Project) -> None:
    manifest = project.write("bad.yaml", targets=[{"name": "x", "backend": "openvino", "option": {}}])
    done = project.command("up", "--no-build", "--exit-code-from", "orchestrator", MANIFEST=manifest)
    assert done.returncode == 2
    assert "bad.yaml" in done.stderr and "option" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_killed_runtime_recovers(project: Project, engine: Any) -> None:
    """The kernel kills the service's process in the middle of a measurement; Compose starts it again."""
    slow = {"warmup_seconds": 0.1, "min_seconds": 8, "max_seconds": 8, "min_iterations": 6}
    target = {"name": "ov", "backend": "openvino", "options": {"threads": 1}}
    manifest = project.write("kill.yaml", targets=[target], measure=slow)
    started = project.command("up", "--no-build", "--detach", MANIFEST=manifest)
    assert started.returncode == 0, started.stderr
    container = engine.containers.get("pqbench-test-openvino-1")
    project.wait_for(lambda: _is_measuring(project.experiments), 200, "nothing was measured")
    os.kill(_service_process(container), signal.SIGKILL)
    status = engine.containers.get("pqbench-test-orchestrator-1").wait(timeout=200)["StatusCode"]
    assert status == 0, project.logs("orchestrator")
    container.reload()
    assert container.attrs["RestartCount"] >= 1
    assert "measure" in project.logs("orchestrator"), "a log shows how far the run is"
    rows = rows_of(newest_run(project.folder / "data"))
    assert [row["Outcome"] for row in rows] == ["ok", "ok"] and all(row["Calls"] for row in rows)


def _is_measuring(experiments: Path) -> bool:
    """Whether the newest step of the only run is a measurement that goes on."""
    for file in experiments.glob("*/ledger.sqlite"):
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            newest = db.execute("SELECT kind, outcome FROM steps ORDER BY id DESC LIMIT 1").fetchone()
            return newest == ("measure", "started")
    return False


def _service_process(container: Any) -> int:
    """The process, as the host numbers it, that serves."""
    found = container.top(ps_args="-eo pid,args")["Processes"]
    return next(int(pid) for pid, command in found if command.startswith("python3 -m pqbench_runtime "))


def test_services_demand_certificates(project: Project, engine: Any) -> None:
    """Mutual TLS, with certificates that another container makes and that only the services' user can read."""
    assert project.command("up", "--no-build", "--detach", "onnxruntime").returncode == 0
    container = engine.containers.get("pqbench-test-onnxruntime-1")
    health = ["python3", "-m", "pqbench_wire.health", "127.0.0.1:50051"]
    asked = [*health, "/data/certificates"]
    project.wait_for(lambda: container.exec_run(asked).exit_code == 0, 60, "the service did not answer")
    assert container.exec_run(health).exit_code == 1, "nobody is served without a certificate"
    modes = container.exec_run(["sh", "-c", "stat -c %a /data/certificates/*-key.pem | sort -u"]).output.decode()
    assert modes.split() == ["600"]
    assert container.attrs["RestartCount"] == 0, "it waited for its certificates"


def test_containers_may_do_little(project: Project, engine: Any) -> None:
    assert project.command("up", "--no-build", "--detach", "onnxruntime", "compressor").returncode == 0
    for name in ("onnxruntime", "compressor"):
        container = engine.containers.get(f"pqbench-test-{name}-1")
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert not [mount for mount in container.attrs["Mounts"] if "docker.sock" in mount["Source"]]
        assert "Seccomp:\t2" in container.exec_run(["cat", "/proc/1/status"]).output.decode(), "the engine's profile"
        assert container.exec_run(["id", "-u"]).output.decode().strip() == str(UID)
        assert container.exec_run(["touch", "/opt/pqbench/x"]).exit_code != 0
        assert container.exec_run(["touch", "/data/x"]).exit_code == 0


@pytest.mark.parametrize("image", SERVICES)
def test_images_have_a_user_and_say_how_they_are(engine: Any, image: str) -> None:
    config = engine.images.get(image).attrs["Config"]
    assert config["User"] == "10001:10001"
    if "orchestrator" in image:
        assert engine.containers.run(image, ["--help"], remove=True, network_mode="none")
        return
    health = config["Healthcheck"]
    assert health["Interval"] >= 120e9, "a check starts a Python, which a measurement would notice"
    container = engine.containers.run(image, detach=True, read_only=True, tmpfs={"/tmp": ""}, network_mode="none")
    try:
        answers = [container.exec_run(health["Test"][1:]).exit_code for _ in range(20)]
        assert 0 in answers
        container.exec_run(["python3", "-c", "import os, signal; os.kill(1, signal.SIGTERM)"])
        assert container.wait(timeout=30)["StatusCode"] == 0
    finally:
        container.remove(force=True)


def test_the_orchestrator_is_small(engine: Any) -> None:
    image = engine.images.get("pqbench-orchestrator")
    base = os.environ.get("BASE_IMAGE", "python:3.11.14-slim-bookworm")
    assert image.attrs["Size"] - engine.images.get(base).attrs["Size"] < 350 * MB


@pytest.mark.parametrize("profile", ["cuda", "trt8", "trt10", "trt11"])
def test_gpu_profiles_reserve_the_gpus(project: Project, profile: str) -> None:
    done = project.command("--profile", profile, "config")
    assert done.returncode == 0 and "driver: nvidia" in done.stdout
    assert profile == "cuda" or "nvcr.io/nvidia/tensorrt:" in done.stdout


def test_dockerfiles_are_for_an_old_engine() -> None:
    root = Path(__file__).parents[2]
    files = subprocess.run(["git", "ls-files", "*Dockerfile"], cwd=root, capture_output=True, text=True, check=True)
    for name in files.stdout.split():
        text = (root / name).read_text()
        assert not [word for word in ("# syntax", "<<", "--link", "additional_contexts") if word in text], name
    assert "start_interval" not in (root / "docker-compose.yml").read_text()
