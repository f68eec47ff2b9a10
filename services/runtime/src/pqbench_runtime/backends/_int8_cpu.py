"""The INT8 routes that CPU backends share."""

from __future__ import annotations

from dataclasses import replace

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime.backend import Route
from pqbench_runtime.host import int8_saturates


def int8_routes(evidence: str) -> tuple[Route, ...]:
    """The routes of INT8, the best for this CPU first. `evidence`: why unsigned activations."""
    unsigned = Route(
        precision=Precision.PRECISION_INT8,
        form=Form.FORM_QDQ_UNSIGNED,
        executes=(Precision.PRECISION_INT8, Precision.PRECISION_FP32),
        demanded=True,
        evidence=evidence,
    )
    seven = replace(
        unsigned,
        form=Form.FORM_QDQ_UNSIGNED_7,
        evidence="this CPU's INT8 products saturate: 16 dB on ResNet-20 with weights of 8 bits, 28 dB with 7, as fast",
    )
    tool = replace(
        unsigned,
        form=Form.FORM_QDQ_TOOL,
        demanded=False,
        evidence="for comparing tools as they come: 0.3-3x FP32's speed, by the tool's placement",
    )
    return (seven, unsigned, tool) if int8_saturates() else (unsigned, tool)
