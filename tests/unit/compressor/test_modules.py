"""A user's module: unwrapped and folded, or refused in one sentence; files of weights in whatever they are wrapped."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from pqbench_compressor import checkpoint, export, modules, weights
from pqbench_compressor.plugins import MODELS, PRUNERS, Files
from pqbench_wire.errors import InvalidInput, Refused
from pqbench_wire.shared import own_code

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)


class Net(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self, convolution: Any = nn.Conv2d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.f = convolution(3, 8, 3, 2, 1), convolution(8, 16, 3, 2, 1), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> Any:
        return self.f(functional.relu(self.b(functional.relu(self.a(x)))).mean((2, 3)))


class Standardised(nn.Conv2d):
    """Weights of zero mean and unit deviation, as in BiT and NFNet."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return functional.conv2d(x, w, self.bias, self.stride, self.padding)


@dataclass
class Output:
    """What a library's model returns."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None


def returning(wrap: Any) -> nn.Module:
    module = Net()
    plain = module.forward
    module.forward = lambda x: wrap(plain(x))  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.DataParallel(Net()),
        lambda: torch.compile(Net()),
        lambda: Net(lambda *a: parametrizations.weight_norm(nn.Conv2d(*a))),
        lambda: Net(lambda *a: nn.utils.weight_norm(nn.Conv2d(*a))),
        lambda: Net(lambda *a: parametrizations.spectral_norm(nn.Conv2d(*a))),
        lambda: Net(Standardised),
    ],
    ids=["parallel", "compiled", "weight norm", "old weight norm", "spectral norm", "standardised"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_wrappers_and_normalised_weights_become_a_plain_model(make: Any) -> None:
    made = make().eval()
    inner = made.module if isinstance(made, nn.DataParallel) else getattr(made, "_orig_mod", made)
    expected = export.run_module(inner, IMAGE)
    module = modules.plain(made, IMAGE, "m")
    np.testing.assert_allclose(export.run_module(module, IMAGE), expected, rtol=1e-4, atol=1e-5)
    assert type(module) is Net and set(module.state_dict()) == {f"{n}.{p}" for n in "abf" for p in ("weight", "bias")}
    copy.deepcopy(module)
    assert modules.refusal(module, IMAGE) == "" and modules.unfolded(module) == ""
    PRUNERS.load("nm").prune(module, PRUNERS.configure("nm", "{}"), None)
    data = export.to_onnx(module, np.repeat(IMAGE, 2, 0))
    assert PRUNERS.load("nm").problem(data, module, PRUNERS.configure("nm", "{}")) == "", (
        "the executed weights have the pattern"
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: Output(y),
        lambda y: OrderedDict(logits=y, cache=None),
        lambda y: (y,),
        lambda y: {"logits": y},
        lambda y: (y, None),
        lambda y: {"logits": y, "loss": None},
    ],
)
def test_any_usual_container_of_outputs_is_exported(wrap: Any) -> None:
    module = modules.plain(returning(wrap), IMAGE, "m")
    assert modules.refusal(module, IMAGE) == ""
    two = np.repeat(IMAGE, 2, 0)
    outputs = export.run_onnx(export.to_onnx(module, two), two)
    np.testing.assert_allclose(outputs, export.run_module(module, two), atol=1e-5)


def with_nan() -> nn.Module:
    module = Net()
    module.a.weight.data[0] = torch.nan
    return module


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Net().half(), "its parameters or buffers are float16; models are compressed from FP32"),
        (with_nan, "a.weight has values that are not finite (NaN or infinity)"),
        (
            lambda: returning(lambda y: functional.dropout(y, 0.5, training=True)),
            "different outputs for the same input",
        ),
        (lambda: returning(lambda y: "text"), "returns a str with no tensor in it"),
        (lambda: returning(lambda y: y.sum(0)), "the first axis of every output must be the batch"),
        (lambda: nn.Linear(3, 10), "cannot be run on an image [3, 16, 16]: RuntimeError"),
    ],
)
def test_what_cannot_be_compressed_is_one_sentence(make: Any, reason: str) -> None:
    found = modules.refusal(modules.plain(make(), None, "m"), IMAGE)
    assert reason in found and "\n" not in found


def test_masks_of_torchs_own_pruning_are_folded_in() -> None:
    """Given as an object: it cannot even be copied, because its weights are derived of others."""
    net = Net()
    for layer in (net.a, net.f):
        prune.l1_unstructured(layer, "weight", amount=0.5)
    net(torch.from_numpy(IMAGE))
    expected = export.run_module(net, IMAGE)
    own_code.OBJECTS["masked"] = net
    module = modules.plain(MODELS.load("object").build("masked", None, {}), IMAGE, "m")
    assert {key.split(".")[-1] for key in module.state_dict()} == {"weight", "bias"}
    assert float((module.a.weight == 0).float().mean()) == 0.5
    np.testing.assert_allclose(export.run_module(module, IMAGE), expected, rtol=1e-5, atol=1e-6)


class Caching(Net):
    """Keeps what it computed last."""

    def forward(self, x: torch.Tensor) -> Any:
        self.seen = super().forward(x)
        return self.seen


def test_live_objects_are_copied_whatever_they_keep() -> None:
    net = Caching().eval()
    expected = net(torch.from_numpy(IMAGE))
    own_code.OBJECTS.update(caching=net, function=functional.relu)
    plugin = MODELS.load("object")
    copied = modules.plain(plugin.build("caching", None, {}), IMAGE, "m")
    np.testing.assert_allclose(export.run_module(copied, IMAGE), expected.detach().numpy(), rtol=1e-5)
    assert net.seen is expected, "the user's own module stays as it was"
    with pytest.raises(InvalidInput, match="m is a function, not a torch.nn.Module"):
        modules.plain(plugin.build("function", None, {}), IMAGE, "m")


class Raw(nn.Module):
    """A matrix that belongs to no layer is multiplied with what a layer returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.matrix = nn.Conv2d(3, 8, 16), nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).flatten(1)
        return y @ self.matrix + functional.linear(y[:, None], self.matrix)[:, 0] + y @ self.matrix.t()


