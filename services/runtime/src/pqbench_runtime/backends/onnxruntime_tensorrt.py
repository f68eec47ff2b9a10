"""ONNX Runtime on NVIDIA GPUs, by its TensorRT execution provider: the route of the master thesis tool "PQ Bench"."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import flatbuffers
import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator
from onnxruntime.quantization.CalTableFlatBuffers import KeyValue, TrtTable
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime import cuda
from pqbench_runtime.backend import GPU_TIMED, Built, GpuOptions, Job, Profile, Route, Shape
from pqbench_runtime.backends import _onnxruntime_gpu as shared
from pqbench_runtime.backends._onnxruntime import fix_dimensions
from pqbench_runtime.cuda import Stream
from pqbench_runtime.tf32 import WIDE
from pqbench_wire.errors import Failed, InvalidInput
from pqbench_wire.process import versions_of
from pqbench_wire.shared.inputs import Feed, as_feed, named

REQUIRES = ("onnx", "onnxruntime", "flatbuffers", "pynvml")
ON_GPU = True
TIMED = GPU_TIMED
ENGINE_FILE = "engine.onnx"
PROVIDER = "TensorrtExecutionProvider"
FP32, FP16, BF16, INT8 = (
    Precision.PRECISION_FP32, Precision.PRECISION_FP16, Precision.PRECISION_BF16, Precision.PRECISION_INT8
)  # fmt: skip
ROUTES = (
    Route(precision=FP32, form=Form.FORM_ONNX_UNTYPED, executes=WIDE, evidence="no precision option"),
    Route(precision=FP16, form=Form.FORM_ONNX_UNTYPED, executes=(FP16, *WIDE), evidence="trt_fp16_enable"),
    Route(precision=BF16, form=Form.FORM_ONNX_UNTYPED, executes=(BF16, *WIDE), evidence="trt_bf16_enable"),
    Route(
        precision=INT8,
        form=Form.FORM_QDQ_SIGNED,
        executes=(INT8, FP16, *WIDE),
        evidence="trt_int8_enable and trt_fp16_enable; signed symmetric Q/DQ",
    ),
    Route(
        precision=INT8,
        form=Form.FORM_ONNX_UNTYPED,
        executes=(INT8, FP16, *WIDE),
        evidence="a table of ranges from real images; ONNX Runtime's own writer loses negative ones",
    ),
)
SCRIPTS = shared.scripts(PROVIDER, "CUDAExecutionProvider")
FLAGS = {FP16: ("trt_fp16_enable",), BF16: ("trt_bf16_enable",), INT8: ("trt_int8_enable", "trt_fp16_enable")}
TABLE, CACHE, CONTEXT = "ranges.flatbuffers", "cache", "context.onnx"
CALIBRATION_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Config(GpuOptions):
    """Options of the provider; others stay at its defaults. `tf32` affects only nodes that run outside TensorRT."""

    cuda_graph: Annotated[
        bool, Field(description="one captured CUDA graph; ONNX Runtime waits for it inside the call, in `compute`")
    ] = False
    optimization_level: Annotated[
        int, Field(ge=0, le=5, description="effort of the builder; TensorRT's default is 3")
    ] = 3
    sparse_weights: Annotated[bool, Field(description="let 2:4 sparse weights use sparse tensor cores")] = False
    timing_cache: Annotated[bool, Field(description="builds share the timings of tactics")] = True


def versions() -> dict[str, str]:
    return versions_of("onnxruntime-gpu", "onnx", "tensorrt") | {"cuda": cuda.runtime_version()}


def device(options: Config) -> str:
    return shared.device(PROVIDER)


def attempt(options: Config) -> None:
    shared.attempt(PROVIDER)


def build(job: Job, options: Config) -> Built:
    """Have the provider write an ONNX model whose EPContext nodes hold its TensorRT plans; that model is the engine."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = dict.fromkeys(FLAGS.get(job.precision, ()), "1") | {
            "trt_dump_ep_context_model": "1",
            "trt_ep_context_embed_mode": "1",
            "trt_ep_context_file_path": str(folder / CONTEXT),
            "trt_timing_cache_enable": str(int(options.timing_cache)),
            "trt_timing_cache_path": str(job.caches.resolve()),
        }
        if job.precision == INT8 and job.form == Form.FORM_ONNX_UNTYPED:
            chosen |= _calibrated(job, folder)
        settings = shared.session_options()
        fix_dimensions(settings, job.artifact, job.shape)
        job.caches.mkdir(parents=True, exist_ok=True)
        with _inside(folder):  # when it writes a context, the provider takes only relative paths to its caches
            _opener(job.artifact.resolve(), settings, options, chosen)(Stream(), False)
        if not (folder / CONTEXT).is_file():
            raise Failed("the TensorRT provider took no part of this model")
        data = (folder / CONTEXT).read_bytes()
    switched_on = ", ".join(sorted(name for name, value in chosen.items() if value == "1"))
    return shared.with_plans(data, PROVIDER, job.precision, {"options": switched_on})


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> shared.Session:
    flags = dict.fromkeys(FLAGS.get(precision, ()), "1")
    return shared.waiting(shared.Session(_opener(engine, shared.session_options(), options, flags), shape, options))


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    flags = dict.fromkeys(FLAGS.get(precision, ()), "1")
    return shared.profiled(lambda settings: _opener(engine, settings, options, flags), shape, options, batch, seconds)


