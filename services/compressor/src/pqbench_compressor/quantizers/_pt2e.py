"""Shared code of the two vendor tools that quantize PyTorch's exported programs (PT2E)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pqbench_compressor.export import to_onnx
from pqbench_compressor.plugins import Context, Source
from pqbench_compressor.quantizers._tools import asking
from pqbench_compressor.tensors import batches, plain_attention
from pqbench_wire.errors import Refused
from pqbench_wire.shared.inputs import Feed

BATCH = 32  # images


def module_of(source: Source) -> nn.Module:
    """The model's module. Raises Refused if the model is an ONNX file."""
    if source.module is None:
        raise Refused("this tool quantizes PyTorch modules; an ONNX file has none")
    return source.module.eval()


def calibrate(prepared: Any, images: Feed, context: Context) -> None:
    """Run float32 [N, C, H, W] or other inputs through a prepared program, so that its observers see them."""
    for done, part in enumerate(batches(images, BATCH)):
        prepared(*part)
        context.report("calibrate", min(1.0, (done + 1) * BATCH / len(images)), f"{len(images)} images")


def exported(converted: nn.Module, context: Context) -> bytes:
    """ONNX of a quantized program: the exporter translates its operators to Q/DQ."""
    converted.eval = lambda: converted  # type: ignore[method-assign]  # an exported program has no eval()
    return to_onnx(converted, context.example)


@contextmanager
def undisturbed(tool: str) -> Iterator[None]:
    """Run a tool: its errors become Refused, its warnings are hidden, and the random state is restored afterwards.

    Gradients are off, and attention runs as separate operators.
    """
    with asking(tool), plain_attention(), warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        yield
