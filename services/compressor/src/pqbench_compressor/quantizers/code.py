"""A user's own quantizer: `method: path/to/file.py:Class`, whose `quantize(model, context)` returns ONNX with Q/DQ.

`model` and the result are ONNX bytes. Other keys of the step are the class's arguments. `context` is
`pqbench_compressor.plugins.Context`. The class's attribute FORM, "QDQ_UNSIGNED" (the default) or "QDQ_SIGNED", names
the form of the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_wire.errors import InvalidInput, Refused
from pqbench_wire.shared import own_code

REQUIRES = ("torch",)
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_UNSIGNED, Form.FORM_QDQ_SIGNED)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which class to run, and its arguments."""

    name: Annotated[str, Field(description="of the class in the file")] = ""
    arguments: Annotated[dict[str, Any], Field(description="keyword arguments of the class")] = field(
        default_factory=dict
    )
    loaded: Annotated[Any, Field(description="filled in by the service", exclude=True)] = None


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    own = Form.Value(f"FORM_{getattr(config.loaded, 'FORM', 'QDQ_UNSIGNED')}")
    if other := [form for form in forms if form != own]:
        raise Refused(f"{config.name} produces {Form.Name(own)}, but a target needs {Form.Name(other[0])}")
    quantizer = own_code.called(config.name, config.loaded, **config.arguments)
    result = own_code.called(config.name, quantizer.quantize, source.onnx(), context)
    if not isinstance(result, bytes):
        raise InvalidInput(f"{config.name}.quantize must return the ONNX model's bytes, not {type(result).__name__}")
    return dict.fromkeys(forms, result)
