"""The TensorRT backend on every version that it supports, against a stand-in that has exactly that version's names.

TensorRT itself is not here: these tests hold the backend to its API and to its documented rules, not to its speed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from pqbench.common.v1.common_pb2 import Form, Images, Precision
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import WorkerRequest
from pqbench_compressor import export
from pqbench_compressor.opset import lowered
from pqbench_compressor.plugins import QUANTIZERS, Context, Source, Training
from pqbench_runtime.backend import ENGINE
from pqbench_runtime.backends._tensorrt.script import scripts
from pqbench_runtime.workers import start_worker
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, InvalidInput, PrecisionMismatch, Refused
from pqbench_wire.shared.inputs import store_inputs
from tests.bindings import names_used, parser_errors

ROOT = Path(__file__).parents[2]
EMULATOR = ROOT / "tests/emulator"
BACKEND = ROOT / "services/runtime/src/pqbench_runtime/backends/tensorrt"
VERSIONS = ("8.6.1", "10.4.0", "10.16.1.11", "11.4.0.106")
FP32, FP16, INT8 = Precision.PRECISION_FP32, Precision.PRECISION_FP16, Precision.PRECISION_INT8
UNTYPED, SIGNED, TYPED = Form.FORM_ONNX_UNTYPED, Form.FORM_QDQ_SIGNED, Form.FORM_QDQ_TYPED
WEAK = [(v, "weak", p, f) for v in VERSIONS[:3] for p, f in ((FP32, UNTYPED), (FP16, UNTYPED), (INT8, SIGNED))]
STRONG = [
    (v, "strong", p, f)
    for v in VERSIONS[1:]
    for p, f in ((FP32, Form.FORM_ONNX), (FP16, Form.FORM_ONNX), (INT8, TYPED))
]


def artifact(precision: Precision, form: Form, module: torch.nn.Module, context: Context) -> bytes:
    """The digits network in a precision and form."""
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    if precision == FP32:
        return source.onnx() if form == Form.FORM_ONNX else lowered(source.onnx())
    plugin = QUANTIZERS.load({FP16: "fp16", INT8: "int8-static"}[precision])
    made: dict[Form, bytes] = plugin.quantize(source, plugin.Config(), context, (form,))
    return made[form]


@pytest.mark.long
@pytest.mark.parametrize(("version", "typing", "precision", "form"), WEAK + STRONG, ids=lambda v: str(v))
def test_every_version_builds_and_computes_what_pytorch_computes(
    version: str, typing: str, precision: Precision, form: Form,
    trained: torch.nn.Module, context: Context, training: Training, build: Any, predict: Any, use: Any,
) -> None:  # fmt: skip
    use(version)
    data = artifact(precision, form, trained, context)
    built = build("tensorrt", data, form, precision, training.preprocessing, typing=typing)
    name = {FP32: "TF32"}.get(precision, Precision.Name(precision).removeprefix("PRECISION_"))
    assert max(built.executed, key=lambda key: built.executed[key]) == name
    assert built.versions["tensorrt"] == version and built.versions["cuda"] == "12.9"
    assert version in built.engine.built_on and "Emulated GPU [sm_90] driver 580" in built.engine.built_on
    assert all(layer.tactic and layer.format and "profile" not in layer.name for layer in built.layers)
    outputs = predict(built.engine, training.images[:6])
    reference = export.run_module(trained, training.inputs(slice(6)))
    assert export.sqnr(reference, outputs) > (60 if precision == FP32 else 12)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS[:3])
@pytest.mark.parametrize("calibrator", ["entropy", "min-max"])
def test_the_calibrator_sees_real_images(
    version: str, calibrator: str, trained: torch.nn.Module, context: Context, training: Training, store: BlobStore,
    build: Any, use: Any,
) -> None:  # fmt: skip
    use(version)
    plugin = QUANTIZERS.load("int8-implicit")
    source = Source(onnx=lambda: export.to_onnx(trained, context.example), module=trained)
    data = plugin.quantize(source, plugin.Config(images=10), context, (UNTYPED,))[UNTYPED]
    assert source.calibration is not None
    images: Images = store_inputs(store, source.calibration)
    built = build("tensorrt", data, UNTYPED, INT8, training.preprocessing, calibration=images, calibrator=calibrator)
    assert built.executed["INT8"] and built.settings["calibrator"] == f"{calibrator}, 8 images"
    with pytest.raises(InvalidInput, match="images to calibrate with"):
        build("tensorrt", data, UNTYPED, INT8, training.preprocessing)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_measure_splits_the_time_and_captures_a_graph(
    version: str, trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, build: Any, use: Any
) -> None:
    use(version)
    typing, form = ("weak", UNTYPED) if version[0] == "8" else ("strong", Form.FORM_ONNX)
    data = artifact(FP32, form, trained, context)
    built = [
        build("tensorrt", data, form, FP32, training.preprocessing, typing=typing, transfers=t) for t in (True, False)
    ]
    for engine, parts in zip([one.engine for one in built], ({"compute", "h2d", "d2h"}, {"compute"}), strict=True):
        result = measured(store, engine, training)
        timing = result.timings[0]
        assert set(timing.device) == parts and timing.settings["cuda_graph"] == "captured"
        assert 0 < sum(timing.device[part].median for part in parts) <= timing.median * 1.5
        samples = np.load(store.path(result.samples))
        assert len(samples["compute_0"]) == timing.count
        assert result.gpu[0].power_watts == 100 and not result.gpu[0].HasField("celsius")
        assert result.gpu[-1].energy_joules > result.gpu[0].energy_joules
        assert result.environment["gpu_uuid"] == "GPU-emulated" and not result.gpu[0].throttled


def measured(store: BlobStore, engine: pb.Engine, training: Training) -> pb.MeasureResult:
    settings = pb.MeasureSettings(
        warmup_seconds=0,
        warmup_iterations=2,
        min_seconds=0.1,
        min_iterations=9,
        max_seconds=0.2,
        stability=0.5,
        windows=6,
    )
    worker = start_worker(store.root)
    try:
        inputs = store_inputs(store, training.images[:4])
        request = pb.MeasureRequest(engines=[engine], inputs=inputs, settings=settings, run="r")
        return worker.ask(WorkerRequest(measure=request), lambda reply: None).measure
    finally:
        worker.close()


def test_what_went_otherwise_is_said(
    trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, build: Any, use: Any
) -> None:
    """A graph that cannot be captured, clocks held down, a plan of another version."""
    use("11.4.0.106", EMULATED_NO_CAPTURE="1", EMULATED_THROTTLING="68")
    data = artifact(FP32, Form.FORM_ONNX, trained, context)
    engine = build("tensorrt", data, Form.FORM_ONNX, FP32, training.preprocessing).engine
    timing = measured(store, engine, training).timings[0]
    assert "could not be captured" in timing.settings["cuda_graph"] and timing.median > 0
    held_down = timing.unstable_reason.partition("; other load")[0]  # on a busy machine that is said as well
    assert not timing.stable and held_down == "throttled: hardware thermal, power cap"
    use("10.16.1.11")
    with pytest.raises(Refused, match="built on .*11.4.0.106; this is .*10.16.1.11"):
        measured(store, engine, training)


@pytest.mark.long
def test_builds_share_a_timing_cache(
    trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, build: Any, use: Any
) -> None:
    use("10.16.1.11")
    shutil.rmtree(store.root.parent / "trt_caches", ignore_errors=True)  # of the builds of other tests
    data = artifact(FP32, UNTYPED, trained, context)
    first, second = (build("tensorrt", data, UNTYPED, FP32, training.preprocessing) for _ in range(2))
    assert first.settings["timing_cache"] == "shared, 0 bytes before this build"
    assert second.settings["timing_cache"] != first.settings["timing_cache"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"typing": "strnog"}, "typing: input should be 'weak' or 'strong', got \"strnog\""),
     ({"batch_range": [8, 4, 2]}, "batch_range must be min <= opt <= max"),
     ({"batch_range": [1, 2, 2]}, "batch_range 1 to 2 does not include batch size 4"),
     ({"optimization_level": 9}, "optimization_level: input should be less than or equal to 5, got 9")],
)  # fmt: skip
def test_wrong_options_are_one_line(
    options: dict[str, Any],
    problem: str,
    trained: torch.nn.Module,
    context: Context,
    training: Training,
    build: Any,
    use: Any,
) -> None:
    use("10.16.1.11")
    data = artifact(FP32, UNTYPED, trained, context)
    with pytest.raises(InvalidInput) as caught:
        build("tensorrt", data, UNTYPED, FP32, training.preprocessing, **options)
    assert problem in str(caught.value)


@pytest.mark.long
def test_a_profile_of_several_batch_sizes(
    trained: torch.nn.Module, context: Context, training: Training, build: Any, predict: Any, use: Any
) -> None:
    use("10.16.1.11")
    data = artifact(FP32, UNTYPED, trained, context)
    built = build("tensorrt", data, UNTYPED, FP32, training.preprocessing, batch_range=[1, 4, 8], tf32=False)
    assert built.settings["profile"] == "batch 1 4 8" and set(built.executed) == {"FP32"}
    assert predict(built.engine, training.images[:6]).shape == (6, 10)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_what_tensorrt_rejects_is_told(
    version: str, trained: torch.nn.Module, context: Context, training: Training, build: Any, use: Any
) -> None:
    use(version)
    form = UNTYPED if version[0] == "8" else Form.FORM_ONNX
    options = {} if version[0] == "8" else {"typing": "strong"}
    with pytest.raises(InvalidInput, match="is not an ONNX file"):
        build("tensorrt", b"this is no model", form, FP32, training.preprocessing, **options)
    source = Source(onnx=lambda: export.to_onnx(trained, context.example), module=trained)
    plugin = QUANTIZERS.load("int8-static")
    unsigned = plugin.quantize(source, plugin.Config(), context, (Form.FORM_QDQ_UNSIGNED,))[Form.FORM_QDQ_UNSIGNED]
    quantized = SIGNED if version[0] == "8" else TYPED
    with pytest.raises(
        (Failed, Refused),
        match=f"TensorRT {version} cannot read this model: .*(Non-zero zero point|INT32) is not supported|opsets up to",
    ):
        build("tensorrt", unsigned, quantized, INT8, training.preprocessing, **options)


@pytest.mark.long
def test_8_6_refuses_a_newer_opset(
    trained: torch.nn.Module, context: Context, training: Training, build: Any, use: Any
) -> None:
    use("8.6.1")
    with pytest.raises(Refused, match="computes wrongly what opset 20 writes: it reads opsets up to 17"):
        build("tensorrt", export.to_onnx(trained, context.example), UNTYPED, FP32, training.preprocessing)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_the_layers_times_and_what_nvidias_own_tools_say(
    version: str, trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, build: Any, use: Any
) -> None:
    use(version)
    typing, form = ("weak", UNTYPED) if version[0] == "8" else ("strong", Form.FORM_ONNX)
    data = artifact(FP32, form, trained, context)
    engine = build("tensorrt", data, form, FP32, training.preprocessing, typing=typing).engine
    inputs = store_inputs(store, training.images[:4])
    worker = start_worker(store.root)
    try:
        asked = pb.ProfileRequest(engine=engine, inputs=inputs, seconds=0.05, run="r")
        profile = worker.ask(WorkerRequest(profile=asked), lambda reply: None).profile
        check = pb.CrossCheckRequest(engine=engine, inputs=inputs, seconds=0.2, run="r")
        tools = worker.ask(WorkerRequest(cross_check=check), lambda reply: None).cross_check.tools
    finally:
        worker.close()
    products = [layer for layer in profile.layers if layer.compute]
    assert products and all(layer.seconds == pytest.approx(0.25e-3) for layer in products)
    assert {layer.precision for layer in products} == {"TF32"} and all(layer.provider for layer in products)
    assert [layer.type for layer in profile.layers if not layer.compute] == ["Reformat"]
    assert [tool.tool for tool in tools] == [f"trtexec {version}", "polygraphy"]
    assert set(tools[0].seconds) == {"latency", "compute", "h2d", "d2h"} and not tools[0].unavailable
    assert tools[1].seconds["latency"] == pytest.approx(1.234e-3) and tools[1].statistic == "mean"
    explicit = "--includeDataTransfers" if version[:2] == "11" else "--useSpinWait --useCudaGraph"
    assert explicit in tools[0].command
    assert "input:[4,1," in tools[1].command.replace("'", ""), "without its shapes Polygraphy runs a batch of 1"


def test_a_tool_that_is_not_there_or_fails_says_so(
    trained: torch.nn.Module, context: Context, training: Training, use: Any, tmp_path: Path
) -> None:
    use("10.16.1.11", PATH="/usr/bin:/bin")
    code = """
