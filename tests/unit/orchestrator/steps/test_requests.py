"""What steps ask of services, and what they make of the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image

from pqbench.common.v1.common_pb2 import Artifact, Blob, Form, Images, Precision, Preprocessing
from pqbench.compressor.v1.compressor_pb2 import CompressResult
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench_orchestrator.dataset import Data, Split
from pqbench_orchestrator.steps.build import Build
from pqbench_orchestrator.steps.compress import Compress
from pqbench_orchestrator.steps.measure import Measure, measuring_silence
from pqbench_orchestrator.steps.predict import Predict, StopEarly
from pqbench_orchestrator.steps.prepare import Prepare
from pqbench_orchestrator.steps.profile import Profile
from pqbench_orchestrator.steps.step import Json, Spec, blobs_of, digest, key_of
from pqbench_orchestrator.steps.try_artifact import TryArtifact
from pqbench_orchestrator.steps.verify import Verify
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, Refused

from .work import step_of, stored, work

PREPROCESSING: Json = {"height": 4, "width": 4, "channels": 1, "mean": [0.0], "std": [1.0]}
ENGINE: Json = {"engine": {"backend": "b", "batchSize": 2}}


def blob(letter: str) -> Json:
    return {"sha256": letter * 64, "size": "1"}


class Service:
    """Remembers what it was asked, and answers."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), list[tuple[str, Any, float]]()

    def __call__(self, step: Any, stub: Any, method: str, request: Any, silence: float = 0.0) -> Any:
        copy = type(request)()
        copy.CopyFrom(request)
        self.asked.append((method, copy, silence))
        return self.answers.pop(0)


def compressed(*artifacts: Artifact, **more: Any) -> Json:
    return json_format.MessageToDict(CompressResult(artifacts=artifacts, **more))


ONNX = Artifact(form=Form.FORM_ONNX, blob=Blob(sha256="a" * 64, size=1), precision=Precision.PRECISION_FP32)


def test_images_are_prepared_once_with_the_models_preprocessing(store: BlobStore) -> None:
    split = Split(open=lambda i: Image.new("L", (8, 8), i * 20), labels=np.arange(6) % 2, fingerprint="x")
    data = Data(splits={"test": split}, classes=("a", "b"))
    told: list[float] = []
    working = work(store, datasets={"d": data}, progress=lambda step, stage, fraction: told.append(fraction))
    spec = Prepare(dataset="d", fingerprint="x", split="test", limit=None, seed=0, preprocessing=PREPROCESSING)
    images = json_format.ParseDict(spec.run(working, step_of(spec), {}), Images())
    assert store.array(images.images).shape == (6, 4, 4, 1) and told[-1] == 1.0
    assert store.array(images.labels).tolist() == [0, 1, 0, 1, 0, 1]


def test_compress_sends_what_the_steps_need(store: BlobStore) -> None:
    service = Service(CompressResult())
    model = {"plugin": "digits", "name": "resnet"}
    steps = ({"kind": "prune", "plugin": "l1-global"},)
    spec = Compress(model=model, steps=steps, forms=("FORM_ONNX",), seed=7)
    images = json_format.MessageToDict(Images(images=Blob(sha256="b" * 64, size=2)))
    needs = {"verification": images, "training": images, "checkpoint": {"checkpoint": blob("c")}}
    assert spec.run(work(store, call=service), step_of(spec), needs) == {}
    method, request, _ = service.asked[0]
    assert method == "Compress" and request.seed == 7 and request.model.name == "resnet"
    assert request.checkpoint.sha256 == "c" * 64 and request.HasField("training") and not request.HasField("baseline")
    assert [one.plugin for one in request.steps] == ["l1-global"] and list(request.forms) == [Form.FORM_ONNX]


