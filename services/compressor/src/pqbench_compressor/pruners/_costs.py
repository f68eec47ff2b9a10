"""The cost of a model while its channels are being removed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch_pruning
from pydantic import ConfigDict, Field
from torch import nn

from pqbench_compressor import statistics
from pqbench_compressor.layers import Convolution, Layer, Transposed
from pqbench_compressor.pruners._architecture import attentions, projections
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.layer_names import layer_of

Kind = Literal["macs", "latency", "parameters"]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The time of a layer, in any unit: a part that stays, and one that falls with its multiply-accumulates."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    fixed: NotNegative
    scaled: NotNegative

    def __add__(self, other: Latency) -> Latency:
        return Latency(fixed=self.fixed + other.fixed, scaled=self.scaled + other.scaled)


NO_TIME = Latency(fixed=0, scaled=0)
Latencies = Annotated[
    dict[str, NotNegative | Latency],
    Field(
        description="for target latency: the time of each layer, in any unit, or {fixed, scaled}, by names as in a "
        "profile; in a search: measured"
    ),
]


def check_latencies(target: str, latencies: Mapping[str, Any]) -> None:
    """Raise ValueError unless latencies are given for the target `latency`, and for no other."""
    if (target == "latency") != bool(latencies):
        raise ValueError(
            "target: latency and latencies need each other; pqbench why RUN CELL --latencies prints them, "
            "and pqbench search measures them for latencies: measured"
        )


class Costs:
    """The cost of a model while its channels are being removed: "macs" (of one example), "latency" or "parameters".

    `now` and `after` compute it from the layers' channel counts and the spatial sizes measured at the beginning, which
    is fast but approximate. `counted` counts it exactly, but for a latency, which is the sum of `latencies`, each but
    for its fixed part in proportion to the MACs that its layer has left. Raises InvalidInput where `latencies` name no
    layer of this model.
    """

    def __init__(
        self, module: nn.Module, example: torch.Tensor, kind: Kind, latencies: Mapping[str, Any] | None = None
    ) -> None:
        self._module, self._example, self._kind = module, example, kind
        self._layers: dict[nn.Module, int] = {}  # layer -> positions at which its weights are applied
        self._mixing: dict[nn.Module, tuple[nn.Linear, float]] = {}  # projection -> itself, MACs per channel
        hooks = [m.register_forward_hook(self._note) for m in module.modules() if isinstance(m, Layer)]
        total = self._macs_counted()
        for hook in hooks:
            hook.remove()
        self._rates = dict.fromkeys(self._layers, 1.0)
        self._fixed = dict.fromkeys(self._layers, 0.0)
        rest = max(0.0, total - sum(self._macs(m, *_width(m)) for m in self._layers))
        found = [projections(a)[-1] for a in attentions(module)]
        for layer in found:
            self._mixing[layer] = (layer, rest / sum(p.out_features for p in found))
        if kind == "latency":
            self._weigh_by(_by_layer(module, latencies or {}))
        self.whole = total if kind == "macs" else self.counted()  # the unpruned cost
        layers = sum(self._weights(m, *_width(m)) for m in self._layers)
        self._others = sum(p.numel() for p in module.parameters()) - layers

    def _note(self, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        applied = inputs[0] if isinstance(layer, Transposed) else output  # applied at each input position
        channels = applied.shape[-1] if isinstance(layer, nn.Linear) else applied.shape[1]
        self._layers[layer] = self._layers.get(layer, 0) + applied.numel() // channels

    def _weigh_by(self, latencies: Mapping[nn.Module, Latency]) -> None:
        """Count each layer by its time in place of its MACs."""
        for layer in self._layers:
            found = latencies.get(layer, NO_TIME)
            self._rates[layer] = found.scaled / max(1.0, self._macs(layer, *_width(layer)))
            self._fixed[layer] = found.fixed
        self._mixing = {}

    def counted(self) -> float:
        """The MACs of one example, counted by running the model, the number of parameters, or the latency."""
        if self._kind == "latency":
            return self.now()
        if self._kind == "parameters":
            return sum(parameter.numel() for parameter in self._module.parameters())
        return self._macs_counted()

    def _macs_counted(self) -> float:
        return statistics.count(self._module, (self._example,)).get_total_flops() / 2 / len(self._example)

    def now(self) -> float:
        """The cost, computed from the layers' current channel counts."""
        return self._total({})

    def of(self, part: nn.Module) -> float:
        """The cost of a part of the model, computed from its layers' current channel counts."""
        if self._kind == "parameters":
            return sum(parameter.numel() for parameter in part.parameters())
        inside = set(part.modules())
        mixing = sum(macs * _width(layer)[1] for layer, macs in self._mixing.values() if layer in inside)
        return mixing + sum(self._macs(m, *_width(m)) + self._fixed[m] for m in self._layers if m in inside)

    def after(self, group: Any) -> float:
        """The cost after removing a group of Torch-Pruning, computed from channel counts."""
        widths: dict[nn.Module, tuple[int, int]] = {}
        for dep, indices in group:
            layer = dep.target.module
            if not isinstance(layer, Layer):
                continue
            inputs, outputs = widths.get(layer, _width(layer))
            if torch_pruning.dependency.DependencyGraph().is_out_channel_pruning_fn(dep.handler):
                outputs -= len(indices)
            else:
                inputs -= len(indices)
            widths[layer] = (inputs, outputs)
        return self._total(widths)

    def _total(self, widths: dict[nn.Module, tuple[int, int]]) -> float:
        def width(layer: nn.Module) -> tuple[int, int]:
            return widths.get(layer) or _width(layer)

        if self._kind == "parameters":
            return self._others + sum(self._weights(m, *width(m)) for m in self._layers)
        mixing = sum(macs * width(layer)[1] for layer, macs in self._mixing.values())
        return mixing + sum(self._macs(m, *width(m)) + self._fixed[m] for m in self._layers)

    def _macs(self, layer: nn.Module, inputs: int, outputs: int) -> float:
        return self._weights(layer, inputs, outputs) * self._layers[layer] * self._rates[layer]

    @staticmethod
    def _weights(layer: nn.Module, inputs: int, outputs: int) -> float:
        if isinstance(layer, Convolution | Transposed):
            depthwise = layer.groups == layer.in_channels and layer.groups > 1
            return math.prod(layer.kernel_size) * outputs * (1 if depthwise else inputs / layer.groups)
        return inputs * outputs


def _width(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, Convolution | Transposed):
        return layer.in_channels, layer.out_channels
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def _by_layer(module: nn.Module, latencies: Mapping[str, Any]) -> dict[nn.Module, Latency]:
    """The time of each layer, from entries whose names begin with the layer's, as profilers name what they ran."""
    layers = {name: m for name, m in module.named_modules() if isinstance(m, Layer)}
    found: dict[nn.Module, Latency] = {}
    for entry, time in latencies.items():
        if (name := layer_of(entry, layers)) is not None:
            latency = time if isinstance(time, Latency) else Latency(fixed=0, scaled=time)
            found[layers[name]] = found.get(layers[name], NO_TIME) + latency
    if not any(one.fixed + one.scaled for one in found.values()):
        example = f"like {next(iter(layers))!r}" if layers else "none, for this model has no layers"
        raise InvalidInput(f"latencies: no name begins with that of a layer and has a time; layer names look {example}")
    return found