def test_a_matrix_of_no_layer_need_not_have_the_pattern() -> None:
    """However export transposes and renames it."""
    module, config = Raw().eval(), PRUNERS.configure("nm", json.dumps({"n": 2, "m": 4}))
    plugin = PRUNERS.load("nm")
    report = plugin.prune(module, config, None)
    data = export.to_onnx(module, np.repeat(IMAGE, 2, 0))
    assert report["left_out"] == ["matrix"]
    assert plugin.problem(data, module, config) == ""


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_what_is_no_module_is_said() -> None:
    with pytest.raises(InvalidInput, match="m is a str, not a"):
        modules.plain("text", None, "m")
    with pytest.raises(Refused, match="m is TorchScript"):
        modules.plain(torch.jit.trace(Net().eval(), torch.from_numpy(IMAGE)), None, "m")


def test_what_cannot_be_trained_is_one_sentence() -> None:
    assert "every parameter of this model is frozen" in modules.training_refusal(Net().requires_grad_(False), IMAGE)
    module = Net()
    plain = module.forward
    module.forward = lambda x: (plain(x), plain(x)) if module.training else plain(x)  # type: ignore[method-assign]
    assert "in training mode this model returns more than one output" in modules.training_refusal(module, IMAGE)
    assert modules.training_refusal(Net(), IMAGE) == ""


def test_a_model_that_writes_into_its_input_leaves_the_images_alone() -> None:
    module, before = returning(lambda y: y), IMAGE.copy()
    plain = module.forward
    module.forward = lambda x: plain(x.sub_(1).mul_(2))  # type: ignore[method-assign]
    first = export.run_module(module, IMAGE)
    np.testing.assert_array_equal(IMAGE, before)
    np.testing.assert_array_equal(export.run_module(module, IMAGE), first)


def test_a_checkpoint_keeps_the_versions_of_its_modules(tmp_path: Path) -> None:
    """MNASNet rescales its stem when it loads a state that names no version."""
    plugin = MODELS.load("torchvision")
    module = plugin.build("mnasnet0_5", plugin.Config(), Files()).eval()
    path = tmp_path / "m.safetensors"
    path.write_bytes(checkpoint.save(module, plugin.build("mnasnet0_5", plugin.Config(), Files()), []))
    again = plugin.build("mnasnet0_5", plugin.Config(), Files()).eval()
    checkpoint.load(path, again)
    torch.testing.assert_close(again.state_dict(), module.state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
@pytest.mark.parametrize("container", ["", "state_dict", "model", "model_state_dict"])
def test_weights_are_found_in_whatever_they_are_wrapped(tmp_path: Path, prefix: str, container: str) -> None:
    trained, module = Net(), Net()
    trained.f.weight.data.fill_(0.25)
    state: Any = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "w.pth")
    assert weights.load(tmp_path / "w.pth", module) == ""
    torch.testing.assert_close(module.state_dict(), trained.state_dict())


def test_of_several_state_dicts_one_is_taken_and_said(tmp_path: Path) -> None:
    plain, averaged, module = Net(), Net(), Net()
    averaged.f.weight.data.fill_(0.5)
    torch.save({"state_dict": plain.state_dict(), "model_ema": averaged.state_dict()}, tmp_path / "w.pth")
    assert "taken from 'state_dict'; the file also has model_ema (weights_key)" in weights.load(
        tmp_path / "w.pth", module
    )
    assert weights.load(tmp_path / "w.pth", module, "model_ema") == "" and bool((module.f.weight == 0.5).all())
    with pytest.raises(InvalidInput, match="weights_key: unknown key 'ema'; did you mean 'model_ema'"):
        weights.load(tmp_path / "w.pth", module, "ema")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_weights_that_are_code_or_do_not_fit_are_one_line(tmp_path: Path) -> None:
    torch.jit.trace(Net().eval(), torch.from_numpy(IMAGE)).save(tmp_path / "script.pt")
    torch.save(Net(), tmp_path / "module.pt")
    other = {name: tensor.clone() for name, tensor in Net().state_dict().items()}
    safetensors.torch.save_file(
        other | {"f.weight": torch.zeros(3, 16), "f.bias": torch.zeros(3)}, tmp_path / "three.safetensors"
    )
    safetensors.torch.save_file(other | {"f.bias": torch.full((10,), torch.nan)}, tmp_path / "nan.safetensors")
    for name, problem in (
        ("script.pt", "TorchScript or exported program, which is code"),
        ("module.pt", "holds Python objects"),
        ("three.safetensors", "f.weight is [3, 16], the model's [10, 16]"),
        ("nan.safetensors", "f.bias has values that are not finite (NaN or infinity)"),
    ):
        with pytest.raises(InvalidInput) as caught:
            weights.load(tmp_path / name, Net())
        message = str(caught.value)
        assert problem in message and "\n" not in message and "weights_only" not in message, message
    with pytest.raises(InvalidInput, match=r"set config: \{classes: 3\}"):
        weights.load(tmp_path / "three.safetensors", Net())