def _opener(model: Path, settings: onnxruntime.SessionOptions, options: Config, more: dict[str, str]) -> shared.Opener:
    def opener(stream: Stream, graph: bool) -> onnxruntime.InferenceSession:
        place = {"device_id": str(cuda.current_device()), "user_compute_stream": str(stream.handle.value)}
        chosen = place | {
            "trt_builder_optimization_level": str(options.optimization_level),
            "trt_sparsity_enable": str(int(options.sparse_weights)),
            "trt_cuda_graph_enable": str(int(graph)),
        }
        rest = place | {"use_tf32": str(int(options.tf32))}
        providers = [(PROVIDER, chosen | more), ("CUDAExecutionProvider", rest), "CPUExecutionProvider"]
        return shared.opened(model, settings, providers)

    return opener


def _calibrated(job: Job, folder: Path) -> dict[str, str]:
    """The options for a table of INT8 ranges, which is found by running the model on the calibration examples.

    Raises InvalidInput where there are none.
    """
    if job.calibration is None:
        raise InvalidInput("INT8 without Q/DQ nodes needs images to calibrate with; the artifact names none")
    calibrator = create_calibrator(
        str(job.artifact),
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
    )
    calibrator.collect_data(_Reader(job.calibration, job.shape, job.artifact))
    ranges = {name: found.range_value for name, found in calibrator.compute_data().items()}
    (folder / CACHE).mkdir()
    (folder / CACHE / TABLE).write_bytes(table({name: _largest(*values) for name, values in ranges.items()}))
    return {"trt_int8_calibration_table_name": TABLE, "trt_engine_cache_path": CACHE}


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _largest(low: np.ndarray, high: np.ndarray) -> float:
    """The bound of a symmetric range: the largest magnitude, on whichever side of zero it lies."""
    return float(max(np.abs(low).max(), np.abs(high).max()))


def table(ranges: dict[str, float]) -> bytes:
    """ONNX Runtime's table of dynamic ranges as a FlatBuffer: tensor name -> largest magnitude."""
    builder = flatbuffers.Builder(1024)
    entries = []
    for name, largest in sorted(ranges.items()):
        key, value = builder.CreateString(name), builder.CreateString(repr(largest))
        KeyValue.KeyValueStart(builder)
        KeyValue.KeyValueAddKey(builder, key)
        KeyValue.KeyValueAddValue(builder, value)
        entries.append(KeyValue.KeyValueEnd(builder))
    TrtTable.TrtTableStartDictVector(builder, len(entries))
    for entry in reversed(entries):
        builder.PrependUOffsetTRelative(entry)
    rows = builder.EndVector()
    TrtTable.TrtTableStart(builder)
    TrtTable.TrtTableAddDict(builder, rows)
    builder.Finish(TrtTable.TrtTableEnd(builder))
    return bytes(builder.Output())


class _Reader(CalibrationDataReader):
    """Gives ONNX Runtime's calibrator the calibration examples in batches of 16."""

    def __init__(self, images: Feed, shape: Shape, artifact: Path) -> None:
        graph = onnx.load(str(artifact), load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer}
        names = [one.name for one in graph.input if one.name not in constants]
        self._batches: Iterator[dict[str, np.ndarray]] = (
            named(as_feed(images[start : start + CALIBRATION_BATCH], shape.preprocessing), names)
            for start in range(0, len(images), CALIBRATION_BATCH)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by input name, or None after the last."""
        return next(self._batches, None)
