"""Cosine similarity of each example's outputs with the baseline's, averaged; 1 where they point the same way."""

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
