"""The code with which a bundle's predict.py runs a TensorRT plan, with NVIDIA's bindings and CUDA's library alone."""

from __future__ import annotations

from pqbench_runtime.backend import ENGINE

CODE = '''\
import ctypes

import {module} as trt

HOST_TO_DEVICE, DEVICE_TO_HOST, NON_BLOCKING = 1, 2, 1


def cuda_library():
    """CUDA's runtime library: the system's, or that of NVIDIA's wheels."""
    found = [str(file) for folder in sys.path for file in Path(folder).glob("nvidia/cu*/lib/libcudart.so.*")]
    for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", *found):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    sys.exit("CUDA's runtime library libcudart.so is not found")


def cuda(name, *arguments):
    if status := getattr(CUDA, name)(*arguments):
        sys.exit(f"{{name}}: CUDA error {{status}}")


CUDA = cuda_library()
LOGGER = trt.Logger()
trt.init_libnvinfer_plugins(LOGGER, "")
RUNTIME = trt.Runtime(LOGGER)
RUNTIME.engine_host_code_allowed = {host_code}
ENGINE = RUNTIME.deserialize_cuda_engine(Path(MODEL).read_bytes())
if ENGINE is None:
    sys.exit(f"{{MODEL}}: this version of the library or this GPU cannot load it; cell.json says what it was built for")
CONTEXT = ENGINE.create_execution_context()
INPUT, OUTPUT = sorted((ENGINE.get_tensor_name(index) for index in range(2)),
                       key=lambda name: ENGINE.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
STREAM = ctypes.c_void_p()
cuda("cudaStreamCreateWithFlags", ctypes.byref(STREAM), NON_BLOCKING)
BUFFERS = {{}}


def buffer(name, array):
    """Memory on the GPU for a tensor, which later calls use again."""
    if name not in BUFFERS:
        BUFFERS[name] = ctypes.c_void_p()
        cuda("cudaMalloc", ctypes.byref(BUFFERS[name]), ctypes.c_size_t(array.nbytes))
        CONTEXT.set_tensor_address(name, BUFFERS[name].value)
    return BUFFERS[name]


def copy(to, source, array, kind):
    cuda("cudaMemcpyAsync", to, source, ctypes.c_size_t(array.nbytes), kind, STREAM)


def run(x):
    x = np.ascontiguousarray(x, trt.nptype(ENGINE.get_tensor_dtype(INPUT)))
    CONTEXT.set_input_shape(INPUT, x.shape)
    CONTEXT.infer_shapes()
    y = np.empty(tuple(CONTEXT.get_tensor_shape(OUTPUT)), trt.nptype(ENGINE.get_tensor_dtype(OUTPUT)))
    copy(buffer(INPUT, x), x.ctypes.data_as(ctypes.c_void_p), x, HOST_TO_DEVICE)
    target = buffer(OUTPUT, y)
    if not CONTEXT.execute_async_v3(STREAM.value):
        sys.exit("the engine does not run; the library's messages say why")
    copy(y.ctypes.data_as(ctypes.c_void_p), target, y, DEVICE_TO_HOST)
    cuda("cudaStreamSynchronize", STREAM)
    return y.astype(np.float32)
'''


def scripts(module: str, host_code: bool) -> dict[str, str]:
    """For bindings that are imported as `module`; `host_code`: whether plans may hold code for the host."""
    return {ENGINE: CODE.format(module=module, host_code=host_code)}
