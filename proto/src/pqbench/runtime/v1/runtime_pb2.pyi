from pqbench.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Scenario(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCENARIO_UNSPECIFIED: _ClassVar[Scenario]
    SCENARIO_SINGLE_STREAM: _ClassVar[Scenario]
    SCENARIO_MULTI_STREAM: _ClassVar[Scenario]
    SCENARIO_OFFLINE: _ClassVar[Scenario]
    SCENARIO_SERVER: _ClassVar[Scenario]
SCENARIO_UNSPECIFIED: Scenario
SCENARIO_SINGLE_STREAM: Scenario
SCENARIO_MULTI_STREAM: Scenario
SCENARIO_OFFLINE: Scenario
SCENARIO_SERVER: Scenario

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ("backends",)
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    backends: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, backends: _Optional[_Iterable[str]] = ...) -> None: ...

class GetCapabilitiesResponse(_message.Message):
    __slots__ = ("backends", "versions", "environment", "bill_of_materials")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    BILL_OF_MATERIALS_FIELD_NUMBER: _ClassVar[int]
    backends: _containers.RepeatedCompositeFieldContainer[Backend]
    versions: _containers.ScalarMap[str, str]
    environment: _containers.ScalarMap[str, str]
    bill_of_materials: bytes
    def __init__(self, backends: _Optional[_Iterable[_Union[Backend, _Mapping]]] = ..., versions: _Optional[_Mapping[str, str]] = ..., environment: _Optional[_Mapping[str, str]] = ..., bill_of_materials: _Optional[bytes] = ...) -> None: ...

