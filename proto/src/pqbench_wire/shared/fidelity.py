"""Signal-to-noise ratio of outputs against those of the model itself, and its bounds for each precision."""

from __future__ import annotations

import math

import numpy as np

EQUAL = 200.0  # dB, for outputs without any difference
# The lowest signal-to-noise ratio, in dB, of a baseline engine's outputs, by the precision that its layers execute in.
# With rounding alone it stays far above; an engine below computes something else.
LEAST_EXECUTED = {"FP32": 60.0, "TF32": 30.0, "FP16": 30.0, "BF16": 15.0, "INT8": 3.0}
# The lowest ratio that is usual for a variant, by the precision that its recipe requests; below, a warning is given.
LEAST_ASKED = {"FP32": 60.0, "FP16": 30.0, "BF16": 15.0, "INT8": 10.0, "INT8_DYNAMIC": 10.0, "FP8": 10.0, "INT4": 5.0}
LEAST_ANY = -math.inf  # for a precision that is unknown, or only simulated
NOISE_OF_DEFAULTS = 30.0  # dB: with its defaults, a library may round, for example to BF16
MARGIN = 6.0  # dB that an artifact loaded with a library's defaults may be below its engine


def sqnr(reference: np.ndarray, outputs: np.ndarray) -> float:
    """Signal-to-quantization-noise ratio in dB, at most 200 (equal); minus infinity where there is no signal."""
    noise = float(np.square(reference - outputs, dtype=np.float64).sum())
    signal = float(np.square(reference, dtype=np.float64).sum())
    if not noise:
        return EQUAL
    return min(EQUAL, 10 * float(np.log10(signal / noise))) if signal else -math.inf


def least_of_engine(executed: dict[str, int]) -> float:
    """The bound in dB for a baseline engine; `executed`: precision -> number of compute layers that execute in it."""
    return min((LEAST_EXECUTED.get(name, LEAST_ANY) for name in executed), default=LEAST_EXECUTED["FP32"])


def least_of_artifact(engine_db: float) -> float:
    """The bound in dB for an artifact loaded with a library's defaults; `engine_db`: the ratio of its engine."""
    return min(engine_db, NOISE_OF_DEFAULTS) - MARGIN
