"""The quantizers with an environment of their own, through a second compressor of the inventory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ROOT, Pqbench

TOOLS = ("int8-quark", "int8-aimet")


@pytest.mark.long
@pytest.mark.more
def test_tools_with_other_pins_quantize_in_their_own_environment(
    pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    if not (ROOT / ".venv-tools/.installed").exists():
        pytest.skip("skipped: no .venv-tools (make setup-tools)")
    manifest = write_manifest(
        tmp_path,
        recipes=[{"name": "fp32"}, *({"name": m, "steps": [{"quantize": {"method": m, "images": 64}}]} for m in TOOLS)],
        targets=[{"name": name, "backend": name} for name in ("onnxruntime", "openvino")],
    )
    before = set(ROOT.iterdir())
    inventory = ROOT / "data/inventories/tools.yaml"
    done = pqbench("run", manifest, "--inventory", inventory, "--data", tmp_path / "data", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["cells"]
    assert set(ROOT.iterdir()) == before, "a tool left files in the working directory"
    assert len(rows) == 6 and {row["outcome"] for row in rows} == {"ok"}, [row["reason"] for row in rows]
    for row in rows:
        assert row["accuracy_top1_percent"] > 90, row
        assert row["recipe"] == "fp32" or "INT8" in row["engine_executed_precision"], row
    alone = pqbench("plan", manifest, "--data", tmp_path / "data", "--json").out
    assert "pip install amd-quark==0.13" in alone and "pip install aimet-onnx" in alone, alone
