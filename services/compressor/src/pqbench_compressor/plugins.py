"""The compressor's plug-ins: the protocols they implement, what they receive, and the catalogs that find them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from pqbench.common.v1.common_pb2 import Form, Precision, Preprocessing
from pqbench_wire.catalog import Catalog
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.held_out import split_training
from pqbench_wire.shared.inputs import Feed, Inputs, as_feed, normalise

if TYPE_CHECKING:
    from torch import nn


Report = Callable[[str, float, str], None]  # stage, fraction 0 to 1, message


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is known of a model before it is loaded."""

    preprocessing: Preprocessing
    classes: int  # outputs; 0: not known before loading
    trains: bool = False  # its default weights come from training on the dataset


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training split: images uint8 [N, H, W, C] or other inputs, labels int64 [N], and their preprocessing.

    A tenth of it, at most 1,024 examples, is held out: choices by accuracy are made there, and no step trains or
    calibrates on it.
    """

    images: Feed
    labels: np.ndarray
    preprocessing: Preprocessing
    outputs: tuple[int, ...] = ()  # the model's outputs that labels can be; empty: all

    def inputs(self, indices: np.ndarray | slice) -> Feed:
        """Normalised images float32 [n, C, H, W], or other inputs as they are."""
        return as_feed(self.images[indices], self.preprocessing)

    def pictures(self, indices: np.ndarray | slice) -> np.ndarray:
        """Images uint8 [n, H, W, C]. Raises InvalidInput where the model takes no image."""
        if isinstance(self.images, Inputs):
            raise InvalidInput("this step needs images; the model takes other inputs")
        return self.images[indices]

    def normalised(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C] as the model's input float32 [n, C, H, W]."""
        return normalise(images, self.preprocessing)

    def sample(self, count: int, seed: int) -> Feed:
        """At most `count` images that are not held out, normalised, chosen and shuffled by `seed`.

        They are shuffled because image folders are often sorted by class.
        """
        return self.inputs(self._chosen(count, seed))

    def labelled(self, count: int, seed: int) -> tuple[Feed, np.ndarray]:
        """The images of `sample` and their labels int64 [count]."""
        chosen = self._chosen(count, seed)
        return self.inputs(chosen), self.labels[chosen]

    def raw(self, count: int, seed: int) -> Feed:
        """The images of `sample` as uint8 [count, H, W, C], or other inputs."""
        return self.images[self._chosen(count, seed)]

    def held_out(self, count: int, seed: int) -> tuple[Feed, np.ndarray]:
        """At most `count` held-out images and their labels."""
        chosen = self._order(seed)[1][:count]
        return self.inputs(chosen), self.labels[chosen]

    def judged_on(self, count: int, seed: int) -> str:
        """A phrase for the result: the number of held-out images a choice was made on, which weights may have seen."""
        images = min(count, len(self._order(seed)[1]))
        return f"{images} held-out training images; pretrained weights may have been trained on them"

    def fitting(self, seed: int) -> np.ndarray:
        """The indices of the images to train on: all that are not held out."""
        return self._order(seed)[0]

    def accuracy(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Top-1 accuracy of outputs [N, classes] in percent; only the columns that labels can be are compared."""
        if not self.outputs:
            return 100 * float(np.mean(outputs.argmax(1) == labels))
        columns = np.asarray(self.outputs)
        return 100 * float(np.mean(columns[outputs[:, columns].argmax(1)] == labels))

    def _chosen(self, count: int, seed: int) -> np.ndarray:
        return self.fitting(seed)[:count]

    def _order(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices shuffled by `seed`: those to train and calibrate with, and those held out."""
        return split_training(len(self.labels), seed)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a step needs besides the model."""

    training: bool = False  # the training split
    training_if_any: bool = False  # the training split where the dataset has one
    labels: bool = False  # the labels of that split, and a model with one image input and one output [N, classes]
    baseline: bool = False  # the unpruned model


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a step may use besides the model."""

    seed: int
    report: Report
    classes: int
    images: Feed  # float32 [N, C, H, W] or other inputs: real data, N at least 2, on which exports are verified
    training_split: Training | None = None
    load_baseline: Callable[[], nn.Module] | None = None
    resume: Path | None = None  # the file in which a training saves its state

    @property
    def example(self) -> Feed:
        """float32 [2, C, H, W] or two of each input: two, because exporters specialise a batch of one."""
        return self.images[:2]

    @property
    def training(self) -> Training:
        """The training split. Raises InvalidInput if the request has none."""
        if self.training_split is None:
            raise InvalidInput("this step needs training images; the request has none")
        return self.training_split

    @property
    def baseline(self) -> nn.Module:
        """The unpruned model. Raises InvalidInput if the request has none."""
        if self.load_baseline is None:
            raise InvalidInput("this step needs the unpruned checkpoint; the request has none")
        return self.load_baseline()


@dataclass(frozen=True, kw_only=True)
class Files:
    """The user's own file that defines a model, if there is one, and whether Python code may run."""

    code: Path | None = None  # Python or ONNX
    allow_code: bool = False


class ModelPlugin(Protocol):
    """A family of models.

    A family of users' own modules sets OWN = True: its modules are run while planning, to check them. A family of files
    that have no PyTorch module and can only be quantized sets IS_FILE = True.
    """

    REQUIRES: ClassVar[tuple[str, ...]]
    Config: ClassVar[type]

    def names(self) -> tuple[str, ...]:
        """The members of the family."""
        ...

    def info(self, name: str, config: Any, files: Files) -> ModelInfo:
        """What is known before loading. Raises InvalidInput for an unknown name."""
        ...

    def build(self, name: str, config: Any, files: Files) -> nn.Module:
        """The architecture with random weights."""
        ...

    def pretrained(self, name: str, config: Any, files: Files, context: Context) -> nn.Module:
        """The model with its default weights. Raises Unavailable, with what to do, if there are none."""
        ...


class Pruner(Protocol):
    """A pruning method; it changes a model in place."""

    REQUIRES: ClassVar[tuple[str, ...]]
    Config: ClassVar[type]

    def needs(self, config: Any) -> Needs:
        """What `prune` needs besides the model."""
        ...

    def refusal(self, module: nn.Module, config: Any, classes: int, example: Feed) -> str:
        """Why this cannot work on an architecture (its weights may be random); empty if it can."""
        ...

    def prune(self, module: nn.Module, config: Any, context: Context) -> Mapping[str, Any]:
        """Prune `module` in place; returns notes for the result."""
        ...

    def problem(self, exported: bytes, module: nn.Module, config: Any) -> str:
        """Which property guaranteed by `prune` the module lost in its ONNX export; empty if none."""
        ...


@dataclass(kw_only=True)
class Source:
    """A model to be quantized: its FP32 ONNX bytes and, unless it came as an ONNX file, its module.

    A quantizer that trains may replace `module` by the trained one: the artifacts are then verified against that.
    """

    onnx: Callable[[], bytes]
    module: nn.Module | None
    calibration: Feed | None = None  # for a runtime that determines ranges itself: uint8 images, or other inputs
    notes: dict[str, Any] = field(default_factory=dict)


class Quantizer(Protocol):
    """A quantization method; it makes the artifacts of one precision, in the forms that targets need."""

    REQUIRES: ClassVar[tuple[str, ...]]
    Config: ClassVar[type]
    PRECISION: ClassVar[Precision]
    FORMS: ClassVar[tuple[Form, ...]]

    def needs(self, config: Any) -> Needs:
        """What `quantize` needs besides the model."""
        ...

    def quantize(self, source: Source, config: Any, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
        """The artifact's bytes for each of `forms`."""
        ...


@runtime_checkable
class Withholds(Protocol):
    """A quantizer some of whose forms depend on its options."""

    def withheld(self, config: Any) -> tuple[tuple[Form, ...], str]:
        """The forms that it does not make with these options, and why; nothing, and no text, where it makes all."""
        ...


MODELS = Catalog("model", "pqbench_compressor.models", ModelPlugin)


PRUNERS = Catalog("pruner", "pqbench_compressor.pruners", Pruner)


QUANTIZERS = Catalog("quantizer", "pqbench_compressor.quantizers", Quantizer)
