"""pqbench from Python: `benchmark` runs an experiment with the caller's own objects, `Run` reads the results of a run.

The compressor runs in the caller's process, where the objects live; the runtimes are separate processes.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pqbench_orchestrator.execution.execute import NullWatcher
from pqbench_orchestrator.execution.launch.inprocess import InProcessLauncher
from pqbench_orchestrator.execution.session import Settings
from pqbench_orchestrator.experiment import execute, new_run, recommended
from pqbench_orchestrator.output.outputs import cells_of
from pqbench_orchestrator.output.recommendation import as_json
from pqbench_orchestrator.results.tables import Record, as_records
from pqbench_orchestrator.store.run_folder import find_run
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared import own_code

__all__ = ["Run", "benchmark"]
Arrays = Mapping[str, tuple[np.ndarray, np.ndarray]]  # "train", "test" -> images uint8 [N, H, W, C], labels [N]


def benchmark(
    *,
    model: Any,
    dataset: str | Mapping[str, Any],
    recipe: Sequence[Any] = (),
    preprocessing: Mapping[str, Any] | None = None,
    targets: Sequence[str | Mapping[str, Any]] = ("onnxruntime",),
    batch_sizes: Sequence[int] = (1,),
    data: str | Path = "data",
    allow_code: bool = False,
    **settings: Any,
) -> list[Record]:
    """Run a recipe and its baseline on targets; returns a record for each cell (`pqbench schema results`).

    `model`: a torch.nn.Module, or a name as in a manifest. `dataset`: a name, a manifest's mapping, or
    {"train": (images, labels), "test": (images, labels)} with uint8 images [N, H, W, C]. `recipe`: steps as
    in a manifest, e.g. {"prune": {"method": "l1-global", "amount": 0.5}}, or objects with a method
    `prune(module, context)`. `preprocessing`: height, width, mean and std; a module needs it. `settings`: other
    keys of a manifest, such as `seed` and `measure`. Paths are relative to the working directory;
    `allow_code` allows Python files that are named in strings to run. Raises InvalidInput for wrong arguments, and
    Unavailable where a dataset cannot be downloaded. A cell that failed is a row with its reason.
    """
    keys: list[str] = []

    def register(value: Any) -> str:
        keys.append(f"{type(value).__name__}-{uuid.uuid4().hex[:12]}")  # unique: results of live objects are not reused
        own_code.OBJECTS[keys[-1]] = value
        return keys[-1]

    with tempfile.TemporaryDirectory() as folder:
        values = {
            "name": "benchmark",
            "models": [_model(model, preprocessing, register)],
            "datasets": [_dataset(dataset, Path(folder))],
            "recipes": [
                {"name": "baseline"},
                *([{"name": "recipe", "steps": _steps(recipe, register)}] if recipe else []),
            ],
            "targets": [{"name": t, "backend": t} if isinstance(t, str) else dict(t) for t in targets],
            "batch_sizes": list(batch_sizes),
        } | settings
        manifest = Path(folder, "benchmark.yaml")
        manifest.write_text(yaml.safe_dump(_plain(values), sort_keys=False), encoding="utf-8")
        launcher = InProcessLauncher(Path(data), allow_code)
        try:
            options = Settings(data=Path(data), compressor=launcher, allow_code=allow_code, is_new=True)
            run = new_run(manifest, options)
            cells = execute(run, options, NullWatcher(), lambda _: None)
            return as_records(cells, run.name, run.started_at)
        finally:
            launcher.stop()
            for key in keys:
                own_code.OBJECTS.pop(key)


class Run:
    """A run that exists: `Run("latest")`, `Run("my-run-2026")`, `Run("data/experiments/my-run")`.

    `name`: the run's folder, its name, a unique beginning of it, or `latest`; `data`: the data folder that it is looked
    for in. Raises InvalidInput where there is no such run, or more than one.
    """

    def __init__(self, name: str | Path, data: str | Path = "data") -> None:
        self._folder = find_run(str(name), Path(data))

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._folder.path

    @property
    def records(self) -> list[Record]:
        """A record for each cell, named as in `pqbench schema results`. Raises InvalidInput for a damaged ledger."""
        return as_records(cells_of(self._folder), self._folder.name, self._folder.started_at)

    @property
    def cells(self) -> Any:
        """The records as a pandas DataFrame, one row for each cell. Raises ImportError without pandas."""
        import pandas

        return pandas.DataFrame(self.records)

    @property
    def recommendations(self) -> list[dict[str, Any]]:
        """What to ship by the manifest's goal, as `pqbench recommend --json` prints it; nothing is measured."""
        return [as_json(found, confirmed, self._folder) for found, confirmed in recommended(self._folder)]


def _plain(value: Any) -> Any:
    """A value for YAML: tuples as lists, NumPy scalars as Python numbers, paths as absolute strings.

    Paths are made absolute because the manifest is written into a temporary folder. A string counts as a path where it
    names an existing file or folder, or a function in one.
    """
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path) or (isinstance(value, str) and _is_path(value)):
        return str(Path(value).absolute())
    return value.item() if isinstance(value, np.generic) else value


def _is_path(value: str) -> bool:
    path = value.rpartition(":")[0] if ".py:" in value else value
    return Path(path).is_file() or ("/" in path and Path(path).is_dir())


def _model(model: Any, preprocessing: Mapping[str, Any] | None, register: Any) -> dict[str, Any]:
    given = {"preprocessing": dict(preprocessing)} if preprocessing else {}
    if isinstance(model, str):
        return {"model": model} | given
    if preprocessing is None:
        raise InvalidInput("benchmark: a module needs preprocessing: {height, width, mean, std}")
    return {"model": f"object/{register(model)}", "name": type(model).__name__} | given


def _dataset(dataset: str | Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if isinstance(dataset, str):
        return {"dataset": dataset}
    if "dataset" in dataset:
        return dict(dataset)
    files = {}
    for split, (images, labels) in dataset.items():
        files[split] = str(folder / f"{split}.npz")
        np.savez(files[split], images=images, labels=labels)
    return {"dataset": "arrays", "config": files}


def _steps(recipe: Sequence[Any], register: Any) -> list[dict[str, Any]]:
    return [
        dict(step) if isinstance(step, Mapping) else {"prune": {"method": "object", "name": register(step)}}
        for step in recipe
    ]
