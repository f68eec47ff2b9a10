"""Supervised training on prepared images: SGD, one cycle, optional distillation, masks kept."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pqbench_compressor.plugins import Report, Training


def train(
    module: nn.Module,
    data: Training,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    report: Report,
    batch_size: int = 64,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    teacher: nn.Module | None = None,
    temperature: float = 4.0,
    teacher_weight: float = 0.5,
) -> float:
    """Train `module` in place; returns the last epoch's mean loss.

    SGD with Nesterov momentum under a one-cycle schedule (Smith, arXiv 1708.07120). With a
    `teacher`, the loss is (1 - teacher_weight) x cross-entropy + teacher_weight x the
    temperature-scaled KL divergence to its outputs (Hinton et al., arXiv 1503.02531). Weights that
    are zero in a tensor that zero-fill pruning thinned out stay zero.
    """
    masks = _masks(module)
    module.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        module.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
    )
    batches = max(1, len(data.images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * batches)
    order = np.random.default_rng(seed)
    mean_loss = 0.0
    for epoch in range(epochs):
        total = 0.0
        for indices in np.array_split(order.permutation(len(data.images)), batches):
            inputs = torch.from_numpy(data.inputs(indices)).contiguous(memory_format=torch.channels_last)
            labels = torch.from_numpy(data.labels[indices])
            outputs = module(inputs)
            loss = functional.cross_entropy(outputs, labels)
            if teacher is not None:
                distance = _distillation(outputs, teacher, inputs, temperature)
                loss = (1 - teacher_weight) * loss + teacher_weight * distance
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for parameter, mask in masks:
                    parameter.mul_(mask)
            total += loss.item()
        mean_loss = total / batches
        report("train", (epoch + 1) / epochs, f"epoch {epoch + 1}/{epochs}, loss {mean_loss:.3f}")
    module.eval().to(memory_format=torch.contiguous_format)
    return mean_loss


def frozen(module: nn.Module) -> nn.Module:
    """A copy that only answers: a teacher."""
    teacher = copy.deepcopy(module).eval()
    return teacher.requires_grad_(False)


def _masks(module: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights with exact zeros, each with its 0/1 mask; trained dense weights have none."""
    weights = [m.weight for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return [(w, (w != 0).to(w.dtype)) for w in weights if bool((w == 0).any())]


def _distillation(outputs: torch.Tensor, teacher: nn.Module, inputs: torch.Tensor, temperature: float) -> torch.Tensor:
    with torch.no_grad():
        target = functional.log_softmax(teacher(inputs) / temperature, 1)
    student = functional.log_softmax(outputs / temperature, 1)
    return functional.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2
