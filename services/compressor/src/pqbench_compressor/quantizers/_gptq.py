"""Rounding of a product's weights to few bits with the least change of its outputs, from its inputs' second moments.

GPTQ (Frantar et al., arXiv 2210.17323): weights are rounded one input at a time, those of the largest moments first,
and each error is made up for by the weights that are not rounded yet. Scales are chosen before, so that blocks stay in
place, and refitted afterwards in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pqbench_compressor.export import feed_of, in_batches
from pqbench_compressor.plugins import Report
from pqbench_compressor.quantizers._calibration import LARGEST_BATCH, largest_batch, watching
from pqbench_wire.errors import Failed
from pqbench_wire.shared.inputs import Feed

DAMPING = 0.01  # of the mean moment, added to each: GPTQ's own
SHARES = torch.linspace(1, 0.5, 26, dtype=torch.float64)  # of a block's largest magnitude: the scales that are compared
LOWEST, HIGHEST = -8, 7  # of INT4
LARGEST = 4096  # inputs that are rounded with regard to each other
TOGETHER = 64  # inputs whose errors are passed on to the later ones at once


Moments = Sequence[torch.Tensor]  # E[x xᵀ] float32 of at most LARGEST successive inputs each


def second_moments(model: bytes, blocks: Mapping[str, int], inputs: Feed, report: Report) -> dict[str, Moments]:
    """The moments of tensors over their last axis, while `inputs` run through a model.

    `blocks`: the tensors, and the size of the blocks in which the weights that they meet are quantized. Raises Failed
    where a value is not finite.
    """
    session, names = watching(model, list(blocks))
    batch = largest_batch(session, names, inputs, LARGEST_BATCH)
    sums: dict[str, list[torch.Tensor]] = {}
    done = 0
    for part in in_batches(session, inputs, batch):
        for (name, block), array in zip(blocks.items(), session.run(names, feed_of(session, part)), strict=True):
            rows = torch.from_numpy(array).flatten(0, -2)
            found = [piece.T @ (piece * (len(part) / len(rows))) for piece in rows.split(_together(block), 1)]
            sums[name] = [old + new for old, new in zip(sums[name], found, strict=True)] if name in sums else found
        done += len(part)
        report("calibrate", min(1.0, done / len(inputs)), f"{len(inputs)} images, {batch} at a time")
    if broken := next((name for name, found in sums.items() if not all(one.isfinite().all() for one in found)), None):
        raise Failed(f"calibration: tensor {broken} has values that are not finite")
    return {name: [total / done for total in found] for name, found in sums.items()}


def rounded(weight: torch.Tensor, moments: Moments, block: int, smallest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers int8 [outputs, inputs] and scales float32 [outputs, blocks] for a weight [outputs, inputs].

    `smallest`: lower bound of a scale. Weights that are zero stay zero.
    """
    pieces = weight.double().split(_together(block), 1)
    found = [_rounded(piece, own, block, smallest) for piece, own in zip(pieces, moments, strict=True)]
    return torch.cat([values for values, _ in found], 1), torch.cat([scales for _, scales in found], 1)


def _together(block: int) -> int:
    return LARGEST // block * block


def _rounded(weight: torch.Tensor, moments: torch.Tensor, block: int, smallest: float) -> tuple[torch.Tensor, ...]:
    damped = moments.double() + DAMPING * moments.diagonal().mean().clamp_min(1e-12) * torch.eye(len(moments))
    scales = _scales(weight, damped.diagonal(), block, smallest)
    values = _values(weight, damped, scales.repeat_interleave(block, 1))
    return values.to(torch.int8), _refitted(weight, values, damped, scales, smallest).float()


def _scales(weight: torch.Tensor, importance: torch.Tensor, block: int, smallest: float) -> torch.Tensor:
    """Of each block, the scale with the least error, of which each input's part counts by its moment."""
    blocks, counts = weight.unflatten(1, (-1, block)), importance.unflatten(0, (-1, block))
    largest = blocks.abs().amax(2)
    best, least = torch.empty_like(largest), torch.full_like(largest, torch.inf)
    for share in SHARES:
        scale = (share * largest / HIGHEST).clamp_min(smallest)
        error = (_nearest(blocks, scale[..., None]) * scale[..., None] - blocks).square().mul(counts).sum(2)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _values(weight: torch.Tensor, moments: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The integers, found in the order of falling moments; `scales` [outputs, inputs]."""
    order = moments.diagonal().argsort(descending=True)
    left, scales, is_zero = weight[:, order].clone(), scales[:, order], weight[:, order] == 0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    values = torch.zeros_like(left)
    for start in range(0, len(order), TOGETHER):
        stop = min(start + TOGETHER, len(order))
        errors = torch.zeros(len(left), stop - start, dtype=left.dtype)
        for place in range(start, stop):
            column = _nearest(left[:, place], scales[:, place]).masked_fill(is_zero[:, place], 0)
            values[:, place] = column
            error = (left[:, place] - column * scales[:, place]) / upper[place, place]
            left[:, place + 1 : stop] -= error[:, None] * upper[place, place + 1 : stop]
            errors[:, place - start] = error
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return values[:, order.argsort()]


def _nearest(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (weight / scale).round().clamp(LOWEST, HIGHEST)


def _refitted(
    weight: torch.Tensor, values: torch.Tensor, moments: torch.Tensor, scales: torch.Tensor, smallest: float
) -> torch.Tensor:
    """The scales with which the integers give the outputs with the least error, one system for each output."""
    blocks = scales.shape[1]
    parts = values.unflatten(1, (blocks, -1))  # [outputs, blocks, inputs of one]
    within = moments.unflatten(0, (blocks, -1)).unflatten(2, (blocks, -1))
    system = torch.einsum("obi,bicj,ocj->obc", parts, within, parts)
    right = torch.einsum("obi,bij,oj->ob", parts, moments.unflatten(0, (blocks, -1)), weight)
    pull = 1e-6 * system.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-12)
    system = system + pull[:, None, None] * torch.eye(blocks, dtype=system.dtype)
    solved = torch.linalg.solve(system, right + pull[:, None] * scales)
    return torch.where(solved > smallest, solved, scales)
