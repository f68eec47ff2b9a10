"""The Docker launcher: runtimes as containers, one at a time, and what goes wrong with them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import ROOT, Pqbench

pytestmark = pytest.mark.container
LABEL = "pqbench.owner"
ORT = {"name": "ort", "backend": "onnxruntime", "options": {"threads": 1}, "image": "pqbench-runtime:onnxruntime"}
OPENVINO = {"name": "ov", "backend": "openvino", "options": {"threads": 1}, "image": "pqbench-runtime:openvino"}


@pytest.fixture
def watched(engine: Any) -> Iterator[list[set[str]]]:
    """The images of the launcher's containers, as often as they change; none is left afterwards."""
    seen: list[set[str]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            now = {c.attrs["Config"]["Image"] for c in engine.containers.list(filters={"label": LABEL})}
            if not seen or seen[-1] != now:
                seen.append(now)

    thread = threading.Thread(target=watch)
    thread.start()
    yield seen
    done.set()
    thread.join()
    assert not engine.containers.list(all=True, filters={"label": LABEL})


def run(pqbench: Pqbench, manifest: Path, data: Path, *more: str) -> list[dict[str, Any]]:
    done = pqbench("run", manifest, "--data", data, "--json", *more)
    assert done.code == 0 and "Traceback" not in done.err, done.err
    return json.loads(done.out)["cells"]


def test_runtimes_are_swapped(
    pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path, watched: list[set[str]]
) -> None:
    manifest = write_manifest(tmp_path, targets=[ORT, OPENVINO])
    cells = run(pqbench, manifest, tmp_path / "data")
    assert [cell["outcome"] for cell in cells] == ["ok"] * 4
    assert all(len(images) <= 1 for images in watched), "one at a time"
    turns = [image.partition(":")[2] for images in watched for image in images]
    assert turns[:4] == ["onnxruntime", "openvino"] * 2, "asked one after the other, then used one after the other"
    assert len(turns) == 5, "and the choice measured again"
    logs = list((tmp_path / "data").glob("experiments/*/logs/*"))
    assert {path.name for path in logs} >= {"target-ort.log", "target-ov.log"}
    assert not [path for path in logs if path.suffix == ".token"]


def test_what_is_not_there_is_a_row(
    pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path, watched: list[set[str]]
) -> None:
    absent = ORT | {"name": "absent", "image": "pqbench-runtime:no-such-tag"}
    ends = ORT | {"name": "ends", "image": "pqbench-orchestrator"}
    version = {"name": "trt", "backend": "tensorrt", "tensorrt": "8.6"}
    cells = run(pqbench, write_manifest(tmp_path, targets=[absent, ends, version, OPENVINO]), tmp_path / "data")
    reasons = {cell["target"]: (cell["outcome"], cell["reason"]) for cell in cells}
    assert reasons["absent"][0] == "unavailable"
    assert "there is no image pqbench-runtime:no-such-tag: docker pull" in reasons["absent"][1]
    assert reasons["ends"][0] == "unavailable"
    assert "the container of pqbench-orchestrator ended (exit code 2)" in reasons["ends"][1]
    assert "No such option" in reasons["ends"][1], "its last lines"
    assert "--build-arg BASE_IMAGE=nvcr.io/nvidia/tensorrt:24.01-py3" in reasons["trt"][1]
    assert reasons["ov"] == ("ok", "")


def test_an_engine_that_is_down_is_a_row(
    pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    local = {"name": "local", "backend": "onnxruntime", "options": {"threads": 1}}
    cells = run(pqbench, write_manifest(tmp_path, targets=[ORT, local]), tmp_path / "data")
    reasons = {cell["target"]: (cell["outcome"], cell["reason"]) for cell in cells}
    assert reasons["ort"][0] == "unavailable" and "the Docker engine does not answer" in reasons["ort"][1]
    assert reasons["local"] == ("ok", "")


def test_a_container_that_dies_is_started_again_or_told_of(
    pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path, engine: Any, watched: list[set[str]]
) -> None:
    """Killed as often as it comes up: its cells fail with a reason, the next target's do not."""
    slow = {"warmup_seconds": 0.1, "min_seconds": 5, "max_seconds": 5, "min_iterations": 6}
    manifest = write_manifest(tmp_path, targets=[OPENVINO, ORT], measure=slow, recipes=[{"name": "baseline"}])
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(yaml.safe_dump({"targets": {"ov": {"docker": "pqbench-runtime:openvino"}}}))
    done = threading.Event()

    def kill() -> None:
        asked = False
        while not done.wait(0.2):
            for container in engine.containers.list(filters={"label": LABEL}):
                if "onnxruntime" in container.attrs["Config"]["Image"]:
                    asked = True  # the survey is over with OpenVINO
                elif asked:
                    container.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        cells = run(pqbench, manifest, tmp_path / "data", "--inventory", str(inventory))
    finally:
        done.set()
        thread.join()
    outcomes = {cell["target"]: (cell["outcome"], cell["reason"]) for cell in cells}
    assert outcomes["ov"][0] == "unavailable" and outcomes["ov"][1]
    assert outcomes["ort"] == ("ok", "")


def test_four_versions_of_nvidias_builder_are_swapped_in_one_run(
    pqbench: Pqbench, tmp_path: Path, watched: list[set[str]]
) -> None:
    """The manifest that ships: plans of each version side by side, though there is no GPU."""
    done = pqbench("build", ROOT / "data/manifests/trt-rtx-versions.yaml", "--data", tmp_path / "data", "--json")
    assert done.code == 0 and "Traceback" not in done.err, done.err
    found = json.loads(done.out)
    for cell in found["cells"]:
        version = cell["target"].removeprefix("trt-rtx-")
        if cell["outcome"] == "refused":
            assert version == "1.4" and cell["recipe"] in ("int8", "fp8", "int4"), cell
        else:
            assert cell["reason"] in ("no CUDA device; built for 8.9", "built, not measured"), cell
            assert f"tensorrt-rtx={version}." in cell["engine_versions"] and cell["engine_size_bytes"] > 0
    used = {image for images in watched for image in images}
    assert used == {f"pqbench-runtime:tensorrt-rtx-1.{minor}" for minor in (4, 5, 6, 7)}
    assert all(len(images) <= 1 for images in watched), "one at a time"
    compared = pqbench("compare", f"{found['run']}:trt-rtx-1.6", f"{found['run']}:trt-rtx-1.7", "--json")
    reasons = [change["reason"] for change in json.loads(compared.out)]
    assert len(reasons) == 12 and all(one.startswith("built, not run: the engine has") for one in reasons), reasons
