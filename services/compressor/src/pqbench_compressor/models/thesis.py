"""The ten models of the thesis, by their short names; a manifest may omit the family: `model: alexnet`.

"The thesis" is the master thesis tool "PQ Bench", which pqbench succeeds. All models but SimpleNet are
torchvision's. GoogLeNet and Inception V3 come without their auxiliary training heads, which are not
deployed; the thesis included Inception's in its counts.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from pqbench_compressor.models import simplenet, torchvision
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput

REQUIRES = ("torch", "torchvision")
MEMBERS = {
    "alexnet": (torchvision, "alexnet"),
    "densenet": (torchvision, "densenet121"),
    "googlenet": (torchvision, "googlenet"),
    "resnet": (torchvision, "resnet18"),
    "inceptionv3": (torchvision, "inception_v3"),
    "mobilenetv2": (torchvision, "mobilenet_v2"),
    "shufflenetv2": (torchvision, "shufflenet_v2_x1_0"),
    "simplenet": (simplenet, "v1_5m_m1"),
    "squeezenet": (torchvision, "squeezenet1_0"),
    "visiontransformer": (torchvision, "vit_b_16"),
}
Config = torchvision.Config


def names() -> tuple[str, ...]:
    return tuple(MEMBERS)


def info(name: str, config: Any, files: Files) -> ModelInfo:
    if name not in MEMBERS:
        raise InvalidInput(unknown("model", name, list(MEMBERS)))
    plugin, member = MEMBERS[name]
    return plugin.info(member, config, files)


def build(name: str, config: Any, files: Files) -> nn.Module:
    plugin, member = MEMBERS[name]
    return plugin.build(member, config, files)


def pretrained(name: str, config: Any, files: Files, context: Context) -> nn.Module:
    plugin, member = MEMBERS[name]
    return plugin.pretrained(member, config, files, context)
