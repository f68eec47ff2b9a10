"""What a plug-in of the compressor is: the protocols, what they are given, and the catalogs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from pqbench.common.v1.common_pb2 import Form, Precision, Preprocessing
from pqbench_wire.catalog import Catalog
from pqbench_wire.errors import InvalidInput
from pqbench_wire.inputs import Feed, Inputs, as_feed, normalise, split_training

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
    """The training split: images uint8 [N, H, W, C] or other inputs, labels int64 [N], how they become a feed.

    A tenth of it is held out: choices by accuracy are made there, and no step trains or calibrates on it.
    """

    images: Feed
    labels: np.ndarray
    preprocessing: Preprocessing
    outputs: tuple[int, ...] = ()  # of the model, if labels are some of its outputs only

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
        """`count` normalised images, chosen and shuffled by `seed` (a folder is often sorted by class).

        None of them is held out.
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
        """What a choice made on `held_out` was judged on, for people."""
        images = min(count, len(self._order(seed)[1]))
        return f"{images} training images that nothing here was fitted to; pretrained weights may have seen them"

    def fitting(self, seed: int) -> np.ndarray:
        """The indices of the images to train on: all that are not held out."""
        return self._order(seed)[0]

    def accuracy(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Percent of outputs [N, classes] that are right, among the outputs that the labels name."""
        if not self.outputs:
            return 100 * float(np.mean(outputs.argmax(1) == labels))
        columns = np.asarray(self.outputs)
        return 100 * float(np.mean(columns[outputs[:, columns].argmax(1)] == labels))

    def _chosen(self, count: int, seed: int) -> np.ndarray:
        return self.fitting(seed)[:count]

    def _order(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices shuffled by `seed`: to fit and calibrate with, and held out."""
        return split_training(len(self.labels), seed)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a step must be given besides the model."""

    training: bool = False  # the training split
    training_if_any: bool = False  # the training split where the dataset has one
    labels: bool = False  # the labels of that split, and a model that gives [N, classes] for one image input
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
    resume: Path | None = None  # where a training keeps its state

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
    """The user's files of a model, where it has any."""

    code: Path | None = None  # Python or ONNX
    allow_code: bool = False


class ModelPlugin(Protocol):
    """A family of models.

    One of a user's own modules says OWN = True: they are run once while planning. One of files that have no module and
    can only be quantized says IS_FILE = True.
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
        """The model with its default weights. Raises Unavailable with what to do where there are none."""
        ...


class Pruner(Protocol):
    """Changes a model in place."""

    REQUIRES: ClassVar[tuple[str, ...]]
    Config: ClassVar[type]

    def needs(self, config: Any) -> Needs:
        """What `prune` must be given."""
        ...

    def refusal(self, module: nn.Module, config: Any, classes: int, example: Feed) -> str:
        """Why this cannot work on an architecture (its weights may be random); empty where it can."""
        ...

    def prune(self, module: nn.Module, config: Any, context: Context) -> Mapping[str, Any]:
        """Prune; returns what is worth reporting."""
        ...

    def problem(self, exported: bytes, module: nn.Module, config: Any) -> str:
        """What `module`, exported as ONNX, lacks of what pruning promised; empty where nothing."""
        ...


@dataclass(kw_only=True)
class Source:
    """A model about to be quantized: its FP32 ONNX bytes and, unless it came as ONNX, its module.

    A quantizer that trains puts the trained module in its place: exports are compared with that.
    """

    onnx: Callable[[], bytes]
    module: nn.Module | None
    calibration: Feed | None = None  # for a runtime that finds ranges itself: uint8 images, or other inputs
    notes: dict[str, Any] = field(default_factory=dict)


class Quantizer(Protocol):
    """Makes the artifacts of a precision, each in the forms that targets want."""

    REQUIRES: ClassVar[tuple[str, ...]]
    Config: ClassVar[type]
    PRECISION: ClassVar[Precision]
    FORMS: ClassVar[tuple[Form, ...]]

    def needs(self, config: Any) -> Needs:
        """What `quantize` must be given."""
        ...

    def quantize(self, source: Source, config: Any, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
        """The artifact's bytes for each of `forms`."""
        ...


MODELS = Catalog("model", "pqbench_compressor.models", ModelPlugin)


PRUNERS = Catalog("pruner", "pqbench_compressor.pruners", Pruner)


QUANTIZERS = Catalog("quantizer", "pqbench_compressor.quantizers", Quantizer)
