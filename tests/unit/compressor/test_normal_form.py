"""ONNX files as exporters write them, old and new: brought into one form, or refused with what they declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pqbench.common.v1.common_pb2 import Form, Input, Preprocessing
from pqbench_compressor import export, normal_form, onnx_check
from pqbench_compressor.graph import Graph
from pqbench_compressor.plugins import QUANTIZERS, Context, Source, Training
from pqbench_orchestrator.planning.survey import files_beside
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.inputs import Inputs, normalise
from pqbench_wire.shared.onnx_walk import external_locations


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
    with pytest.raises(InvalidInput, match=r"stores w in the file '../../etc/passwd', which was not sent with it"):
        normal_form.read("g", model.SerializeToString(), {})
    (tmp_path / "w").write_bytes(b"short")
    tensor.raw_data = b"not read"
    onnx.external_data_helper.set_external_data(tensor, "w", offset=0, length=2560)
    with pytest.raises(InvalidInput, match="'w' has 5 bytes; w ends at byte 2560"):
        normal_form.read("g", model.SerializeToString(), {"w": tmp_path / "w"})


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("w.bin", ""),
        ("inner/w.bin", ""),
        ("../other/w.bin", "which is not in its own folder: move it there"),
        ("inner/../w.bin", "which is not in its own folder: move it there"),
        ("/etc/hostname", "which is not in its own folder: move it there"),
        ("link.bin", "which is not in its own folder: move it there"),
        ("linked/w.bin", "which is not in its own folder: move it there"),
        ("gone.bin", "there is no file {folder}/gone.bin"),
        ("inner", "there is no file {folder}/inner"),
    ],
)
def test_only_files_of_a_models_own_folder_are_sent_with_it(tmp_path: Path, location: str, problem: str) -> None:
    folder = tmp_path / "model"
    for place in (folder / "inner", tmp_path / "other"):
        place.mkdir(parents=True)
        (place / "w.bin").write_bytes(bytes(2560))
    (folder / "w.bin").write_bytes(bytes(2560))
    (folder / "link.bin").symlink_to(tmp_path / "other/w.bin")
    (folder / "linked").symlink_to(tmp_path / "other")
    model, file = product(np.zeros(20, np.float32)), folder / "m.onnx"
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    file.write_bytes(model.SerializeToString())
    if not problem:
        assert list(files_beside(file)) == [(location, folder / location)]
        return
    with pytest.raises(InvalidInput) as caught:
        list(files_beside(file))
    assert str(caught.value).startswith(f"{file} keeps weights in {location!r}")
    assert str(caught.value).endswith(problem.format(folder=folder))


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


class NamedPooling(torch.nn.Module):
    """Names the arguments of a global pooling, in an order of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(output_size=(1, 1), input=x).flatten(1)


def test_a_global_pooling_whose_arguments_are_named_is_exported() -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    data = export.to_onnx(NamedPooling(), images)
    np.testing.assert_allclose(export.run_onnx(data, images), export.run_module(NamedPooling(), images), rtol=1e-5)


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


def constant(name: str, *shape: int) -> onnx.TensorProto:
    """Random weights that keep a signal's size."""
    values = np.random.default_rng(len(name)).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return numpy_helper.from_array(values.astype(np.float32), name)


