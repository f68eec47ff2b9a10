"""Calibration, placement, smoothing, held-out choices, overflow, rounding in PyTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pqbench.common.v1.common_pb2 import Form, Preprocessing
from pqbench_compressor import export, fake_quant
from pqbench_compressor.graph import Graph
from pqbench_compressor.plugins import QUANTIZERS, Context, Source, Training
from pqbench_compressor.quantizers import _calibration, _half, _ranges, _smoothing
from pqbench_compressor.quantizers._calibration import Activation
from pqbench_compressor.quantizers._heldout import fewest
from pqbench_wire.errors import InvalidInput, OutOfMemory, Refused

P = Preprocessing(height=8, width=8, channels=3, interpolation="bilinear", mean=[0.5] * 3, std=[0.25] * 3)


class Residual(nn.Module):
    """A convolution, two branches that are added, a concatenation, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.last = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.first(x) + x)
        return self.last(torch.cat((y, self.second(y)), 1).mean((2, 3)))


@pytest.fixture(scope="module")
def context() -> Context:
    rng = np.random.default_rng(0)
    data = Training(images=rng.integers(0, 256, (128, 8, 8, 3), dtype=np.uint8), labels=rng.integers(0, 10, 128),
                    preprocessing=P)  # fmt: skip
    return Context(seed=0, report=lambda *_: None, classes=10, images=data.inputs(slice(8)), training_split=data)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def model(module: nn.Module, context: Context) -> bytes:
    return export.to_onnx(module, context.example)


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
    real = _calibration._collect

    def narrow(model: bytes, tensors: Any, inputs: Any, batch: int, report: Any) -> Any:
        sizes.append(batch)
        if batch > 8:
            raise MemoryError
        return real(model, tensors, inputs, batch, report)

    monkeypatch.setattr(_calibration, "_collect", narrow)
    inputs = context.training.sample(16, 0)
    found = _calibration.collect(model, {"input": 1}, inputs, lambda *report: told.append(report[2]))
    assert sizes == [32, 16, 8] and found.batch == 8
    assert "out of memory; going on with batches of 16" in told

    def hopeless(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(_calibration, "_collect", hopeless)
    with pytest.raises(OutOfMemory, match="one image at a time"):
        _calibration.collect(model, {"input": 1}, inputs, lambda *_: None)


def test_the_signed_form_follows_the_rules_of_tensorrt(model: bytes, context: Context) -> None:
    plugin = QUANTIZERS.load("int8-static")
    data = plugin.quantize(Source(onnx=lambda: model, module=None), plugin.Config(images=32), context,
                           (Form.FORM_QDQ_SIGNED,))[Form.FORM_QDQ_SIGNED]  # fmt: skip
    graph = Graph(data)
    producers, consumers = graph.producers(), graph.consumers()
    quantized = [n for n in graph.nodes if n.op_type == "QuantizeLinear"]
    assert all(len(n.input) == 3 and (graph.array(n.input[1]) > 0).all() for n in quantized)
    for node in graph.nodes:
        if node.op_type in ("Conv", "Gemm"):
            stem = producers.get(node.input[0]) is None and node.op_type == "Conv" and node.input[0] == "input"
            assert stem or producers[node.input[0]].op_type == "DequantizeLinear"
            assert not any(reader.op_type == "QuantizeLinear" for reader in consumers[node.output[0]]), "no output"
            assert graph.is_constant(node.input[2]) and graph.array(node.input[2]).dtype == np.float32, "FP32 bias"
    add = next(n for n in graph.nodes if n.op_type == "Add")
    kinds = sorted(producers[name].op_type for name in add.input)
    assert kinds == ["Conv", "DequantizeLinear"], "of an addition the skip alone is quantized"
    typed = onnx.load_from_string(_half.typed(data))
    assert {i.data_type for i in typed.graph.initializer if i.name.endswith("_scale")} == {onnx.TensorProto.FLOAT16}


class WithoutBias(nn.Module):
    """A transformer's residual block of matrix products without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(192, 32, bias=False), nn.Linear(32, 192, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return x + self.second(torch.relu(self.first(x)))


def test_only_additions_to_convolutions_are_residual_in_the_signed_form(context: Context) -> None:
    plugin = QUANTIZERS.load("int8-static")
    plain = export.to_onnx(WithoutBias().eval(), context.example)
    made = plugin.quantize(
        Source(onnx=lambda: plain, module=None), plugin.Config(images=32), context, (Form.FORM_QDQ_SIGNED,)
    )
    graph = Graph(made[Form.FORM_QDQ_SIGNED])
    add = next(n for n in graph.nodes if n.op_type == "Add")
    assert "DequantizeLinear" not in {graph.producers()[name].op_type for name in add.input}


def test_concatenated_tensors_share_a_range(model: bytes) -> None:
    graph = Graph(model)
    concat = next(n for n in graph.nodes if n.op_type == "Concat")
    ranges = {concat.input[0]: (-1.0, 2.0), concat.input[1]: (-3.0, 1.0), concat.output[0]: (0.0, 1.0)}
    assert set(_ranges.joined(graph, ranges).values()) == {(-3.0, 2.0)}


def test_smoothing_changes_no_output_and_evens_out_channels() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(2), nn.LayerNorm(64), nn.Linear(64, 32)).eval()
    with torch.no_grad():
        module[1].weight[3] = 50
    inputs = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    before = export.to_onnx(module, inputs[:2])
    pairs = _smoothing.smoothable(before)
    assert len(pairs) == 1
    name = next(iter(pairs))
    calibration = _calibration.collect(before, pairs, inputs, lambda *_: None)
    after = _smoothing.smooth(before, calibration, 0.5)
    np.testing.assert_allclose(export.run_onnx(after, inputs), export.run_onnx(before, inputs), atol=1e-4)
    again = _calibration.collect(after, pairs, inputs, lambda *_: None)

    def spread(found: Any) -> float:
        largest = found.activations[name].channel_max
        return float(largest.max() / np.median(largest))

    assert spread(again) < spread(calibration) / 4


def test_bias_correction_removes_the_mean_error(module: nn.Module, model: bytes, context: Context) -> None:
    plugin = QUANTIZERS.load("int8-static")
    inputs = context.training.sample(64, 0)
    reference = export.run_onnx(model, inputs)

    def mean_error(**values: Any) -> float:
        config = plugin.Config(images=64, ranges="min-max", smooth=0.0, **values)
        made = plugin.quantize(Source(onnx=lambda: model, module=module), config, context, (Form.FORM_QDQ_SIGNED,))
        return float(np.abs((export.run_onnx(made[Form.FORM_QDQ_SIGNED], inputs) - reference).mean(0)).mean())

    assert mean_error(bias_correction=True) < mean_error(bias_correction=False)


def test_the_fewest_layers_stay_in_fp32(context: Context) -> None:
    harm = {f"layer{i}": float(i == 3) * 5 + float(i == 7) * 3 + 0.01 for i in range(20)}

    def drop(kept: list[str]) -> float:
        return sum(points for name, points in harm.items() if name not in kept)

    def kept(max_drop: float) -> list[str]:
        return fewest(list(harm), drop, lambda names: -drop(names), max_drop, context)

    assert kept(9) == []
    assert kept(4) == ["layer3"]
    assert sorted(kept(0.5)) == ["layer3", "layer7"]
    with pytest.raises(Refused, match="with all layers but one in FP32, 0.01 points are still lost; max_drop is 0.001"):
        kept(0.001)


def test_layers_that_would_overflow_stay_fp32_and_are_named(context: Context) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, 10)).eval()
    with torch.no_grad():
        module[0].weight.mul_(1e6)
        module[1].weight.mul_(1e-6)
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    plugin = QUANTIZERS.load("fp16")
    made = plugin.quantize(source, plugin.Config(), context, plugin.FORMS)
    assert len(source.notes["kept_fp32"]) == 2 and source.notes["kept_fp32_in_pytorch"] == ["0", "1"]
    reference = export.run_module(module, context.images)
    for form, data in made.items():
        outputs = (
            export._run_pt2(data, context.images) if form == Form.FORM_PT2 else export.run_onnx(data, context.images)
        )
        assert np.isfinite(outputs).all() and export.sqnr(reference, outputs) > 30


class Tokens(nn.Module):
    """Patches, a normalisation and two linear layers over them: a transformer's shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32)
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """float32 [N, 3, 8, 8] to float32 [N, 32]."""
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        return (tokens + self.narrow(nn.functional.gelu(self.wide(self.norm(tokens))))).mean(1)


def test_matrix_products_over_tokens_run_as_integers_on_onnx_runtime(context: Context, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Tokens().eval()
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    plugin = QUANTIZERS.load("int8-static")
    made = plugin.quantize(source, plugin.Config(images=32), context, (Form.FORM_QDQ_UNSIGNED,))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(made[Form.FORM_QDQ_UNSIGNED], options, providers=["CPUExecutionProvider"])
    executed = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert not {"Gemm", "MatMul", "FusedMatMul", "Conv", "FusedConv"}.intersection(executed)
    assert sum(kind in ("QGemm", "MatMulIntegerToFloat", "QLinearMatMul") for kind in executed) == 2
    reference = export.run_module(module, context.images)
    assert export.sqnr(reference, export.run_fast(made[Form.FORM_QDQ_UNSIGNED], context.images)) > 25


def test_what_cannot_be_quantized_is_refused(context: Context, model: bytes) -> None:
    small = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 1)).eval()
    source = Source(onnx=lambda: export.to_onnx(small, context.example), module=small)
    int8 = QUANTIZERS.load("int8-static")
    with pytest.raises(Refused, match="nothing to quantize: every layer is kept, or has under 16 channels"):
        int8.quantize(source, int8.Config(images=16), context, (Form.FORM_QDQ_SIGNED,))
    whole = Source(onnx=lambda: model, module=None)
    with pytest.raises(Refused, match="no matrix product .* multiples of 256"):
        int4 = QUANTIZERS.load("int4-weights")
        int4.quantize(whole, int4.Config(block=256), context, int4.FORMS)
    with pytest.raises(InvalidInput, match="no node is called 'nothing'"):
        int8.quantize(whole, int8.Config(images=16, keep=("nothing",)), context, (Form.FORM_QDQ_SIGNED,))
    for name in ("int8-qat", "simulated", "int8-torchao"):
        plugin = QUANTIZERS.load(name)
        with pytest.raises(Refused, match="ONNX file"):
            plugin.quantize(whole, plugin.Config(), context, plugin.FORMS[:1])


