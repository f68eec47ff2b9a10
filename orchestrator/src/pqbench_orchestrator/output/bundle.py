"""`pqbench export`: writes one cell of a run as a deployable folder, with a model card that states its origin."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import minisign
import numpy as np
from google.protobuf import json_format
from jinja2 import Environment, StrictUndefined

from pqbench.common.v1.common_pb2 import Blob, Form, Preprocessing
from pqbench.compressor.v1.compressor_pb2 import CompressResult
from pqbench.runtime.v1.runtime_pb2 import BuildEngineResult
from pqbench_orchestrator.output.predict import files
from pqbench_orchestrator.output.signing import sign, write_digests
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.named_cell import finished_cell
from pqbench_orchestrator.results.tables import as_records, as_row, confirmation_from_row
from pqbench_orchestrator.steps.step import images_of
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_orchestrator.store.run_folder import ENVIRONMENT, RunFolder
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.inputs import Inputs, load_inputs

SAMPLES = 8  # images whose outputs the bundle records


def export_cell(
    run: RunFolder, key: str, out: Path, store: BlobStore, signing: minisign.SecretKey | None = None
) -> Path:
    """Write the bundle of a run's cell to the new or empty folder `out`, and return it. Raises InvalidInput.

    model.onnx or model.pt2: the exported variant; the engine that was timed, under its backend's file name;
    checkpoint.safetensors: its weights, where there is a checkpoint; history.json: what was done to the weights;
    preprocessing.json; predict.py and labels.txt (see `output.predict`);
    sample.npz: uint8 images [n, H, W, C], or other inputs by name, and the float32 outputs
    [n, values] that the engine gave for them; cell.json: the row of the results; model_card.md; SHA256SUMS: the other
    files' digests, and SHA256SUMS.minisig: their signature by the key `signing`.
    """
    if out.exists() and any(out.iterdir()):
        raise InvalidInput(f"{out} is not empty: name a new folder")
    cell, results = finished_cell(run, key)
    record = run.environment()
    if cell.target not in record["targets"]:
        raise InvalidInput(f"{run / ENVIRONMENT} lacks target {cell.target}: it is not this run's")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        folder = Path(name) / "bundle"
        folder.mkdir()
        _write(run, folder, cell, results, store, record)
        write_digests(folder)
        if signing is not None:
            sign(folder, signing, f"pqbench bundle of cell {cell.key}, run {run.name}")
        if out.exists():
            out.rmdir()
        folder.replace(out)
    return out


def _write(
    run: RunFolder,
    folder: Path,
    cell: CellResult,
    results: dict[str, StepResult],
    store: BlobStore,
    record: dict[str, Any],
) -> None:
    variant = json_format.ParseDict(results["variant"], CompressResult())
    build = json_format.ParseDict(results["build"], BuildEngineResult())
    model = "model.pt2" if cell.form == "PT2" else "model.onnx"
    artifact = next(a for a in variant.artifacts if Form.Name(a.form) == f"FORM_{cell.form}")
    _copy(store, artifact.blob, folder / model)
    engine = record["targets"][cell.target].get("engine_file") or "engine.bin"  # not in runs of old versions
    _copy(store, build.engine.blob, folder / engine)
    history: list[Any] = []
    if variant.checkpoint.sha256:
        _copy(store, variant.checkpoint, folder / "checkpoint.safetensors")
        history = _history(folder / "checkpoint.safetensors")
    preprocessing = json_format.MessageToDict(build.engine.preprocessing)
    (cell_record,) = as_records([cell], run.name, run.started_at)
    for name, value in (("history", history), ("preprocessing", preprocessing), ("cell", cell_record)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1), encoding="utf-8")
    outputs = _write_sample(folder / "sample.npz", results, build.engine.preprocessing, store)
    scripts = files(cell, results, record, build.engine.preprocessing, model, engine, outputs)
    for name, text in scripts.items():
        (folder / name).write_text(text, encoding="utf-8")
    with run.ledger() as ledger:
        again = ledger.confirmation(cell.key)
    confirmed = confirmation_from_row(again) if again is not None else None
    template = (resources.files("pqbench_orchestrator.output") / "model_card.md").read_text(encoding="utf-8")
    card = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(template).render(
        row=as_row(cell), scripts=list(scripts), history=history, preprocessing=preprocessing,
        inputs=list(build.engine.preprocessing.inputs),
        model=model, engine=engine, build=build,
        compressor=dict(variant.versions), target=record["targets"][cell.target],
        started=record["started"], confirmed=confirmed.timing if confirmed else None,
        fixed_batch=record["models"][cell.model]["fixed_batch"] if "models" in record else None,
        notes=json.loads(variant.notes_json or "{}"),
    )  # fmt: skip
    (folder / "model_card.md").write_text(card, encoding="utf-8")


def _write_sample(path: Path, results: dict[str, Any], preprocessing: Preprocessing, store: BlobStore) -> np.ndarray:
    """Write inputs and the outputs that the engine gave for them; returns these outputs, [N, values]."""
    outputs = store.array_of(results["predict"]["outputs"])
    prepared = load_inputs(store, images_of(results["inputs"]), preprocessing)[0]
    if "indices" in results["predict"]:  # scoring stopped early: the outputs are of these examples
        prepared = prepared[store.array_of(results["predict"]["indices"])]
    prepared = prepared[:SAMPLES]
    inputs = prepared.arrays if isinstance(prepared, Inputs) else {"images": prepared}
    np.savez(path, outputs=outputs[:SAMPLES], **inputs)  # type: ignore[arg-type]
    return outputs[:SAMPLES]


def _copy(store: BlobStore, blob: Blob, path: Path) -> None:
    shutil.copyfile(store.path(blob), path)


def _history(checkpoint: Path) -> list[Any]:
    """What was done to the weights, from the header of a checkpoint (a safetensors file)."""
    with checkpoint.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    history: list[Any] = json.loads(header["__metadata__"]["pqbench"])["history"]
    return history
