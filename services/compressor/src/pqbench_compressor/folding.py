"""Folds batch norms into the convolutions before them, as runtimes do when they build an engine."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pqbench_compressor.program import CONVOLUTION, Program, norm_after

MEAN = 3  # the place of the running mean among a batch norm's arguments


def fold(module: nn.Module, example: tuple[torch.Tensor, ...]) -> list[str]:
    """Fold each batch norm that alone reads a convolution's output, in place; returns their names.

    It stays, without changing a value, because some also apply an activation. Modules that are called more than once
    are not folded.
    """
    program = Program(module.eval(), [example])
    found = []
    for node in program.nodes:
        norm = norm_after(node) if node.target == CONVOLUTION else None
        names = [_owner(program, node, 1), _owner(program, norm, MEAN)] if norm is not None else [None]
        if None in names:
            continue
        convolution, normalisation = (module.get_submodule(str(name)) for name in names)
        if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
            _fold(convolution, normalisation)
            found.append(str(names[1]))
    return found


def _owner(program: Program, node: fx.Node, argument: int) -> str | None:
    """The module whose tensor is an argument of a call; None for a tensor that several calls read."""
    given = node.args[argument]
    if not isinstance(given, fx.Node) or given not in program.names or len(given.users) > 1:
        return None
    return program.names[given].rpartition(".")[0]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    with torch.no_grad():
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0)
        norm.eps = 0.0
        if norm.affine:
            norm.weight.fill_(1.0)
            norm.bias.zero_()
