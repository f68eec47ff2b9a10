"""`pqbench export`: one cell of a run as a folder that can be deployed, with a card that says where it comes from."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from jinja2 import Environment, StrictUndefined

from pqbench.common.v1.common_pb2 import Blob, Form, Images, Preprocessing
from pqbench.compressor.v1.compressor_pb2 import CompressResult
from pqbench.runtime.v1.runtime_pb2 import BuildEngineResult
from pqbench_orchestrator import environment
from pqbench_orchestrator.ledger import cell_of
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput
from pqbench_wire.inputs import Inputs, load_inputs

SAMPLES = 8  # images whose outputs the bundle records
ENGINES = {"onnxruntime": "engine.onnx", "onnxruntime-cuda": "engine.onnx", "onnxruntime-tensorrt": "engine.onnx",
           "openvino": "engine.blob", "pytorch": "engine.pt2", "pytorch-cuda": "engine.pt2",
           "tensorrt": "engine.plan"}  # fmt: skip


def export_cell(run: Path, cell: str, out: Path, store: BlobStore) -> Path:
    """Write the bundle of a run's cell to the new folder `out`; returns it. Raises InvalidInput.

    model.onnx or model.pt2: the variant; engine.*: what was timed; checkpoint.safetensors and
    history.json: its weights and what was done to them; preprocessing.json; sample.npz: uint8 images
    [n, H, W, C], or other inputs by name, and the float32 outputs [n, values] that the engine gave;
    cell.json; model_card.md.
    """
    if out.exists() and any(out.iterdir()):
        raise InvalidInput(f"{out} is not empty")
    row, results = cell_of(run, cell)
    record = environment.read(run)
    if row["Target"] not in record["targets"]:
        raise InvalidInput(f"{run / environment.FILE} lacks target {row['Target']}: it is not this run's")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        folder = Path(name) / "bundle"
        folder.mkdir()
        _write(folder, row, results, store, record)
        if out.exists():
            out.rmdir()
        folder.replace(out)
    return out


def _write(
    folder: Path, row: dict[str, Any], results: dict[str, Any], store: BlobStore, record: dict[str, Any]
) -> None:
    variant = json_format.ParseDict(results["variant"], CompressResult())
    build = json_format.ParseDict(results["build"], BuildEngineResult())
    model = "model.pt2" if row["Form"] == "PT2" else "model.onnx"
    artifact = next(a for a in variant.artifacts if Form.Name(a.form) == f"FORM_{row['Form']}")
    _copy(store, artifact.blob, folder / model)
    engine = ENGINES.get(row["Backend"], "engine.bin")
    _copy(store, build.engine.blob, folder / engine)
    history: list[Any] = []
    if variant.checkpoint.sha256:
        _copy(store, variant.checkpoint, folder / "checkpoint.safetensors")
        history = _history(folder / "checkpoint.safetensors")
    preprocessing = json_format.MessageToDict(build.engine.preprocessing)
    for name, value in (("history", history), ("preprocessing", preprocessing), ("cell", row)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1), encoding="utf-8")
    _write_sample(folder / "sample.npz", results, build.engine.preprocessing, store)
    template = (resources.files("pqbench_orchestrator") / "model_card.md").read_text(encoding="utf-8")
    card = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(template).render(
        row=row, history=history, preprocessing=preprocessing, inputs=list(build.engine.preprocessing.inputs),
        model=model, engine=engine, build=build,
        compressor=dict(variant.versions), target=record["targets"][row["Target"]],
        started=record["started"],
        notes=json.loads(variant.notes_json or "{}"),
    )  # fmt: skip
    (folder / "model_card.md").write_text(card, encoding="utf-8")


def _write_sample(path: Path, results: dict[str, Any], preprocessing: Preprocessing, store: BlobStore) -> None:
    outputs = json_format.ParseDict(results["predict"]["outputs"], Blob())
    prepared = load_inputs(store, json_format.ParseDict(results["inputs"], Images()), preprocessing)[0]
    if "indices" in results["predict"]:  # scoring stopped early: these are the examples that the outputs are of
        prepared = prepared[store.array_of(results["predict"]["indices"])]
    prepared = prepared[:SAMPLES]
    inputs = prepared.arrays if isinstance(prepared, Inputs) else {"images": prepared}
    np.savez(path, outputs=store.array(outputs)[:SAMPLES], **inputs)  # type: ignore[arg-type]


def _copy(store: BlobStore, blob: Blob, path: Path) -> None:
    shutil.copyfile(store.path(blob), path)


def _history(checkpoint: Path) -> list[Any]:
    """What was done to the weights, from the header of a safetensors file."""
    with checkpoint.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    history: list[Any] = json.loads(header["__metadata__"]["pqbench"])["history"]
    return history
