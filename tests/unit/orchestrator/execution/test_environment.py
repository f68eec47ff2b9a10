"""The environment record: versions of what decides, and nothing that cannot be read."""

from __future__ import annotations

import hashlib

import pytest

from pqbench_orchestrator.execution import environment
from pqbench_orchestrator.planning.facts import CompressorFacts, Survey, TargetFacts
from pqbench_wire.errors import InvalidInput


def test_the_record_names_every_target_with_its_versions() -> None:
    target = TargetFacts(
        backend="x",
        device="d",
        versions={"lib": "1"},
        timed_options=("threads",),
        engine_file="e.bin",
        bill_of_materials=b"of t",
    )
    compressors = {"compressor": CompressorFacts(versions={"c": "2"}), "gone": CompressorFacts()}
    facts = Survey(models={}, recipes={}, targets={"t": target}, datasets={}, compressors=compressors)
    record = environment.record(facts, "run-1")
    assert record["run"] == "run-1" and record["compressors"] == {"compressor": {"c": "2"}, "gone": {}}
    assert record["targets"]["t"]["versions"] == {"lib": "1"} and record["targets"]["t"]["engine_file"] == "e.bin"
    digest = hashlib.sha256(b"of t").hexdigest()
    assert record["materials"].keys() == {"orchestrator", "t"}, "only who was reached has a bill of materials"
    assert record["materials"]["t"] == f"materials/{digest}.cdx.json" and environment.materials(facts)["t"] == b"of t"
    assert record["targets"]["t"]["timed_options"] == ["threads"] and record["host"]["cores"] >= 1


def test_compose_says_the_digests_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQBENCH_IMAGES", "pqbench-runtime:openvino sha256:12\npqbench-compressor sha256:34\n")
    assert environment.images() == {"pqbench-runtime:openvino": "sha256:12", "pqbench-compressor": "sha256:34"}
    monkeypatch.setenv("PQBENCH_IMAGES", "an-image-alone\n")
    with pytest.raises(InvalidInput, match="PQBENCH_IMAGES has lines of an image and its digest.*'an-image-alone'"):
        environment.images()
    monkeypatch.delenv("PQBENCH_IMAGES")
    assert environment.images() == {}


def test_own_versions_change_with_the_source() -> None:
    versions = environment.own_versions()
    assert {"pqbench-orchestrator", "pqbench-wire", "numpy"} <= versions.keys()
    assert all("+" in versions[name] for name in ("pqbench-orchestrator", "pqbench-wire"))
