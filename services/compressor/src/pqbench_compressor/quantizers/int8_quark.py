"""AMD Quark's post-training quantization with its defaults (quark.onnx, configuration A8W8).

Its pins differ from pqbench's: it runs in an environment of its own (make setup-tools).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import onnx
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers._batches import Reader, whole_batches
from pqbench_compressor.quantizers._tools import asking

REQUIRES = ("onnx", "onnxruntime", "quark")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_TOOL,)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The tool's options with its own defaults; the number of images is pqbench's default."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512
    adaround: Annotated[bool, Field(description="the tool's learned rounding of weights, which takes long")] = False


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    inputs = context.training.sample(config.images, context.seed)
    context.report("calibrate", 0, f"{len(inputs)} images")
    graph = source.onnx()
    # The tool leaves quantized_info.csv in the working directory.
    with asking("Quark"), _silence(), tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        from quark.onnx import A8W8_ADAROUND_QCONFIG, A8W8_QCONFIG, ModelQuantizer

        before, after = Path(folder, "model.onnx"), Path(folder, "quantized.onnx")
        before.write_bytes(graph)
        feeds, used = whole_batches(onnx.load(before), inputs)
        quantizer = ModelQuantizer(A8W8_ADAROUND_QCONFIG if config.adaround else A8W8_QCONFIG)
        quantizer.quantize_model(str(before), str(after), Reader(feeds))
        model = onnx.load(after)
    _drop_unused_domains(model)
    source.notes["calibration_images"] = used
    return dict.fromkeys(forms, model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard the tables and progress that the tool prints."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """Remove the operator sets of which no node is: other runtimes do not know the tool's own."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
