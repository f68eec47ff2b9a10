"""INT4 weights of matrix products, in blocks with one scale each; activations stay floating point.

Blocks run along the inputs. Rounding is symmetric and to the nearest value (the baseline "RTN" of
Frantar et al., arXiv 2210.17323).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.graph import Graph
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers import _placement

REQUIRES = ("onnx", "onnxruntime")
PRECISION = Precision.PRECISION_INT4
FORMS = (Form.FORM_QDQ_SIGNED, Form.FORM_QDQ_TYPED)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The size of the blocks."""

    block: Annotated[int, Field(ge=16, le=256, multiple_of=16, description="weights that share a scale")] = 32


def needs(config: Config) -> Needs:
    return Needs()


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    source.notes |= Graph(source.onnx()).notes()
    model = _placement.weight_only_int4(source.onnx(), config.block)
    return {form: _placement.typed(model) if form == Form.FORM_QDQ_TYPED else model for form in forms}
