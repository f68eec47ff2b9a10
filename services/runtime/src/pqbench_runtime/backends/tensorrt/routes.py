"""The routes of TensorRT: the form of artifact for each precision, by version and typing.

Weakly typed networks (up to 10) take FP32 tensors, opset 17, and builder flags that allow lower precisions. Strongly
typed ones (from 10 on) run every layer in the types that the ONNX specifies. The evidence is the bindings and the
release notes of each version, and ModelOpt's placement rules; no figure was measured by pqbench itself.
"""

from __future__ import annotations

from functools import partial

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime.backend import Route
from pqbench_runtime.tf32 import WIDE

FP32 = Precision.PRECISION_FP32
FP16, BF16 = Precision.PRECISION_FP16, Precision.PRECISION_BF16
INT8, FP8, INT4 = Precision.PRECISION_INT8, Precision.PRECISION_FP8, Precision.PRECISION_INT4
WEAK, STRONG = {"typing": "weak"}, {"typing": "strong"}
Version = tuple[int, int]
ALWAYS: Version = (99, 0)


def _route(when: dict[str, str], precision: Precision, form: Form, executes: tuple[Precision, ...], why: str) -> Route:
    """A route that demands a lower precision of at least one layer: a missing flag would leave all layers in FP32.

    Q/DQ nodes that a vendor tool placed (QDQ_TOOL) are not held to that.
    """
    demanded = precision != FP32 and form != Form.FORM_QDQ_TOOL
    return Route(precision=precision, form=form, executes=executes, evidence=why, when=when, demanded=demanded)


_weak, _strong = partial(_route, WEAK), partial(_route, STRONG)

# (first version that has the route, first later version that does not, route)
TABLE: tuple[tuple[Version, Version, Route], ...] = (
    ((8, 6), (11, 0), _weak(FP32, Form.FORM_ONNX_UNTYPED, WIDE, "no precision flag; 8.6 reads opsets up to 17")),
    ((10, 0), ALWAYS, _strong(FP32, Form.FORM_ONNX, WIDE, "FP32 tensors stay FP32, or TF32 where that is on")),
    ((8, 6), (11, 0), _weak(FP16, Form.FORM_ONNX_UNTYPED, (FP16, *WIDE), "the FP16 flag; TensorRT picks layers")),
    ((10, 0), ALWAYS, _strong(FP16, Form.FORM_ONNX, (FP16, *WIDE), "typed ONNX; layers kept in FP32 stay so")),
    ((10, 0), (11, 0), _weak(BF16, Form.FORM_ONNX_UNTYPED, (BF16, *WIDE), "the BF16 flag; 8.6 has none")),
    ((10, 0), ALWAYS, _strong(BF16, Form.FORM_ONNX, (BF16, *WIDE), "typed ONNX; 8.6 has no BF16")),
    (
        (8, 6), (11, 0),
        _weak(INT8, Form.FORM_QDQ_SIGNED, (INT8, FP16, *WIDE), "the INT8 and FP16 flags; without FP16 the rest of "
              "the network runs in FP32, a common cause of INT8 slower than FP16"),
    ),
    ((8, 6), (11, 0), _weak(INT8, Form.FORM_ONNX_UNTYPED, (INT8, FP16, *WIDE), "the builder's own calibrator")),
    (
        (10, 0), ALWAYS,
        _strong(INT8, Form.FORM_QDQ_TYPED, (INT8, FP16, *WIDE), "FP16 body; form A would leave the rest in FP32"),
    ),
    ((10, 0), ALWAYS, _strong(FP8, Form.FORM_QDQ_TYPED, (FP8, FP16, *WIDE), "Q/DQ, Ada and Hopper on")),
    ((10, 4), ALWAYS, _strong(INT4, Form.FORM_QDQ_TYPED, (INT4, FP16, *WIDE), "weights only, unpacked to FP16")),
    (
        (10, 0), (11, 0),
        _weak(INT8, Form.FORM_QDQ_TOOL, (INT8, FP16, *WIDE), "for comparing tools as they come; unsigned is refused"),
    ),
    (
        (11, 0), ALWAYS,
        _strong(INT8, Form.FORM_QDQ_TOOL, (INT8, FP16, *WIDE), "for comparing tools as they come; unsigned is refused"),
    ),
)  # fmt: skip


def routes_of(version: str) -> tuple[Route, ...]:
    """The routes of a TensorRT version such as "10.16.1.11"."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return tuple(route for first, end, route in TABLE if first <= (major, minor) < end)
