"""An experiment on two machines, which are two data folders here: a shard each, then one run of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Pqbench, newest_run, rows_of

TARGETS = [
    {"name": "ort", "backend": "onnxruntime", "options": {"threads": 1}},
    {"name": "ov", "backend": "openvino", "options": {"threads": 1}},
]


@pytest.mark.long
def test_shards_of_two_machines_become_one_run(
    pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    runs = []
    for number in (1, 2):
        manifest, data = (
            write_manifest(tmp_path / f"{number}", trained=True, targets=TARGETS),
            tmp_path / f"{number}/data",
        )
        done = pqbench("run", manifest, "--data", data, "--shard", f"{number}/2")
        assert done.code == 0 and f"shard {number}/2" in done.out and "Ship" not in done.out, done.out + done.err
        runs.append(newest_run(data))
        assert {row["Target"] for row in rows_of(runs[-1])} == {TARGETS[number - 1]["name"]}
    again = pqbench("run", manifest, "--data", data, "--shard", "2/2", "--continue")
    assert again.code == 0 and newest_run(data) == runs[-1], again.err
    whole = tmp_path / "whole"
    assert "in none of these runs" in pqbench("merge", runs[0], "--data", whole).err
    merged = pqbench("merge", *runs, "--data", whole, "--json")
    assert merged.code == 0, merged.err
    answer = json.loads(merged.out)
    assert [(row["recipe"], row["target"]) for row in answer["cells"]] == [
        ("baseline", "ort"), ("baseline", "ov"), ("int8", "ort"), ("int8", "ov"),
    ]  # fmt: skip
    assert len(answer["recommendations"]) == 1
    run = answer["run"]
    materials = json.loads((Path(run) / "environment.json").read_text())["materials"]
    assert {f"{one.name} compressor" for one in runs} <= materials.keys()
    assert all((Path(run) / file).is_file() for file in materials.values())
    refused = pqbench("run", "--continue", run)
    assert refused.code == 2 and "was merged from" in refused.err
    assert pqbench("recommend", runs[0]).code == 2
    assert pqbench("compare", f"{run}:ort", f"{run}:ov").code == 0
    for target in ("ort", "ov"):
        bundle = tmp_path / f"bundle-{target}"
        assert pqbench("export", run, f"int8@{target}", "--out", bundle).code == 0
        assert (bundle / "predict.py").is_file()
