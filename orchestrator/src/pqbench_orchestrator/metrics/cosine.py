"""Cosine similarity of the outputs with the baseline's, averaged over examples; 1 where they have the same direction.

It is not defined where the outputs of an example are all zero.
"""

from __future__ import annotations

import numpy as np

from pqbench_orchestrator.metric import Outputs

REQUIRES = ()
TITLE = "Cosine Similarity"
COMPARES = "values"


def score(outputs: Outputs) -> float | None:
    variant, baseline = outputs.variant.astype(np.float64), outputs.baseline.astype(np.float64)
    lengths = np.linalg.norm(variant, axis=1) * np.linalg.norm(baseline, axis=1)
    return float(np.mean((variant * baseline).sum(1) / lengths)) if lengths.all() else None