from pathlib import Path
from pqbench_runtime.backends.tensorrt import tools
from pqbench_runtime.backends.tensorrt.options import Config
print(tools.trtexec(Path("none"), {}, Config(), 1).unavailable)
tools.TRTEXEC = ("false",)
print(tools.trtexec(Path("none"), {}, Config(), 1).unavailable)
print(tools.trtexec_options({"input": (4, 3, 8, 8)}, Config(batch_range=(1, 4, 8), cuda_graph=False), 1.5))
"""
    done = run(code)
    assert "trtexec is not in this container" in done.stdout, done.stderr
    assert "trtexec ended with code 1: no output" in done.stdout
    assert "--duration=2" in done.stdout and "--shapes=input:4x3x8x8" in done.stdout
    assert "--useSpinWait" in done.stdout and "--useCudaGraph" not in done.stdout


# Names that not every version has, and the versions that have them; the code asks before it uses one.
SOME_VERSIONS = {
    "IProgressMonitor": VERSIONS[1:],
    "IInt8EntropyCalibrator2": VERSIONS[:3],
    "IInt8MinMaxCalibrator": VERSIONS[:3],
}


def test_every_name_that_the_backend_uses_is_in_each_version(tmp_path: Path) -> None:
    """Held to the dumps of the real bindings: `trt.A.B` in the source, and what is used by its name in a string."""
    (tmp_path / "predict.py").write_text(scripts("tensorrt", host_code=True)[ENGINE])
    names = names_used([*BACKEND.glob("*.py"), *(BACKEND.parent / "_tensorrt").glob("*.py"), tmp_path / "predict.py"])
    assert "nptype" in names, "of the script"
    # The dumps have no enums inside of classes; what the version's number is asked for is text.
    names = {name for name in names if not name.startswith(("__version__", "ILogger.Severity"))}
    assert len(names) > 20
    for version in VERSIONS:
        api = json.loads((EMULATOR / f"api/{version}.json").read_text())
        nested = {f"{enum}.{member}" for enum, members in api["enums"].items() for member in members}
        known = {*api["classes"], *api["enums"], *api["functions"], *nested}
        missing = {name for name in names - known if version in SOME_VERSIONS.get(name, VERSIONS)}
        assert not missing, f"{version}: {missing}"
        flags = set(api["enums"]["BuilderFlag"])
        assert {"TF32", "SPARSE_WEIGHTS", "VERSION_COMPATIBLE", "REFIT"} <= flags
        assert ("FP16" in flags and "INT8" in flags) == (version[:2] != "11")


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Code in a process that sees the stand-ins."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))


def test_the_stand_in_bites(
    trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, use: Any
) -> None:
    """Without the FP16 flag, or with a name of another version, the same build fails."""
    use("10.16.1.11")
    request = pb.BuildEngineRequest(
        backend="tensorrt", options_json="{}", batch_size=4, preprocessing=training.preprocessing,
        artifact={"blob": store.put(artifact(FP16, UNTYPED, trained, context)), "form": UNTYPED, "precision": FP16},
    )  # fmt: skip
    template = """
