"""ONNX Runtime and PyTorch on GPUs, against stand-ins: how they are spoken to, not how fast they are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import WorkerRequest
from pqbench_compressor import export
from pqbench_compressor.opset import lowered
from pqbench_compressor.plugins import QUANTIZERS, Context, Source, Training
from pqbench_runtime.backend import BACKENDS, Route
from pqbench_runtime.backends.pytorch_cuda import is_semi_structured
from pqbench_runtime.service import RuntimeServicer
from pqbench_runtime.workers import start_worker
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, Unavailable
from pqbench_wire.shared.inputs import store_inputs
from tests.contract.test_tensorrt import measured

GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "pytorch-cuda")
PROVIDERS = ("onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx")  # whose plans do not say what they run in
UNTYPED = Form.FORM_ONNX_UNTYPED
FP32, INT8 = Precision.PRECISION_FP32, Precision.PRECISION_INT8
MAKERS = {Precision.PRECISION_FP16: "fp16", Precision.PRECISION_BF16: "bf16"}
# An engine's process takes seconds: the others, and all of PyTorch's but FP32, are tried in the long tests.
QUICK = (FP32, Precision.PRECISION_FP16, INT8)


def is_quick(name: str, route: Route) -> bool:
    return route.precision == FP32 or (route.precision in QUICK and name != "pytorch-cuda")


ROUTES = [
    pytest.param(name, route, marks=[] if is_quick(name, route) else [pytest.mark.long])
    for name in GPU
    for route in BACKENDS.load(name).ROUTES
]


def made(
    precision: Precision, form: Form, module: torch.nn.Module, context: Context, store: BlobStore
) -> tuple[bytes, Any]:
    """The digits network in a precision and form, and the images that its runtime calibrates with."""
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    if precision == FP32:
        ways = {Form.FORM_ONNX: source.onnx, UNTYPED: lambda: lowered(source.onnx())}
        return ways.get(form, lambda: export.to_pt2(module, context.example))(), None
    implicit = precision == INT8 and form == UNTYPED
    plugin = QUANTIZERS.load(MAKERS.get(precision) or ("int8-implicit" if implicit else "int8-static"))
    data: bytes = plugin.quantize(source, plugin.Config(), context, (form,))[form]
    return data, store_inputs(store, source.calibration) if implicit and source.calibration is not None else None


def test_there_is_a_test_for_every_gpu_backend() -> None:
    found = {n for n in BACKENDS.names if not BACKENDS.missing(n) and getattr(BACKENDS.load(n), "ON_GPU", False)}
    assert found - {"tensorrt", "tensorrt-rtx"} == set(GPU)  # these have test files of their own


@pytest.mark.parametrize(
    ("name", "route"), ROUTES, ids=lambda v: v if isinstance(v, str) else f"{Precision.Name(v.precision)}-{v.form}"
)
def test_route(
    name: str, route: Route, trained: torch.nn.Module, context: Context, training: Training, store: BlobStore,
    build: Any, predict: Any, use: Any,
) -> None:  # fmt: skip
    use()
    data, calibration = made(route.precision, route.form, trained, context, store)
    built = build(name, data, route.form, route.precision, training.preprocessing, calibration)
    wanted = Precision.Name(route.precision).removeprefix("PRECISION_")
    most = max(built.executed, key=lambda key: built.executed[key])
    assert most == "unknown" if name in PROVIDERS else most in (wanted, "TF32")
    versions = "onnxruntime-ep-nv-tensorrt-rtx" if name == "onnxruntime-tensorrt-rtx" else "cuda 1"
    assert built.engine.built_on.startswith("Emulated GPU [sm_90] driver 580") and versions in built.engine.built_on
    outputs = predict(built.engine, training.images[:6])
    reference = export.run_module(trained, training.inputs(slice(6)))
    assert export.sqnr(reference, outputs) > (60 if route.precision == FP32 else 12)


@pytest.mark.parametrize(("capability", "executed"), [("75", "FP32"), ("80", "TF32"), ("100", "TF32"), ("120", "TF32")])
@pytest.mark.parametrize(
    ("name", "form"),
    [("onnxruntime-cuda", Form.FORM_ONNX), pytest.param("pytorch-cuda", Form.FORM_PT2, marks=pytest.mark.long)],
)
def test_fp32_layers_run_in_tf32_from_compute_capability_8_on(
    name: str, form: Form, capability: str, executed: str, trained: torch.nn.Module, context: Context,
    training: Training, store: BlobStore, build: Any, use: Any,
) -> None:  # fmt: skip
    use(EMULATED_CAPABILITY=capability)
    built = build(name, made(FP32, form, trained, context, store)[0], form, FP32, training.preprocessing)
    assert set(built.executed) == {executed}


def large_inside(channels: int) -> torch.nn.Module:
    """A network whose first layer gives values that FP16 cannot hold."""
    large, small = torch.nn.Conv2d(channels, 8, 3), torch.nn.Conv2d(8, 8, 3)
    large.weight.data *= 1e6
    small.weight.data *= 1e-6
    relu, pool = torch.nn.ReLU, torch.nn.AdaptiveAvgPool2d(1)
    layers = (large, relu(), small, relu(), torch.nn.Conv2d(8, 8, 1), pool, torch.nn.Flatten(), torch.nn.Linear(8, 10))
    return torch.nn.Sequential(*layers).eval()


@pytest.mark.parametrize(("name", "form"), [("onnxruntime-cuda", Form.FORM_ONNX), ("pytorch-cuda", Form.FORM_PT2)])
def test_layers_that_overflow_in_fp16_may_run_in_tf32(
    name: str, form: Form, context: Context, training: Training, store: BlobStore, build: Any, use: Any
) -> None:
    use()
    module = large_inside(training.inputs(slice(1)).shape[1])
    data, _ = made(Precision.PRECISION_FP16, form, module, context, store)
    built = build(name, data, form, Precision.PRECISION_FP16, training.preprocessing)
    assert set(built.executed) == {"FP16", "TF32"}


@pytest.mark.long
@pytest.mark.parametrize("name", GPU)
def test_times_are_split_and_graphs_captured_or_said_to_be_not(
    name: str, trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, build: Any, use: Any
) -> None:
    form = next(route.form for route in BACKENDS.load(name).ROUTES if route.precision == FP32)
    use()
    data, _ = made(FP32, form, trained, context, store)
    engines = [
        build(name, data, form, FP32, training.preprocessing, **options).engine
        for options in (
            {"cuda_graph": True},
            {"cuda_graph": True, "transfers": False},
            {"cuda_graph": False, "spin": False},
        )
    ]
    timings = [measured(store, engine, training).timings[0] for engine in engines]
    assert [set(one.device) for one in timings] == [{"compute", "h2d", "d2h"}, {"compute"}, {"compute", "h2d", "d2h"}]
    waits = "; compute includes ONNX Runtime's wait for it" if name in PROVIDERS else ""
    assert [one.settings["cuda_graph"] for one in timings] == [f"captured{waits}", f"captured{waits}", "off"]
    assert BACKENDS.load(name).Config().cuda_graph != bool(waits), "on by default where it is timed rightly"
    use(EMULATED_NO_CAPTURE="1")
    without = measured(store, engines[0], training).timings[0]
    assert "could not be captured" in without.settings["cuda_graph"] and without.median > 0


@pytest.mark.parametrize("name", GPU)
def test_profile(
    name: str, trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, build: Any, use: Any
) -> None:
    use()
    form = next(route.form for route in BACKENDS.load(name).ROUTES if route.precision == FP32)
    data, _ = made(FP32, form, trained, context, store)
    engine, worker = build(name, data, form, FP32, training.preprocessing).engine, start_worker(store.root)
    try:
        inputs = store_inputs(store, training.images[:4])
        asked = pb.ProfileRequest(engine=engine, inputs=inputs, seconds=0.05, run="r")
        profile = worker.ask(WorkerRequest(profile=asked), lambda reply: None).profile
    finally:
        worker.close()
    assert profile.layers and profile.calls >= 3


def test_onnxruntime_never_falls_back_to_the_cpu_silently(
    trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, build: Any, use: Any
) -> None:
    use(EMULATED_WITHOUT_LIBRARIES="1")
    data, _ = made(FP32, Form.FORM_ONNX, trained, context, store)
    with pytest.raises(Failed, match="cannot load CUDAExecutionProvider: a library that it needs is missing"):
        build("onnxruntime-cuda", data, Form.FORM_ONNX, FP32, training.preprocessing)


def test_a_provider_is_listed_as_unavailable_where_its_libraries_are_missing(use: Any) -> None:
    use()
    assert unavailable("onnxruntime-cuda", "onnxruntime-tensorrt") == ["", ""]
    use(EMULATED_WITHOUT_LIBRARIES="1")
    said = unavailable("onnxruntime-cuda", "onnxruntime-tensorrt")
    assert said == [f"ONNX Runtime cannot load {provider}ExecutionProvider: libcublasLt.so.13: cannot open shared object "
                    "file: No such file or directory" for provider in ("CUDA", "Tensorrt")]  # fmt: skip


def unavailable(*names: str) -> list[str]:
    """Why backends cannot be used, as `pqbench list` says it."""
    command = [sys.executable, "-m", "pqbench_orchestrator.cli", "list", "backends", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [next(one for one in found if one["name"] == name)["unavailable_reason"] for name in names]


def test_a_plugin_provider_is_given_the_gpu_that_cuda_uses(
    trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, build: Any, use: Any
) -> None:
    name = "onnxruntime-tensorrt-rtx"
    data, _ = made(FP32, Form.FORM_ONNX, trained, context, store)
    for gpus, why in {"a b": "does not say which of 2 GPUs is which", "": "takes no GPU of this machine"}.items():
        use(EMULATED_GPUS=gpus)
        with pytest.raises(Unavailable, match=why):
            build(name, data, Form.FORM_ONNX, FP32, training.preprocessing)
    use(EMULATED_GPUS="a")
    assert build(name, data, Form.FORM_ONNX, FP32, training.preprocessing, workspace_mb=64).executed
    use(EMULATED_WITHOUT_LIBRARIES="1")
    with pytest.raises(Unavailable, match=r"which needs NVIDIA's driver: libcuda.so.1: cannot open shared object file"):
        build(name, data, Form.FORM_ONNX, FP32, training.preprocessing)


def test_the_options_that_are_given_to_a_plugin_provider_are_in_its_header() -> None:
    backend = BACKENDS.load("onnxruntime-tensorrt-rtx")
    header = Path(backend.plugin.__file__).with_name("tensorrt_rtx_provider_options.h").read_text()
    asked = set(re.findall(r'"((?:nv_|has_user|user_compute|enable_cuda)\w+)"', Path(backend.__file__).read_text()))
    assert len(asked) == 5 and asked <= set(re.findall(r'= "(\w+)";', header))


def test_the_table_of_ranges_keeps_negative_ones() -> None:
    from onnxruntime.quantization.CalTableFlatBuffers.TrtTable import TrtTable

    plugin = BACKENDS.load("onnxruntime-tensorrt")
    assert plugin._largest(np.float32(-23.2), np.float32(-14.8)) == pytest.approx(23.2)
    table = TrtTable.GetRootAsTrtTable(plugin.table({"b": 1.5, "a": 23.25}), 0)
    entries = [table.Dict(index) for index in range(table.DictLength())]
    assert [(one.Key(), float(one.Value())) for one in entries] == [(b"a", 23.25), (b"b", 1.5)]


def test_only_two_in_four_is_semi_structured() -> None:
    weight = torch.ones(32, 64, dtype=torch.float16)
    assert not is_semi_structured(weight)
    weight[:, ::4] = weight[:, 1::4] = 0
    assert is_semi_structured(weight) and not is_semi_structured(weight.float())
    assert not is_semi_structured(weight[:, :32]), "cuSPARSELt wants other sizes"


@pytest.mark.parametrize("name", GPU)
def test_without_a_gpu_they_are_unavailable(name: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("skipped: there is a GPU")
    asked = pb.GetCapabilitiesRequest(backends=[name])
    found = RuntimeServicer(tmp_path, None).GetCapabilities(asked, cast(Any, None)).backends[0].plugin
    assert json.loads(found.config_schema_json)["properties"]["transfers"]
    assert not found.available and len(found.unavailable_reason) > 20
