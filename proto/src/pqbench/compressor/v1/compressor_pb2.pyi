from pqbench.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Weights(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEIGHTS_UNSPECIFIED: _ClassVar[Weights]
    WEIGHTS_DEFAULT: _ClassVar[Weights]
    WEIGHTS_NONE: _ClassVar[Weights]
    WEIGHTS_FILE: _ClassVar[Weights]
WEIGHTS_UNSPECIFIED: Weights
WEIGHTS_DEFAULT: Weights
WEIGHTS_NONE: Weights
WEIGHTS_FILE: Weights

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ("details",)
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    details: bool
    def __init__(self, details: _Optional[bool] = ...) -> None: ...

class GetCapabilitiesResponse(_message.Message):
    __slots__ = ("plugins", "versions", "device", "bill_of_materials")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    BILL_OF_MATERIALS_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[_common_pb2.Plugin]
    versions: _containers.ScalarMap[str, str]
    device: str
    bill_of_materials: bytes
    def __init__(self, plugins: _Optional[_Iterable[_Union[_common_pb2.Plugin, _Mapping]]] = ..., versions: _Optional[_Mapping[str, str]] = ..., device: _Optional[str] = ..., bill_of_materials: _Optional[bytes] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("plugin", "name", "config_json", "weights", "file", "code", "preprocessing", "weights_key", "external")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_KEY_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    name: str
    config_json: str
    weights: Weights
    file: _common_pb2.Blob
    code: _common_pb2.Blob
    preprocessing: _common_pb2.Preprocessing
    weights_key: str
    external: _containers.RepeatedCompositeFieldContainer[ExternalData]
    def __init__(self, plugin: _Optional[str] = ..., name: _Optional[str] = ..., config_json: _Optional[str] = ..., weights: _Optional[_Union[Weights, str]] = ..., file: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ..., code: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ..., preprocessing: _Optional[_Union[_common_pb2.Preprocessing, _Mapping]] = ..., weights_key: _Optional[str] = ..., external: _Optional[_Iterable[_Union[ExternalData, _Mapping]]] = ...) -> None: ...

class ExternalData(_message.Message):
    __slots__ = ("location", "blob")
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    location: str
    blob: _common_pb2.Blob
    def __init__(self, location: _Optional[str] = ..., blob: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("kind", "plugin", "config_json", "code")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    plugin: str
    config_json: str
    code: _common_pb2.Blob
    def __init__(self, kind: _Optional[str] = ..., plugin: _Optional[str] = ..., config_json: _Optional[str] = ..., code: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ...) -> None: ...

class CheckRequest(_message.Message):
    __slots__ = ("model", "steps")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    model: Model
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("preprocessing", "classes", "trains", "refused", "precision", "forms", "needs", "notes", "fixed_batch", "has_module", "withheld")
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    TRAINS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    FORMS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    FIXED_BATCH_FIELD_NUMBER: _ClassVar[int]
    HAS_MODULE_FIELD_NUMBER: _ClassVar[int]
    WITHHELD_FIELD_NUMBER: _ClassVar[int]
    preprocessing: _common_pb2.Preprocessing
    classes: int
    trains: bool
    refused: str
    precision: _common_pb2.Precision
    forms: _containers.RepeatedScalarFieldContainer[_common_pb2.Form]
    needs: _containers.RepeatedCompositeFieldContainer[StepNeeds]
    notes: _containers.RepeatedScalarFieldContainer[str]
    fixed_batch: int
    has_module: bool
    withheld: str
    def __init__(self, preprocessing: _Optional[_Union[_common_pb2.Preprocessing, _Mapping]] = ..., classes: _Optional[int] = ..., trains: _Optional[bool] = ..., refused: _Optional[str] = ..., precision: _Optional[_Union[_common_pb2.Precision, str]] = ..., forms: _Optional[_Iterable[_Union[_common_pb2.Form, str]]] = ..., needs: _Optional[_Iterable[_Union[StepNeeds, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ..., fixed_batch: _Optional[int] = ..., has_module: _Optional[bool] = ..., withheld: _Optional[str] = ...) -> None: ...

class StepNeeds(_message.Message):
    __slots__ = ("training_images", "baseline", "labels", "training_images_if_any")
    TRAINING_IMAGES_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_IMAGES_IF_ANY_FIELD_NUMBER: _ClassVar[int]
    training_images: bool
    baseline: bool
    labels: bool
    training_images_if_any: bool
    def __init__(self, training_images: _Optional[bool] = ..., baseline: _Optional[bool] = ..., labels: _Optional[bool] = ..., training_images_if_any: _Optional[bool] = ...) -> None: ...

class CompressRequest(_message.Message):
    __slots__ = ("model", "checkpoint", "steps", "forms", "training", "verification", "baseline", "seed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    FORMS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: Model
    checkpoint: _common_pb2.Blob
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    forms: _containers.RepeatedScalarFieldContainer[_common_pb2.Form]
    training: _common_pb2.Images
    verification: _common_pb2.Images
    baseline: _common_pb2.Blob
    seed: int
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., checkpoint: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., forms: _Optional[_Iterable[_Union[_common_pb2.Form, str]]] = ..., training: _Optional[_Union[_common_pb2.Images, _Mapping]] = ..., verification: _Optional[_Union[_common_pb2.Images, _Mapping]] = ..., baseline: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class CompressEvent(_message.Message):
    __slots__ = ("progress", "log", "result", "heartbeat")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    result: CompressResult
    heartbeat: _common_pb2.Heartbeat
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., result: _Optional[_Union[CompressResult, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class CompressResult(_message.Message):
    __slots__ = ("checkpoint", "artifacts", "statistics", "stage_seconds", "verifications", "versions", "notes_json", "failures", "reference")
    class StageSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    STAGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERIFICATIONS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NOTES_JSON_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _common_pb2.Blob
    artifacts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Artifact]
    statistics: Statistics
    stage_seconds: _containers.ScalarMap[str, float]
    verifications: _containers.RepeatedCompositeFieldContainer[Verification]
    versions: _containers.ScalarMap[str, str]
    notes_json: str
    failures: _containers.RepeatedCompositeFieldContainer[FormFailure]
    reference: _common_pb2.Blob
    def __init__(self, checkpoint: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ..., artifacts: _Optional[_Iterable[_Union[_common_pb2.Artifact, _Mapping]]] = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ..., stage_seconds: _Optional[_Mapping[str, float]] = ..., verifications: _Optional[_Iterable[_Union[Verification, _Mapping]]] = ..., versions: _Optional[_Mapping[str, str]] = ..., notes_json: _Optional[str] = ..., failures: _Optional[_Iterable[_Union[FormFailure, _Mapping]]] = ..., reference: _Optional[_Union[_common_pb2.Blob, _Mapping]] = ...) -> None: ...

class FormFailure(_message.Message):
    __slots__ = ("form", "reason", "message")
    FORM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    form: _common_pb2.Form
    reason: str
    message: str
    def __init__(self, form: _Optional[_Union[_common_pb2.Form, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("parameters", "nonzeros", "macs", "state_dict_bytes", "layers")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    NONZEROS_FIELD_NUMBER: _ClassVar[int]
    MACS_FIELD_NUMBER: _ClassVar[int]
    STATE_DICT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    parameters: int
    nonzeros: int
    macs: int
    state_dict_bytes: int
    layers: _containers.RepeatedCompositeFieldContainer[LayerStatistics]
    def __init__(self, parameters: _Optional[int] = ..., nonzeros: _Optional[int] = ..., macs: _Optional[int] = ..., state_dict_bytes: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[LayerStatistics, _Mapping]]] = ...) -> None: ...

class LayerStatistics(_message.Message):
    __slots__ = ("name", "type", "parameters", "nonzeros", "macs", "weight_shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    NONZEROS_FIELD_NUMBER: _ClassVar[int]
    MACS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    parameters: int
    nonzeros: int
    macs: int
    weight_shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., parameters: _Optional[int] = ..., nonzeros: _Optional[int] = ..., macs: _Optional[int] = ..., weight_shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Verification(_message.Message):
    __slots__ = ("form", "sqnr_db", "max_abs_error", "images")
    FORM_FIELD_NUMBER: _ClassVar[int]
    SQNR_DB_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    form: _common_pb2.Form
    sqnr_db: float
    max_abs_error: float
    images: int
    def __init__(self, form: _Optional[_Union[_common_pb2.Form, str]] = ..., sqnr_db: _Optional[float] = ..., max_abs_error: _Optional[float] = ..., images: _Optional[int] = ...) -> None: ...

class AnalyseRequest(_message.Message):
    __slots__ = ("model", "training", "verification", "amounts", "bits", "images", "seed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: Model
    training: _common_pb2.Images
    verification: _common_pb2.Images
    amounts: _containers.RepeatedScalarFieldContainer[float]
    bits: _containers.RepeatedScalarFieldContainer[int]
    images: int
    seed: int
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., training: _Optional[_Union[_common_pb2.Images, _Mapping]] = ..., verification: _Optional[_Union[_common_pb2.Images, _Mapping]] = ..., amounts: _Optional[_Iterable[float]] = ..., bits: _Optional[_Iterable[int]] = ..., images: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class AnalyseEvent(_message.Message):
    __slots__ = ("progress", "log", "result", "heartbeat")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    log: _common_pb2.Log
    result: AnalyseResult
    heartbeat: _common_pb2.Heartbeat
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.Log, _Mapping]] = ..., result: _Optional[_Union[AnalyseResult, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class AnalyseResult(_message.Message):
    __slots__ = ("layers", "accuracy", "images", "versions")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerSensitivity]
    accuracy: float
    images: int
    versions: _containers.ScalarMap[str, str]
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerSensitivity, _Mapping]]] = ..., accuracy: _Optional[float] = ..., images: _Optional[int] = ..., versions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class LayerSensitivity(_message.Message):
    __slots__ = ("layer", "weights", "technique", "setting", "noise", "accuracy")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    TECHNIQUE_FIELD_NUMBER: _ClassVar[int]
    SETTING_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    layer: str
    weights: int
    technique: str
    setting: float
    noise: float
    accuracy: float
    def __init__(self, layer: _Optional[str] = ..., weights: _Optional[int] = ..., technique: _Optional[str] = ..., setting: _Optional[float] = ..., noise: _Optional[float] = ..., accuracy: _Optional[float] = ...) -> None: ...
