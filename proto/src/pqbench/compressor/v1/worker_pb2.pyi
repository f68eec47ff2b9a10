from pqbench.common.v1 import common_pb2 as _common_pb2
from pqbench.compressor.v1 import compressor_pb2 as _compressor_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerRequest(_message.Message):
    __slots__ = ("check", "compress", "analyse")
    CHECK_FIELD_NUMBER: _ClassVar[int]
    COMPRESS_FIELD_NUMBER: _ClassVar[int]
    ANALYSE_FIELD_NUMBER: _ClassVar[int]
    check: _compressor_pb2.CheckRequest
    compress: _compressor_pb2.CompressRequest
    analyse: _compressor_pb2.AnalyseRequest
    def __init__(self, check: _Optional[_Union[_compressor_pb2.CheckRequest, _Mapping]] = ..., compress: _Optional[_Union[_compressor_pb2.CompressRequest, _Mapping]] = ..., analyse: _Optional[_Union[_compressor_pb2.AnalyseRequest, _Mapping]] = ...) -> None: ...

class WorkerReply(_message.Message):
    __slots__ = ("progress", "log", "error", "check", "compress", "analyse")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    COMPRESS_FIELD_NUMBER: _ClassVar[int]
    ANALYSE_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    error: _common_pb2.WorkerError
    check: _compressor_pb2.CheckResponse
    compress: _compressor_pb2.CompressResult
    analyse: _compressor_pb2.AnalyseResult
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., error: _Optional[_Union[_common_pb2.WorkerError, _Mapping]] = ..., check: _Optional[_Union[_compressor_pb2.CheckResponse, _Mapping]] = ..., compress: _Optional[_Union[_compressor_pb2.CompressResult, _Mapping]] = ..., analyse: _Optional[_Union[_compressor_pb2.AnalyseResult, _Mapping]] = ...) -> None: ...