def test_an_engine_is_built_from_the_artifact_in_its_form(store: BlobStore) -> None:
    service = Service(pb.BuildEngineResult(build_seconds=1.5))
    spec = Build(backend="x", options="{}", form="FORM_ONNX", batch_size=4, preprocessing=PREPROCESSING, replicate=2)
    other = Artifact(form=Form.FORM_PT2, blob=Blob(sha256="d" * 64, size=1))
    result = spec.run(work(store, call=service), step_of(spec), {"variant": compressed(other, ONNX)})
    assert result["buildSeconds"] == 1.5
    request = service.asked[0][1]
    assert request.artifact.blob.sha256 == "a" * 64 and (request.batch_size, request.replicate) == (4, 2)


def test_a_form_that_could_not_be_made_fails_the_build_with_its_reason(store: BlobStore) -> None:
    spec = Build(backend="x", options="{}", form="FORM_ONNX", batch_size=1, preprocessing=PREPROCESSING)
    variant = CompressResult()
    variant.failures.add(form=Form.FORM_ONNX, reason="REFUSED", message="no such operator")
    with pytest.raises(Refused, match="no such operator"):
        spec.run(work(store), step_of(spec), {"variant": json_format.MessageToDict(variant)})
    with pytest.raises(Failed, match="the compressor made no FORM_ONNX"):
        spec.run(work(store), step_of(spec), {"variant": compressed()})


def test_an_artifact_is_held_to_what_its_engine_reached(store: BlobStore) -> None:
    service = Service(pb.TryArtifactResult())
    spec = TryArtifact(backend="x", form="FORM_ONNX", batch_sizes=(1, 3), preprocessing=PREPROCESSING)
    variant = compressed(ONNX, reference=Blob(sha256="e" * 64, size=1))
    needs = {"variant": variant, "inputs": {}, "fidelity": {"sqnr_db": 50.0}}
    spec.run(work(store, call=service), step_of(spec), needs)
    request = service.asked[0][1]
    assert list(request.batch_sizes) == [1, 3] and 0 < request.least_db < 50 and request.reference.sha256 == "e" * 64


def test_a_measurement_is_interleaved_with_its_baseline_and_named_for_itself(store: BlobStore) -> None:
    service = Service(pb.MeasureResult(), pb.MeasureResult())
    settings = {"warmup_seconds": 1.0, "max_seconds": 10.0, "energy_seconds": 4.0, "concurrency": 1}
    spec = Measure(target="t", settings=settings, run_name="run", repeat=3)
    needs = {"build": ENGINE, "inputs": {}, "baseline": ENGINE}
    spec.run(work(store, call=service), step_of(spec), needs)
    spec.run(work(store, call=service), step_of(spec), {"build": ENGINE, "inputs": {}})
    (method, paired, silence), (_, alone, _) = service.asked
    assert method == "Measure" and len(paired.engines) == 2 and len(alone.engines) == 1
    assert paired.run == "run k" and paired.repeat == 3 and silence == measuring_silence(paired) == 30.0


def test_a_profile_is_of_the_engine_and_its_run(store: BlobStore) -> None:
    service = Service(pb.ProfileResult(tool="x"))
    spec = Profile(target="t", seconds=0.5, run_name="run")
    assert spec.run(work(store, call=service), step_of(spec), {"build": ENGINE, "inputs": {}}) == {"tool": "x"}
    assert service.asked[0][1].seconds == 0.5 and service.asked[0][1].run == "run k"


def needs_of_prediction(store: BlobStore, labels: np.ndarray, baseline: np.ndarray) -> dict[str, Json]:
    return {
        "build": ENGINE,
        "inputs": {"labels": stored(store, labels)},
        "baseline": {"outputs": stored(store, baseline)},
    }