def test_int4_blocks_are_stored_in_four_bits(context: Context, model: bytes) -> None:
    plugin = QUANTIZERS.load("int4-weights")
    data = plugin.quantize(Source(onnx=lambda: model, module=None), plugin.Config(), context, plugin.FORMS[:1])
    made = onnx.load_from_string(data[Form.FORM_QDQ_SIGNED])
    stored = next(i for i in made.graph.initializer if i.data_type == onnx.TensorProto.INT4)
    values = numpy_helper.to_array(stored).astype(np.int8)
    assert (
        made.opset_import[0].version == 21 and values.min() >= -8 and values.max() <= 7 and len(np.unique(values)) > 8
    )


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_rounding_in_pytorch_uses_as_many_levels_as_bits_allow(bits: int) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(64, 4)).eval()
    before = layer[0].weight.clone()
    fake_quant.insert(layer, bits, bits)
    fake_quant.observe(layer, np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32))
    for row in layer[0].weight:
        assert len(torch.unique(row)) <= 2**bits - 1
    seen = layer[0].rounded_input.rounded(torch.linspace(-3, 3, 1000))
    assert len(torch.unique(seen)) <= 2**bits
    fake_quant.remove(layer)
    torch.testing.assert_close(layer[0].weight, before)
    assert not layer[0]._forward_pre_hooks


