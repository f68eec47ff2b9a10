"""ONNX files as older exporters wrote them: unnamed nodes, constants among the inputs, old opsets."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pqbench.common.v1.common_pb2 import Form, Preprocessing
from pqbench_compressor import export, normal_form
from pqbench_compressor.plugins import QUANTIZERS, Context, Source, Training
from pqbench_wire.errors import InvalidInput


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
