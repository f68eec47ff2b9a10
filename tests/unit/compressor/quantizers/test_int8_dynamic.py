"""Dynamic INT8."""

from __future__ import annotations

import onnx

from pqbench_compressor.plugins import QUANTIZERS, Context, Source


def test_matrix_products_are_dynamic_per_channel_beside_convolutions(context: Context, model: bytes) -> None:
    plugin = QUANTIZERS.load("int8-dynamic")
    for per_channel, count in ((True, 10), (False, 1)):
        source = Source(onnx=lambda: model, module=None)
        data = plugin.quantize(source, plugin.Config(per_channel=per_channel), context, plugin.FORMS)[plugin.FORMS[0]]
        made = onnx.load_from_string(data)
        assert {"ConvInteger", "MatMulInteger"} <= {node.op_type for node in made.graph.node}
        sizes = {i.name: max(1, *i.dims) if i.dims else 1 for i in made.graph.initializer if i.name.endswith("_scale")}
        assert max(sizes.values()) == count
