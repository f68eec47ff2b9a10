"""INT4 weights in blocks."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor.plugins import QUANTIZERS, Context, Source


def test_int4_blocks_are_stored_in_four_bits(context: Context, model: bytes) -> None:
    plugin = QUANTIZERS.load("int4-weights")
    data = plugin.quantize(Source(onnx=lambda: model, module=None), plugin.Config(), context, plugin.FORMS[:1])
    made = onnx.load_from_string(data[Form.FORM_QDQ_SIGNED])
    stored = next(i for i in made.graph.initializer if i.data_type == onnx.TensorProto.INT4)
    values = numpy_helper.to_array(stored).astype(np.int8)
    assert (
        made.opset_import[0].version == 21 and values.min() >= -8 and values.max() <= 7 and len(np.unique(values)) > 8
    )
