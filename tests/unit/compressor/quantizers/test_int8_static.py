"""`int8-static`: what it chooses on held-out images, in every form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor import export
from pqbench_compressor.plugins import QUANTIZERS, Context, Source
from pqbench_wire.errors import Refused

PLUGIN = QUANTIZERS.load("int8-static")


class Plain(nn.Module):
    """Convolutions with equal numbers of channels, so that their zero points are equal."""

    def __init__(self, between: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3), between(), nn.Conv2d(16, 16, 3), between(), nn.Conv2d(16, 16, 3)]
        self.body, self.last = nn.Sequential(*layers), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(x).mean((2, 3)))


def quantized(module: nn.Module, context: Context, form: Form, **values: Any) -> Source:
    model = export.to_onnx(module.eval(), context.example)
    source = Source(onnx=lambda: model, module=module)
    assert PLUGIN.quantize(source, PLUGIN.Config(images=64, held_out=64, **values), context, (form,))[form]
    return source


@pytest.mark.parametrize("form", PLUGIN.FORMS, ids=Form.Name)
def test_choices_on_held_out_images_work_in_every_form(form: Form, context: Context) -> None:
    made = quantized(Plain(), context, form, ranges="auto", max_drop=100.0, equalization="auto").notes
    assert made["kept_fp32"] == [] and made["ranges"] in ("min-max", "percentile", "entropy", "mse")
    assert made["equalization"] in ("none", "cross-layer") and made["judged_on"]


def test_equalization_that_is_asked_for_is_noted_or_refused(context: Context) -> None:
    form, clipped = Form.FORM_QDQ_SIGNED, Plain(nn.ReLU6)
    made = quantized(Plain(), context, form, equalization="cross-layer").notes
    assert made["equalized"] == 2 and "judged_on" not in made
    with pytest.raises(Refused, match="nothing to equalize"):
        quantized(clipped, context, form, equalization="cross-layer")
    assert quantized(clipped, context, form, equalization="auto").notes["equalized"] == 0
