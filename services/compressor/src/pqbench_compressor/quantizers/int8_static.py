"""pqbench's own post-training INT8 quantizer: ranges from training images, Q/DQ nodes placed for the target.

One calibration serves all forms: signed symmetric Q/DQ for TensorRT (A, and B with an FP16 body), and unsigned
asymmetric Q/DQ for the CPU kernels of ONNX Runtime and OpenVINO (U, with weights of 7 bits where the CPU's
products saturate). Weights are signed and symmetric, with one scale per output channel. The method follows
Nagel et al., arXiv 2106.08295: range estimation, SmoothQuant (arXiv 2211.10438) after layer normalisations,
bias correction (arXiv 1906.04721), and, with `max_drop`, as few layers in FP32 as that bound requires. The
rules of placement are in `_signed` and `_unsigned`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.graph import Graph
from pqbench_compressor.opset import lowered
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers import _calibration, _half, _ranges, _signed, _smoothing, _unsigned
from pqbench_compressor.quantizers._heldout import FEW, HeldOut, fewest
from pqbench_wire.errors import Refused

REQUIRES = ("torch", "onnx", "onnxruntime")
PRECISION = Precision.PRECISION_INT8
UNSIGNED = (Form.FORM_QDQ_UNSIGNED, Form.FORM_QDQ_UNSIGNED_7)
FORMS = (Form.FORM_QDQ_SIGNED, *UNSIGNED, Form.FORM_QDQ_TYPED)
METHODS: tuple[_calibration.Method, ...] = ("min-max", "percentile", "entropy", "mse")


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to calibrate, and which layers stay FP32 for accuracy."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512
    ranges: Annotated[
        Literal["min-max", "percentile", "entropy", "mse", "auto"],
        Field(description="how ranges come from activations; auto: the best of them on held-out training images"),
    ] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100, description="percent of activations kept in range")] = 99.999
    smooth: Annotated[
        float, Field(ge=0, le=1, description="SmoothQuant's strength after layer normalisations; 0: off")
    ] = 0.5
    bias_correction: Annotated[bool, Field(description="correct biases for the mean error of rounded weights")] = True
    max_drop: Annotated[
        float | None, Field(ge=0, le=100, description="percentage points that may be lost on held-out images")
    ] = None
    held_out: Annotated[int, Field(ge=16, description="training images on which choices are made")] = 512
    keep: Annotated[tuple[str, ...], Field(description="nodes that stay FP32, by name or pattern")] = ()


def needs(config: Config) -> Needs:
    return Needs(training=True, labels=config.max_drop is not None)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    model = source.onnx()
    inputs = context.training.sample(config.images, context.seed)
    keep = Graph(model).matching(config.keep)
    if config.smooth and (pairs := _smoothing.smoothable(model)):
        model = _smoothing.smooth(model, _calibration.collect(model, pairs, inputs, context.report), config.smooth)
        source.notes["smoothed"] = len(pairs)
    calibration = _calibration.collect(model, _ranges.watched(Graph(model)), inputs, context.report)
    source.notes |= {"calibration_images": len(inputs), "calibration_batch": calibration.batch}
    source.notes |= Graph(model).notes()
    maker = _Maker(model, calibration, config)
    if config.ranges == "auto":
        maker.method = _best_method(maker, HeldOut(source.onnx(), context, config.held_out), forms, keep)
        source.notes |= {"ranges": maker.method, "judged_on": context.training.judged_on(config.held_out, context.seed)}
    if config.max_drop is not None:
        more = _kept_for_accuracy(maker, HeldOut(source.onnx(), context, config.held_out), forms, keep, context)
        source.notes["kept_fp32"] = keep = [*keep, *more]
        source.notes["judged_on"] = context.training.judged_on(config.held_out, context.seed)
    return {form: maker.make(form, keep) for form in forms}


@dataclass
class _Maker:
    """Makes the artifacts of all forms from one model and one calibration."""

    model: bytes
    calibration: _calibration.Calibration
    config: Config

    def __post_init__(self) -> None:
        self.method: _calibration.Method = "percentile" if self.config.ranges == "auto" else self.config.ranges

    def layers(self, form: Form) -> list[str]:
        """Names of the nodes that a form quantizes."""
        graph = Graph(self.model)
        nodes = graph.compute_nodes() if form in UNSIGNED else _signed.worthwhile(graph)
        return [node.name for node in nodes]

    def possible(self, forms: tuple[Form, ...], keep: list[str]) -> list[bytes]:
        """The artifacts of those forms that still quantize a layer."""
        return [self.make(form, keep) for form in forms if set(self.layers(form)) - set(keep)]

    def make(self, form: Form, keep: Iterable[str]) -> bytes:
        """The artifact of a form, with the nodes named in `keep` in FP32. Raises Refused if no other node is left."""
        keep = list(keep)
        names = set(self.layers(form)) - set(keep)
        if not names:
            raise Refused(f"nothing to quantize: every layer is kept, or has under {_signed.SMALL} channels")
        model = self.model
        if self.config.bias_correction:
            largest = _unsigned.SEVEN_BITS_MAX if form == Form.FORM_QDQ_UNSIGNED_7 else _signed.INT8_MAX
            model = _smoothing.correct_biases(model, self.calibration, names, largest)
        ranges = {
            name: self.calibration.range(name, self.method, self.config.percentile)
            for name in self.calibration.activations
        }
        if form in UNSIGNED:
            return _unsigned.unsigned(model, ranges, keep, seven_bits=form == Form.FORM_QDQ_UNSIGNED_7)
        placed = _signed.signed(model, ranges, keep)
        return _half.typed(placed) if form == Form.FORM_QDQ_TYPED else lowered(placed)


def _best_method(maker: _Maker, held_out: HeldOut, forms: tuple[Form, ...], keep: list[str]) -> _calibration.Method:
    """The range method whose worst form has the highest signal-to-noise ratio on held-out images."""

    def score(method: _calibration.Method) -> float:
        maker.method = method
        return min(held_out.sqnr(maker.make(form, keep)) for form in forms)

    return METHODS[int(np.argmax([score(method) for method in METHODS]))]


def _kept_for_accuracy(
    maker: _Maker, held_out: HeldOut, forms: tuple[Form, ...], keep: list[str], context: Context
) -> list[str]:
    """More layers to keep, so that every form stays within `max_drop`; the form with the most layers ranks them."""
    ranking = max(forms, key=lambda form: len(maker.layers(form)))
    layers = [name for name in maker.layers(ranking) if name not in keep]
    assert maker.config.max_drop is not None
    return fewest(
        layers,
        lambda kept: max(held_out.drop(made) for made in maker.possible(forms, [*keep, *kept])),
        lambda kept: held_out.sqnr(maker.make(ranking, [*keep, *kept]), FEW),
        maker.config.max_drop,
        context,
    )