from pathlib import Path
from pqbench.runtime.v1.runtime_pb2 import BuildEngineRequest
from pqbench_runtime.worker import Worker
from pqbench_wire.blobs import BlobStore
from pqbench_runtime.backends.tensorrt import building
{change}
result = Worker(BlobStore(Path({store!r})), lambda reply: None).build(BuildEngineRequest.FromString({request!r}))
print(dict(result.executed))
"""

    def attempt(change: str) -> subprocess.CompletedProcess[str]:
        return run(template.format(change=change, store=str(store.root), request=request.SerializeToString()))

    assert "FP16" in attempt("").stdout
    without = attempt("building.FLAGS = {}")
    assert PrecisionMismatch.__name__ in without.stderr and "runs no compute layer in it" in without.stderr
    use("11.4.0.106")
    assert "AttributeError: FP16" in run("import tensorrt as trt; trt.BuilderFlag.FP16").stderr
    for name in ("BuilderFlag.FP16", "IInt8EntropyCalibrator2", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"):
        assert run(f"import tensorrt as trt; trt.{name}").returncode != 0
    code = "import tensorrt as trt; trt.Builder(trt.ILogger()).create_builder_config().int8_calibrator = 1"
    assert "no attribute 'int8_calibrator'" in run(code).stderr


def test_without_a_gpu_the_backend_is_unavailable_with_its_reason(use: Any, tmp_path: Path) -> None:
    use("10.16.1.11", EMULATED_NO_DEVICE="1")
    code = f"""