def integers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def classified(name: str) -> list[onnx.NodeProto]:
    """The end of a classifier of 16 classes over 32 channels."""
    return [
        helper.make_node("Conv", [name, "last weight"], ["last"], name="last"),
        helper.make_node("GlobalAveragePool", ["last"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]


def classifier(nodes: list[onnx.NodeProto], *weights: onnx.TensorProto) -> onnx.ModelProto:
    """An image's classifier whose last convolution reads the tensor `features` of 32 channels."""
    everything = [*nodes, *classified("features")]
    return onnx.load_from_string(whole(everything, *weights, constant("last weight", 16, 32, 3, 3), rank=2))


EIGHT = Preprocessing(height=8, width=8, channels=3, mean=[0.5] * 3, std=[0.25] * 3)


def quantized(data: bytes, name: str, form: Form) -> tuple[bytes, dict[str, Any], Context]:
    """A graph of images of 8 × 8 pixels quantized, with the quantizer's notes."""
    images = np.random.default_rng(0).integers(0, 256, (36, 8, 8, 3), dtype=np.uint8)
    split = Training(images=images, labels=np.zeros(36, int), preprocessing=EIGHT)
    context = Context(seed=0, report=lambda *_: None, classes=16, images=split.inputs(slice(8)), training_split=split)
    plugin, source = QUANTIZERS.load(name), Source(onnx=lambda: data, module=None)
    config = plugin.Config(images=33) if name == "int8-static" else plugin.Config()
    return plugin.quantize(source, config, context, (form,))[form], source.notes, context


@pytest.mark.parametrize(("kind", "name"), [(TensorProto.UINT8, "uint8"), (TensorProto.FLOAT16, "float16")])
def test_a_file_that_casts_its_pictures_is_given_no_float32(kind: int, name: str) -> None:
    """With preprocessing it is refused; without, it is fed arrays of its own type."""
    model = classifier(
        [helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.FLOAT),
         helper.make_node("Conv", ["wide", "w"], ["features"])],
        constant("w", 32, 3, 3, 3),
    )  # fmt: skip
    model.graph.input[0].type.tensor_type.elem_type = kind
    assert onnx_check.examine(model, EIGHT).refused == f"its input image is {name}; it would be given float32"
    own = Preprocessing(inputs=[Input(name="image", dtype=name, shape=[3, 8, 8])])
    found = onnx_check.examine(model, own)
    assert (found.refused, found.classes) == ("", 16)


def test_a_convolution_whose_bias_is_computed_stays_fp32_and_is_named() -> None:
    model = classifier(
        [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0, 1, 2, 3], keepdims=0),
         helper.make_node("Expand", ["mean", "channels"], ["bias"]),
         helper.make_node("Conv", ["image", "w", "bias"], ["features"], name="first")],
        integers("channels", 32), constant("w", 32, 3, 3, 3),
    )  # fmt: skip
    data = normal_form.normalised("a", model)
    for form in (Form.FORM_QDQ_UNSIGNED, Form.FORM_QDQ_SIGNED):
        made, notes, context = quantized(data, "int8-static", form)
        assert notes["left_fp32"] == {"first": "its bias is not a constant"}
        graph = Graph(made)
        first, last = (next(node for node in graph.nodes if node.name == name) for name in ("first", "last"))
        assert graph.array(first.input[1]).dtype == np.float32
        assert graph.producers()[last.input[1]].op_type == "DequantizeLinear"
        assert export.sqnr(export.run_onnx(data, context.images), export.run_onnx(made, context.images)) > 25


@pytest.mark.parametrize("shape", ["stored", "computed"])
def test_a_weight_that_is_reshaped_is_a_constant(shape: str) -> None:
    nodes = [
        helper.make_node("Concat", ["outer", "inner"], ["computed"], axis=0),
        helper.make_node("Reshape", ["flat", shape], ["w"]),
        helper.make_node("Conv", ["image", "w"], ["features"], name="first"),
    ]
    numbers = (integers("outer", 32, 3), integers("inner", 3, 3), integers("stored", 32, 3, 3, 3))
    model = classifier(nodes if shape == "computed" else nodes[1:], *numbers, constant("flat", 32, 27))
    data = normal_form.normalised("a", model)
    graph = Graph(data)
    first = graph.compute_nodes()[0]
    assert graph.left_out() == {} and graph.array(first.input[1]).shape == (32, 3, 3, 3)
    made, _, context = quantized(data, "int8-static", Form.FORM_QDQ_UNSIGNED)
    reference = export.run_onnx(model.SerializeToString(), context.images)
    np.testing.assert_allclose(export.run_onnx(data, context.images), reference, rtol=1e-5, atol=1e-6)
    assert export.sqnr(reference, export.run_onnx(made, context.images)) > 25


