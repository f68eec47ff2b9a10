"""Supervised training on prepared images: for pretraining small models, recovery, and quantization-aware training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from pqbench_compressor import masks
from pqbench_compressor.plugins import Report, Training
from pqbench_wire.errors import Refused

log = logging.getLogger(__name__)
CYCLED = 0.05  # the one-cycle schedule moves momentum by this much below and above its setting
LEAST_CHANNELS = 16  # numbers in a register of AVX-512
PADDING = 8  # augmentation moves an image by up to an eighth of its side


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train: optimizer, schedule, augmentation, numeric precision and distillation."""

    epochs: Annotated[int, Field(ge=1, le=1000, description="passes over the training split")] = 1
    learning_rate: Annotated[float, Field(gt=0, description="peak of the schedule")] = 0.01
    optimizer: Annotated[Literal["sgd", "adamw"], Field(description="SGD has Nesterov momentum")] = "sgd"
    schedule: Annotated[
        Literal["one-cycle", "cosine", "constant"], Field(description="of the learning rate, batch by batch")
    ] = "one-cycle"
    batch_size: Annotated[int, Field(ge=1, description="images")] = 64
    momentum: Annotated[float, Field(ge=0, lt=1, description="of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty (SGD), decoupled (AdamW)")] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="share of the target spread over all classes")] = 0
    augment: Annotated[
        Literal["none", "crop", "crop-flip"], Field(description="shift by up to an eighth; mirror half of the images")
    ] = "none"
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], Field(description="of forward and backward; fp16 needs a GPU")
    ] = "fp32"
    distill: Annotated[bool, Field(description="learn from the unpruned model's outputs too")] = False
    temperature: Annotated[float, Field(gt=0, description="softens both outputs when distilling")] = 4.0
    teacher_weight: Annotated[float, Field(ge=0, le=1, description="share of the teacher in the loss")] = 0.5


def train(
    module: nn.Module,
    data: Training,
    options: Options,
    *,
    seed: int,
    report: Report,
    teacher: nn.Module | None = None,
    resume: Path | None = None,
) -> float:
    """Train `module` in place; returns the last epoch's mean loss.

    SGD or AdamW (arXiv 1711.05101) under a one-cycle (arXiv 1708.07120), cosine or constant
    schedule. With a `teacher`, the loss is (1 - teacher_weight) x cross-entropy + teacher_weight x
    the temperature-scaled KL divergence to its outputs (Hinton et al., arXiv 1503.02531). What
    pruning zeroed (see `masks`) stays zero. Runs on the GPU if there is one. After each epoch the
    state is saved to the file `resume`, if given; a repeated call continues from it, and it is
    deleted at the end. Raises Refused for FP16 without a GPU.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.precision == "fp16" and device.type == "cpu":
        raise Refused("training in fp16 needs a GPU; on a CPU use bf16 or fp32")
    layout = _layout(module, device)
    module.train().to(device).to(memory_format=layout)
    indices = data.fitting(seed)
    run = _Run(module, options, _batches_of(indices, options), device, layout, teacher and teacher.to(device))
    begin = run.restore(resume) if resume is not None and resume.is_file() else 0
    loss = 0.0
    for epoch in range(begin, options.epochs):
        # Each epoch has its own generator, so that a resumed training shuffles like an uninterrupted one.
        order = np.random.default_rng([seed, epoch])
        total = 0.0
        for index, (images, labels) in enumerate(_batches(data, indices, options, order)):
            total += run.step(images, labels)
            done = (epoch + (index + 1) / run.batches) / options.epochs
            report("train", done, f"epoch {epoch + 1}/{options.epochs}, loss {total / (index + 1):.3f}")
        loss = total / run.batches
        if resume is not None:
            run.save(resume, epoch + 1)
    if resume is not None:
        resume.unlink(missing_ok=True)
    module.eval().to("cpu").to(memory_format=torch.contiguous_format)
    return loss


def frozen(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters require no gradients, to be the teacher in distillation."""
    teacher = copy.deepcopy(module).eval()
    return teacher.requires_grad_(False)


