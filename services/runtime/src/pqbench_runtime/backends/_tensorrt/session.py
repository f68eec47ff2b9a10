"""Runs a TensorRT plan: the deserialized engine, its buffers and its stream."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pqbench_runtime.backend import Call, GpuOptions, Profile, Shape, run_for
from pqbench_runtime.backends._tensorrt.inspector import layers_of
from pqbench_runtime.backends._tensorrt.log import log_of
from pqbench_runtime.backends._tensorrt.profiler import layer_times, profiler
from pqbench_runtime.cuda import Stream, Tensor
from pqbench_runtime.device_call import WARM_UP, DeviceCall, as_graph
from pqbench_wire.errors import Failed, OutOfMemory
from pqbench_wire.shared.inputs import Feed, named

DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64,
          "BOOL": np.bool_, "UINT8": np.uint8}  # fmt: skip


class Engine:
    """A deserialized plan. It holds its TensorRT runtime, which must live as long as the engine.

    `trt` is the library's bindings, `name` what it is called in messages. `host_code`: whether the plan may hold code
    for the host, as those of compatible versions do.
    """

    def __init__(self, trt: Any, name: str, plan: bytes, host_code: bool = False) -> None:
        self.trt, self.name, self.log = trt, name, log_of(trt)
        self.log.begin()
        trt.init_libnvinfer_plugins(self.log, "")
        self._runtime = trt.Runtime(self.log)
        self._runtime.engine_host_code_allowed = host_code
        self.cuda = self._runtime.deserialize_cuda_engine(plan)
        if self.cuda is None:
            raise Failed(f"{name} cannot load this plan: {self.log.reason()}")

    def information(self) -> str:
        """The engine inspector's JSON about all layers."""
        return str(self.cuda.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON))


class Session:
    """A loaded engine for one batch size, with an execution context of it."""

    def __init__(self, engine: Engine, context: Any, shape: Shape, options: GpuOptions) -> None:
        self._engine, self._options = engine, options  # the engine must live as long as its context
        self._stream = Stream()
        self._context = context
        if self._context is None:
            raise OutOfMemory(f"{engine.name} cannot make an execution context: {engine.log.reason()}")
        names = [engine.cuda.get_tensor_name(index) for index in range(engine.cuda.num_io_tensors)]
        is_input = {name: engine.cuda.get_tensor_mode(name) == engine.trt.TensorIOMode.INPUT for name in names}
        self.inputs = inputs = [name for name in names if is_input[name]]
        self.outputs = [name for name in names if not is_input[name]]
        for name, axes in shape.inputs(inputs).items():
            if not self._context.set_input_shape(name, axes):
                raise Failed(f"the plan's profile does not cover input {name} {list(axes)}: {engine.log.reason()}")
        if missing := self._context.infer_shapes():
            raise Failed(f"shapes depend on values of {', '.join(missing)}; fixed shapes are needed")
        tensors = {name: self._tensor(name) for name in names}
        self._inputs = {name: tensors[name] for name in inputs}
        self._outputs = {name: tensors[name] for name in self.outputs}
        self._compute, self.settings = self._launcher()

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch, which is copied into pinned memory now."""
        for name, array in named(batch, list(self._inputs)).items():
            np.copyto(self._inputs[name].host, array, casting="same_kind")  # 8.6 has INT64 inputs as INT32
        outputs = [tensor.host for tensor in self._outputs.values()]
        transfers, spin = self._options.transfers, self._options.spin
        return DeviceCall(self._stream, self._upload, self._compute, self._download, outputs, transfers, spin)

    def profile(self, seconds: float) -> Profile:
        """Run the last bound batch under TensorRT's profiler for up to about `seconds`, without a CUDA graph."""
        self._upload()
        run_for(seconds / 4, self._run_once)
        self._context.profiler = times = profiler(self._engine.trt)
        calls = run_for(seconds, self._run_once)
        layers = layer_times(times.milliseconds, calls, layers_of(self._engine.information()))
        return Profile(tool="TensorRT's profiler", calls=calls, layers=layers)

    def _run_once(self) -> None:
        self._enqueue()
        self._stream.synchronize()

    def _tensor(self, name: str) -> Tensor:
        kind = str(self._engine.cuda.get_tensor_dtype(name)).rpartition(".")[2]
        if kind not in DTYPES:
            raise Failed(f"tensor {name} is {kind}; inputs and outputs must be of a NumPy type")
        tensor = Tensor(tuple(self._context.get_tensor_shape(name)), np.dtype(DTYPES[kind]))
        if not self._context.set_tensor_address(name, tensor.device.value):
            raise Failed(f"{self._engine.name} does not take the buffer of {name}: {self._engine.log.reason()}")
        return tensor

    def _upload(self) -> None:
        for tensor in self._inputs.values():
            tensor.upload(self._stream)

    def _download(self) -> None:
        for tensor in self._outputs.values():
            tensor.download(self._stream)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle.value):
            raise Failed(f"{self._engine.name} cannot run this engine: {self._engine.log.reason()}")

    def _launcher(self) -> tuple[Callable[[], None], dict[str, str]]:
        """What starts the computation, a captured graph or a plain enqueue, and the setting that says which."""
        return as_graph(self._options.cuda_graph, self._captured, lambda: self._enqueue)

    def _captured(self) -> Callable[[], None]:
        for _ in range(WARM_UP):
            self._enqueue()
        self._stream.synchronize()
        with self._stream.capturing() as graph:
            self._enqueue()
        return functools.partial(graph.launch, self._stream)
