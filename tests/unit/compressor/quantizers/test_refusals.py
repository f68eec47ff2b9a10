"""What the quantizers refuse."""

from __future__ import annotations

import pytest
from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor import export
from pqbench_compressor.plugins import QUANTIZERS, Context, Source
from pqbench_wire.errors import InvalidInput, Refused


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
    with pytest.raises(InvalidInput, match="no node name matches 'nothing'"):
        int8.quantize(whole, int8.Config(images=16, keep=("nothing",)), context, (Form.FORM_QDQ_SIGNED,))
    for name in ("int8-qat", "simulated", "int8-torchao"):
        plugin = QUANTIZERS.load(name)
        with pytest.raises(Refused, match="ONNX file"):
            plugin.quantize(whole, plugin.Config(), context, plugin.FORMS[:1])
