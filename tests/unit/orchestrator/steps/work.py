"""What steps need, without services."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from google.protobuf import json_format

from pqbench_orchestrator.steps.step import Spec, Step
from pqbench_wire.blobs import BlobStore


def work(store: BlobStore, **changes: Any) -> Any:
    """What a step does its work with."""
    return SimpleNamespace(store=store, **changes)


def stored(store: BlobStore, array: np.ndarray) -> dict[str, Any]:
    """An array's blob as JSON."""
    return json_format.MessageToDict(store.put_array(array))


def step_of(spec: Spec) -> Step:
    """A step that needs nothing."""
    return Step(key="k", label="l", place="p", spec=spec, needs={}, stage=(0,))
