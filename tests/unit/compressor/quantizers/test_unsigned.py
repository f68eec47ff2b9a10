"""Form U runs as integers on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor import export
from pqbench_compressor.graph import Graph
from pqbench_compressor.plugins import QUANTIZERS, Context, Source
from pqbench_compressor.quantizers import _ranges, int8_static


def test_concatenated_tensors_share_a_range(model: bytes) -> None:
    graph = Graph(model)
    concat = next(n for n in graph.nodes if n.op_type == "Concat")
    ranges = {concat.input[0]: (-1.0, 2.0), concat.input[1]: (-3.0, 1.0), concat.output[0]: (0.0, 1.0)}
    assert set(_ranges.joined(graph, ranges).values()) == {(-3.0, 2.0)}


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


def test_weights_of_seven_bits_cannot_saturate_and_cost_little(context: Context) -> None:
    """Two products of an activation up to 255 and a weight up to 64 fit into 16 bits."""
    torch.manual_seed(0)
    module = Tokens().eval()
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    plugin = QUANTIZERS.load("int8-static")
    made = plugin.quantize(source, plugin.Config(images=32), context, int8_static.UNSIGNED)
    largest = {}
    for form, data in made.items():
        tensors = map(onnx.numpy_helper.to_array, onnx.load_from_string(data).graph.initializer)
        largest[form] = max(int(np.abs(t.astype(np.int32)).max()) for t in tensors if t.dtype == np.int8 and t.ndim > 1)
    assert largest == {Form.FORM_QDQ_UNSIGNED: 127, Form.FORM_QDQ_UNSIGNED_7: 64}
    reference = export.run_module(module, context.images)
    assert export.sqnr(reference, export.run_fast(made[Form.FORM_QDQ_UNSIGNED_7], context.images)) > 22
