"""ONNX files as exporters write them, old and new: brought into one form, or refused with what they declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pqbench.common.v1.common_pb2 import Form, Preprocessing
from pqbench_compressor import export, normal_form, onnx_check
from pqbench_compressor.plugins import QUANTIZERS, Context, Source, Training
from pqbench_compressor.quantizers._graph import Graph
from pqbench_orchestrator.onnx_files import external_locations
from pqbench_wire.errors import InvalidInput
from pqbench_wire.inputs import Inputs, normalise


def old_file() -> bytes:
    """Opset 11, IR 3: a convolution, a Squeeze with an attribute and a product, without names."""
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(32, 3, 8, 8)), "w2": rng.normal(size=(32, 10))}
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c"]),
        helper.make_node("Squeeze", ["c"], ["s"], axes=[2, 3]),
        helper.make_node("MatMul", ["s", "w2"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])
    constants = [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.dims) for t in tensors]
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "old", [image, *constants], [scores], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=3).SerializeToString()


@pytest.mark.parametrize("name", ["int8-static", "int8-ort", "bf16", "fp16"])
def test_an_old_file_is_quantized(name: str) -> None:
    model = normal_form.normalised("old.onnx", normal_form.read("old.onnx", old_file(), {}))
    made = onnx.load_from_string(model)
    assert [one.name for one in made.graph.input] == ["image"] and made.opset_import[0].version == 20
    names = [node.name for node in made.graph.node]
    assert all(names) and len(set(names)) == len(names)
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    data = Training(images=images, labels=np.zeros(64, int), preprocessing=Preprocessing(height=8, width=8, channels=3,
        mean=[0.5] * 3, std=[0.25] * 3))  # fmt: skip
    context = Context(seed=0, report=lambda *_: None, classes=10, images=data.inputs(slice(8)), training_split=data)
    plugin = QUANTIZERS.load(name)
    form = next(form for form in plugin.FORMS if form in (Form.FORM_QDQ_UNSIGNED, Form.FORM_QDQ_TOOL, Form.FORM_ONNX))
    quantized = plugin.quantize(Source(onnx=lambda: model, module=None), plugin.Config(), context, (form,))[form]
    reference = export.run_onnx(model, context.images)
    assert export.verify(quantized, form, plugin.PRECISION, context.images, reference).sqnr_db < 100


def test_what_is_no_model_is_one_line() -> None:
    with pytest.raises(InvalidInput, match=r"a\.onnx: not an ONNX file: "):
        normal_form.read("a.onnx", b"nothing", {})


NORMALISED = Preprocessing(height=32, width=32, channels=3, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
RIGHT = (
    "bias-identity", "weight-identity", "weight-constant-node", "weight-cast-fp16", "matmul-transposed",
    "batchnorm-unfused", "external-data/model", "fixed-batch-1", "if-outer-constants", "pad-minus-infinity",
    "resize-empty-roi", "reducemean-axes", "convtranspose-groups", "gemm-beta",
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(shared_data: Path) -> Training:
    """Some of CIFAR-10's training images."""
    with np.load(shared_data / "cifar10_train_lossless4660.npz") as arrays:
        images, labels = arrays["images"][:80], arrays["labels"][:80]
    return Training(images=images, labels=labels, preprocessing=NORMALISED)


def given(path: Path) -> onnx.ModelProto:
    beside = {one.name: one for one in path.parent.iterdir() if one.suffix == ".data"}
    return normal_form.read(path.name, path.read_bytes(), beside)


@pytest.mark.parametrize("name", RIGHT)
def test_every_case_computes_the_same_in_the_normal_form_and_in_int8(
    shared_cases: Path, pictures: Training, name: str
) -> None:
    model = given(shared_cases / "onnx" / f"{name}.onnx")
    images = pictures.inputs(slice(8))
    reference = export.run_onnx(model.SerializeToString(), images)
    data = normal_form.normalised(name, model)
    made = onnx.load_from_string(data)
    assert made.opset_import[0].version >= 20 and not made.functions
    assert {n.op_type for n in made.graph.node}.isdisjoint({"Constant", "Identity", "BatchNormalization"})
    assert export.sqnr(reference, export.run_onnx(data, images)) > 100
    context = Context(seed=0, report=lambda *_: None, classes=10, images=images, training_split=pictures)
    source = Source(onnx=lambda: data, module=None)
    least = {"int8-static": 25.0, "fp16": 50.0, "bf16": 30.0, "int4-weights": 10.0}
    for method, form in (("int8-static", Form.FORM_QDQ_UNSIGNED), ("fp16", Form.FORM_ONNX), ("bf16", Form.FORM_ONNX),
                         ("int4-weights", Form.FORM_QDQ_SIGNED)):  # fmt: skip
        plugin = QUANTIZERS.load(method)
        config = QUANTIZERS.configure(method, '{"block": 16}' if method == "int4-weights" else "{}")
        artifact = plugin.quantize(source, config, context, (form,))[form]
        found = export.verify(artifact, form, plugin.PRECISION, images, reference)
        assert found.sqnr_db > least[method], method
    if name == "convtranspose-groups":
        assert list(source.notes["left_fp32"].values()) == ["its output channels are in groups"]
    else:
        assert "left_fp32" not in source.notes


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nhwc-float", "its input img is [N, 32, 32, 3]; it would be given [N, 3, 32, 32]"),
        ("multi-output-nonbatch", "output nz is [2, "),
    ],
)
def test_what_a_file_declares_is_compared_with_what_it_is_given(shared_cases: Path, name: str, reason: str) -> None:
    assert onnx_check.examine(given(shared_cases / "onnx" / f"{name}.onnx"), NORMALISED).refused.startswith(reason)