class Backend(_message.Message):
    __slots__ = ("plugin", "routes", "versions", "device")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    plugin: _common_pb2.Plugin
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    versions: _containers.ScalarMap[str, str]
    device: str
    def __init__(self, plugin: _Optional[_Union[_common_pb2.Plugin, _Mapping]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., versions: _Optional[_Mapping[str, str]] = ..., device: _Optional[str] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("precision", "form", "executes", "evidence", "when", "demanded")
    class WhenEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    EXECUTES_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    WHEN_FIELD_NUMBER: _ClassVar[int]
    DEMANDED_FIELD_NUMBER: _ClassVar[int]
    precision: _common_pb2.Precision
    form: _common_pb2.Form
    executes: _containers.RepeatedScalarFieldContainer[_common_pb2.Precision]
    evidence: str
    when: _containers.ScalarMap[str, str]
    demanded: bool
    def __init__(self, precision: _Optional[_Union[_common_pb2.Precision, str]] = ..., form: _Optional[_Union[_common_pb2.Form, str]] = ..., executes: _Optional[_Iterable[_Union[_common_pb2.Precision, str]]] = ..., evidence: _Optional[str] = ..., when: _Optional[_Mapping[str, str]] = ..., demanded: _Optional[bool] = ...) -> None: ...

class CheckRequest(_message.Message):
    __slots__ = ("backend", "options_json")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    backend: str
    options_json: str
    def __init__(self, backend: _Optional[str] = ..., options_json: _Optional[str] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("options_json", "device", "routes", "timed_options", "engine_file", "unavailable_reason", "refused", "scripts", "built_for")
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ScriptsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    TIMED_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FILE_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    SCRIPTS_FIELD_NUMBER: _ClassVar[int]
    BUILT_FOR_FIELD_NUMBER: _ClassVar[int]
    options_json: str
    device: str
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    timed_options: _containers.RepeatedScalarFieldContainer[str]
    engine_file: str
    unavailable_reason: str
    refused: _containers.ScalarMap[str, str]
    scripts: _containers.ScalarMap[str, str]
    built_for: str
    def __init__(self, options_json: _Optional[str] = ..., device: _Optional[str] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., timed_options: _Optional[_Iterable[str]] = ..., engine_file: _Optional[str] = ..., unavailable_reason: _Optional[str] = ..., refused: _Optional[_Mapping[str, str]] = ..., scripts: _Optional[_Mapping[str, str]] = ..., built_for: _Optional[str] = ...) -> None: ...

class BuildEngineRequest(_message.Message):
    __slots__ = ("backend", "options_json", "artifact", "batch_size", "preprocessing", "replicate")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    REPLICATE_FIELD_NUMBER: _ClassVar[int]
    backend: str
    options_json: str
    artifact: _common_pb2.Artifact
    batch_size: int
    preprocessing: _common_pb2.Preprocessing
    replicate: int
    def __init__(self, backend: _Optional[str] = ..., options_json: _Optional[str] = ..., artifact: _Optional[_Union[_common_pb2.Artifact, _Mapping]] = ..., batch_size: _Optional[int] = ..., preprocessing: _Optional[_Union[_common_pb2.Preprocessing, _Mapping]] = ..., replicate: _Optional[int] = ...) -> None: ...

class BuildEngineEvent(_message.Message):
    __slots__ = ("progress", "log", "result", "heartbeat")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    result: BuildEngineResult
    heartbeat: _common_pb2.Heartbeat
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., result: _Optional[_Union[BuildEngineResult, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("backend", "options_json", "blob", "batch_size", "precision", "preprocessing", "built_on")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    BUILT_ON_FIELD_NUMBER: _ClassVar[int]
    backend: str
    options_json: str
    blob: _common_pb2.Blob
    batch_size: int
    precision: _common_pb2.Precision
    preprocessing: _common_pb2.Preprocessing
    built_on: str
    def __init__(self, backend: _Optional[str] = ..., options_json: _Optional[str] = ..., blob: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ..., batch_size: _Optional[int] = ..., precision: _Optional[_Union[_common_pb2.Precision, str]] = ..., preprocessing: _Optional[_Union[_common_pb2.Preprocessing, _Mapping]] = ..., built_on: _Optional[str] = ...) -> None: ...

class BuildEngineResult(_message.Message):
    __slots__ = ("engine", "build_seconds", "layers", "executed", "settings", "versions", "model_name")
    class ExecutedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    BUILD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    engine: Engine
    build_seconds: float
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    executed: _containers.ScalarMap[str, int]
    settings: _containers.ScalarMap[str, str]
    versions: _containers.ScalarMap[str, str]
    model_name: str
    def __init__(self, engine: _Optional[_Union[Engine, _Mapping]] = ..., build_seconds: _Optional[float] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., executed: _Optional[_Mapping[str, int]] = ..., settings: _Optional[_Mapping[str, str]] = ..., versions: _Optional[_Mapping[str, str]] = ..., model_name: _Optional[str] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "type", "precision", "compute", "tactic", "format")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    TACTIC_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    precision: str
    compute: bool
    tactic: str
    format: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., precision: _Optional[str] = ..., compute: _Optional[bool] = ..., tactic: _Optional[str] = ..., format: _Optional[str] = ...) -> None: ...

class MeasureSettings(_message.Message):
    __slots__ = ("warmup_seconds", "warmup_iterations", "min_seconds", "min_iterations", "max_seconds", "stability", "windows", "discard", "scenario", "concurrency", "rate", "p99_seconds", "seed", "energy_seconds")
    WARMUP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WARMUP_ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    MIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MIN_ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    DISCARD_FIELD_NUMBER: _ClassVar[int]
    SCENARIO_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    P99_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ENERGY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    warmup_seconds: float
    warmup_iterations: int
    min_seconds: float
    min_iterations: int
    max_seconds: float
    stability: float
    windows: int
    discard: int
    scenario: Scenario
    concurrency: int
    rate: float
    p99_seconds: float
    seed: int
    energy_seconds: float
    def __init__(self, warmup_seconds: _Optional[float] = ..., warmup_iterations: _Optional[int] = ..., min_seconds: _Optional[float] = ..., min_iterations: _Optional[int] = ..., max_seconds: _Optional[float] = ..., stability: _Optional[float] = ..., windows: _Optional[int] = ..., discard: _Optional[int] = ..., scenario: _Optional[_Union[Scenario, str]] = ..., concurrency: _Optional[int] = ..., rate: _Optional[float] = ..., p99_seconds: _Optional[float] = ..., seed: _Optional[int] = ..., energy_seconds: _Optional[float] = ...) -> None: ...

class MeasureRequest(_message.Message):
    __slots__ = ("engines", "inputs", "settings", "run", "repeat")
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    engines: _containers.RepeatedCompositeFieldContainer[Engine]
    inputs: _common_pb2.Images
    settings: MeasureSettings
    run: str
    repeat: int
    def __init__(self, engines: _Optional[_Iterable[_Union[Engine, _Mapping]]] = ..., inputs: _Optional[_Union[_common_pb2.Images, _Mapping]] = ..., settings: _Optional[_Union[MeasureSettings, _Mapping]] = ..., run: _Optional[str] = ..., repeat: _Optional[int] = ...) -> None: ...

class MeasureEvent(_message.Message):
    __slots__ = ("progress", "log", "result", "heartbeat")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    result: MeasureResult
    heartbeat: _common_pb2.Heartbeat
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., result: _Optional[_Union[MeasureResult, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class MeasureResult(_message.Message):
    __slots__ = ("timings", "samples", "settings", "load_average_before", "load_average_after", "peak_rss_bytes", "environment", "gpu", "load")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    LOAD_AVERAGE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    LOAD_AVERAGE_AFTER_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    GPU_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    timings: _containers.RepeatedCompositeFieldContainer[EngineTiming]
    samples: _common_pb2.Blob
    settings: MeasureSettings
    load_average_before: float
    load_average_after: float
    peak_rss_bytes: int
    environment: _containers.ScalarMap[str, str]
    gpu: _containers.RepeatedCompositeFieldContainer[GpuReading]
    load: _containers.RepeatedCompositeFieldContainer[LoadReading]
    def __init__(self, timings: _Optional[_Iterable[_Union[EngineTiming, _Mapping]]] = ..., samples: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ..., settings: _Optional[_Union[MeasureSettings, _Mapping]] = ..., load_average_before: _Optional[float] = ..., load_average_after: _Optional[float] = ..., peak_rss_bytes: _Optional[int] = ..., environment: _Optional[_Mapping[str, str]] = ..., gpu: _Optional[_Iterable[_Union[GpuReading, _Mapping]]] = ..., load: _Optional[_Iterable[_Union[LoadReading, _Mapping]]] = ...) -> None: ...

class LoadReading(_message.Message):
    __slots__ = ("seconds", "foreign_cores", "stolen_cores", "mhz")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_CORES_FIELD_NUMBER: _ClassVar[int]
    STOLEN_CORES_FIELD_NUMBER: _ClassVar[int]
    MHZ_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    foreign_cores: float
    stolen_cores: float
    mhz: float
    def __init__(self, seconds: _Optional[float] = ..., foreign_cores: _Optional[float] = ..., stolen_cores: _Optional[float] = ..., mhz: _Optional[float] = ...) -> None: ...

class GpuReading(_message.Message):
    __slots__ = ("seconds", "energy_joules", "power_watts", "sm_mhz", "memory_mhz", "celsius", "memory_bytes", "throttled", "held_seconds")
    class HeldSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENERGY_JOULES_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    SM_MHZ_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MHZ_FIELD_NUMBER: _ClassVar[int]
    CELSIUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    HELD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    energy_joules: float
    power_watts: float
    sm_mhz: int
    memory_mhz: int
    celsius: int
    memory_bytes: int
    throttled: _containers.RepeatedScalarFieldContainer[str]
    held_seconds: _containers.ScalarMap[str, float]
    def __init__(self, seconds: _Optional[float] = ..., energy_joules: _Optional[float] = ..., power_watts: _Optional[float] = ..., sm_mhz: _Optional[int] = ..., memory_mhz: _Optional[int] = ..., celsius: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., throttled: _Optional[_Iterable[str]] = ..., held_seconds: _Optional[_Mapping[str, float]] = ...) -> None: ...

class DeviceTime(_message.Message):
    __slots__ = ("mean", "median", "p90", "p99")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    P90_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    mean: float
    median: float
    p90: float
    p99: float
    def __init__(self, mean: _Optional[float] = ..., median: _Optional[float] = ..., p90: _Optional[float] = ..., p99: _Optional[float] = ...) -> None: ...

class EngineTiming(_message.Message):
    __slots__ = ("count", "mean", "std", "min", "median", "p90", "p95", "p99", "p999", "max", "median_low", "median_high", "stable", "unstable_reason", "load_seconds", "first_call_seconds", "device", "settings", "calls_per_second", "memory_bytes", "server", "joules_per_call", "idle_watts", "energy_source", "device_memory_bytes")
    class DeviceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: DeviceTime
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[DeviceTime, _Mapping]] = ...) -> None: ...
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    P90_FIELD_NUMBER: _ClassVar[int]
    P95_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    P999_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_LOW_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_HIGH_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    UNSTABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    LOAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_CALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    CALLS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_CALL_FIELD_NUMBER: _ClassVar[int]
    IDLE_WATTS_FIELD_NUMBER: _ClassVar[int]
    ENERGY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    count: int
    mean: float
    std: float
    min: float
    median: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float
    median_low: float
    median_high: float
    stable: bool
    unstable_reason: str
    load_seconds: float
    first_call_seconds: float
    device: _containers.MessageMap[str, DeviceTime]
    settings: _containers.ScalarMap[str, str]
    calls_per_second: float
    memory_bytes: int
    server: ServerTiming
    joules_per_call: float
    idle_watts: float
    energy_source: str
    device_memory_bytes: int
    def __init__(self, count: _Optional[int] = ..., mean: _Optional[float] = ..., std: _Optional[float] = ..., min: _Optional[float] = ..., median: _Optional[float] = ..., p90: _Optional[float] = ..., p95: _Optional[float] = ..., p99: _Optional[float] = ..., p999: _Optional[float] = ..., max: _Optional[float] = ..., median_low: _Optional[float] = ..., median_high: _Optional[float] = ..., stable: _Optional[bool] = ..., unstable_reason: _Optional[str] = ..., load_seconds: _Optional[float] = ..., first_call_seconds: _Optional[float] = ..., device: _Optional[_Mapping[str, DeviceTime]] = ..., settings: _Optional[_Mapping[str, str]] = ..., calls_per_second: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., server: _Optional[_Union[ServerTiming, _Mapping]] = ..., joules_per_call: _Optional[float] = ..., idle_watts: _Optional[float] = ..., energy_source: _Optional[str] = ..., device_memory_bytes: _Optional[int] = ...) -> None: ...

class ServerTiming(_message.Message):
    __slots__ = ("rate", "slip_p99", "valid", "invalid_reason", "met", "probes")
    RATE_FIELD_NUMBER: _ClassVar[int]
    SLIP_P99_FIELD_NUMBER: _ClassVar[int]
    VALID_FIELD_NUMBER: _ClassVar[int]
    INVALID_REASON_FIELD_NUMBER: _ClassVar[int]
    MET_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    rate: float
    slip_p99: float
    valid: bool
    invalid_reason: str
    met: bool
    probes: _containers.RepeatedCompositeFieldContainer[Probe]
    def __init__(self, rate: _Optional[float] = ..., slip_p99: _Optional[float] = ..., valid: _Optional[bool] = ..., invalid_reason: _Optional[str] = ..., met: _Optional[bool] = ..., probes: _Optional[_Iterable[_Union[Probe, _Mapping]]] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("rate", "p99", "met")
    RATE_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    MET_FIELD_NUMBER: _ClassVar[int]
    rate: float
    p99: float
    met: bool
    def __init__(self, rate: _Optional[float] = ..., p99: _Optional[float] = ..., met: _Optional[bool] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("engine", "inputs", "first", "stride")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    engine: Engine
    inputs: _common_pb2.Images
    first: int
    stride: int
    def __init__(self, engine: _Optional[_Union[Engine, _Mapping]] = ..., inputs: _Optional[_Union[_common_pb2.Images, _Mapping]] = ..., first: _Optional[int] = ..., stride: _Optional[int] = ...) -> None: ...

class PredictEvent(_message.Message):
    __slots__ = ("progress", "log", "result", "heartbeat")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    result: PredictResult
    heartbeat: _common_pb2.Heartbeat
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., result: _Optional[_Union[PredictResult, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class PredictResult(_message.Message):
    __slots__ = ("outputs", "seconds", "flattened")
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    FLATTENED_FIELD_NUMBER: _ClassVar[int]
    outputs: _common_pb2.Blob
    seconds: float
    flattened: bool
    def __init__(self, outputs: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ..., seconds: _Optional[float] = ..., flattened: _Optional[bool] = ...) -> None: ...

class TryArtifactRequest(_message.Message):
    __slots__ = ("backend", "artifact", "preprocessing", "inputs", "reference", "batch_sizes", "least_db")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZES_FIELD_NUMBER: _ClassVar[int]
    LEAST_DB_FIELD_NUMBER: _ClassVar[int]
    backend: str
    artifact: _common_pb2.Artifact
    preprocessing: _common_pb2.Preprocessing
    inputs: _common_pb2.Images
    reference: _common_pb2.Blob
    batch_sizes: _containers.RepeatedScalarFieldContainer[int]
    least_db: float
    def __init__(self, backend: _Optional[str] = ..., artifact: _Optional[_Union[_common_pb2.Artifact, _Mapping]] = ..., preprocessing: _Optional[_Union[_common_pb2.Preprocessing, _Mapping]] = ..., inputs: _Optional[_Union[_common_pb2.Images, _Mapping]] = ..., reference: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ..., batch_sizes: _Optional[_Iterable[int]] = ..., least_db: _Optional[float] = ...) -> None: ...

class TryArtifactEvent(_message.Message):
    __slots__ = ("progress", "log", "result", "heartbeat")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    result: TryArtifactResult
    heartbeat: _common_pb2.Heartbeat
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., result: _Optional[_Union[TryArtifactResult, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class TryArtifactResult(_message.Message):
    __slots__ = ("trials",)
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    trials: _containers.RepeatedCompositeFieldContainer[ArtifactTrial]
    def __init__(self, trials: _Optional[_Iterable[_Union[ArtifactTrial, _Mapping]]] = ...) -> None: ...

class ArtifactTrial(_message.Message):
    __slots__ = ("way", "sqnr_db", "problem")
    WAY_FIELD_NUMBER: _ClassVar[int]
    SQNR_DB_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    way: str
    sqnr_db: float
    problem: str
    def __init__(self, way: _Optional[str] = ..., sqnr_db: _Optional[float] = ..., problem: _Optional[str] = ...) -> None: ...

class ProfileRequest(_message.Message):
    __slots__ = ("engine", "inputs", "seconds", "run")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    engine: Engine
    inputs: _common_pb2.Images
    seconds: float
    run: str
    def __init__(self, engine: _Optional[_Union[Engine, _Mapping]] = ..., inputs: _Optional[_Union[_common_pb2.Images, _Mapping]] = ..., seconds: _Optional[float] = ..., run: _Optional[str] = ...) -> None: ...

class ProfileEvent(_message.Message):
    __slots__ = ("progress", "log", "result", "heartbeat")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    result: ProfileResult
    heartbeat: _common_pb2.Heartbeat
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., result: _Optional[_Union[ProfileResult, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class ProfileResult(_message.Message):
    __slots__ = ("tool", "calls", "layers", "copy_bytes_per_second", "launches")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    COPY_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LAUNCHES_FIELD_NUMBER: _ClassVar[int]
    tool: str
    calls: int
    layers: _containers.RepeatedCompositeFieldContainer[LayerTime]
    copy_bytes_per_second: float
    launches: bool
    def __init__(self, tool: _Optional[str] = ..., calls: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[LayerTime, _Mapping]]] = ..., copy_bytes_per_second: _Optional[float] = ..., launches: _Optional[bool] = ...) -> None: ...

class LayerTime(_message.Message):
    __slots__ = ("name", "type", "precision", "compute", "seconds", "provider")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    precision: str
    compute: bool
    seconds: float
    provider: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., precision: _Optional[str] = ..., compute: _Optional[bool] = ..., seconds: _Optional[float] = ..., provider: _Optional[str] = ...) -> None: ...

class CrossCheckRequest(_message.Message):
    __slots__ = ("engine", "inputs", "seconds", "run")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    engine: Engine
    inputs: _common_pb2.Images
    seconds: float
    run: str
    def __init__(self, engine: _Optional[_Union[Engine, _Mapping]] = ..., inputs: _Optional[_Union[_common_pb2.Images, _Mapping]] = ..., seconds: _Optional[float] = ..., run: _Optional[str] = ...) -> None: ...

class CrossCheckEvent(_message.Message):
    __slots__ = ("progress", "log", "result", "heartbeat")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    result: CrossCheckResult
    heartbeat: _common_pb2.Heartbeat
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., result: _Optional[_Union[CrossCheckResult, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class CrossCheckResult(_message.Message):
    __slots__ = ("tools",)
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    tools: _containers.RepeatedCompositeFieldContainer[CrossCheck]
    def __init__(self, tools: _Optional[_Iterable[_Union[CrossCheck, _Mapping]]] = ...) -> None: ...

class CrossCheck(_message.Message):
    __slots__ = ("tool", "definition", "seconds", "statistic", "command", "unavailable")
    class SecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TOOL_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    STATISTIC_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    tool: str
    definition: str
    seconds: _containers.ScalarMap[str, float]
    statistic: str
    command: str
    unavailable: str
    def __init__(self, tool: _Optional[str] = ..., definition: _Optional[str] = ..., seconds: _Optional[_Mapping[str, float]] = ..., statistic: _Optional[str] = ..., command: _Optional[str] = ..., unavailable: _Optional[str] = ...) -> None: ...

class UnloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnloadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