def leaving_out() -> onnx.ModelProto:
    """The second outputs of a pooling and a dropout, and the first of a recurrence, have no names."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["m", ""], kernel_shape=[2, 2]),
        helper.make_node("Dropout", ["m"], ["d", ""]),
        helper.make_node("ReduceMean", ["d"], ["r"], axes=[2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["r", "zero"], ["sequence"]),
        helper.make_node("LSTM", ["sequence", "own", "recurrent"], ["", "state"], hidden_size=32),
        helper.make_node("Squeeze", ["state", "zero"], ["s"]),
        helper.make_node("Unsqueeze", ["s", "sides"], ["one"]),
        helper.make_node("Expand", ["one", "shape"], ["features"]),
    ]
    sizes = (integers("zero", 0), integers("sides", 2, 3), integers("shape", 1, 1, 4, 4))
    weights = (constant("w", 32, 3, 3, 3), constant("own", 1, 128, 32), constant("recurrent", 1, 128, 32))
    return classifier(nodes, *sizes, *weights)


def leaving_out_of_two_ranks() -> onnx.ModelProto:
    """The first two outputs of a recurrence, of rank 4 and 3, have no names."""
    model = leaving_out()
    recurrence = next(node for node in model.graph.node if node.op_type == "LSTM")
    recurrence.output[:] = ["", "", "state"]
    return model


def looping_on_what_it_reads() -> onnx.ModelProto:
    """As `looping`, and the loop starts with the tensor that its body reads too."""
    model = looping()
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    loop.input[2] = "rectified"
    return model


def looping() -> onnx.ModelProto:
    """A Loop that adds a convolution to what a ReLU outside of it made, three times; so lies the weight."""
    values = {
        "i": (TensorProto.INT64, []), "on": (TensorProto.BOOL, []), "x": (TensorProto.FLOAT, None),
        "still": (TensorProto.BOOL, []), "y": (TensorProto.FLOAT, None),
    }  # fmt: skip
    told = [helper.make_tensor_value_info(name, *kind) for name, kind in values.items()]
    inside = [
        helper.make_node("Identity", ["on"], ["still"]),
        helper.make_node("Conv", ["x", "again"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "rectified"], ["y"]),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["first"]),
        helper.make_node("Relu", ["first"], ["rectified"]),
        helper.make_node("Neg", ["rectified"], ["start"]),
        helper.make_node("Loop", ["times", "yes", "start"], ["features"],
                         body=helper.make_graph(inside, "body", told[:3], told[3:])),
    ]  # fmt: skip
    numbers = [numpy_helper.from_array(np.array(3), "times"), numpy_helper.from_array(np.array(True), "yes")]
    return classifier(nodes, *numbers, constant("w", 32, 3, 3, 3), constant("again", 32, 32, 3, 3))


def scanning() -> onnx.ModelProto:
    """A Scan that sums up products of an image's columns with a matrix that lies outside of it."""
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("s", "x", "sum", "each")]
    inside = [
        helper.make_node("MatMul", ["x", "matrix"], ["p"]),
        helper.make_node("Add", ["s", "p"], ["sum"]),
        helper.make_node("Identity", ["sum"], ["each"]),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["first"]),
        helper.make_node("Transpose", ["first"], ["columns"], perm=[3, 0, 2, 1]),
        helper.make_node("ReduceMean", ["columns"], ["start"], axes=[0], keepdims=0),
        helper.make_node("Scan", ["start", "columns"], ["summed", "all"], num_scan_inputs=1,
                         body=helper.make_graph(inside, "body", told[:2], told[2:])),
        helper.make_node("Transpose", ["summed"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["rows", "last axis"], ["column"]),
        helper.make_node("Concat", ["column", "column", "column"], ["features"], axis=3),
    ]  # fmt: skip
    return classifier(nodes, constant("w", 32, 3, 3, 3), constant("matrix", 32, 32), integers("last axis", 3))


@pytest.mark.parametrize("make", [leaving_out, leaving_out_of_two_ranks, looping, looping_on_what_it_reads, scanning])
@pytest.mark.parametrize(
    ("name", "form", "least"),
    [("int8-static", Form.FORM_QDQ_UNSIGNED, 20), ("int8-static", Form.FORM_QDQ_TYPED, 20), ("fp16", Form.FORM_ONNX, 50),
     ("bf16", Form.FORM_ONNX, 30)],
)  # fmt: skip
def test_outputs_without_names_and_loops_are_carried(make: Any, name: str, form: Form, least: float) -> None:
    model = make()
    read = normal_form.read("a", model.SerializeToString(), {})
    assert onnx_check.examine(read, EIGHT) == onnx_check.Found(classes=16)
    data = normal_form.normalised("a", read)
    operators = {node.op_type for node in onnx.load_from_string(data).graph.node}
    assert operators & {"LSTM", "Loop", "Scan"} and "Dropout" not in operators
    made, _, context = quantized(data, name, form)
    reference = export.run_onnx(model.SerializeToString(), context.images)
    np.testing.assert_allclose(export.run_onnx(data, context.images), reference, rtol=1e-4, atol=1e-5)
    found = export.verify(made, form, QUANTIZERS.load(name).PRECISION, context.images, reference)
    assert least < found.sqnr_db < 150, "quantized, and near"


def test_a_tensor_whose_second_axis_is_the_batch_can_be_calibrated() -> None:
    """33 images are calibrated with: the last batch is smaller than the one before."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"]),
        helper.make_node("Transpose", ["c"], ["turned"], perm=[1, 0, 2, 3]),
        helper.make_node("MaxPool", ["turned"], ["smaller"], kernel_shape=[2, 2]),
        helper.make_node("Transpose", ["smaller"], ["features"], perm=[1, 0, 2, 3]),
    ]
    data = normal_form.normalised("a", classifier(nodes, constant("w", 32, 3, 3, 3)))
    made, _, context = quantized(data, "int8-static", Form.FORM_QDQ_UNSIGNED)
    assert export.sqnr(export.run_onnx(data, context.images), export.run_onnx(made, context.images)) > 25