def test_a_fixed_batch_and_a_quantized_file_are_seen(shared_cases: Path) -> None:
    found = onnx_check.examine(given(shared_cases / "onnx" / "fixed-batch-1.onnx"), NORMALISED)
    assert (found.refused, found.fixed_batch, found.classes) == ("", 1, 10)
    quantized = given(shared_cases / "onnx" / "already-quantized.onnx")
    assert normal_form.quantized_operator(quantized) == "DequantizeLinear"


def product(bias: np.ndarray, input_type: int = TensorProto.FLOAT, **attributes: float) -> onnx.ModelProto:
    """A Gemm of 32 inputs and 20 outputs."""
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.normal(size=(32, 20)).astype(np.float32), "w"),
        numpy_helper.from_array(bias, "b"),
    ]
    rows = "a" if not attributes.get("transA") else 20
    x = helper.make_tensor_value_info("x", input_type, [rows, 32] if rows == "a" else [32, rows])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 20])
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"], **attributes)], "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("shape", [(20,), (1, 20), (1,), ()])
@pytest.mark.parametrize("factors", [{}, {"alpha": 0.5}, {"beta": 2.0}, {"alpha": -1.5, "beta": 0.25}])
def test_a_product_keeps_its_factors_and_bias_whatever_their_shape(
    shape: tuple[int, ...], factors: dict[str, float]
) -> None:
    model = product(np.full(shape, 3.0, np.float32), **factors)
    data = normal_form.normalised("g", model)
    (node,) = onnx.load_from_string(data).graph.node
    assert {one.name for one in node.attribute}.isdisjoint({"alpha", "beta"}) and not Graph(data).left_out()
    inputs = Inputs({"x": np.random.default_rng(1).normal(size=(6, 32)).astype(np.float32)})
    np.testing.assert_allclose(
        export.run_onnx(data, inputs), export.run_onnx(model.SerializeToString(), inputs), rtol=1e-5, atol=1e-5
    )


def test_a_layer_that_cannot_be_quantized_is_left_and_named() -> None:
    data = normal_form.normalised("g", product(np.zeros(20, np.float32), transA=1))
    assert list(Graph(data).left_out().values()) == ["its input is transposed"] and not Graph(data).compute_nodes()


def test_a_file_may_not_reach_for_others(tmp_path: Path) -> None:
    """External data come from what was sent with the file, and from nowhere else."""
    model = product(np.zeros(20, np.float32))
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../../etc/passwd")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    with pytest.raises(InvalidInput, match=r"keeps w in the file '../../etc/passwd', which did not come with it"):
        normal_form.read("g", model.SerializeToString(), {})
    (tmp_path / "w").write_bytes(b"short")
    tensor.raw_data = b"not read"
    onnx.external_data_helper.set_external_data(tensor, "w", offset=0, length=2560)
    with pytest.raises(InvalidInput, match="'w' has 5 bytes; w ends at byte 2560"):
        normal_form.read("g", model.SerializeToString(), {"w": tmp_path / "w"})


def test_a_small_constant_that_keeps_a_division_alive_is_kept() -> None:
    class Ratio(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean((2, 3))
            return mean / (mean.sum(1, keepdim=True) + 1e-9) * 1.000003

    black = np.zeros((2, 3, 8, 8), np.float32)
    data = export.to_onnx(Ratio(), black)
    assert np.isfinite(export.run_onnx(data, black)).all() and (export.run_onnx(data, black) == 0).all()
    np.testing.assert_allclose(export.run_onnx(data, black + 1), export.run_module(Ratio(), black + 1), rtol=1e-6)


def test_pictures_of_one_channel_export_without_detours() -> None:
    """Strides of an axis of length one once made a pooling into Shape, Range and Gather, which OpenVINO got wrong."""
    grey = normalise(
        np.zeros((2, 16, 16, 1), np.uint8), Preprocessing(height=16, width=16, channels=1, mean=[0.5], std=[0.5])
    )
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    )
    strided = np.ascontiguousarray(np.zeros((2, 16, 16, 1), np.float32).transpose(0, 3, 1, 2))
    for example in (grey, strided):
        operators = [n.op_type for n in onnx.load_from_string(export.to_onnx(net.eval(), example)).graph.node]
        assert operators == ["Conv", "ReduceMean", "Reshape", "Gemm"]


