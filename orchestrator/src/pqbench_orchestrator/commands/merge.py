"""`pqbench merge`: puts the runs of an experiment's shards together, as if one machine had made one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pqbench_orchestrator.config.manifest import Manifest, dump
from pqbench_orchestrator.output.outputs import cells_of, write_report
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.tables import write_csv, write_parquet
from pqbench_orchestrator.steps.step import blobs_of_run
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.run_folder import CSV, MANIFEST, MERGED, PARQUET, RunFolder, new_folder
from pqbench_orchestrator.store.samples import merge_samples
from pqbench_wire.errors import InvalidInput

TOLD_APART = ("backend", "device", "built_for", "options", "versions")  # what a target is, in the environment record

Found = tuple[RunFolder, CellResult]  # a cell and the run that it is of


def merge(runs: Sequence[RunFolder], data: Path) -> tuple[RunFolder, list[CellResult]]:
    """A new run in the folder `data` with the cells of all `runs`, in the order of the manifest; blobs are copied.

    Raises InvalidInput where the runs are not of one manifest, one of them is being executed or has no cells yet, two
    have the same cell, none has one of the manifest's, or a target is another in two of them.
    """
    manifest = _manifest_of(runs)
    cells = [(run, cell) for run in runs for cell in cells_of(run)]
    record, steps = _environment_of(runs, cells), _steps_of(cells, manifest)
    folder = new_folder(data, runs[0] / MANIFEST, manifest)
    try:
        with folder.held():
            (folder / MERGED).write_text("".join(f"{run.name}\n" for run in runs), encoding="utf-8")
            return folder, _fill(folder, runs, steps, record)
    except BaseException:
        folder.remove()
        raise


def _fill(
    folder: RunFolder, runs: Sequence[RunFolder], steps: dict[str, dict[str, str]], record: dict[str, Any]
) -> list[CellResult]:
    store = folder.blobs()
    for run in runs:
        theirs = run.blobs()
        for blob in blobs_of_run(run):
            if not store.has(blob):
                store.put_file(theirs.path(blob))
    with folder.ledger_to_write() as ledger:
        for run in runs:
            with run.ledger() as other:
                ledger.add(other)
        ledger.begin(folder.manifest().name, len(ledger.steps()))
        ledger.record_plan(steps)
        merge_samples([run.path for run in runs], folder.path, ledger)
    record = folder.write_environment(record | {"run": folder.name})
    folder.write_materials(bill for run in runs for bill in run.materials())
    cells = cells_of(folder)
    write_csv(cells, folder / CSV, folder.name, folder.started_at)
    write_parquet(cells, folder / PARQUET, folder.name, folder.started_at)
    write_report(folder, cells, record)
    return cells


def _manifest_of(runs: Sequence[RunFolder]) -> Manifest:
    """The manifest of all runs. Raises InvalidInput."""
    first, *others = [(run, run.manifest()) for run in runs]
    for run, manifest in others:
        if dump(manifest) != dump(first[1]):
            raise InvalidInput(f"{run} is of another manifest than {first[0]}: only shards of one are merged")
    if busy := next((run for run in runs if run.is_running), None):
        raise InvalidInput(f"{busy} is being executed: wait until it has ended")
    if search := next((run for run in runs if run.is_search), None):
        raise InvalidInput(f"{search} is a search: only runs are merged")
    return first[1]


def _steps_of(cells: Sequence[Found], manifest: Manifest) -> dict[str, dict[str, str]]:
    """The keys of each cell's steps by role, by the cell's key, in the order of the manifest. Raises InvalidInput."""
    twice = next((key for key, count in Counter(cell.key for _, cell in cells).items() if count > 1), None)
    if twice:
        both = " and ".join(str(run) for run, cell in cells if cell.key == twice)
        raise InvalidInput(f"{both} both have the cell {twice}: merge each shard once")
    if left := _count(manifest) - len(cells):
        raise InvalidInput(
            f"{left} of the manifest's {len(cells) + left} cells are in none of these runs: a choice takes all shards"
        )
    labels = [
        [one.label for one in manifest.models],
        [one.label for one in manifest.datasets],
        [one.label for one in manifest.all_recipes],
        [one.name for one in manifest.targets],
    ]

    def position(found: Found) -> tuple[Any, ...]:
        cell = found[1]
        names = (cell.model, cell.dataset, cell.recipe, cell.target)
        places = [among.index(name) for among, name in zip(labels, names, strict=True)]
        loads = (manifest.batch_sizes.index(cell.batch_size), manifest.concurrency.index(cell.concurrency))
        return (*places, *loads, cell.repeat)

    ledgers: dict[RunFolder, Ledger] = {run: run.ledger() for run in {run for run, _ in cells}}
    try:
        return {cell.key: ledgers[run].steps_of(cell.key) for run, cell in sorted(cells, key=position)}
    finally:
        for ledger in ledgers.values():
            ledger.close()


def _count(manifest: Manifest) -> int:
    """The number of a manifest's cells."""
    pairs = sum(
        recipe.targets is None or target.name in recipe.targets
        for recipe in manifest.all_recipes
        for target in manifest.targets
    )
    loads = len(manifest.batch_sizes) * len(manifest.concurrency) * manifest.repeats
    return len(manifest.models) * len(manifest.datasets) * pairs * loads


def _environment_of(runs: Sequence[RunFolder], cells: Sequence[Found]) -> dict[str, Any]:
    """One environment record of all runs; each target's is that of the run that has its cells. Raises InvalidInput."""
    records = {run: run.environment() for run in runs}
    targets: dict[str, Any] = {}
    where: dict[str, RunFolder] = {}
    for run, name in dict.fromkeys((run, cell.target) for run, cell in cells):
        target, known = records[run]["targets"][name], targets.get(name)
        if known is not None and (other := [what for what in TOLD_APART if known[what] != target[what]]):
            raise InvalidInput(
                f"target {name} is another in {run} than in {where[name]} ({', '.join(other)} differ): targets on "
                "different machines need different names"
            )
        targets[name], where[name] = target, run
    whole: dict[str, Any] = {}
    for record in records.values():
        whole |= record
    for part in ("models", "datasets", "compressors"):
        whole[part] = {name: value for record in records.values() for name, value in record[part].items()}
    for part in ("materials", "images"):  # which records of old versions lack
        whole[part] = {
            f"{run.name} {name}": found
            for run, record in records.items()
            for name, found in record.get(part, {}).items()
        }
    hosts = {run.name: record["host"] | {"started": record["started"]} for run, record in records.items()}
    return whole | {"targets": targets, "shards": hosts}