def test_matrix_products_are_dynamic_per_channel_beside_convolutions(context: Context, model: bytes) -> None:
    plugin = QUANTIZERS.load("int8-dynamic")
    for per_channel, count in ((True, 10), (False, 1)):
        source = Source(onnx=lambda: model, module=None)
        data = plugin.quantize(source, plugin.Config(per_channel=per_channel), context, plugin.FORMS)[plugin.FORMS[0]]
        made = onnx.load_from_string(data)
        assert {"ConvInteger", "MatMulInteger"} <= {node.op_type for node in made.graph.node}
        sizes = {i.name: max(1, *i.dims) if i.dims else 1 for i in made.graph.initializer if i.name.endswith("_scale")}
        assert max(sizes.values()) == count


def test_average_bits_are_what_was_asked_for_with_the_edges_at_eight(context: Context) -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 128)]
    module = nn.Sequential(*layers, nn.ReLU(), nn.Linear(128, 10)).eval()
    plugin, source = QUANTIZERS.load("simulated"), Source(onnx=lambda: b"", module=module)
    plugin.quantize(source, plugin.Config(images=16, average=5.0), context, (Form.FORM_ONNX,))
    bits = {name: weights for name, (weights, _) in source.notes["bits"].items()}
    sizes = {name: module.get_submodule(name).weight.numel() for name in bits}
    mean = sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert (bits["1"], bits["7"]) == (8, 8) and 4 <= mean <= 5
    with pytest.raises(Refused, match="with the first and last layer at 8 bits, 2.6. bits can be had on average"):
        plugin.quantize(source, plugin.Config(images=16, average=2.0), context, (Form.FORM_ONNX,))


