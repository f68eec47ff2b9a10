"""The examples of a training split that nothing is fitted to."""

from __future__ import annotations

import numpy as np

MOST_HELD_OUT = 1024


def split_training(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled indices of a training split: those to train and calibrate with, and those held out from both.

    A tenth is held out, at least one example and at most 1,024. Compressor and orchestrator make choices by accuracy
    on the same held-out examples.
    """
    order = np.random.default_rng(seed).permutation(count)
    held_out = max(1, min(MOST_HELD_OUT, count // 10))
    return order[:-held_out], order[-held_out:]
