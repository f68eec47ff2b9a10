"""pqbench's own post-training INT8 quantizer: ranges from training images, Q/DQ nodes placed for the target.

One calibration serves all forms: signed symmetric Q/DQ for TensorRT (A, and B with an FP16 body), and unsigned
asymmetric Q/DQ for the CPU kernels of ONNX Runtime and OpenVINO (U, with weights of 7 bits where the CPU's
products saturate). Weights are signed and symmetric, with one scale per output channel. The method follows
Nagel et al., arXiv 2106.08295: range estimation, SmoothQuant (arXiv 2211.10438) after layer normalisations,
cross-layer equalization on request and bias correction (both arXiv 1906.04721), and, with `max_drop`, as few layers in
FP32 as that bound requires. The rules of placement are in `_signed` and `_unsigned`.
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
from pqbench_compressor.quantizers import _calibration, _equalization, _half, _ranges, _signed, _smoothing, _unsigned
from pqbench_compressor.quantizers._heldout import FEW, HeldOut, fewest
from pqbench_wire.errors import Refused
from pqbench_wire.shared.inputs import Feed

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
    equalization: Annotated[
        Literal["none", "cross-layer", "auto"],
        Field(description="of the weights of neighbouring convolutions; auto: if it helps on held-out training images"),
    ] = "none"
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
    source.notes |= Graph(model).notes()
    makers = [_calibrated(one, inputs, config, context) for one in _equalized(model, config, source)]
    maker = makers[0]
    source.notes |= {"calibration_images": len(inputs), "calibration_batch": maker.calibration.batch}
    if len(makers) > 1 or config.ranges == "auto" or config.max_drop is not None:
        held_out = HeldOut(source.onnx(), context, config.held_out)
        source.notes["judged_on"] = context.training.judged_on(config.held_out, context.seed)
        if len(makers) > 1:
            maker = max(makers, key=lambda one: _worst(one, held_out, forms, keep))
            source.notes["equalization"] = "none" if maker is makers[0] else "cross-layer"
        if config.ranges == "auto":
            source.notes["ranges"] = maker.method = _best_method(maker, held_out, forms, keep)
        if config.max_drop is not None:
            source.notes["kept_fp32"] = keep = [*keep, *_kept_for_accuracy(maker, held_out, forms, keep, context)]
    return {form: maker.make(form, keep) for form in forms}


def _equalized(model: bytes, config: Config, source: Source) -> list[bytes]:
    """The model as it is or equalized, or both, if held-out images are to decide. Raises Refused for nothing to do."""
    if config.equalization == "none":
        return [model]
    equalized, count = _equalization.equalize(model)
    source.notes["equalized"] = count
    if config.equalization == "auto":
        return [model, equalized] if count else [model]
    if not count:
        raise Refused("nothing to equalize: no convolutions are joined by ReLU, pooling and additions alone")
    return [equalized]


def _calibrated(model: bytes, inputs: Feed, config: Config, context: Context) -> _Maker:
    calibration = _calibration.collect(model, _ranges.watched(Graph(model)), inputs, context.report)
    return _Maker(model, calibration, config)


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


def _worst(maker: _Maker, held_out: HeldOut, forms: tuple[Form, ...], keep: list[str]) -> float:
    """The signal-to-noise ratio of the worst form on held-out images, in dB."""
    return min(held_out.sqnr(maker.make(form, keep)) for form in forms)


def _best_method(maker: _Maker, held_out: HeldOut, forms: tuple[Form, ...], keep: list[str]) -> _calibration.Method:
    """The range method whose worst form has the highest signal-to-noise ratio on held-out images."""

    def score(method: _calibration.Method) -> float:
        maker.method = method
        return _worst(maker, held_out, forms, keep)

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
