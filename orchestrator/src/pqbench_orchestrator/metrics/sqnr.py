"""Signal-to-quantization-noise ratio of the outputs against the baseline's, in dB; none where they are equal."""

from __future__ import annotations

import numpy as np

from pqbench_orchestrator.metric import Outputs

REQUIRES = ()
TITLE = "SQNR (dB)"
COMPARES = "values"


def score(outputs: Outputs) -> float | None:
    noise = float(np.square(outputs.baseline - outputs.variant, dtype=np.float64).sum())
    signal = float(np.square(outputs.baseline, dtype=np.float64).sum())
    return 10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else None
