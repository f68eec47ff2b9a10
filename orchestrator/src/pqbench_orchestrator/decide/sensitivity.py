"""Layer sensitivity: accuracy with one layer at a time pruned or quantized, for different amounts and bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench.compressor.v1 import compressor_pb2, compressor_pb2_grpc
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.dataset import Data, prepare
from pqbench_orchestrator.execution.services import Services
from pqbench_orchestrator.planning.facts import Survey
from pqbench_orchestrator.planning.plan import unsuitable
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.errors import Refused

AMOUNTS = (0.1, 0.3, 0.5, 0.7, 0.9)
BITS = (8, 6, 4, 3, 2)


@dataclass(frozen=True, kw_only=True)
class Point:
    """The result for one layer with one setting."""

    model: str
    dataset: str
    layer: str
    weights: int  # how many the layer has
    technique: str  # prune or quantize
    setting: float  # share of the layer's weights that are zeroed, or bits of its weights and input
    noise: float  # energy of the change of the model's outputs over that of the outputs
    accuracy: float  # percent, on held-out training images
    untouched_accuracy: float  # the same of the unchanged model


def analyse(
    manifest: Manifest, facts: Survey, services: Services, store: BlobStore, datasets: Mapping[str, Data],
    images: int, say: Callable[[str], None],
) -> list[Point]:  # fmt: skip
    """The sensitivity of every layer of the manifest's models on its datasets, on `images` held-out training images.

    Raises Refused where a model or dataset is not suitable.
    """
    points = []
    for model in manifest.models:
        known = facts.recipes[model.label, Recipe().identity]
        if known.refused or known.unavailable:
            raise Refused(f"model {model.label}: {known.refused or known.unavailable}")
        if not known.has_module:
            raise Refused(f"model {model.label}: layers are analysed in PyTorch; an ONNX file has no module")
        preprocessing = json_format.ParseDict(known.preprocessing, Preprocessing())
        if known.inputs:
            takes = ", ".join(known.inputs)
            raise Refused(f"model {model.label}: sensitivity needs an image classifier; this takes {takes}")
        asked = dataclasses.replace(known, needs_training=(True,), needs_labels=(True,))
        for dataset in manifest.datasets:
            data = datasets[dataset.label]
            if reason := unsuitable(asked, known.classes, dataset.label, facts.datasets[dataset.label]):
                raise Refused(reason)
            say(f"preparing {dataset.label}")
            request = compressor_pb2.AnalyseRequest(
                model=json_format.ParseDict(facts.models[model.label], compressor_pb2.Model()),
                training=prepare(
                    data.split("train"), preprocessing, store, limit=dataset.train_images, seed=manifest.seed,
                    outputs=data.outputs,
                ),
                verification=prepare(data.split("test"), preprocessing, store, limit=2, seed=manifest.seed),
                amounts=AMOUNTS, bits=BITS, images=images, seed=manifest.seed,
            )  # fmt: skip
            result = _call(services, known.compressor, store, request, f"{model.label} on {dataset.label}", say)
            points += [_point(model.label, dataset.label, layer, result.accuracy) for layer in result.layers]
    return points


def _call(
    services: Services, compressor: str, store: BlobStore, request: Any, label: str, say: Callable[[str], None]
) -> Any:
    client = services.client(compressor)
    client.push(store, blobs_in(request))
    stub = compressor_pb2_grpc.CompressorServiceStub(client.channel)

    def tell(event: Any) -> None:
        if event.WhichOneof("event") == "progress":
            say(f"{label}: {event.progress.stage} {event.progress.message} {event.progress.fraction:.0%}")

    return client.result(stub.Analyse, request, tell)


def _point(model: str, dataset: str, layer: Any, untouched: float) -> Point:
    return Point(
        model=model, dataset=dataset, layer=layer.layer, weights=layer.weights, technique=layer.technique,
        setting=layer.setting, noise=layer.noise, accuracy=layer.accuracy, untouched_accuracy=untouched,
    )  # fmt: skip
