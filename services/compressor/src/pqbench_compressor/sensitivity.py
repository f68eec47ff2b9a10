"""Layer sensitivity to pruning and to rounding, and the allocation of pruning shares or bits that uses it.

One layer at a time is changed and the model runs on held-out training images. The change of the
outputs is measured as noise: the energy of the difference divided by the energy of the original
outputs. Source: Li et al., arXiv 1608.08710, section 3.2; for bits Nagel et al., arXiv 2106.08295,
section 5. Allocation adds up the noise of single layers, as HAWQ-V2 adds up their perturbations
(Dong et al., arXiv 1911.03852), and takes the cheapest step first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pqbench_compressor import fake_quant
from pqbench_compressor.layers import OutputsFirst
from pqbench_compressor.plugins import Context

BATCH = 64  # images
Curves = dict[str, list[float]]  # layer -> noise at each setting, in the order of the settings


@dataclass(frozen=True, kw_only=True)
class Point:
    """The effect of one change to one layer."""

    layer: str
    weights: int
    technique: str  # prune or quantize
    setting: float  # share of zeros, or bits
    noise: float  # relative energy of the change in the outputs
    accuracy: float  # percent


class Sensitivity:
    """Measures a classifier's layer sensitivity on at most `images` held-out training images."""

    def __init__(self, module: nn.Module, context: Context, images: int) -> None:
        self._module = module.eval()
        self._training = context.training
        inputs, self._labels = context.training.held_out(images, context.seed)
        self._inputs = torch.from_numpy(inputs)
        self._report = context.report
        self._outputs = self._run()
        self.images = len(inputs)
        self.accuracy = self._accuracy(self._outputs)
        self.layers = _layers(module)

    def pruning(self, amounts: Sequence[float]) -> list[Point]:
        """The effect of zeroing the smallest weights of one layer, for each layer and each share in `amounts`."""
        return list(self._points("prune", amounts, _pruned))

    def rounding(self, bits: Sequence[int]) -> list[Point]:
        """The effect of rounding one layer's weights and input, for each layer and each number of bits."""
        return list(self._points("quantize", bits, self._rounded))

    def _points(self, technique: str, settings: Sequence[float], change: Callable[..., object]) -> Iterator[Point]:
        total = len(self.layers) * len(settings)
        for index, (name, layer) in enumerate(self.layers.items()):
            for step, setting in enumerate(settings):
                with change(layer, setting):  # type: ignore[attr-defined]
                    outputs = self._run()
                noise = float(np.square(outputs - self._outputs).sum() / max(np.square(self._outputs).sum(), 1e-12))
                yield Point(
                    layer=name, weights=layer.weight.numel(), technique=technique, setting=setting, noise=noise,
                    accuracy=self._accuracy(outputs),
                )  # fmt: skip
                self._report(f"analyse {technique}", (index * len(settings) + step + 1) / total, name)

    @contextmanager
    def _rounded(self, layer: nn.Module, bits: float) -> Iterator[None]:
        fake_quant.insert_into(layer, int(bits), int(bits))
        fake_quant.observe(self._module, self._inputs[:BATCH].numpy())
        try:
            yield
        finally:
            fake_quant.remove(layer)

    def _run(self) -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([self._module(part).float().numpy() for part in self._inputs.split(BATCH)])

    def _accuracy(self, outputs: np.ndarray) -> float:
        return self._training.accuracy(outputs, self._labels)


def _layers(module: nn.Module) -> dict[str, OutputsFirst]:
    """Convolutions and linear layers by name; of layers that share a weight, only the first."""
    found: dict[int, tuple[str, OutputsFirst]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, OutputsFirst):
            found.setdefault(id(layer.weight), (name, layer))
    return dict(found.values())


@contextmanager
def _pruned(layer: nn.Module, amount: float) -> Iterator[None]:
    weight: torch.Tensor = layer.weight.data  # type: ignore[assignment]
    before = weight.clone()
    weight.mul_(mask(weight, amount))
    try:
        yield
    finally:
        weight.copy_(before)


def mask(weight: torch.Tensor, amount: float) -> torch.Tensor:
    """1 where a weight is kept, 0 for the share `amount` of smallest magnitude."""
    order = weight.abs().flatten().argsort(stable=True)
    kept = torch.ones(weight.numel(), dtype=weight.dtype)
    kept[order[: round(amount * weight.numel())]] = 0
    return kept.reshape(weight.shape)


def curves(points: Sequence[Point]) -> Curves:
    """Noise by layer, made monotone: a stronger setting never has less noise than a weaker one before it."""
    found: Curves = {}
    for point in points:
        worst = found.setdefault(point.layer, [])
        worst.append(max([point.noise, *worst]))
    return found


def allocate(
    noise: Curves, settings: Sequence[float], savings: Mapping[str, Sequence[float]], wanted: float
) -> dict[str, float]:
    """A setting for each layer such that the savings reach `wanted`, if they can, with little noise.

    `noise[layer][i]` and `savings[layer][i]` belong to `settings[i]`, ordered from weak to strong. The
    allocation is greedy: the step with the least additional noise per saving comes first.
    """
    chosen = dict.fromkeys(noise, 0)
    saved = sum(savings[layer][0] for layer in noise)
    steps = [(_price(noise[layer], savings[layer], 1), layer) for layer in noise if len(settings) > 1]
    heapq.heapify(steps)
    while saved < wanted and steps:
        _, layer = heapq.heappop(steps)
        index = chosen[layer] = chosen[layer] + 1
        saved += savings[layer][index] - savings[layer][index - 1]
        if index + 1 < len(settings):
            heapq.heappush(steps, (_price(noise[layer], savings[layer], index + 1), layer))
    return {layer: settings[index] for layer, index in chosen.items()}


def _price(noise: Sequence[float], savings: Sequence[float], index: int) -> float:
    return (noise[index] - noise[index - 1]) / max(savings[index] - savings[index - 1], 1e-12)
