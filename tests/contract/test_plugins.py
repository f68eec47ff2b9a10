"""Every plug-in of a kind passes the same test, found by the catalog and not by name."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from openvino import properties

from pqbench.common.v1.common_pb2 import Form, Precision, Preprocessing
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import WorkerRequest
from pqbench_compressor import export
from pqbench_compressor.graph import Graph
from pqbench_compressor.plugins import MODELS, PRUNERS, QUANTIZERS, Context, Files, Source, Training
from pqbench_compressor.pruners._importance import CRITERIA
from pqbench_orchestrator.dataset import DATASETS, fit, prepare
from pqbench_orchestrator.metric import METRICS, Outputs
from pqbench_orchestrator.results.tables import TITLES
from pqbench_runtime.backend import BACKENDS, Job, Route, Shape
from pqbench_runtime.workers import start_worker
from pqbench_wire.blobs import BlobStore
from pqbench_wire.catalog import Catalog
from pqbench_wire.errors import Failed, InvalidInput, Refused
from pqbench_wire.shared.inputs import store_inputs

CATALOGS = (MODELS, PRUNERS, QUANTIZERS, BACKENDS, DATASETS, METRICS)
EVERY = [(catalog, name) for catalog in CATALOGS for name in catalog.names]
SMALL = {"torchvision": "squeezenet1_1", "timm": "test_resnet", "cifar": "resnet20", "digits": "resnet",
         "thesis": "squeezenet", "simplenet": "v1_5m_m1"}  # fmt: skip
OWN = {"code", "object"}  # a user's file or object: tested with the compressor and end to end
ELSEWHERE = {"int8-aimet", "int8-quark"}  # need an environment of their own: tests/e2e/test_vendor_tools.py
HALF = {"amount": 0.5}
# Every pruner is tried as it comes, removing half where it takes an amount; some in other ways too.
WAYS = [("nm", {"n": 1, "m": 4}), ("l1-auto", HALF | {"images": 64}), ("random-structured", HALF | {"dim": 1}),
        ("ln-structured", HALF | {"dim": 1, "n": 1}),
        *(("removal", HALF | {"criterion": criterion, "images": 16}) for criterion in CRITERIA),
        ("removal", HALF | {"scope": "global", "target": "macs"}),
        ("removal", HALF | {"scope": "isomorphic", "target": "parameters", "iterations": 3})]  # fmt: skip
PRUNINGS = [
    *((name, HALF if "amount" in PRUNERS.load(name).Config.__dataclass_fields__ else {})
      for name in PRUNERS.names if name not in {*OWN, "l1-auto"}),
    *WAYS,
]  # fmt: skip
SLOW = {"int8-qat", "int8-modelopt"}
FAST = {"int8-qat": {"learning_rate": 1e-4, "images": 256}}  # how the quick tests configure what is slow


@pytest.mark.parametrize(("catalog", "name"), EVERY, ids=lambda value: getattr(value, "kind", value))
def test_a_plugin_is_one_documented_file(catalog: Catalog, name: str) -> None:
    if catalog is BACKENDS and catalog.missing(name):
        pytest.skip(f"skipped: {catalog.missing(name)}")
    if name in ELSEWHERE:
        described = catalog.describe(name)
        assert described.unavailable_reason.startswith("pip install ") and len(described.summary) > 20
        return
    assert not catalog.missing(name), "every plug-in can be used in the full installation"
    module = catalog.load(name)
    assert module.__doc__ and isinstance(module.REQUIRES, tuple)
    description = catalog.describe(name, schema=catalog is not METRICS)
    assert description.available and len(description.summary) > 20
    if catalog is METRICS:
        return
    if catalog is BACKENDS:
        assert set(module.TIMED) <= {field.name for field in dataclasses.fields(module.Config)}
        assert Path(module.ENGINE_FILE).name == module.ENGINE_FILE and Path(module.ENGINE_FILE).suffix
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(module.Config))
    schema = json.loads(description.config_schema_json)
    for field in schema.get("properties", {}).values():
        assert "description" in field or catalog is MODELS, f"{name}: {field} does not say what it means"


@pytest.mark.parametrize("catalog", CATALOGS, ids=lambda catalog: catalog.kind)
def test_no_plugin_is_named_outside_its_folder(catalog: Catalog) -> None:
    """A new plug-in needs no other file: none of the services' other modules imports one."""
    root = Path(__file__).parents[2]
    for path in [*root.glob("services/*/src/**/*.py"), *root.glob("orchestrator/src/**/*.py")]:
        imported = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        own_folder = catalog.package.rpartition(".")[2] in path.parts
        plugins = {f"{catalog.package}.{name.replace('-', '_')}" for name in catalog.names}
        assert own_folder or not imported & plugins, path


