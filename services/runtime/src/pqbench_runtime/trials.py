"""Tries an artifact: loads it as users do who have only that file, and compares its outputs with the model's own."""

from __future__ import annotations

import numpy as np

from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import TrialRequest
from pqbench_runtime.backend import Shipped
from pqbench_runtime.building import artifact_path
from pqbench_runtime.feeds import padded
from pqbench_wire.blobs import BlobStore
from pqbench_wire.shared.fidelity import sqnr
from pqbench_wire.shared.inputs import as_feed, flat, load_inputs


def try_artifact(trial: TrialRequest, backend: Shipped, store: BlobStore) -> pb.ArtifactTrial:
    """Load an artifact in one way and run it at each batch size; what is wrong with the outputs is in the result.

    Raises what the backend's library raises.
    """
    asked = trial.request
    prepared = load_inputs(store, asked.inputs, asked.preprocessing)[0]
    reference = store.array(asked.reference)
    batches = [as_feed(padded(prepared[:size], size), asked.preprocessing) for size in asked.batch_sizes]
    path = artifact_path(asked.artifact, store)
    outputs = [flat(one) for one in backend.run_artifact(path, trial.way, batches)]
    wanted = [np.resize(reference[: len(one)], (len(one), *reference.shape[1:])) for one in outputs]
    result = pb.ArtifactTrial(way=trial.way)
    if odd := next((one.shape for one, own in zip(outputs, wanted, strict=True) if one.shape != own.shape), None):
        result.problem = f"outputs have the shape {list(odd)}"
    elif not all(bool(np.isfinite(one).all()) for one in outputs):
        result.problem = "outputs are not finite"
    else:
        result.sqnr_db = min(sqnr(own, one) for one, own in zip(outputs, wanted, strict=True))
        wrong = result.sqnr_db < asked.least_db
        result.problem = f"fidelity is {result.sqnr_db:.1f} dB, below {asked.least_db:.0f} dB" if wrong else ""
    return result
