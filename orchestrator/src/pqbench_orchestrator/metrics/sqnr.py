"""Signal-to-quantization-noise ratio of the outputs against the baseline's, in dB; blank where they are equal.

It is blank also where the baseline's outputs are all zero.
"""

from __future__ import annotations

import math

from pqbench_orchestrator.metric import Outputs
from pqbench_wire.shared import fidelity

REQUIRES = ()
TITLE = "SQNR (dB)"
COMPARES = "values"


def score(outputs: Outputs) -> float | None:
    value = fidelity.sqnr(outputs.baseline, outputs.variant)
    return None if value in (fidelity.EQUAL, -math.inf) else value