@pytest.mark.parametrize("name", [n for n in MODELS.names if n not in {*OWN, "onnx"}])
def test_model(name: str) -> None:
    plugin, config = MODELS.load(name), MODELS.configure(name, "{}")
    member = SMALL.get(name, plugin.names()[0])
    assert member in plugin.names()
    info = plugin.info(member, config, Files())
    p = info.preprocessing
    assert len(p.mean) == len(p.std) == p.channels and p.interpolation in ("bilinear", "bicubic")
    module = plugin.build(member, config, Files()).eval()
    with torch.no_grad():
        assert module(torch.zeros(2, p.channels, p.height, p.width)).shape == (2, info.classes)
    with pytest.raises(InvalidInput, match="unknown model"):
        plugin.info("no-such-model", config, Files())


@pytest.mark.parametrize(
    ("name", "values"), PRUNINGS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_pruner(name: str, values: dict[str, Any], trained: torch.nn.Module, context: Context) -> None:
    module, plugin = copy.deepcopy(trained), PRUNERS.load(name)
    config = PRUNERS.configure(name, json.dumps(values))
    before = sum(int(torch.count_nonzero(p)) for p in module.parameters())
    assert plugin.refusal(copy.deepcopy(module), config, 10, context.example[:1]) == ""
    plugin.prune(module, config, context)
    after = sum(int(torch.count_nonzero(p)) for p in module.parameters())
    takes_whole_blocks = getattr(config, "target", "") == "blocks"  # of which this network has few
    assert after < (1.0 if takes_whole_blocks else 0.75) * before
    assert not any("_mask" in key or "_orig" in key for key in module.state_dict()), "the zeros are permanent"
    assert export.run_module(module, context.example).shape == (2, 10)
    data = export.to_onnx(module, context.example)
    np.testing.assert_allclose(
        export.run_onnx(data, context.example), export.run_module(module, context.example), atol=1e-3
    )
    assert plugin.problem(data, module, config) == ""
    with pytest.raises(InvalidInput, match="amount|n: "):
        PRUNERS.configure(name, '{"n": 0}' if name == "nm" else '{"amount": 1}')


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in SLOW else name
        for name in QUANTIZERS.names
        if name not in OWN | ELSEWHERE
    ],
)
def test_quantizer(name: str, trained: torch.nn.Module, context: Context, training: Training) -> None:
    plugin = QUANTIZERS.load(name)
    source = Source(onnx=lambda: export.to_onnx(trained, context.example), module=trained)
    config = QUANTIZERS.configure(name, json.dumps(FAST.get(name, {})))
    made = plugin.quantize(source, config, context, plugin.FORMS)
    assert tuple(made) == plugin.FORMS
    inputs = training.inputs(slice(128))
    reference = export.run_module(trained, inputs)
    for form, data in made.items():
        figures = export.verify(data, form, plugin.PRECISION, inputs, reference)
        assert figures.sqnr_db > (20 if name != "int8-qat" else 10)
        if form in (Form.FORM_QDQ_SIGNED, Form.FORM_QDQ_UNSIGNED) and plugin.PRECISION == Precision.PRECISION_INT8:
            _check_qdq(onnx.load_from_string(data), signed=form == Form.FORM_QDQ_SIGNED)


