"""The examples of docs/plugins.md, each saved as one file, and nothing else changed: listed, planned, run, exported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ROOT, Pqbench, newest_run, rows_of

EXAMPLE = re.compile(r"^```python (\S+\.py)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
pytestmark = pytest.mark.long
KINDS = {"pruners": "threshold", "quantizers": "half-weights", "backends": "reference", "datasets": "mirrored-digits",
         "metrics": "largest-difference"}  # fmt: skip


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples."""
    folder = tmp_path / "plugins"
    for name, text in EXAMPLE.findall((ROOT / "docs/plugins.md").read_text()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PQBENCH_PLUGINS", str(folder))
    return folder


def test_own_plugins_are_used_with_no_other_file_changed(
    plugins: Path, tmp_path: Path, pqbench: Pqbench, write_manifest: Callable[..., Path]
) -> None:
    assert sorted(path.parent.name for path in plugins.glob("*/*.py")) == sorted(KINDS), "an example of each"
    for kind, name in KINDS.items():
        listed = pqbench("list", kind, "--json")
        (entry,) = (one for one in json.loads(listed.out) if one["name"] == name)
        assert entry["available"] and entry["summary"], f"{kind} {name}"
    manifest = write_manifest(
        tmp_path,
        datasets=[{"dataset": "mirrored-digits", "config": {"test_images": 40}}],
        recipes=[
            {"name": "baseline"},
            {"name": "pruned", "steps": [{"prune": {"method": "threshold", "amount": 0.02}}]},
            {"name": "half", "steps": [{"quantize": "half-weights"}]},
        ],
        targets=[{"name": "numpy", "backend": "reference"}, {"name": "ort", "backend": "onnxruntime"}],
        metrics=["top1", "largest-difference"],
    )
    planned = pqbench("plan", manifest, "--data", tmp_path / "data", "--json")
    assert planned.code == 0 and {cell["outcome"] for cell in json.loads(planned.out)["cells"]} == {"planned"}
    done = pqbench("run", manifest, "--data", tmp_path / "data")
    assert done.code == 0, done.out + done.err
    rows = rows_of(newest_run(tmp_path / "data"))
    assert {row["Outcome"] for row in rows} == {"ok"} and len(rows) == 6
    by_cell = {(row["Recipe"], row["Target"]): row for row in rows}
    assert (
        float(by_cell["pruned", "numpy"]["Largest Difference"])
        > 0
        == float(by_cell["baseline", "numpy"]["Largest Difference"])
    )
    assert by_cell["half", "numpy"]["Accuracy"] == by_cell["half", "ort"]["Accuracy"]
    assert int(by_cell["half", "numpy"]["Engine (bytes)"]) < 0.6 * int(by_cell["baseline", "numpy"]["Engine (bytes)"])
    out = tmp_path / "bundle"
    exported = pqbench("export", newest_run(tmp_path / "data"), by_cell["half", "numpy"]["Cell"], "--out", out)
    assert exported.code == 0 and (out / "engine.onnx").is_file(), exported.err
    page = (newest_run(tmp_path / "data") / "report.html").read_text()
    assert "Largest Difference" in page and "mirrored-digits" in page
