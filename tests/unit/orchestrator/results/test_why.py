"""Why a cell is not faster."""

from __future__ import annotations

from typing import Any

import pytest

from pqbench_orchestrator.results.why import explain

from ..cells import cell


def layer(name: str, kind: str, precision: str, seconds: float, compute: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "precision": precision,
        "seconds": seconds,
        "compute": compute,
        "provider": "CPU",
    }


def results(
    *layers: dict[str, Any], nonzeros: int = 1000, copying: float | None = 1e10, launches: bool = False
) -> dict[str, dict[str, Any]]:
    statistics = {"parameters": "1000", "nonzeros": str(nonzeros), "macs": "500", "stateDictBytes": "4000"}
    profile: dict[str, Any] = {"tool": "a profiler", "calls": 5, "layers": list(layers), "launches": launches}
    return {
        "profile": profile | ({} if copying is None else {"copyBytesPerSecond": copying}),
        "build": {"engine": {"blob": {"size": "1000"}}},
        "baseline build": {"engine": {"blob": {"size": "4000"}}},
        "variant": {"statistics": statistics},
        "unpruned": {"statistics": statistics | {"macs": "1000"}},
    }


def test_why_says_where_the_time_goes() -> None:
    about = {
        "Speedup": 1.4, "Speedup Low": 1.3, "Speedup High": 1.5, "Precision": "INT8", "Inference Time (ms)": 10.0,
        "Pruner": "-", "Scenario": "single-stream",
    }  # fmt: skip
    found = explain(
        cell(about),
        results(layer("c1", "Conv", "INT8", 0.003, True), layer("c2", "Conv", "FP32", 0.001, True), layer("q", "QuantizeLinear", "FP32", 0.002)),
    )  # fmt: skip
    assert (found.by_macs, found.by_bytes) == (2.0, 4.0) and found.fell_back == ["c2"]
    assert found.converting == pytest.approx(1 / 3) and found.outside == pytest.approx(0.4)
    assert found.precisions == pytest.approx({"INT8": 0.5, "FP32": 0.5})
    assert found.flags == ["host", "conversions", "fallback"]
    for words in ("1.40× as fast", "2.00× by its multiply-accumulates and 4.00× by its bytes", "33% goes into", "1 of 2 compute layers",
                  "40% of a call is spent outside"):  # fmt: skip
        assert words in found.text, found.text
    queued = explain(cell(about | {"Scenario": "server"}), results(layer("c1", "Conv", "INT8", 0.003, True)))
    assert queued.outside is None and queued.flags == [], "a call that waits says nothing of its layers"


@pytest.mark.parametrize(
    ("executed", "at_once"),
    [({}, 1), ({"FP32": 3}, 1), ({"TF32": 3}, 1), ({"BF16": 3}, 2), ({"FP16": 1, "FP32": 9}, 2), ({"INT8": 1, "FP16": 9}, 4),
     ({"FP8": 3}, 4)],
)  # fmt: skip
def test_the_speed_up_in_theory_counts_products_at_once(executed: dict[str, int], at_once: int) -> None:
    """Half of the multiply-accumulates, each several at once, and a quarter of the bytes."""
    about = {"Speedup": 1.5, "Precision": "FP32", "Inference Time (ms)": 10.0, "Scenario": "single-stream"}
    told = results(layer("c", "Conv", "FP32", 0.01, True))
    told["build"]["executed"] = executed
    found = explain(cell(about), told)
    assert (found.by_macs, found.by_bytes) == (2.0 * at_once, 4.0)
    assert f"in theory {2 * at_once:.2f}× by its multiply-accumulates and 4.00× by its bytes." in found.text
    del told["baseline build"], told["unpruned"]
    unknown = explain(cell(about), told)
    assert (unknown.by_macs, unknown.by_bytes) == (None, None) and "theory" not in unknown.text


def test_why_says_of_the_baseline_that_it_is_one() -> None:
    about = {"Speedup": None, "Precision": "FP32", "Inference Time (ms)": 10.0, "Scenario": "single-stream"}
    told = results(layer("c", "Conv", "FP32", 0.01, True))
    assert explain(cell(about | {"Baseline": True}), told).text.startswith(
        "This is the baseline. Of the layers' time 100%"
    )
    for other in ({"Baseline": False}, {"Baseline": True, "Speedup": 1.5}):
        assert "This is the baseline" not in explain(cell(about | other), told).text


@pytest.mark.parametrize(
    ("precision", "share"),
    [("FP32", "100%"), ("FP16", "50%"), ("BF16", "50%"), ("INT8", "25%"), ("INT8_DYNAMIC", "25%"), ("FP8", "25%"),
     ("INT4", ""), ("", "100%")],
)  # fmt: skip
def test_reading_weights_counts_the_bits_of_what_was_asked_for(precision: str, share: str) -> None:
    """A thousand weights in a millisecond, where a copy moves four million bytes a second; an eighth is not told."""
    about = {"Precision": precision, "Inference Time (ms)": 1.0, "Scenario": "single-stream", "Speedup": 1.0}
    found = explain(cell(about), results(layer("c", "Gemm", precision, 0.001, True), copying=4e6))
    assert ("memory" in found.flags) == (share == "100%")
    said = f"Reading the weights alone takes {share} of the bandwidth of a plain copy"
    assert said in found.text if share else "alone" not in found.text


def test_why_claims_nothing_of_layers_that_were_not_named() -> None:
    about = {"Precision": "FP32", "Inference Time (ms)": 10.0, "Scenario": "single-stream"}
    found = explain(cell(about), results())
    assert found.outside is None and found.flags == [] and "The profiler names no layers." in found.text
    assert "%" not in found.text


def test_why_takes_launches_for_no_times_of_layers() -> None:
    about = {"Precision": "FP32", "Inference Time (ms)": 10.0, "Scenario": "single-stream"}
    found = explain(cell(about), results(layer("c", "Conv", "FP32", 0.001, True), copying=None, launches=True))
    assert found.outside is None and found.converting is None and found.precisions == {} and found.flags == []
    assert "how long the host took to launch each layer" in found.text


def test_why_knows_memory_and_stored_zeros() -> None:
    about = {
        "Speedup": 1.0,
        "Speedup Low": 0.99,
        "Speedup High": 1.01,
        "Precision": "FP32",
        "Inference Time (ms)": 1.0,
        "Pruner": "l1-global",
        "Scenario": "single-stream",
    }
    found = explain(cell(about), results(layer("c", "Gemm", "FP32", 0.001, True), nonzeros=400, copying=5e6))
    assert found.flags == ["memory"] and "60% of its weights are zeros" in found.text
    on_gpu = explain(cell(about), results(layer("c", "Gemm", "FP32", 0.001, True), copying=None))
    assert on_gpu.flags == []


def test_why_says_what_becomes_of_the_two_in_four_pattern() -> None:
    about = {"Speedup": 1.0, "Inference Time (ms)": 1.0, "Pruner": "nm", "Scenario": "single-stream"}
    found = results(layer("c", "Conv", "FP16", 0.001, True), nonzeros=500)
    found["build"]["settings"] = {"sparsity": "layers with the 2:4 pattern: 9, unused with sparse_weights=false"}
    assert (
        "any others; layers with the 2:4 pattern: 9, unused with sparse_weights=false."
        in explain(cell(about), found).text
    )
    found["build"]["settings"] = {"sparse_tactics": "conv1, conv2"}
    text = explain(cell(about), found).text
    assert "layers with sparse kernels: conv1, conv2" in text and "like any others" not in text
