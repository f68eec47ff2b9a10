"""Top-1 accuracy: percentage of images whose largest output is that of their label."""

from __future__ import annotations

import numpy as np

from pqbench_orchestrator.metric import Outputs

REQUIRES = ()
TITLE = "Top-1 (%)"
COMPARES = "labels"


def score(outputs: Outputs) -> float | None:
    return 100 * float(np.mean(outputs.right[0]))
