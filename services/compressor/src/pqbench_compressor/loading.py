"""Loads what a request names: models, weights, checkpoints and recipes, including users' own files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor import checkpoint, modules, normal_form, steps, weights
from pqbench_compressor.plugins import MODELS, Context, Files, ModelInfo
from pqbench_compressor.tensors import outputs_of
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared import own_code
from pqbench_wire.shared.inputs import Feed, Inputs, check_preprocessing


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Loads from the blobs of a service; a user's own Python runs only with `allow_code`."""

    store: BlobStore
    allow_code: bool

    def info(self, model: pb.Model) -> ModelInfo:
        """The model's preprocessing and classes; preprocessing in the request overrides the plug-in's.

        Raises InvalidInput if the input's shape is not known.
        """
        plugin = MODELS.load(model.plugin)
        config = MODELS.configure(model.plugin, model.config_json)
        info = plugin.info(model.name, config, self.files(model))
        if model.preprocessing.height or model.preprocessing.inputs:
            info = replace(info, preprocessing=model.preprocessing)
        if not (info.preprocessing.height or info.preprocessing.inputs):
            raise InvalidInput(
                f"model {model.name}: its input is not known; give preprocessing: {{height, width, …}}, or inputs"
            )
        check_preprocessing(info.preprocessing)
        return info

    def is_file(self, model: pb.Model) -> bool:
        """Whether a model is an ONNX file, which has no PyTorch module and can only be quantized."""
        return bool(getattr(MODELS.load(model.plugin), "IS_FILE", False))

    def load(self, request: pb.CompressRequest, context: Context) -> tuple[nn.Module, checkpoint.History]:
        """The module of a request, with its checkpoint or its weights, and the history of steps applied to it."""
        model, files = request.model, self.files(request.model)
        plugin, config = MODELS.load(model.plugin), MODELS.configure(model.plugin, model.config_json)
        if request.HasField("checkpoint"):
            module = self.unpruned(model)
            return module.eval(), checkpoint.load(self.store.path(request.checkpoint), module)
        if model.weights == pb.WEIGHTS_DEFAULT:
            return self._plain(model, plugin.pretrained(model.name, config, files, context)), []
        return (self.with_weights(model)[0] if model.weights == pb.WEIGHTS_FILE else self.unpruned(model)), []

    def unpruned(self, model: pb.Model) -> nn.Module:
        """The unpruned architecture, prepared by `modules.plain`; weights are random, except in users' own modules."""
        return self._plain(model, self._built(model))

    def with_weights(self, model: pb.Model) -> tuple[nn.Module, str]:
        """The architecture with the weights of the user's file, and the note of `weights.load`. Raises InvalidInput."""
        module = self._built(model)
        note = weights.load(self.store.path(model.file), module, model.weights_key)
        return self._plain(model, module), note

    def _built(self, model: pb.Model) -> nn.Module:
        config = MODELS.configure(model.plugin, model.config_json)
        module: nn.Module = MODELS.load(model.plugin).build(model.name, config, self.files(model))
        return module

    def _plain(self, model: pb.Model, module: nn.Module) -> nn.Module:
        return modules.plain(module, example_of(self.info(model).preprocessing), f"model {model.name}")

    def given(self, model: pb.Model) -> onnx.ModelProto:
        """The user's ONNX model with its external weights read into it."""
        beside = {one.location: self.store.path(one.blob) for one in model.external}
        return normal_form.read(model.name, self.store.read(model.code), beside)

    def files(self, model: pb.Model) -> Files:
        """The user's own files that came with a model."""
        code = self.store.path(model.code) if model.HasField("code") else None
        return Files(code=code, allow_code=self.allow_code)

    def recipe(self, messages: Iterable[pb.Step]) -> list[steps.Step]:
        """The steps of a request, with their plug-ins and configurations."""

        def own(step: pb.Step, name: str, arguments: Mapping[str, Any]) -> Any:
            file = self.store.path(step.code) if step.HasField("code") else None
            return own_code.load(file, name, self.allow_code, arguments)

        return [steps.read(message, own) for message in messages]


def example_of(preprocessing: Preprocessing) -> Feed:
    """One random image, or one example of other inputs, all ones: 1 is valid as a mask and nearly always as a token."""
    if preprocessing.inputs:
        return Inputs({i.name: np.ones((1, *i.shape), i.dtype) for i in preprocessing.inputs})
    shape = (1, preprocessing.channels, preprocessing.height, preprocessing.width)
    return np.random.default_rng(0).random(shape, np.float32)


def is_classifier(module: nn.Module, example: Feed) -> bool:
    """Whether a module has exactly one output, of shape [N, classes]."""
    with torch.inference_mode():
        outputs = outputs_of(module, example)
    return len(outputs) == 1 and outputs[0].ndim == 2