def _check_qdq(model: onnx.ModelProto, signed: bool) -> None:
    types = {i.name: i.data_type for i in model.graph.initializer}
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert nodes and all(len(n.input) == 3 for n in nodes), "every zero-point is explicit"
    activations = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in types]
    wanted = onnx.TensorProto.INT8 if signed else onnx.TensorProto.UINT8
    assert {types[n.input[2]] for n in activations} == {wanted}
    if signed:
        assert all((weights[n.input[2]] == 0).all() for n in nodes)
        assert not any(types.get(n.input[0]) == onnx.TensorProto.INT8 for n in nodes), "weights are stored as FP32"


# Backends on GPUs have tests of their own.
HERE = [n for n in BACKENDS.names if not BACKENDS.missing(n) and not getattr(BACKENDS.load(n), "ON_GPU", False)]
# PyTorch's import in a process for each engine takes seconds: its reduced precisions are tried in the long tests.
ROUTES = [
    pytest.param(name, route, marks=[pytest.mark.long] if name == "pytorch" and route.precision != Precision.PRECISION_FP32 else [])
    for name in HERE for route in BACKENDS.load(name).ROUTES
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "route"), ROUTES, ids=lambda v: v if isinstance(v, str) else Precision.Name(v.precision)
)
def test_route(
    name: str,
    route: Route,
    trained: torch.nn.Module,
    context: Context,
    training: Training,
    build: Any,
    predict: Any,
) -> None:
    """A route builds, runs in what it promises, and computes what PyTorch computes."""
    data = _artifact(route.precision, route.form, trained, context)
    try:
        built = build(name, data, route.form, route.precision, training.preprocessing, threads=1)
    except Refused as refused:
        assert str(refused).startswith("this CPU has no "), refused
        pytest.skip(f"skipped: {refused}")
    assert set(built.executed) <= {Precision.Name(p).removeprefix("PRECISION_") for p in route.executes}
    assert built.executed, "the executed precision of the compute layers is read back"
    if route.precision == Precision.PRECISION_INT8:
        assert built.executed["INT8"] >= max(built.executed.values())
    assert built.settings["inference_precision"] and built.versions and built.build_seconds > 0
    outputs = predict(built.engine, training.images[:6])
    reference = export.run_module(trained, training.inputs(slice(6)))
    assert outputs.shape == (6, 10) and outputs.dtype == np.float32
    assert export.sqnr(reference, outputs) > (60 if route.precision == Precision.PRECISION_FP32 else 12)
    assert len(route.evidence) > 10


def _artifact(precision: Precision, form: Form, module: torch.nn.Module, context: Context) -> bytes:
    if precision == Precision.PRECISION_FP32:
        return (
            export.to_onnx(module, context.example)
            if form == Form.FORM_ONNX
            else export.to_pt2(module, context.example)
        )
    makers = [QUANTIZERS.load(n) for n in QUANTIZERS.names if n not in OWN | ELSEWHERE]
    plugin = next(q for q in makers if precision == q.PRECISION and form in q.FORMS)
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    made: dict[Form, bytes] = plugin.quantize(source, plugin.Config(), context, (form,))
    return made[form]


@pytest.mark.parametrize("name", HERE)
def test_backend_has_a_baseline_and_a_device(name: str) -> None:
    plugin = BACKENDS.load(name)
    assert any(route.precision == Precision.PRECISION_FP32 for route in plugin.ROUTES)
    assert plugin.device(plugin.Config()) and plugin.versions()


@pytest.mark.parametrize("name", HERE)
def test_backend_says_why_a_model_does_not_build(name: str, training: Training, build: Any) -> None:
    form = next(r.form for r in BACKENDS.load(name).ROUTES if r.precision == Precision.PRECISION_FP32)
    with pytest.raises((Failed, InvalidInput)) as caught:
        build(name, b"this is no model", form, Precision.PRECISION_FP32, training.preprocessing)
    assert len(str(caught.value)) > 20 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", HERE)
