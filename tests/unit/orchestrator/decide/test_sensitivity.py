"""Layer sensitivity: what is asked of the compressor, what is refused, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pqbench.compressor.v1.compressor_pb2 import AnalyseResult, LayerSensitivity
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.dataset import Data, Split
from pqbench_orchestrator.decide.sensitivity import AMOUNTS, BITS, Point, analyse
from pqbench_orchestrator.output import sensitivity
from pqbench_orchestrator.planning.facts import DatasetFacts, RecipeFacts, Survey
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput, Refused

from ..fakes import FakeLauncher, services_of

MANIFEST = Manifest.model_validate({
    "name": "my run", "models": [{"model": "digits/resnet"}], "datasets": [{"dataset": "digits"}],
    "recipes": [{"name": "baseline"}], "targets": [{"name": "t", "backend": "onnxruntime"}],
})  # fmt: skip
POINTS = [
    Point(model="m", dataset="d", layer=layer, weights=9, technique=technique, setting=setting, noise=0.1, accuracy=90.0,
          untouched_accuracy=95.0)
    for layer in ("conv1", "fc") for technique, setting in (("prune", 0.5), ("quantize", 4.0))
]  # fmt: skip


def analysed(store: BlobStore, **facts: Any) -> tuple[list[Point], Any]:
    answer = AnalyseResult(
        layers=[LayerSensitivity(layer="conv1", technique="prune", setting=0.5, accuracy=80.0)], accuracy=95.0
    )
    launcher = FakeLauncher(answer=lambda method, request: answer)
    split = Split(open=lambda i: Image.new("L", (4, 4)), labels=np.arange(40) % 2, fingerprint="x")
    known = RecipeFacts(preprocessing={"height": 4, "width": 4, "channels": 1}, classes=2, **facts)
    survey = Survey(
        models={"resnet": {"plugin": "digits", "name": "resnet"}}, recipes={("resnet", Recipe().identity): known},
        targets={}, datasets={"digits": DatasetFacts(fingerprints={"train": "x", "test": "x"}, labels=2)},
        compressors={},
    )  # fmt: skip
    data = {"digits": Data(splits={"train": split, "test": split}, classes=("a", "b"))}
    with services_of(compressor=launcher) as services:
        points = analyse(MANIFEST, survey, services, store, data, 16, lambda _: None)
    return points, launcher.started[0].calls[0][1]


def test_every_layer_is_asked_about_on_training_images(store: BlobStore) -> None:
    (point,), request = analysed(store)
    assert (point.model, point.layer, point.accuracy, point.untouched_accuracy) == ("resnet", "conv1", 80.0, 95.0)
    assert list(request.bits) == list(BITS) and list(request.amounts) == pytest.approx(AMOUNTS) and request.images == 16
    assert store.array(request.training.images).shape == (40, 4, 4, 1)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [({"refused": "no such layer"}, "model resnet: no such layer"), ({"has_module": False}, "an ONNX file has no module"),
     ({"unavailable": "pip install timm"}, "pip install timm")],
)  # fmt: skip
def test_what_cannot_be_analysed_is_refused(store: BlobStore, facts: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        analysed(store, **facts)


def test_the_table_is_read_back_for_reports(tmp_path: Path) -> None:
    page = sensitivity.write(POINTS, sensitivity.folder_for(MANIFEST, tmp_path))
    assert page.parent.name.startswith("sensitivity-my-run-") and "layer sensitivity" in page.read_text()
    (figure,) = sensitivity.figures_of(tmp_path / "experiments", MANIFEST)
    assert [line["name"] for line in figure["data"]] == ["50%", "4 bits"] and figure["data"][0]["x"] == ["conv1", "fc"]
    page.with_suffix(".csv").write_text("Model\nm\n")
    with pytest.raises(InvalidInput, match="is damaged: .*remove it, or analyse again"):
        sensitivity.figures_of(tmp_path / "experiments", MANIFEST)
