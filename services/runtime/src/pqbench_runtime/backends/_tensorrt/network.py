"""Makes a TensorRT network from ONNX: parsing, with the parser's errors by node name, and the optimization profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pqbench_runtime.backend import UNKNOWN, Job, Layer
from pqbench_wire.errors import Failed, InvalidInput, Refused

MIB = 1 << 20


def parse(trt: Any, name: str, model: bytes, network: Any, log: Any) -> None:
    """Parse an ONNX model into `network`; `name` is the library's, with its version, for messages.

    Raises Refused for operators that it does not support, otherwise Failed, with the parser's errors.
    """
    parser = trt.OnnxParser(network, log)
    if parser.parse(model):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    text = "; ".join(_error(error, model) for error in errors) or log.reason()
    unsupported = any(str(error.code()).rpartition(".")[2].startswith("UNSUPPORTED") for error in errors)
    raise (Refused if unsupported else Failed)(f"{name} cannot read this model: {text}")


def set_flags(trt: Any, config: Any, wanted: Mapping[str, bool]) -> str:
    """Set or clear builder flags by name; returns those that are set, for an engine's settings."""
    for name, on in wanted.items():
        flag = getattr(trt.BuilderFlag, name)
        config.set_flag(flag) if on else config.clear_flag(flag)
    return ", ".join(sorted(name for name, on in wanted.items() if on)) or "none"


def set_effort(trt: Any, config: Any, level: int | None, workspace_mb: int | None) -> dict[str, str]:
    """Set the builder's effort and limit of scratch memory where they are given; returns both, for the settings."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if level is not None:
        config.builder_optimization_level = level
    if workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb * MIB)
    limit = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
    return {"optimization_level": str(config.builder_optimization_level), "workspace_mb": str(limit // MIB)}


def serialized(name: str, builder: Any, network: Any, config: Any, log: Any) -> bytes:
    """The plan that the builder makes. Raises Failed with its errors."""
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Failed(f"{name} cannot build this model: {log.reason()}")
    return bytes(plan)


def add_profile(
    builder: Any, config: Any, network: Any, job: Job, batch_range: tuple[int, int, int] | None = None
) -> Any:
    """Add one optimization profile: for the batch size alone, or for `batch_range`, which must include it."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    least, best, most = batch_range or (job.shape.batch,) * 3
    if not least <= job.shape.batch <= most:
        raise InvalidInput(f"batch_range {least} to {most} does not include batch size {job.shape.batch}")
    profile = builder.create_optimization_profile()
    for name, (_, *rest) in job.shape.inputs([one.name for one in inputs]).items():
        profile.set_shape(name, (least, *rest), (best, *rest), (most, *rest))
    config.add_optimization_profile(profile)
    return profile


def layers_in(trt: Any, network: Any) -> list[Layer]:
    """The layers of a network before the builder fuses them and picks their precisions, which stay unknown."""
    compute = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [
        Layer(name=one.name, type=one.type.name.lower(), precision=UNKNOWN, compute=one.type in compute)
        for one in layers
    ]


def _error(error: Any, model: bytes) -> str:
    """The text of a parser error with the node's name, which for 8.6 is looked up by the node's number."""
    name = error.node_name() if hasattr(error, "node_name") else _node_name(model, error.node())
    where = name or (str(error.node()) if error.node() >= 0 else "")
    return f"{f'node {where}: ' if where else ''}{' '.join(error.desc().split())}"


def _node_name(model: bytes, index: int) -> str:
    if index < 0:  # the error is about the whole file
        return ""
    try:
        import onnx
    except ImportError:  # NVIDIA's images need not have it
        return ""
    nodes = onnx.load_from_string(model).graph.node
    return nodes[index].name if index < len(nodes) else ""
