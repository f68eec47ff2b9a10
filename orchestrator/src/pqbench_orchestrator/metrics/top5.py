"""Top-5 accuracy: percentage of images whose label is among the five largest outputs.

It is blank for a model with fewer than five outputs.
"""

from __future__ import annotations

import numpy as np

from pqbench_orchestrator.metric import Outputs

REQUIRES = ()
TITLE = "Top-5 (%)"
COMPARES = "labels"
K = 5


def score(outputs: Outputs) -> float | None:
    if outputs.variant.shape[1] < K:
        return None
    best = np.argpartition(-outputs.variant, K - 1, axis=1)[:, :K]
    return 100 * float(np.mean((best == outputs.labels[:, None]).any(1)))
