"""Agreement: percentage of images that the variant and the baseline put into the same class."""

from __future__ import annotations

import numpy as np

from pqbench_orchestrator.metric import Outputs

REQUIRES = ()
TITLE = "Agreement (%)"
COMPARES = "classes"


def score(outputs: Outputs) -> float | None:
    return 100 * float(np.mean(outputs.variant.argmax(1) == outputs.baseline.argmax(1)))