@pytest.mark.parametrize("right", [True, False])
def test_scoring_stops_where_it_is_hopeless_and_not_where_it_is_not(store: BlobStore, right: bool) -> None:
    labels = np.arange(1000) % 4
    perfect = np.eye(4, dtype=np.float32)[labels]
    outputs = perfect if right else np.roll(perfect, 1, axis=1)
    parts: list[Any] = []

    def call(step: Any, stub: Any, method: str, request: Any, silence: float = 0.0) -> Any:
        part = outputs[request.first :: request.stride]
        parts.append(len(part))
        return pb.PredictResult(outputs=store.put_array(part), seconds=0.5)

    data = Data(splits={}, classes=tuple("abcd"))
    spec = Predict(stop_early=StopEarly(dataset="d", max_drop=1.0, margin=5.0))
    needs = needs_of_prediction(store, labels, perfect)
    found = spec.run(work(store, call=call, datasets={"d": data}), step_of(spec), needs)
    if right:
        assert "stopped" not in found and sum(parts) == 1000
        np.testing.assert_array_equal(store.array_of(found["outputs"]), outputs)
    else:
        assert len(parts) == 1 and found["stopped"] == f"accuracy too low after {parts[0]} of 1000 images: 0.0 %"
        indices = store.array_of(found["indices"])
        np.testing.assert_array_equal(store.array_of(found["outputs"]), outputs[indices])


def test_a_prediction_without_limits_is_one_call(store: BlobStore) -> None:
    service = Service(pb.PredictResult(seconds=2.0))
    assert Predict().run(work(store, call=service), step_of(Predict()), {"build": ENGINE, "inputs": {}})["seconds"] == 2
    assert service.asked[0][0] == "Predict" and service.asked[0][1].stride == 0


def test_a_prediction_of_another_shape_is_no_small_difference(store: BlobStore) -> None:
    spec = Verify(is_baseline=False)
    outputs = store.put_array(np.zeros((4, 3)))
    needs = {"build": ENGINE, "inputs": {}, "variant": {"reference": stored(store, np.zeros((4, 10)))}}
    with pytest.raises(Failed, match=r"outputs \[4, 3\], the model's own are \[4, 10\]"):
        spec.run(work(store, call=Service(pb.PredictResult(outputs=outputs))), step_of(spec), needs)


SPECS: list[tuple[Spec, Spec, bool]] = [
    (Prepare(dataset="a", fingerprint="x", split="test", limit=None, seed=0, preprocessing=PREPROCESSING),
     Prepare(dataset="b", fingerprint="x", split="test", limit=None, seed=0, preprocessing=PREPROCESSING), True),
    (Prepare(dataset="a", fingerprint="x", split="test", limit=None, seed=0, preprocessing=PREPROCESSING),
     Prepare(dataset="a", fingerprint="y", split="test", limit=None, seed=0, preprocessing=PREPROCESSING), False),
    (Build(backend="x", options="{}", form="f", batch_size=1, preprocessing={}),
     Build(backend="x", options="{}", form="f", batch_size=1, preprocessing={}, replicate=1), False),
    (Measure(target="a", settings={}, run_name="r", repeat=0), Measure(target="b", settings={}, run_name="r", repeat=0),
     False),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "same"), SPECS)
def test_equal_keys_are_one_step(one: Spec, other: Spec, same: bool) -> None:
    """A dataset's label decides nothing; its content, a replicate and the target of a measurement do."""
    assert (key_of(one, {}, {}) == key_of(other, {}, {})) == same
    assert key_of(one, {}, {"tool": "1"}) != key_of(one, {}, {"tool": "2"}) and key_of(one, {"a": "k"}, {}) != key_of(
        one, {}, {}
    )


def test_every_blob_of_a_result_is_found_however_deep() -> None:
    result = {"a": blob("a"), "b": [{"c": blob("b")}, 3], "d": "text"}
    assert [one.sha256[0] for one in blobs_of(result)] == ["a", "b"] and blobs_of(None) == []
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})


def test_preprocessing_survives_json() -> None:
    message = json_format.ParseDict(PREPROCESSING, Preprocessing())
    assert (message.height, list(message.std)) == (4, [1.0])