def test_backend_tells_where_the_time_goes_and_what_other_tools_say(
    name: str, trained: torch.nn.Module, context: Context, training: Training, store: BlobStore, build: Any
) -> None:
    form = next(r.form for r in BACKENDS.load(name).ROUTES if r.precision == Precision.PRECISION_FP32)
    data = _artifact(Precision.PRECISION_FP32, form, trained, context)
    engine = build(name, data, form, Precision.PRECISION_FP32, training.preprocessing, threads=1).engine
    inputs, worker = store_inputs(store, training.images[:4]), start_worker(store.root)
    try:
        asked = pb.ProfileRequest(engine=engine, inputs=inputs, seconds=0.2, run="r")
        profile = worker.ask(WorkerRequest(profile=asked), lambda reply: None).profile
        check = pb.CrossCheckRequest(engine=engine, inputs=inputs, seconds=0.5, run="r")
        tools = worker.ask(WorkerRequest(cross_check=check), lambda reply: None).cross_check.tools
    finally:
        worker.close()
    convolutions = [layer for layer in profile.layers if layer.compute]
    assert profile.tool and profile.calls >= 3 and len(convolutions) >= 7
    assert {layer.precision for layer in convolutions} == {"FP32"} and all(layer.type for layer in profile.layers)
    whole = sum(layer.seconds for layer in profile.layers)
    assert 1e-5 < whole < 0.1 and sum(layer.seconds for layer in convolutions) > whole / 3
    assert all(tool.seconds["latency"] > 1e-5 and tool.definition and not tool.unavailable for tool in tools)
    assert bool(tools) == (name != "onnxruntime"), "its wheel has no benchmark tool"


def test_openvino_runs_true_fp32_where_its_default_does_not(
    trained: torch.nn.Module, context: Context, training: Training, build: Any
) -> None:
    data = export.to_onnx(trained, context.example)
    built = build("openvino", data, Form.FORM_ONNX, Precision.PRECISION_FP32, training.preprocessing)
    assert set(built.executed) == {"FP32"}
    assert built.settings["inference_precision"] == "f32"


@pytest.mark.parametrize("around", ["fp32", "bf16"])
def test_openvino_runs_what_int8_leaves_in_the_precision_that_was_asked_for(
    around: str, trained: torch.nn.Module, context: Context, training: Training, build: Any
) -> None:
    model, plugin = export.to_onnx(trained, context.example), QUANTIZERS.load("int8-static")
    form, kept = Form.FORM_QDQ_UNSIGNED, [Graph(model).compute_nodes()[1].name]
    source = Source(onnx=lambda: model, module=trained)
    data = plugin.quantize(source, plugin.Config(images=32, keep=tuple(kept)), context, (form,))[form]
    wanted = functools.partial(build, "openvino", data, form, Precision.PRECISION_INT8, training.preprocessing)
    if around == "bf16" and "BF16" not in openvino.Core().get_property("CPU", properties.device.capabilities()):
        with pytest.raises(Refused, match="this CPU has no BF16 arithmetic"):
            wanted(around_int8=around)
        return
    built = wanted(around_int8=around)
    assert set(built.executed) == {"INT8", around.upper()} and built.settings["inference_precision"] in ("f32", "bf16")


@pytest.mark.parametrize(("instances", "pinned"), [(1, None), (2, False)])
def test_openvino_does_not_pin_instances_to_the_same_core(
    instances: int, pinned: bool | None, trained: torch.nn.Module, context: Context, training: Training, tmp_path: Path
) -> None:
    backend, artifact = BACKENDS.load("openvino"), tmp_path / "model.onnx"
    artifact.write_bytes(export.to_onnx(trained, context.example))
    shape, options = (
        Shape(batch=4, preprocessing=training.preprocessing, instances=instances),
        backend.Config(threads=1),
    )
    job = Job(artifact=artifact, precision=Precision.PRECISION_FP32, form=Form.FORM_ONNX, shape=shape, caches=tmp_path)
    (engine := tmp_path / "engine").write_bytes(backend.build(job, options).data)
    session = backend.load(engine, Precision.PRECISION_FP32, shape, options)
    assert session.settings.get("cpu_pinning") == (None if pinned is None else str(pinned))
    if pinned is not None:
        compiled = session._request.get_compiled_model()
        assert compiled.get_property(properties.hint.enable_cpu_pinning()) is pinned