from pathlib import Path
from pqbench.runtime.v1.runtime_pb2 import GetCapabilitiesRequest
from pqbench_runtime.service import RuntimeServicer
servicer = RuntimeServicer(Path({str(tmp_path)!r}), None)
print(servicer.GetCapabilities(GetCapabilitiesRequest(backends=["tensorrt"]), None).backends[0].plugin.unavailable_reason)
"""
    done = run(code)
    assert "no CUDA device can be used: cudaGetDevice: no CUDA-capable device" in done.stdout, done.stderr


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_the_dumped_names_are_those_of_the_real_bindings(version: str) -> None:
    """Read out of NVIDIA's own wheels, where they and the tool that loads them can be had."""
    tool = ROOT.parent / "shared/tools/trt_api"
    if not tool.is_dir():
        pytest.skip("skipped: no ../shared/tools")
    code = f"import sys, json; sys.path.insert(0, {str(tool)!r}); import trt_api; print(json.dumps(trt_api.load({version!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"skipped: the bindings of {version} cannot be had: {done.stderr.strip().splitlines()[-1]}")
    real, ours = json.loads(done.stdout), json.loads((EMULATOR / f"api/{version}.json").read_text())
    assert ours["enums"] == {name: one["members"] for name, one in real["enums"].items()}
    names = {n: sorted([*one.get("methods", {}), *one.get("properties", {})]) for n, one in real["classes"].items()}
    assert ours["classes"] == names and ours["functions"] == sorted(real["functions"])


