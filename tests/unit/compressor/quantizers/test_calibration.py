"""Activation ranges: methods, counting, memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pqbench_compressor.plugins import Context
from pqbench_compressor.quantizers import _calibration
from pqbench_compressor.quantizers._calibration import Activation
from pqbench_wire.errors import OutOfMemory


def activation(values: np.ndarray) -> Activation:
    seen = Activation()
    for observe in (_calibration._extremes, _calibration._histogram):
        observe(seen, values.astype(np.float32).reshape(1, 1, -1), 1)
    return seen


@pytest.mark.parametrize("method", list(_calibration.RANGES))
def test_every_method_keeps_a_uniform_range_and_clips_an_outlier_but_for_min_max(method: str) -> None:
    rng = np.random.default_rng(0)
    uniform = rng.uniform(0, 1, 100_000)
    low, high = _calibration.RANGES[method](activation(uniform), 99.9)
    assert low == pytest.approx(0, abs=0.02) and high == pytest.approx(1, abs=0.05)
    outlier = np.append(np.abs(rng.normal(0, 1, 1_000_000)), 100)
    low, high = _calibration.RANGES[method](activation(outlier), 99.9)
    assert high == pytest.approx(100) if method == "min-max" else 2 < high < 60


def test_calibration_counts_channels_and_batches(model: bytes, context: Context) -> None:
    inputs = context.training.sample(40, 0)
    found = _calibration.collect(model, {"input": 1}, inputs, lambda *_: None)
    seen = found.activations["input"]
    assert (found.images, seen.low, seen.high) == (40, pytest.approx(inputs.min()), pytest.approx(inputs.max()))
    np.testing.assert_allclose(seen.channel_mean, inputs.mean((0, 2, 3)), rtol=1e-4)
    assert seen.histogram.sum() == inputs.size


def test_calibration_that_runs_out_of_memory_goes_on_with_smaller_batches(
    model: bytes, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    sizes: list[int] = []
    real = _calibration.collect_in_batches

    def narrow(model: bytes, tensors: Any, inputs: Any, batch: int, report: Any) -> Any:
        sizes.append(batch)
        if batch > 8:
            raise MemoryError
        return real(model, tensors, inputs, batch, report)

    monkeypatch.setattr(_calibration, "collect_in_batches", narrow)
    inputs = context.training.sample(16, 0)
    found = _calibration.collect(model, {"input": 1}, inputs, lambda *report: told.append(report[2]))
    assert sizes == [32, 16, 8] and found.batch == 8
    assert "out of memory; going on with batches of 16" in told

    def hopeless(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(_calibration, "collect_in_batches", hopeless)
    with pytest.raises(OutOfMemory, match="one image at a time"):
        _calibration.collect(model, {"input": 1}, inputs, lambda *_: None)


@pytest.mark.parametrize("method", list(_calibration.RANGES))
def test_a_constant_activation_has_a_range(method: _calibration.Method) -> None:
    found = {str(value): activation(np.full(1000, value)) for value in (0.0, 3.0)}
    calibration = _calibration.Calibration(activations=found, images=1, batch=1)
    assert calibration.range("3.0", method, 99.9) == (0, 3)
    low, high = calibration.range("0.0", method, 99.9)
    assert low == 0 < high < 1e-3
