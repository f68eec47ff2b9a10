"""The pipeline: user code, forms, ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pqbench.common.v1.common_pb2 import Form, Images, Precision, Preprocessing
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor import export
from pqbench_compressor.checks import Checker
from pqbench_compressor.loading import Loader
from pqbench_compressor.pipeline import Pipeline
from pqbench_compressor.plugins import Context
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, InvalidInput, Refused

from .examples import network, quiet


def test_user_code_needs_consent(store: BlobStore, digit_images: Images, tmp_path: Path) -> None:
    code = store.put(
        b"from torch import nn\ndef net(width=4):\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))\n"
    )
    preprocessing = Preprocessing(height=16, width=16, channels=1, mean=[0.5], std=[0.5])
    model = pb.Model(plugin="code", name="net", weights=pb.WEIGHTS_DEFAULT, code=code, preprocessing=preprocessing)
    request = pb.CompressRequest(model=model, forms=[Form.FORM_ONNX, Form.FORM_PT2], verification=digit_images)
    allowing = Pipeline(Loader(store=store, allow_code=True), tmp_path)
    with pytest.raises(Refused, match="--allow-code"):
        Pipeline(Loader(store=store, allow_code=False), tmp_path).compress(request, quiet)
    result = allowing.compress(request, quiet)
    assert result.statistics.parameters == 2570 and len(result.artifacts) == 2
    request.model.name = "nothing"
    with pytest.raises(InvalidInput, match="no class or function 'nothing'"):
        allowing.compress(request, quiet)


def test_a_form_that_fails_takes_no_other_with_it(
    store: BlobStore, tmp_path: Path, digit_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = store.put(b"from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))\n")
    preprocessing = Preprocessing(height=16, width=16, channels=1, mean=[0.5], std=[0.5])
    model = pb.Model(plugin="code", name="net", weights=pb.WEIGHTS_DEFAULT, code=code, preprocessing=preprocessing)
    request = pb.CompressRequest(model=model, forms=[Form.FORM_ONNX, Form.FORM_PT2], verification=digit_images)

    def broken(*_: object) -> bytes:
        raise Failed("torch.export: no")

    monkeypatch.setattr(export, "to_pt2", broken)
    pipeline = Pipeline(Loader(store=store, allow_code=True), tmp_path)
    result = pipeline.compress(request, quiet)
    assert [artifact.form for artifact in result.artifacts] == [Form.FORM_ONNX]
    assert [(f.form, f.reason, f.message) for f in result.failures] == [(Form.FORM_PT2, "FAILED", "torch.export: no")]
    del request.forms[0]
    with pytest.raises(Failed, match=r"torch\.export: no"):
        pipeline.compress(request, quiet)


def test_an_onnx_file_can_be_quantized_but_not_pruned(
    pipeline: Pipeline,
    checker: Checker,
    store: BlobStore,
    digit_images: Images,
    context: Context,
    digits_preprocessing: Preprocessing,
) -> None:
    code = store.put(export.to_onnx(network(), context.example))
    model = pb.Model(plugin="onnx", name="x.onnx", code=code, preprocessing=digits_preprocessing)
    steps = [pb.Step(kind="quantize", plugin="int8-static", config_json='{"images": 32}')]
    result = pipeline.compress(
        pb.CompressRequest(
            model=model, steps=steps, forms=[Form.FORM_QDQ_UNSIGNED], training=digit_images, verification=digit_images
        ),
        quiet,
    )
    assert result.artifacts[0].precision == Precision.PRECISION_INT8
    assert not result.statistics.HasField("macs")
    assert "pruned" in checker.check(pb.CheckRequest(model=model, steps=[pb.Step(kind="prune", plugin="removal",
        config_json='{"amount": 0.5}')])).refused  # fmt: skip


def test_a_file_that_is_quantized_already_is_measured_as_it_is_and_not_quantized_again(
    pipeline: Pipeline, checker: Checker, store: BlobStore, shared_cases: Path
) -> None:
    given = (shared_cases / "onnx/already-quantized.onnx").read_bytes()
    preprocessing = Preprocessing(height=32, width=32, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    model = pb.Model(plugin="onnx", name="q.onnx", code=store.put(given), preprocessing=preprocessing)
    for method in ("int8-static", "fp16"):
        steps = [pb.Step(kind="quantize", plugin=method)]
        refused = checker.check(pb.CheckRequest(model=model, steps=steps)).refused
        assert refused == "this file is already quantized (DequantizeLinear nodes): give an FP32 one"
    answer = checker.check(pb.CheckRequest(model=model))
    assert (answer.refused, answer.precision, answer.classes) == ("", Precision.PRECISION_INT8, 10)
    assert list(answer.forms) == [Form.FORM_QDQ_TOOL]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    images = Images(images=store.put_array(pixels), labels=store.put_array(np.zeros(4, np.int64)))
    result = pipeline.compress(pb.CompressRequest(model=model, forms=answer.forms, verification=images), quiet)
    (made,) = result.artifacts
    assert (made.form, made.precision) == (Form.FORM_QDQ_TOOL, Precision.PRECISION_INT8)
    assert onnx.load_from_string(store.read(made.blob)).graph == onnx.load_from_string(given).graph
    assert result.verifications[0].sqnr_db == 200
