"""INT8 Q/DQ calibrated on training images (ONNX Runtime's static quantizer).

One calibration serves both forms: signed symmetric activations as TensorRT wants them, unsigned
asymmetric ones as the CPU kernels of ONNX Runtime and OpenVINO run fast. Weights are per-channel,
signed, symmetric; biases stay FP32.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.plugins import Context, Source

REQUIRES = ("onnx", "onnxruntime")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_SIGNED, Form.FORM_QDQ_UNSIGNED)
NEEDS_TRAINING = True
OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu"]
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to calibrate with."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512
    method: Annotated[Literal["min-max", "percentile"], Field(description="how ranges come from activations")] = (
        "percentile"
    )
    percentile: Annotated[float, Field(gt=50, le=100, description="percent of activations kept in range")] = 99.999


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, inputs: np.ndarray) -> None:
        self._batches = iter(
            [{name: inputs[i : i + BATCH]} for i in range(0, len(inputs) - BATCH + 1, BATCH)] or [{name: inputs}]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, float32 [n, C, H, W], or None at the end."""
        return next(self._batches, None)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    model = onnx.load_from_string(source.onnx())
    context.report("calibrate", 0, f"{config.images} training images")
    inputs = context.training.sample(config.images, context.seed)
    source.notes["calibration_images"] = len(inputs)
    ranges = _calibrate(model, inputs, config)
    context.report("calibrate", 1, "done")
    return {form: _place(model, ranges, signed=form == Form.FORM_QDQ_SIGNED) for form in forms}


def _calibrate(model: onnx.ModelProto, inputs: np.ndarray, config: Config) -> Any:
    methods = {"min-max": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    extra = {"percentile": config.percentile} if config.method == "percentile" else {}
    with tempfile.TemporaryDirectory() as folder:
        plain, augmented = Path(folder, "model.onnx"), Path(folder, "augmented.onnx")
        onnx.save(model, plain)
        calibrator = create_calibrator(
            plain, OPERATORS, str(augmented), calibrate_method=methods[config.method], extra_options=extra
        )
        calibrator.collect_data(_Reader(model.graph.input[0].name, inputs))
        return calibrator.compute_data()


def _place(model: onnx.ModelProto, ranges: Any, signed: bool) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if signed else QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=OPERATORS,
        extra_options={
            "ActivationSymmetric": signed,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": signed,  # FP32 weight -> Q -> DQ: TensorRT 8 rejects INT8 initializers
            "QuantizeBias": not signed,  # TensorRT rejects INT32 bias; ONNX Runtime fuses only with it
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model.SerializeToString(deterministic=True)