def whole(nodes: list[onnx.NodeProto], *weights: onnx.TensorProto, axes: Any = ("n", 3, 8, 8), rank: int = 4) -> bytes:
    """An ONNX file of opset 17 from `image` to `scores`."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, axes)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [f"axis{i}" for i in range(rank)])
    graph = helper.make_graph(nodes, "g", [image], [scores], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def branching() -> bytes:
    """One branch of an If changes nothing: its Identity must not be taken away."""
    rest, negative = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("same", "m"))
    then = helper.make_graph([helper.make_node("Identity", ["image"], ["same"])], "then", [], [rest])
    other = helper.make_graph([helper.make_node("Neg", ["image"], ["m"])], "else", [], [negative])
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Greater", ["mean", "zero"], ["is_bright"]),
        helper.make_node("If", ["is_bright"], ["scores"], then_branch=then, else_branch=other),
    ]
    return whole(nodes, numpy_helper.from_array(np.zeros((), np.float32), "zero"))


def empty_bias() -> bytes:
    """A convolution whose bias is the empty name, and a batch normalisation to be folded into it."""
    ones = {"scale": (4,), "shift": (4,), "mean": (4,), "variance": (4,)}
    weights = [numpy_helper.from_array(np.full(shape, 0.5, np.float32), name) for name, shape in ones.items()]
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w", ""], ["c"]),
        helper.make_node("BatchNormalization", ["c", *ones], ["scores"]),
    ]
    return whole(nodes, numpy_helper.from_array(kernel, "w"), *weights)


@pytest.mark.parametrize("data", [branching(), empty_bias()], ids=["branch", "empty bias"])
def test_what_exporters_leave_out_is_written_out(data: bytes) -> None:
    image = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    before, after = (
        export.run_onnx(one, image) for one in (data, normal_form.normalised("a", normal_form.read("a", data, {})))
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_a_graph_in_a_node_stays_right_in_bf16() -> None:
    """ONNX Runtime loses what an If reads where a cast before it changes nothing."""
    model = normal_form.normalised("a", normal_form.read("a", branching(), {}))
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    context = Context(seed=0, report=lambda *_: None, classes=10, images=images, training_split=None)
    plugin = QUANTIZERS.load("bf16")
    source, form = Source(onnx=lambda: model, module=None), Form.FORM_ONNX
    data = plugin.quantize(source, plugin.Config(), context, (form,))[form]
    assert export.verify(data, form, plugin.PRECISION, images, export.run_onnx(model, images)).sqnr_db > 40


def test_an_axis_of_minus_one_is_free() -> None:
    model = onnx.load_from_string(whole([helper.make_node("Relu", ["image"], ["scores"])], axes=(-1, 3, -1, 8)))
    found = onnx_check.examine(model, Preprocessing(height=8, width=8, channels=3))
    assert not found.refused and not found.fixed_batch


def test_weights_of_functions_are_taken_in(tmp_path: Path) -> None:
    """A function's constant may be in a file beside the model too."""
    constant = numpy_helper.from_array(np.full(4, 2.0, np.float32), "two")
    (tmp_path / "two.bin").write_bytes(constant.raw_data)
    onnx.external_data_helper.set_external_data(constant, "two.bin", 0, 16)
    constant.ClearField("raw_data")
    body = [helper.make_node("Constant", [], ["c"], value=constant), helper.make_node("Mul", ["x", "c"], ["y"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Twice", ["x"], ["y"], body, opsets[:1])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("image", "scores")]
    graph = helper.make_graph(
        [helper.make_node("Twice", ["image"], ["scores"], domain="own")], "g", values[:1], values[1:]
    )
    file = tmp_path / "model.onnx"
    file.write_bytes(
        helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9).SerializeToString()
    )
    assert external_locations(file) == ["two.bin"]
    model = normal_form.read("a", file.read_bytes(), {"two.bin": tmp_path / "two.bin"})
    result = export.run_onnx(normal_form.normalised("a", model), np.ones((1, 4), np.float32))
    np.testing.assert_array_equal(result, np.full((1, 4), 2.0, np.float32))


def test_onnx_runtimes_quantizer_takes_a_fixed_batch() -> None:
    kernel = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["image", "w"], ["c"]), helper.make_node("Flatten", ["c"], ["scores"])]
    data = whole(nodes, numpy_helper.from_array(kernel, "w"), axes=(2, 3, 8, 8), rank=2)
    model = normal_form.normalised("a", normal_form.read("a", data, {}))
    images = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    plugin = QUANTIZERS.load("int8-ort")
    split = Training(
        images=np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8), labels=np.zeros(8, int),
        preprocessing=Preprocessing(height=8, width=8, channels=3, mean=[0.5] * 3, std=[0.25] * 3),
    )  # fmt: skip
    context = Context(seed=0, report=lambda *_: None, classes=4, images=images, training_split=split)
    form = plugin.FORMS[0]
    quantized = plugin.quantize(Source(onnx=lambda: model, module=None), plugin.Config(), context, (form,))[form]
    assert "QuantizeLinear" in {node.op_type for node in onnx.load_from_string(quantized).graph.node}
