from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_FP32: _ClassVar[Precision]
    PRECISION_FP16: _ClassVar[Precision]
    PRECISION_BF16: _ClassVar[Precision]
    PRECISION_INT8: _ClassVar[Precision]
    PRECISION_INT8_DYNAMIC: _ClassVar[Precision]
    PRECISION_FP8: _ClassVar[Precision]
    PRECISION_INT4: _ClassVar[Precision]
    PRECISION_SIMULATED: _ClassVar[Precision]
    PRECISION_TF32: _ClassVar[Precision]

class Form(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORM_UNSPECIFIED: _ClassVar[Form]
    FORM_ONNX: _ClassVar[Form]
    FORM_QDQ_SIGNED: _ClassVar[Form]
    FORM_QDQ_UNSIGNED: _ClassVar[Form]
    FORM_QDQ_TYPED: _ClassVar[Form]
    FORM_PT2: _ClassVar[Form]
    FORM_DYNAMIC: _ClassVar[Form]
    FORM_QDQ_TOOL: _ClassVar[Form]
    FORM_ONNX_UNTYPED: _ClassVar[Form]
    FORM_QDQ_UNSIGNED_7: _ClassVar[Form]
PRECISION_UNSPECIFIED: Precision
PRECISION_FP32: Precision
PRECISION_FP16: Precision
PRECISION_BF16: Precision
PRECISION_INT8: Precision
PRECISION_INT8_DYNAMIC: Precision
PRECISION_FP8: Precision
PRECISION_INT4: Precision
PRECISION_SIMULATED: Precision
PRECISION_TF32: Precision
FORM_UNSPECIFIED: Form
FORM_ONNX: Form
FORM_QDQ_SIGNED: Form
FORM_QDQ_UNSIGNED: Form
FORM_QDQ_TYPED: Form
FORM_PT2: Form
FORM_DYNAMIC: Form
FORM_QDQ_TOOL: Form
FORM_ONNX_UNTYPED: Form
FORM_QDQ_UNSIGNED_7: Form

class Blob(_message.Message):
    __slots__ = ("sha256", "size")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size: int
    def __init__(self, sha256: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Input(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("height", "width", "channels", "resize", "interpolation", "mean", "std", "inputs")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    channels: int
    resize: int
    interpolation: str
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    inputs: _containers.RepeatedCompositeFieldContainer[Input]
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ..., resize: _Optional[int] = ..., interpolation: _Optional[str] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., inputs: _Optional[_Iterable[_Union[Input, _Mapping]]] = ...) -> None: ...

class Images(_message.Message):
    __slots__ = ("images", "labels", "outputs", "arrays")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    images: Blob
    labels: Blob
    outputs: _containers.RepeatedScalarFieldContainer[int]
    arrays: _containers.RepeatedCompositeFieldContainer[Blob]
    def __init__(self, images: _Optional[_Union[Blob, _Mapping]] = ..., labels: _Optional[_Union[Blob, _Mapping]] = ..., outputs: _Optional[_Iterable[int]] = ..., arrays: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("blob", "form", "precision", "calibration")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    blob: Blob
    form: Form
    precision: Precision
    calibration: Images
    def __init__(self, blob: _Optional[_Union[Blob, _Mapping]] = ..., form: _Optional[_Union[Form, str]] = ..., precision: _Optional[_Union[Precision, str]] = ..., calibration: _Optional[_Union[Images, _Mapping]] = ...) -> None: ...

class Plugin(_message.Message):
    __slots__ = ("kind", "name", "summary", "available", "unavailable_reason", "config_schema_json", "names")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    CONFIG_SCHEMA_JSON_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    summary: str
    available: bool
    unavailable_reason: str
    config_schema_json: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., summary: _Optional[str] = ..., available: _Optional[bool] = ..., unavailable_reason: _Optional[str] = ..., config_schema_json: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("stage", "fraction", "message")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    stage: str
    fraction: float
    message: str
    def __init__(self, stage: _Optional[str] = ..., fraction: _Optional[float] = ..., message: _Optional[str] = ...) -> None: ...

class Log(_message.Message):
    __slots__ = ("level", "message")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    level: str
    message: str
    def __init__(self, level: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerError(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
