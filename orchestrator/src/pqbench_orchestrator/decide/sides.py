"""The sides of a comparison: the sessions of a run's cells, or of those of one of its targets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Blob
from pqbench.runtime.v1.runtime_pb2 import BuildEngineResult
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.tables import recorded
from pqbench_orchestrator.steps.step import images_of
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_orchestrator.store.run_folder import RunFolder, find_run
from pqbench_orchestrator.store.samples import calls_of
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput

# The options that change what is timed, for runs of old versions, which did not record them.
OLD_TIMED_OPTIONS = ("threads", "transfers", "cuda_graph", "spin", "mode")


class Identity(NamedTuple):
    """What cells of both sides must have in common to be compared with each other."""

    model: str
    dataset: str
    recipe: str
    batch_size: int
    concurrency: int
    target: str | None  # None where targets are compared


@dataclass(frozen=True, kw_only=True)
class Session:
    """One repeat of a cell."""

    cell: CellResult
    blocks: list[float]  # medians of its blocks, in seconds
    layers: Mapping[str, str] = field(default_factory=dict)  # name of a compute layer -> executed precision
    right: np.ndarray | None = None  # which images were put into their class, bool [N]
    definition: Mapping[str, str] = field(default_factory=dict)  # what the manifest says of its model and recipe
    images: str = ""  # digest of the images' labels, in order; empty where scoring stopped early


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison: the sessions of each cell."""

    name: str
    sessions: dict[Identity, list[Session]]
    is_of_target: bool = False  # it is one target's, so that its cells are identified without their target
    timed_options: frozenset[str] = frozenset()  # options of its targets that change what is timed
    run: Path = Path()


def side(text: str, data: Path) -> Side:
    """The side that "RUN" or "RUN:TARGET" names; `data`: the folder with runs of that name. Raises InvalidInput."""
    name, target = _split(text)
    return side_of(find_run(name, data), target)


def side_of(run: RunFolder, target: str = "") -> Side:
    """The side of a run's cells or, with `target`, of those of one target. Raises InvalidInput."""
    store, blocks, defined = run.blobs(), _blocks(run), definitions(run)
    sessions: dict[Identity, list[Session]] = defaultdict(list)
    with run.ledger() as ledger:
        cells = recorded(ledger)
        targets = sorted({cell.target for cell in cells})
        if target and target not in targets:
            raise InvalidInput(f"{run} has no target {target!r}, only {', '.join(targets)}")
        for cell in (cell for cell in cells if target in ("", cell.target)):
            results = ledger.results_of(cell.key, ("build", "score", "inputs"))
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
                    definition=definition_of(cell, defined),
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


def definitions(run: RunFolder) -> dict[tuple[str, str], str]:
    """What a run's manifest says of its models and recipes, by kind and label; empty where it cannot be read."""
    try:
        manifest = run.written_manifest()
    except InvalidInput:
        return {}
    models = {("model", one.label): one.definition for one in manifest.models}
    return models | {("recipe", one.label): one.definition for one in manifest.all_recipes}


def definition_of(cell: CellResult, defined: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """What `definitions` has of a cell's model and recipe, by kind."""
    labels = {"model": cell.model, "recipe": cell.recipe}
    return {kind: defined[kind, label] for kind, label in labels.items() if (kind, label) in defined}


def _timed_options(run: RunFolder) -> frozenset[str]:
    """The options that change what is timed, as the run's backends named them, or OLD_TIMED_OPTIONS."""
    targets = run.environment()["targets"].values() if run.has_begun else ()
    named = {name for target in targets for name in target.get("timed_options", ())}
    return frozenset(named or OLD_TIMED_OPTIONS)


def _layers(build: StepResult) -> dict[str, str]:
    layers = json_format.ParseDict(build, BuildEngineResult()).layers
    return {layer.name: layer.precision for layer in layers if layer.compute}


def _labels(inputs: StepResult) -> str:
    labels = images_of(inputs).labels
    return f"{labels.sha256} {labels.size}" if labels.size else ""


def _right(score: StepResult, store: BlobStore) -> np.ndarray | None:
    """Which images the variant gets right, bool [N]; None without a classifier and labels, or if the blob is gone."""
    if "right" not in score:
        return None
    blob = json_format.ParseDict(score["right"], Blob())
    return store.array(blob)[0] if store.has(blob) else None


def _blocks(run: RunFolder) -> dict[str, list[float]]:
    """The medians of each cell's blocks, in seconds; the interleaved baseline's blocks are left out."""
    query = "SELECT cell, block, median(latency) FROM calls WHERE role = 'variant' GROUP BY ALL ORDER BY ALL"
    found: dict[str, list[float]] = defaultdict(list)
    with calls_of(run.path) as connection:
        for cell, _, median in connection.execute(query).fetchall():
            found[cell].append(median)
    return dict(found)


def _split(text: str) -> tuple[str, str]:
    """Run and target of "RUN:TARGET". A folder may have colons: the longest beginning that is a folder is the run."""
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        folder = ":".join(parts[:count])
        if Path(folder).is_dir():
            return folder, ":".join(parts[count:])
    return parts[0], ":".join(parts[1:])
