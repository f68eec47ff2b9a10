"""What PyTorch's backends share: loading a program without pickle, reading its layers, the profiler."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from pqbench_runtime.backend import Layer, LayerTime, Profile, Shape, run_for
from pqbench_runtime.backends._pt2 import rebuild
from pqbench_wire.errors import Failed, first_line

COMPUTE = ("conv", "linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention", "einsum")
TYPES = {torch.float32: "FP32", torch.float16: "FP16", torch.bfloat16: "BF16", torch.int8: "INT8"}
PROFILED = {"float": "FP32", "c10::Half": "FP16", "c10::BFloat16": "BF16", "signed char": "INT8"}
CALL = "pqbench call"  # marks a call in the profile


def load_program(data: bytes) -> torch.export.ExportedProgram:
    """The program in a .pt2 archive.

    Raises InvalidInput for an archive that holds more than plain tensors and known operators, Failed where PyTorch
    cannot load it.
    """
    archive = rebuild(data)
    try:
        program = torch.export.load(BytesIO(archive))
    except Exception as error:
        raise Failed(f"PyTorch cannot load this program: {type(error).__name__}: {first_line(error)}") from error
    # The archive's own example inputs are a pickle and were left out. With these stand-ins the program's checks of its
    # inputs are the same as with real ones: cheap.
    program.example_inputs = ((torch.zeros(()),) * len(program.graph_signature.user_inputs), {})
    return program


def writes_into_inputs(program: torch.export.ExportedProgram) -> bool:
    """Whether an operator changes an input, or a view of one, in place: each call then needs copies of its inputs."""
    if program.graph_signature.user_inputs_to_mutate:
        return True
    given = set(program.graph_signature.user_inputs)
    views = {node for node in program.graph.nodes if node.op == "placeholder" and node.name in given}
    for node in program.graph.nodes:
        if node.target is operator.getitem and node.args[0] in views:  # one of several views
            views.add(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        schema = node.target._schema
        for argument, value in zip(schema.arguments, node.args, strict=False):
            if argument.alias_info is not None and value in views:
                if argument.alias_info.is_write:
                    return True
                views.add(node)
    return False


def names(program: torch.export.ExportedProgram, shape: Shape) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs, as in the ONNX of the same model: the program itself has none for its callers."""
    count = len(program.graph_signature.user_outputs)
    inputs = [one.name for one in shape.preprocessing.inputs] or ["input"]
    return inputs, ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def layers_of(program: torch.export.ExportedProgram) -> list[Layer]:
    """The operators of a program; the precision of each is the dtype of its output."""
    layers = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        value = node.meta.get("val")
        kind = str(node.target).removeprefix("aten.").partition(".")[0]
        precision = TYPES.get(value.dtype, str(value.dtype)) if isinstance(value, torch.Tensor) else "none"
        layers.append(Layer(name=node.name, type=kind, precision=precision, compute=_computes(kind)))
    return layers


def _computes(kind: str) -> bool:
    return kind.startswith("conv") or kind in COMPUTE


def profiled(call: Callable[[], Any], seconds: float, activities: Sequence[ProfilerActivity]) -> Profile:
    """Time the outermost operators of a call: on the GPU where `activities` includes CUDA, otherwise on the host."""
    run_for(seconds / 4, call)

    def marked() -> None:
        with record_function(CALL):
            call()

    with profile(activities=list(activities), record_shapes=True) as measured:
        calls = run_for(seconds, marked)
    on_gpu = ProfilerActivity.CUDA in activities
    first: dict[int, Any] = {}
    spent: dict[int, float] = {}
    for outer in (event for event in measured.events() if event.name == CALL and event.cpu_children):
        for position, event in enumerate(outer.cpu_children):
            first.setdefault(position, event)
            microseconds = event.device_time_total if on_gpu else event.cpu_time_total
            spent[position] = spent.get(position, 0.0) + microseconds / 1e6
    layers = [layer_time(event, spent[position] / calls) for position, event in first.items()]
    return Profile(tool="PyTorch's profiler", calls=calls, layers=layers)


def layer_time(event: Any, seconds: float) -> LayerTime:
    kind = event.name.removeprefix("aten::")
    dtypes = getattr(event, "input_dtypes", None) or ()  # the profiler of PyTorch 2.11 does not tell them
    precision = next((PROFILED[name] for name in dtypes if name in PROFILED), "")
    inner = [child.name for child in event.cpu_children]
    return LayerTime(
        name=f"{kind} {event.input_shapes[0] if event.input_shapes else ''}".strip(),
        type=kind,
        precision=precision,
        compute=_computes(kind),
        seconds=seconds,
        provider=inner[-1].removeprefix("aten::") if inner else "",
    )
