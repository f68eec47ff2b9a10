from pqbench.common.v1 import common_pb2 as _common_pb2
from pqbench.runtime.v1 import runtime_pb2 as _runtime_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerRequest(_message.Message):
    __slots__ = ("build", "measure", "predict", "infer", "profile", "cross_check", "trial")
    BUILD_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    INFER_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CROSS_CHECK_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    build: _runtime_pb2.BuildEngineRequest
    measure: _runtime_pb2.MeasureRequest
    predict: _runtime_pb2.PredictRequest
    infer: InferRequest
    profile: _runtime_pb2.ProfileRequest
    cross_check: _runtime_pb2.CrossCheckRequest
    trial: TrialRequest
    def __init__(self, build: _Optional[_Union[_runtime_pb2.BuildEngineRequest, _Mapping]] = ..., measure: _Optional[_Union[_runtime_pb2.MeasureRequest, _Mapping]] = ..., predict: _Optional[_Union[_runtime_pb2.PredictRequest, _Mapping]] = ..., infer: _Optional[_Union[InferRequest, _Mapping]] = ..., profile: _Optional[_Union[_runtime_pb2.ProfileRequest, _Mapping]] = ..., cross_check: _Optional[_Union[_runtime_pb2.CrossCheckRequest, _Mapping]] = ..., trial: _Optional[_Union[TrialRequest, _Mapping]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "offset", "region")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    offset: int
    region: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., offset: _Optional[int] = ..., region: _Optional[str] = ...) -> None: ...

class InferRequest(_message.Message):
    __slots__ = ("engine", "inputs", "outputs")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    engine: _runtime_pb2.Engine
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, engine: _Optional[_Union[_runtime_pb2.Engine, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class InferResult(_message.Message):
    __slots__ = ("inputs", "outputs", "input_ns", "infer_ns", "output_ns")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_NS_FIELD_NUMBER: _ClassVar[int]
    INFER_NS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    input_ns: int
    infer_ns: int
    output_ns: int
    def __init__(self, inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., input_ns: _Optional[int] = ..., infer_ns: _Optional[int] = ..., output_ns: _Optional[int] = ...) -> None: ...

class TrialRequest(_message.Message):
    __slots__ = ("request", "way")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    request: _runtime_pb2.TryArtifactRequest
    way: str
    def __init__(self, request: _Optional[_Union[_runtime_pb2.TryArtifactRequest, _Mapping]] = ..., way: _Optional[str] = ...) -> None: ...

class WorkerReply(_message.Message):
    __slots__ = ("progress", "log", "build", "measure", "predict", "error", "infer", "profile", "cross_check", "trial")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    INFER_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CROSS_CHECK_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    build: _runtime_pb2.BuildEngineResult
    measure: _runtime_pb2.MeasureResult
    predict: _runtime_pb2.PredictResult
    error: _common_pb2.WorkerError
    infer: InferResult
    profile: _runtime_pb2.ProfileResult
    cross_check: _runtime_pb2.CrossCheckResult
    trial: _runtime_pb2.ArtifactTrial
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., build: _Optional[_Union[_runtime_pb2.BuildEngineResult, _Mapping]] = ..., measure: _Optional[_Union[_runtime_pb2.MeasureResult, _Mapping]] = ..., predict: _Optional[_Union[_runtime_pb2.PredictResult, _Mapping]] = ..., error: _Optional[_Union[_common_pb2.WorkerError, _Mapping]] = ..., infer: _Optional[_Union[InferResult, _Mapping]] = ..., profile: _Optional[_Union[_runtime_pb2.ProfileResult, _Mapping]] = ..., cross_check: _Optional[_Union[_runtime_pb2.CrossCheckResult, _Mapping]] = ..., trial: _Optional[_Union[_runtime_pb2.ArtifactTrial, _Mapping]] = ...) -> None: ...
