"""How near outputs are to those of the model itself, and how near a precision must bring them."""

from __future__ import annotations

import math

import numpy as np

EQUAL = 200.0  # dB of outputs without any difference
# The least signal-to-noise ratio, in dB, of a baseline engine's outputs, by what its layers execute in. Rounding alone
# stays far above; what is below computes something else.
LEAST_EXECUTED = {"FP32": 60.0, "TF32": 30.0, "FP16": 30.0, "BF16": 15.0, "INT8": 3.0}
# What is usual for a variant, by the precision that its recipe asks for: below it a warning is due.
LEAST_ASKED = {"FP32": 60.0, "FP16": 30.0, "BF16": 15.0, "INT8": 10.0, "INT8_DYNAMIC": 10.0, "FP8": 10.0, "INT4": 5.0}
LEAST_ANY = -math.inf  # of a precision that is not known, or only simulated
NOISE_OF_DEFAULTS = 30.0  # dB: a library's defaults may round, as to BF16
MARGIN = 6.0  # dB that an artifact loaded as it is may be below its engine


def sqnr(reference: np.ndarray, outputs: np.ndarray) -> float:
    """Signal-to-quantization-noise ratio in dB, at most 200 (equal); minus infinity where there is no signal."""
    noise = float(np.square(reference - outputs, dtype=np.float64).sum())
    signal = float(np.square(reference, dtype=np.float64).sum())
    if not noise:
        return EQUAL
    return min(EQUAL, 10 * float(np.log10(signal / noise))) if signal else -math.inf


def least_of_engine(executed: dict[str, int]) -> float:
    """The bound for a baseline engine whose compute layers execute so many in each precision."""
    return min((LEAST_EXECUTED.get(name, LEAST_ANY) for name in executed), default=LEAST_EXECUTED["FP32"])


def least_of_artifact(engine_db: float) -> float:
    """The bound for an artifact that is loaded with a library's defaults, whose engine is so near."""
    return min(engine_db, NOISE_OF_DEFAULTS) - MARGIN