@pytest.mark.long
def test_pytorch_compiles(trained: torch.nn.Module, context: Context, training: Training, build: Any) -> None:
    data = export.to_pt2(trained, context.example)
    built = build("pytorch", data, Form.FORM_PT2, Precision.PRECISION_FP32, training.preprocessing, mode="compile")
    assert built.settings["mode"] == "compile"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_artifact_that_names_files_of_the_machine_is_refused(
    backend: str, training: Training, build: Any, tmp_path: Path
) -> None:
    """Its weight would be 64 bytes of a file beside the service, or anywhere."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(64)))
    weight = onnx.TensorProto(
        name="w", data_type=onnx.TensorProto.FLOAT, dims=[16], data_location=onnx.TensorProto.EXTERNAL
    )
    weight.external_data.add(key="location", value=str(secret))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["input", "w"], ["output"])],
        "g",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 1, 16, 16])],
        [onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["N", 1, 16, 16])],
        [weight],
    )
    data = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    with pytest.raises(InvalidInput, match="keeps weights in another file, .*secret"):
        build(backend, data, Form.FORM_ONNX, Precision.PRECISION_FP32, training.preprocessing)


@pytest.fixture
def dataset_config(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """A configuration for each dataset that needs files, made of generated images."""
    from PIL import Image

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "c.npz", images=images, labels=np.arange(20) % 10)
    for split in ("train", "test"):
        for i, image in enumerate(images):
            folder = tmp_path / split / f"class{i % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:02}.png")
    for name in ("imagenette", "imagewoof"):
        for synset in DATASETS.load(name).OUTPUTS:
            for part in ("train", "val"):
                folder = tmp_path / f"{name}2" / part / synset
                folder.mkdir(parents=True)
                Image.fromarray(images[0]).save(folder / "a.png")
    (tmp_path / "test" / "labels.json").write_text(json.dumps({f"{i:02}.png": 50 * i for i in range(20)}))
    (tmp_path / "net" / "val").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "net" / "val" / f"{i}.png")
    (tmp_path / "net" / "val.txt").write_text("".join(f"{i}.png {i * 50}\n" for i in range(20)))
    (tmp_path / "net" / "train").symlink_to(tmp_path / "net" / "val")
    (tmp_path / "net" / "train.txt").symlink_to(tmp_path / "net" / "val.txt")
    own = "def data():\n    import numpy\n    labels = numpy.arange(20) % 10\n    images = numpy.load('c.npz')['images']\n"
    (tmp_path / "own.py").write_text(
        own.replace("c.npz", str(tmp_path / "c.npz"))
        + "    return {'test': (images, labels), 'train': (images, labels)}\n"
    )
    return {
        "code": {"function": str(tmp_path / "own.py:data")},
        "cifar10": {"train": str(tmp_path / "c.npz"), "test": str(tmp_path / "c.npz")},
        "cifar100": {"train": str(tmp_path / "c.npz"), "test": str(tmp_path / "c.npz")},
        "arrays": {"train": str(tmp_path / "c.npz"), "test": str(tmp_path / "c.npz")},
        "imagenet": {"folder": str(tmp_path / "net")},
        "imagenet1000": {"test": str(tmp_path / "test"), "train": str(tmp_path / "test")},
        "imagenette": {},
        "imagewoof": {},
        "folder": {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")},
        "digits": {},
    }


@pytest.mark.parametrize("name", DATASETS.names)
def test_dataset(name: str, dataset_config: dict[str, dict[str, Any]], store: BlobStore, tmp_path: Path) -> None:
    plugin, config = DATASETS.load(name), DATASETS.configure(name, json.dumps(dataset_config.get(name, {})))
    data = plugin.load(config, tmp_path)
    again = plugin.load(config, tmp_path)
    for split in ("train", "test"):
        labels = data.split(split).labels
        assert labels.dtype == np.int64 and labels.max() < len(data.classes)
        assert data.split(split).fingerprint == again.split(split).fingerprint
    preprocessing = Preprocessing(height=12, width=16, channels=3, interpolation="bilinear", mean=[0], std=[1])
    images = prepare(data.split("test"), preprocessing, store, limit=7, seed=1)
    pixels = store.array(images.images)
    assert pixels.shape == (7, 12, 16, 3) and pixels.dtype == np.uint8
    assert images == prepare(again.split("test"), preprocessing, store, limit=7, seed=1)
    first = data.split("test").open(0)
    everything = store.array(prepare(data.split("test"), preprocessing, store, limit=None, seed=0).images)
    np.testing.assert_array_equal(everything[0], fit(first, preprocessing))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("top1", 50.0), ("top5", 75.0), ("agreement", 25.0), ("sqnr", None), ("cosine", None)],
)
def test_metric_on_known_outputs(name: str, expected: float | None) -> None:
    variant = np.eye(10, dtype=np.float32)[[0, 1, 2, 3]] + np.linspace(0.5, 0, 10, dtype=np.float32) * 0.1
    baseline = np.eye(10, dtype=np.float32)[[0, 5, 6, 7]]
    labels = np.array([0, 1, 9, 4])
    score = METRICS.load(name).score(Outputs(variant=variant, baseline=baseline, labels=labels))
    if name == "sqnr":
        expected = 10 * np.log10((baseline**2).sum() / ((baseline - variant) ** 2).sum())
    if name == "cosine":
        expected = np.mean([v @ b / np.sqrt((v @ v) * (b @ b)) for v, b in zip(variant, baseline, strict=True)])
    assert score == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", METRICS.names)
def test_metric(name: str) -> None:
    """A number with a column of its own, the best there is where the variant is the baseline and right."""
    metric = METRICS.load(name)
    perfect = np.eye(10, dtype=np.float32)
    other = np.roll(perfect, 1, axis=0)
    same, worse = (
        metric.score(Outputs(variant=variant, baseline=perfect, labels=np.arange(10))) for variant in (perfect, other)
    )
    assert isinstance(worse, float) and (same is None or same > worse), "None: no finite number"
    assert metric.TITLE not in TITLES and metric.COMPARES in ("labels", "classes", "values")


CONFIGURED = [(catalog, name) for catalog, name in EVERY if catalog is not METRICS and not catalog.missing(name)]


@pytest.mark.parametrize(("catalog", "name"), CONFIGURED, ids=lambda value: getattr(value, "kind", value))
def test_a_schema_says_what_a_configuration_takes(catalog: Catalog, name: str) -> None:
    """What it requires is missed, its defaults and bounds are taken, what is beyond or unknown is not."""
    schema = json.loads(catalog.describe(name).config_schema_json)
    fields, required = schema.get("properties", {}), schema.get("required", [])
    least = {key: fields[key].get("minimum", fields[key].get("exclusiveMinimum", 0) + 0.25) for key in required
             if fields[key].get("type") in ("number", "integer")}  # fmt: skip
    if required:
        with pytest.raises(InvalidInput, match=required[0]):
            catalog.configure(name, "{}")
    with pytest.raises(InvalidInput, match="no-such-key"):
        catalog.configure(name, json.dumps(least | {"no-such-key": 1}))
    if set(required) - set(least):
        return
    for key, field in fields.items():
        if "default" in field:
            catalog.configure(name, json.dumps(least | {key: field["default"]}))
        for bound, beyond in (("maximum", 1), ("minimum", -1)):
            if bound in field:
                with pytest.raises(InvalidInput, match=key):
                    catalog.configure(name, json.dumps(least | {key: field[bound] + beyond}))