@pytest.mark.parametrize("test", ["test_manifest_options.py::test_every_option_of_a_target[tensorrt]",
                                  "test_plugins.py::test_a_plugin_is_one_documented_file[backend-tensorrt]"])  # fmt: skip
def test_the_tests_of_all_backends_pass(test: str, use: Any) -> None:
    """In a process of its own that sees the stand-in, where the library is not installed."""
    use()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{Path(__file__).parent}/{test}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


CASES: dict[str, dict[str, Any]] = {
    "signed": {}, "unsigned, zero-point 0": {"kind": TensorProto.UINT8},
    "unsigned, zero-point 128": {"kind": TensorProto.UINT8, "zero": 128}, "signed, zero-point 3": {"zero": 3},
    "no zero-point": {"with_zero": False}, "a newer opset": {"opset": 23}, "per-channel activation": {"channels": 8},
}  # fmt: skip


def quantized_convolution(
    kind: int = TensorProto.INT8, zero: int = 0, with_zero: bool = True, opset: int = 20, channels: int = 0
) -> bytes:
    """A convolution behind a Q/DQ pair."""
    shape, attributes = ([channels], {"axis": 1}) if channels else ([], {})
    zeros = onnx.helper.make_tensor("z", kind, shape, bytes([zero] * max(1, channels)), raw=True)
    scale = onnx.numpy_helper.from_array(np.full(shape, 0.1, np.float32), "s")
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype("f4"), "w")
    more = ["s", *(["z"] if with_zero else [])]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", *more], ["q"], **attributes),
        onnx.helper.make_node("DequantizeLinear", ["q", *more], ["d"], **attributes),
        onnx.helper.make_node("Conv", ["d", "w"], ["y"]),
    ]
    ports = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, size, size]) for name, size in
             (("x", 8), ("y", 6))]  # fmt: skip
    graph = onnx.helper.make_graph(nodes, "g", ports[:1], ports[1:], [scale, weight, *([zeros] if with_zero else [])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("name", CASES)
def test_the_stand_in_takes_what_nvidias_parser_takes(name: str, use: Any, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data := quantized_convolution(**CASES[name]))
    taken = not parser_errors(data)
    use("11.4.0.106")
    code = f"""
import tensorrt as trt
class Log(trt.ILogger):
    def log(self, severity, message): ...
network = trt.Builder(Log()).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
print(trt.OnnxParser(network, Log()).parse(open({str(tmp_path / "model.onnx")!r}, "rb").read()))
"""
    done = run(code)
    assert done.stdout.split() == [str(taken)], done.stdout + done.stderr
