"""Training with rounding."""

from __future__ import annotations

from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor import export
from pqbench_compressor.plugins import QUANTIZERS, Context, Source


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