def _layout(module: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels-last, which is faster, but where it does not exist (Conv3d) or is wrong.

    oneDNN's gradient of a strided 1x1 convolution writes past its buffer if channels-last inputs have fewer channels
    than a vector register holds numbers (uxlfoundation/oneDNN, issue 6035): a crash, or wrong weights.
    """
    is_planar = any(parameter.ndim == 5 for parameter in module.parameters())
    is_wrong = device.type == "cpu" and any(
        isinstance(layer, nn.Conv2d) and set(layer.kernel_size) == {1} and set(layer.stride) != {1}
        and layer.in_channels // layer.groups < LEAST_CHANNELS
        for layer in module.modules()
    )  # fmt: skip
    return torch.contiguous_format if is_planar or is_wrong else torch.channels_last


class _Run:
    """The state of a running training: module, optimizer, schedule and gradient scaler."""

    def __init__(
        self,
        module: nn.Module,
        options: Options,
        batches: int,
        device: torch.device,
        layout: torch.memory_format,
        teacher: nn.Module | None,
    ) -> None:
        self.batches = batches
        self._module, self._options, self._teacher = module, options, teacher
        self._device, self._layout = device, layout
        self._masks = masks.of(module)
        self._optimizer = _optimizer(module, options)
        self._schedule = _schedule(self._optimizer, options, batches)
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Train on one batch, images float32 [n, C, H, W] and labels int64 [n]; returns its loss."""
        inputs = torch.from_numpy(images).to(self._device, memory_format=self._layout)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self._options.precision]
        with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
            loss = self._loss(inputs, torch.from_numpy(labels).to(self._device))
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        with torch.no_grad():
            for parameter, mask in self._masks:
                parameter.mul_(mask)
        return loss.item()

    def _loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        options, outputs = self._options, self._module(inputs).float()
        loss = functional.cross_entropy(outputs, labels, label_smoothing=options.label_smoothing)
        if self._teacher is None:
            return loss
        with torch.no_grad():
            target = functional.log_softmax(self._teacher(inputs).float() / options.temperature, 1)
        student = functional.log_softmax(outputs / options.temperature, 1)
        distance = functional.kl_div(student, target, reduction="batchmean", log_target=True)
        return (1 - options.teacher_weight) * loss + options.teacher_weight * options.temperature**2 * distance

    def save(self, path: Path, epochs: int) -> None:
        """Save the state after `epochs` finished epochs; the file at `path` is replaced only when complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = {"model": self._module, "optimizer": self._optimizer, "schedule": self._schedule}
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        partial = path.with_suffix(".partial")
        torch.save(state | {"scaler": self._scaler.state_dict(), "epochs": epochs}, partial)
        partial.replace(path)

    def restore(self, path: Path) -> int:
        """Load the state that `save` stored; returns its number of epochs, or 0 (start over) if the file is damaged."""
        try:
            state = torch.load(path, map_location=self._device, weights_only=True)
            parts = (self._module, self._optimizer, self._schedule, self._scaler)
            kept = [state[name] for name in ("model", "optimizer", "schedule", "scaler")]
            epochs = int(state["epochs"])
        except Exception as error:  # torch.load raises unrelated types for a truncated file and a broken pickle
            log.warning("%s is damaged, training starts again: %s", path, error)
            return 0
        for part, own in zip(parts, kept, strict=True):
            part.load_state_dict(own)
        return epochs


def _optimizer(module: nn.Module, options: Options) -> torch.optim.Optimizer:
    if options.optimizer == "adamw":
        return torch.optim.AdamW(module.parameters(), options.learning_rate, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        module.parameters(), options.learning_rate, momentum=options.momentum, weight_decay=options.weight_decay,
        nesterov=options.momentum > 0,
    )  # fmt: skip


def _schedule(optimizer: torch.optim.Optimizer, options: Options, batches: int) -> Any:
    steps = options.epochs * batches
    if options.schedule == "one-cycle":
        low, high = max(0.0, options.momentum - CYCLED), min(0.999, options.momentum + CYCLED)
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, options.learning_rate, total_steps=steps,
            cycle_momentum=options.optimizer == "sgd" and options.momentum > 0, base_momentum=low, max_momentum=high,
        )  # fmt: skip
    if options.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _batches_of(indices: np.ndarray, options: Options) -> int:
    return max(1, len(indices) // options.batch_size)


def _batches(
    data: Training, fitting: np.ndarray, options: Options, order: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Normalised images float32 [n, C, H, W] and labels int64 [n], shuffled by `order`."""
    for indices in np.array_split(order.permutation(fitting), _batches_of(fitting, options)):
        images = _augmented(data.pictures(indices), options.augment, order)
        yield data.normalised(images), np.asarray(data.labels[indices])


def _augmented(images: np.ndarray, how: str, order: np.random.Generator) -> np.ndarray:
    """Images uint8 [n, H, W, C], shifted at random over a border of zeros and, for "crop-flip", mirrored at random."""
    if how == "none":
        return images
    count, height, width, _ = images.shape
    rows, columns = height // PADDING, width // PADDING
    padded = np.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (1, 2))
    moved = windows[np.arange(count), order.integers(0, 2 * rows + 1, count), order.integers(0, 2 * columns + 1, count)]
    moved = moved.transpose(0, 2, 3, 1)
    if how == "crop-flip":
        mirror = order.integers(0, 2, count).astype(bool)
        moved = np.where(mirror[:, None, None, None], moved[:, :, ::-1], moved)
    return np.ascontiguousarray(moved)
