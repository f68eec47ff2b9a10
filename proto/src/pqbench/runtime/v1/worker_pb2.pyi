from pqbench.common.v1 import common_pb2 as _common_pb2
from pqbench.runtime.v1 import runtime_pb2 as _runtime_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerRequest(_message.Message):
    __slots__ = ("build", "measure", "predict")
    BUILD_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    build: _runtime_pb2.BuildEngineRequest
    measure: _runtime_pb2.MeasureRequest
    predict: _runtime_pb2.PredictRequest
    def __init__(self, build: _Optional[_Union[_runtime_pb2.BuildEngineRequest, _Mapping]] = ..., measure: _Optional[_Union[_runtime_pb2.MeasureRequest, _Mapping]] = ..., predict: _Optional[_Union[_runtime_pb2.PredictRequest, _Mapping]] = ...) -> None: ...

class WorkerReply(_message.Message):
    __slots__ = ("progress", "log", "build", "measure", "predict", "error")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    build: _runtime_pb2.BuildEngineResult
    measure: _runtime_pb2.MeasureResult
    predict: _runtime_pb2.PredictResult
    error: WorkerError
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., build: _Optional[_Union[_runtime_pb2.BuildEngineResult, _Mapping]] = ..., measure: _Optional[_Union[_runtime_pb2.MeasureResult, _Mapping]] = ..., predict: _Optional[_Union[_runtime_pb2.PredictResult, _Mapping]] = ..., error: _Optional[_Union[WorkerError, _Mapping]] = ...) -> None: ...

class WorkerError(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
