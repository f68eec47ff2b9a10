"""An engine against the model itself."""

from __future__ import annotations

import numpy as np
import pytest

from pqbench.runtime.v1.runtime_pb2 import PredictResult
from pqbench_orchestrator.steps.verify import Verify
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed

from .work import step_of, stored, work


@pytest.mark.parametrize(
    ("executed", "least"),
    [(["FP32"], 60), (["TF32"], 30), (["FP16"], 30), (["BF16"], 15), (["INT8"], 3), ([], 60), (["FP32", "TF32"], 30),
     (["FP32", "BF16", "FP16"], 15)],
)  # fmt: skip
def test_a_baseline_engine_is_held_to_the_least_of_what_it_executes(
    store: BlobStore, executed: list[str], least: float
) -> None:
    reference = np.random.default_rng(0).standard_normal((8, 10))

    def verified(decibels: float, baseline: bool = True) -> float:
        outputs = store.put_array(reference * (1 + 10 ** (-decibels / 20)))
        working = work(store, call=lambda *_: PredictResult(outputs=outputs))
        engine = {"engine": {}, "executed": dict.fromkeys(executed, 3)}
        needs = {"build": engine, "inputs": {}, "variant": {"reference": stored(store, reference)}}
        spec = Verify(is_baseline=baseline)
        return float(spec.run(working, step_of(spec), needs)["sqnr_db"])

    assert verified(least + 0.1) == pytest.approx(least + 0.1)
    wanted = rf"fidelity of {least - 0.1:.1f} dB on 8 images; its precision reaches {least} dB"
    with pytest.raises(Failed, match=wanted):
        verified(least - 0.1)
    assert verified(least - 0.1, baseline=False) == pytest.approx(least - 0.1), "a variant's is a figure"
