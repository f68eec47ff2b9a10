"""What is compared: the sessions of a run's cells, or of one of its targets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Blob, Images
from pqbench.runtime.v1.runtime_pb2 import BuildEngineResult
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.tables import recorded
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_orchestrator.store.samples import calls_of
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput

# Options that changed what is timed when runs did not note which do.
OLD_TIMED_OPTIONS = ("threads", "transfers", "cuda_graph", "spin", "mode")


class Identity(NamedTuple):
    """What makes two cells the same on both sides."""

    model: str
    dataset: str
    recipe: str
    batch_size: int
    concurrency: int
    target: str | None  # None where targets are compared


@dataclass(frozen=True, kw_only=True)
class Session:
    """One measurement of a cell."""

    cell: CellResult
    blocks: list[float]  # medians of its blocks, seconds
    layers: Mapping[str, str] = field(default_factory=dict)  # compute layers by name: what they execute in
    right: np.ndarray | None = None  # whether each image was put into its class, bool [N]
    images: str = ""  # digest of the labels of these images, in order; empty where not all were scored


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is compared: sessions by cell."""

    name: str
    sessions: dict[Identity, list[Session]]
    is_of_target: bool = False  # its cells are named without their target
    timed_options: frozenset[str] = frozenset()  # options of its targets that change what is timed
    run: Path = Path()


def side(text: str) -> Side:
    """The side that "RUN" or "RUN:TARGET" names. Raises InvalidInput."""
    folder, target = _split(text)
    return side_of(RunFolder(folder), target)


def side_of(run: RunFolder, target: str = "") -> Side:
    """A run's cells, or those of one of its targets. Raises InvalidInput."""
    store, blocks = run.blobs(), _blocks(run)
    sessions: dict[Identity, list[Session]] = defaultdict(list)
    with run.ledger() as ledger:
        cells = recorded(ledger)
        targets = sorted({cell.target for cell in cells})
        if target and target not in targets:
            raise InvalidInput(f"{run} has no target {target!r}, only {', '.join(targets)}")
        for cell in (cell for cell in cells if target in ("", cell.target)):
            results = ledger.results_of(cell.key)
            key = Identity(
                cell.model, cell.dataset, cell.recipe, cell.batch_size, cell.concurrency,
                None if target else cell.target,
            )  # fmt: skip
            stopped = cell.accuracy is not None and cell.accuracy.stopped_early
            sessions[key].append(
                Session(
                    cell=cell,
                    blocks=blocks.get(cell.key, []),
                    layers=_layers(results.get("build", {})),
                    right=_right(results.get("score", {}), store),
                    images="" if stopped else _labels(results.get("inputs", {})),
                )
            )
    name = f"{run}:{target}" if target else str(run)
    return Side(
        name=name,
        is_of_target=bool(target),
        sessions=dict(sessions),
        run=run.path.resolve(),
        timed_options=_timed_options(run),
    )


def _timed_options(run: RunFolder) -> frozenset[str]:
    """Those that the run's backends named; runs of old versions noted none."""
    targets = run.environment()["targets"].values() if run.has_begun else ()
    named = {name for target in targets for name in target.get("timed_options", ())}
    return frozenset(named or OLD_TIMED_OPTIONS)


def _layers(build: StepResult) -> dict[str, str]:
    layers = json_format.ParseDict(build, BuildEngineResult()).layers
    return {layer.name: layer.precision for layer in layers if layer.compute}


def _labels(inputs: StepResult) -> str:
    labels = json_format.ParseDict(inputs, Images()).labels
    return f"{labels.sha256} {labels.size}" if labels.size else ""


def _right(score: StepResult, store: BlobStore) -> np.ndarray | None:
    """Of the variant; None where the model is no classifier, or the blob is gone."""
    if "right" not in score:
        return None
    blob = json_format.ParseDict(score["right"], Blob())
    return store.array(blob)[0] if store.has(blob) else None


def _blocks(run: RunFolder) -> dict[str, list[float]]:
    """Medians of each cell's blocks, of the variant; seconds."""
    query = "SELECT cell, block, median(latency) FROM calls WHERE role = 'variant' GROUP BY ALL ORDER BY ALL"
    found: dict[str, list[float]] = defaultdict(list)
    with calls_of(run.path) as connection:
        for cell, _, median in connection.execute(query).fetchall():
            found[cell].append(median)
    return dict(found)


def _split(text: str) -> tuple[Path, str]:
    """Folders and targets may hold colons themselves: the folder is what there is."""
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        folder = Path(":".join(parts[:count]))
        if folder.is_dir():
            return folder, ":".join(parts[count:])
    return Path(text), ""
