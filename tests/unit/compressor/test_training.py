"""Training: learning, interruptions, precision."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor import checkpoint, export, training
from pqbench_compressor.plugins import MODELS, PRUNERS, Context, Files, Training
from pqbench_compressor.training import Options, frozen, train
from pqbench_wire.errors import Refused

from .examples import build, network, quiet


def test_a_training_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    module, context = build("cifar", "resnet20")
    options = Options(epochs=3, batch_size=4, learning_rate=0.01, augment="crop-flip")
    whole, broken = copy.deepcopy(module), copy.deepcopy(module)
    arguments: dict[str, Any] = {"seed": 0, "report": lambda *_: None}
    train(whole, context.training, options, **arguments)

    def interrupt(stage: str, fraction: float, message: str) -> None:
        if "epoch 3" in message:
            raise KeyboardInterrupt

    resume = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train(broken, context.training, options, seed=0, report=interrupt, resume=resume)
    again = copy.deepcopy(module)
    train(again, context.training, options, resume=resume, **arguments)
    assert not resume.exists()
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("values", [
    {"optimizer": "adamw", "schedule": "cosine", "label_smoothing": 0.1, "augment": "crop"},
    {"schedule": "constant", "momentum": 0.0, "precision": "bf16"},
])  # fmt: skip
def test_every_way_of_training_learns(values: dict[str, Any], digits: tuple[np.ndarray, np.ndarray],
                                      digits_preprocessing: Preprocessing) -> None:  # fmt: skip
    data = Training(images=digits[0][:256], labels=digits[1][:256], preprocessing=digits_preprocessing)
    torch.manual_seed(0)
    module = MODELS.load("digits").build("resnet", None, Files())
    losses = [
        train(module, data, Options(learning_rate=0.01, **values), seed=s, report=lambda *_: None) for s in range(3)
    ]
    assert losses[-1] < losses[0]


def test_half_precision_training_wants_a_gpu() -> None:
    if torch.cuda.is_available():
        return
    module, context = build("cifar", "resnet20")
    with pytest.raises(Refused, match="fp16 needs a GPU"):
        train(module, context.training, Options(precision="fp16"), seed=0, report=lambda *_: None)


def test_a_layer_that_begins_at_zero_learns_and_momentum_is_what_was_asked_for(
    digits: tuple[np.ndarray, np.ndarray], digits_preprocessing: Preprocessing
) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    nn.init.zeros_(module[1].weight)
    data = Training(images=digits[0][:256], labels=digits[1][:256], preprocessing=digits_preprocessing)
    train(module, data, Options(epochs=1, learning_rate=0.1), seed=0, report=lambda *_: None)
    assert bool(module[1].weight.any())
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.5, nesterov=True)
    training._schedule(optimizer, Options(momentum=0.5), 10)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.55)


def test_training_learns_and_keeps_the_mask(training: Training, context: Context) -> None:
    module = network()
    PRUNERS.load("l1-global").prune(module, PRUNERS.configure("l1-global", '{"amount": 0.5}'), context)
    zeros = {name: p == 0 for name, p in module.named_parameters() if p.ndim > 1}
    first = train(module, training, Options(learning_rate=0.05), seed=0, report=quiet)
    last = train(module, training, Options(epochs=3, learning_rate=0.05), seed=0, report=quiet)
    assert last < first
    for name, parameter in module.named_parameters():
        if name in zeros:
            assert bool((parameter[zeros[name]] == 0).all())
            assert bool((parameter[~zeros[name]] != 0).any())


def test_training_is_repeatable(training: Training) -> None:
    made = []
    for _ in range(2):
        module = network()
        train(module, training, Options(learning_rate=0.05), seed=3, report=quiet)
        made.append(checkpoint.save(module, network(), []))
    assert made[0] == made[1]


def test_distillation_follows_the_teacher_against_the_labels(training: Training) -> None:
    teacher = network()
    with torch.no_grad():
        teacher[-1].bias[3] += 20  # says "three" whatever it sees
    student = network()
    options = Options(epochs=2, learning_rate=0.05, teacher_weight=1.0)
    train(student, training, options, seed=0, report=quiet, teacher=frozen(teacher))
    assert (export.run_module(student, training.inputs(slice(64))).argmax(1) == 3).all()


FEW_CHANNELS = """
import numpy as np, torch
from torch import nn
from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.plugins import Training
from pqbench_compressor.training import Options, train

torch.manual_seed(0)
module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 1, 2), nn.Conv2d(16, 24, 1, 2),
                       nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))
rng = np.random.default_rng(0)
data = Training(images=rng.integers(0, 256, (630, 16, 16, 1), dtype=np.uint8), labels=rng.integers(0, 10, 630),
                preprocessing=Preprocessing(height=16, width=16, channels=1, mean=[0.5], std=[0.5]))
train(module, data, Options(epochs=3, batch_size=63), seed=0, report=lambda *_: None)
print("trained")
"""


def test_strided_shortcuts_of_few_channels_are_trained_right() -> None:
    """Channels-last, oneDNN writes past its buffer: on many machines this ended with a signal."""
    done = subprocess.run([sys.executable, "-c", FEW_CHANNELS], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.parametrize(("channels", "layout"), [(15, torch.contiguous_format), (16, torch.channels_last)])
def test_the_layout_of_training_avoids_what_is_wrong(channels: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch,
                                                     digits: tuple[np.ndarray, np.ndarray], digits_preprocessing: Preprocessing) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    seen: list[bool] = []
    module = nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.Conv2d(channels, 4, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    module[1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].is_contiguous(memory_format=layout)))
    data = Training(images=digits[0][:64], labels=digits[1][:64], preprocessing=digits_preprocessing)
    train(module, data, Options(), seed=0, report=lambda *_: None)
    assert seen and all(seen)
