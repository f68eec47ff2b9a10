"""TensorRT 8.6, 10 or 11 on NVIDIA GPUs, whichever version is installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tensorrt as trt

from pqbench.common.v1.common_pb2 import Precision
from pqbench_runtime import cuda, gpu
from pqbench_runtime.backend import GPU_TIMED, Built, CrossCheck, Job, Profile, Shape
from pqbench_runtime.backends._tensorrt.inspector import layers_of, sparse_tactics
from pqbench_runtime.backends._tensorrt.script import scripts
from pqbench_runtime.backends._tensorrt.session import Engine, Session
from pqbench_runtime.backends.tensorrt.building import build_plan
from pqbench_runtime.backends.tensorrt.options import NAME, Config
from pqbench_runtime.backends.tensorrt.routes import routes_of
from pqbench_runtime.backends.tensorrt.tools import polygraphy, trtexec
from pqbench_wire.shared.inputs import Feed

__all__ = ["ON_GPU", "REQUIRES", "ROUTES", "Config", "build", "cross_checks", "device", "load", "profile", "versions"]
REQUIRES = ("tensorrt", "pynvml")
ON_GPU = True
TIMED = GPU_TIMED
ENGINE_FILE = "engine.plan"
ROUTES = routes_of(trt.__version__)
SCRIPTS = scripts("tensorrt", host_code=True)


def versions() -> dict[str, str]:
    return {"tensorrt": trt.__version__, "cuda": cuda.runtime_version()}


def device(options: Config) -> str:
    return gpu.device()


def build(job: Job, options: Config) -> Built:
    plan, settings = build_plan(job, options)
    engine = Engine(trt, NAME, plan, options.version_compatible)
    layers = layers_of(engine.information())
    if options.sparse_weights:
        settings["sparse_tactics"] = sparse_tactics(layers)
    return Built(data=plan, layers=layers, settings=settings)


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> Session:
    loaded = Engine(trt, NAME, engine.read_bytes(), options.version_compatible)
    return Session(loaded, loaded.cuda.create_execution_context(), shape, options)


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    session = load(engine, precision, shape, replace(options, cuda_graph=False))
    session.bind(batch)
    return session.profile(seconds)


def cross_checks(
    engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float
) -> list[CrossCheck]:
    """NVIDIA's tools trtexec and Polygraphy, which are in its TensorRT images."""
    shapes = shape.inputs(load(engine, precision, shape, options).inputs)
    return [trtexec(engine, shapes, options, seconds), polygraphy(engine, shapes)]
