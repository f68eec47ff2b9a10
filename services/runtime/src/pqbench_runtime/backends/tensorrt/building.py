"""Builds a TensorRT plan from ONNX: network, flags, profile, calibrator, timing cache, progress."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import tensorrt as trt

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime import gpu
from pqbench_runtime.backend import Job
from pqbench_runtime.backends._tensorrt.log import log_of
from pqbench_runtime.backends._tensorrt.monitor import monitor
from pqbench_runtime.backends._tensorrt.network import add_profile, parse, serialized, set_effort, set_flags
from pqbench_runtime.backends.tensorrt.options import MAJOR, NAME, Config
from pqbench_wire.errors import InvalidInput, Refused
from pqbench_wire.shared.locks import file_lock
from pqbench_wire.shared.onnx_walk import opset_of

# TensorRT 8.6 parses newer opsets without an error, but ignores inputs that were attributes, as the axes of ReduceMean.
NEWEST_OPSET_OF_8 = 17
# Builder flags that allow a precision in a weakly typed network; what is not allowed stays FP32.
FLAGS = {
    Precision.PRECISION_FP16: ("FP16",),
    Precision.PRECISION_BF16: ("BF16",),
    Precision.PRECISION_INT8: ("INT8", "FP16"),
}


def build_plan(job: Job, options: Config) -> tuple[bytes, dict[str, str]]:
    """A serialized plan and the settings that it was built with.

    Raises Refused for operators that this version does not support, InvalidInput for options or calibration examples
    that do not fit, and otherwise Failed with the parser's or the builder's errors.
    """
    if MAJOR < 10 and (opset := opset_of(job.artifact)) > NEWEST_OPSET_OF_8:
        raise Refused(f"{NAME} computes wrongly what opset {opset} writes: it reads opsets up to {NEWEST_OPSET_OF_8}")
    log = log_of(trt)
    log.begin()
    trt.init_libnvinfer_plugins(log, "")  # TensorRT runs some ONNX operators as plug-ins
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(options))
    parse(trt, NAME, job.artifact.read_bytes(), network, log)
    config = builder.create_builder_config()
    settings = _configure(config, job, options)
    profile = add_profile(builder, config, network, job, options.batch_range)
    if job.calibration is not None:
        from pqbench_runtime.backends.tensorrt.calibrator import calibrator  # 11 lacks its base class

        config.int8_calibrator = own = calibrator(job.calibration, job.shape, options)
        config.set_calibration_profile(profile)
        settings["calibrator"] = f"{options.calibrator}, {own.count} images"
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = monitor(trt, job.report)
    cache = _TimingCache(config, job.caches) if options.timing_cache else None
    plan = serialized(NAME, builder, network, config, log)
    if cache:
        cache.keep()
        settings["timing_cache"] = cache.note
    return plan, settings


def _network_flags(options: Config) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    if options.typing == "strong":
        return 1 << int(flags.STRONGLY_TYPED)
    return 1 << int(flags.EXPLICIT_BATCH)


def _configure(config: Any, job: Job, options: Config) -> dict[str, str]:
    wanted = {
        **dict.fromkeys(_precision_flags(job, options), True),
        "TF32": options.tf32,
        "SPARSE_WEIGHTS": options.sparse_weights,
        "VERSION_COMPATIBLE": options.version_compatible,
        "REFIT": False,
    }
    flags = set_flags(trt, config, wanted)
    config.avg_timing_iterations = options.avg_timing_iterations
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    return set_effort(trt, config, options.optimization_level, options.workspace_mb) | {
        "typing": options.typing,
        "builder_flags": flags,
        "avg_timing_iterations": str(options.avg_timing_iterations),
        "profile": "batch " + (" ".join(map(str, options.batch_range)) if options.batch_range else "static"),
        "hardware_compatible": str(options.hardware_compatible),
        "inference_precision": Precision.Name(job.precision).removeprefix("PRECISION_"),
    }


def _precision_flags(job: Job, options: Config) -> tuple[str, ...]:
    if options.typing == "strong":  # the ONNX types decide; a flag would be an error
        return ()
    if job.form == Form.FORM_ONNX_UNTYPED and job.precision == Precision.PRECISION_INT8 and job.calibration is None:
        raise InvalidInput("INT8 without Q/DQ nodes needs images to calibrate with; the artifact names none")
    return FLAGS.get(job.precision, ())


class _TimingCache:
    """Timings of tactics, shared by builds with one GPU and version: builds are faster and choose the same tactics."""

    def __init__(self, config: Any, folder: Path) -> None:
        self._config = config
        identity = f"{trt.__version__} {gpu.device()}"
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.cache"
        data = self._path.read_bytes() if self._path.is_file() else b""
        self.note = f"shared, {len(data)} bytes before this build"
        config.set_timing_cache(config.create_timing_cache(data), False)

    def keep(self) -> None:
        """Write this build's timings to the file, combined with those that other builds wrote meanwhile."""
        cache = self._config.get_timing_cache()
        with file_lock(self._path.with_suffix(".lock")):
            if self._path.is_file():
                cache.combine(self._config.create_timing_cache(self._path.read_bytes()), False)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(bytes(cache.serialize()))
            Path(name).replace(self._path)