def test_overflow_is_looked_for_on_training_images(context: Context) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 10)).eval()
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    plugin = QUANTIZERS.load("fp16")
    loud = dataclasses.replace(context, images=np.full_like(context.images, 1e6))
    plugin.quantize(source, plugin.Config(), loud, (Form.FORM_ONNX,))
    assert source.notes["kept_fp32"] == [] and plugin.needs(plugin.Config()).training_if_any


@pytest.mark.parametrize("method", list(_calibration.RANGES))
def test_a_constant_activation_has_a_range(method: str) -> None:
    found = {str(value): activation(np.full(1000, value)) for value in (0.0, 3.0)}
    calibration = _calibration.Calibration(activations=found, images=1, batch=1)
    assert calibration.range("3.0", method, 99.9) == (0, 3)  # type: ignore[arg-type]
    low, high = calibration.range("0.0", method, 99.9)  # type: ignore[arg-type]
    assert low == 0 < high < 1e-3


def test_a_silent_reference_is_not_equal_to_noise() -> None:
    silent, loud = np.zeros((2, 3)), np.ones((2, 3))
    assert export.sqnr(silent, silent) == 200 and export.sqnr(silent, loud) == -np.inf


def test_training_with_rounding_is_compared_with_what_was_trained(context: Context) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    plugin = QUANTIZERS.load("int8-qat")
    config = plugin.Config(epochs=2, learning_rate=0.5, images=32, batch_size=16)
    made = plugin.quantize(source, config, context, (Form.FORM_QDQ_UNSIGNED,))[Form.FORM_QDQ_UNSIGNED]
    assert source.module is not None and source.module is not module
    trained = export.run_module(source.module, context.images)
    assert export.sqnr(trained, export.run_onnx(made, context.images)) > 20
    assert export.sqnr(trained, export.run_module(module, context.images)) < 10
