"""The compressor's parts: checkpoints, training, export, statistics, the pipeline's refusals."""

from __future__ import annotations

import copy
import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Form, Images, Precision, Preprocessing
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor import checkpoint, export, statistics, weights
from pqbench_compressor.checks import Checker
from pqbench_compressor.loading import Loader
from pqbench_compressor.pipeline import Pipeline
from pqbench_compressor.plugins import MODELS, PRUNERS, Context, Files, Training
from pqbench_compressor.training import Options, frozen, train
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, InvalidInput, Refused, VerificationFailed

MODEL = pb.Model(plugin="digits", name="resnet", weights=pb.WEIGHTS_NONE)


def network(plugin: str = "digits", name: str = "resnet") -> nn.Module:
    torch.manual_seed(0)
    return MODELS.load(plugin).build(name, None, Files()).eval()


@pytest.fixture(scope="module")
def training(digits: tuple[np.ndarray, np.ndarray], digits_preprocessing: Preprocessing) -> Training:
    return Training(images=digits[0][:256], labels=digits[1][:256], preprocessing=digits_preprocessing)


@pytest.fixture(scope="module")
def context(training: Training) -> Context:
    images = training.inputs(slice(4))
    return Context(seed=0, report=lambda *_: None, classes=10, images=images, training_split=training)


@pytest.fixture
def pipeline(store: BlobStore) -> Pipeline:
    return Pipeline(Loader(store=store, allow_code=False), store.root / "training")


@pytest.fixture
def checker(store: BlobStore) -> Checker:
    return Checker(Loader(store=store, allow_code=False))


def quiet(stage: str, fraction: float, message: str) -> None:
    """Reports to nobody."""


def test_a_pruned_checkpoint_loads_strictly_and_computes_the_same(store: BlobStore, context: Context) -> None:
    module = network()
    config = PRUNERS.configure("removal", '{"amount": 0.5}')
    notes = PRUNERS.load("removal").prune(module, config, context)
    assert 0.2 < notes["macs_left"] < 0.4
    history = [{"kind": "prune", "plugin": "removal", "config": {"amount": 0.5}}]
    data = checkpoint.save(module, network(), history)
    assert data == checkpoint.save(module, network(), history)
    back = network()
    assert checkpoint.load(store.path(store.put(data)), back) == history
    np.testing.assert_array_equal(export.run_module(back, context.example), export.run_module(module, context.example))


def test_weights_that_do_not_fit_are_one_clear_line(tmp_path: Path) -> None:
    state = network().state_dict()
    state.pop("0.weight")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InvalidInput, match=r"weights do not fit: 1 are missing \(0.weight\)") as caught:
        weights.load(tmp_path / "w.safetensors", network())
    assert "\n" not in str(caught.value)


def test_pth_files_load_without_pickle(tmp_path: Path) -> None:
    state = {"state_dict": {f"module.{k}": v for k, v in network().state_dict().items()}}
    torch.save(state, tmp_path / "w.pth")
    other = MODELS.load("digits").build("resnet", None, Files())
    assert weights.load(tmp_path / "w.pth", other) == ""
    torch.testing.assert_close(other.state_dict(), network().state_dict())
    torch.save(network(), tmp_path / "evil.pth")
    with pytest.raises(InvalidInput, match="holds Python objects, as torch.save.model. writes them") as caught:
        weights.load(tmp_path / "evil.pth", other)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


def test_training_learns_and_keeps_the_mask(training: Training, context: Context) -> None:
    module = network()
    PRUNERS.load("l1-global").prune(module, PRUNERS.configure("l1-global", '{"amount": 0.5}'), context)
    zeros = {name: p == 0 for name, p in module.named_parameters() if p.ndim > 1}
    first = train(module, training, Options(learning_rate=0.05), seed=0, report=quiet)
    last = train(module, training, Options(epochs=3, learning_rate=0.05), seed=0, report=quiet)
    assert last < first
    for name, parameter in module.named_parameters():
        if name in zeros:
            assert bool((parameter[zeros[name]] == 0).all())
            assert bool((parameter[~zeros[name]] != 0).any())


def test_training_is_repeatable(training: Training) -> None:
    made = []
    for _ in range(2):
        module = network()
        train(module, training, Options(learning_rate=0.05), seed=3, report=quiet)
        made.append(checkpoint.save(module, network(), []))
    assert made[0] == made[1]


def test_distillation_follows_the_teacher_against_the_labels(training: Training) -> None:
    teacher = network()
    with torch.no_grad():
        teacher[-1].bias[3] += 20  # says "three" whatever it sees
    student = network()
    options = Options(epochs=2, learning_rate=0.05, teacher_weight=1.0)
    train(student, training, options, seed=0, report=quiet, teacher=frozen(teacher))
    assert (export.run_module(student, training.inputs(slice(64))).argmax(1) == 3).all()


def test_the_onnx_export_is_dynamic_named_and_free_of_its_machine(context: Context) -> None:
    data = export.to_onnx(network(), context.example)
    assert data == export.to_onnx(network(), context.example)
    model = onnx.load_from_string(data)
    assert [i.name for i in model.graph.input] == ["input"] and [o.name for o in model.graph.output] == ["output"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b"site-packages" not in data and b".py" not in data
    inputs = np.repeat(context.example, 3, axis=0)
    np.testing.assert_allclose(export.run_onnx(data, inputs), export.run_module(network(), inputs), atol=1e-4)


def test_the_pt2_export_is_repeatable_and_free_of_its_machine(context: Context) -> None:
    data = export.to_pt2(network(), context.example)
    assert data == export.to_pt2(network(), context.example)
    parts = zipfile.ZipFile(io.BytesIO(data))
    assert not any(b"site-packages" in parts.read(name) for name in parts.namelist())


def test_an_export_that_computes_something_else_fails_with_figures(context: Context) -> None:
    module, other = network(), copy.deepcopy(network())
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    data = export.to_onnx(other, context.example)
    reference = export.run_module(module, context.example)
    with pytest.raises(VerificationFailed, match=r"signal-to-noise [\d.-]+ dB, at least 60 dB.*on 2 images"):
        export.verify(data, Form.FORM_ONNX, Precision.PRECISION_FP32, context.example, reference)
    with pytest.raises(VerificationFailed, match="FORM_ONNX PRECISION_FP32"):
        export.verify(b"no model", Form.FORM_ONNX, Precision.PRECISION_FP32, context.example, reference)


def test_statistics_count_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 10)).eval()
    with torch.no_grad():
        module[0].weight[:4] = 0
    counted = statistics.of_module(module, np.zeros((2, 3, 4, 4), np.float32), 7)
    assert counted.parameters == 3 * 8 * 9 + 8 * 16 * 10 + 10
    assert counted.nonzeros <= counted.parameters - 4 * 27
    assert counted.macs == 16 * 8 * 27 + 8 * 16 * 10
    assert [layer.macs for layer in counted.layers] == [16 * 8 * 27, 8 * 16 * 10]
    assert counted.state_dict_bytes == 7


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [(["quantize", "finetune"], "quantize must be the last step"), (["quantize", "quantize"], "must be the last")],
)
def test_an_impossible_recipe_is_refused(checker: Checker, kinds: list[str], reason: str) -> None:
    steps = [pb.Step(kind=kind, plugin="fp16" if kind == "quantize" else "") for kind in kinds]
    assert reason in checker.check(pb.CheckRequest(model=MODEL, steps=steps)).refused


def test_check_says_what_a_recipe_needs(checker: Checker) -> None:
    steps = [
        pb.Step(kind="finetune", config_json='{"distill": true}'),
        pb.Step(kind="quantize", plugin="int8-static"),
    ]
    answer = checker.check(pb.CheckRequest(model=MODEL, steps=steps))
    assert [(n.training_images, n.baseline) for n in answer.needs] == [(True, True), (True, False)]
    assert answer.precision == Precision.PRECISION_INT8
    assert Form.FORM_PT2 not in answer.forms


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (pb.Step(kind="prune", plugin="l1-globl"), "did you mean 'l1-global'"),
        (pb.Step(kind="prune", plugin="l1-global", config_json='{"amount": 1.5}'), "amount: .*less than 1"),
        (pb.Step(kind="finetune", config_json='{"epoch": 1}'), "finetune: unknown key 'epoch'; did you mean 'epochs'"),
        (pb.Step(kind="polish"), "unknown kind of step 'polish'"),
    ],
)
def test_a_wrong_step_is_one_clear_line(checker: Checker, step: pb.Step, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        checker.check(pb.CheckRequest(model=MODEL, steps=[step]))


def test_user_code_needs_consent(store: BlobStore, digit_images: Images, tmp_path: Path) -> None:
    code = store.put(
        b"from torch import nn\ndef net(width=4):\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))\n"
    )
    preprocessing = Preprocessing(height=16, width=16, channels=1, mean=[0.5], std=[0.5])
    model = pb.Model(plugin="code", name="net", weights=pb.WEIGHTS_DEFAULT, code=code, preprocessing=preprocessing)
    request = pb.CompressRequest(model=model, forms=[Form.FORM_ONNX, Form.FORM_PT2], verification=digit_images)
    allowing = Pipeline(Loader(store=store, allow_code=True), tmp_path)
    with pytest.raises(Refused, match="--allow-code"):
        Pipeline(Loader(store=store, allow_code=False), tmp_path).compress(request, quiet)
    result = allowing.compress(request, quiet)
    assert result.statistics.parameters == 2570 and len(result.artifacts) == 2
    request.model.name = "nothing"
    with pytest.raises(InvalidInput, match="no class or function 'nothing'"):
        allowing.compress(request, quiet)


def test_a_form_that_fails_takes_no_other_with_it(
    store: BlobStore, tmp_path: Path, digit_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = store.put(b"from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))\n")
    preprocessing = Preprocessing(height=16, width=16, channels=1, mean=[0.5], std=[0.5])
    model = pb.Model(plugin="code", name="net", weights=pb.WEIGHTS_DEFAULT, code=code, preprocessing=preprocessing)
    request = pb.CompressRequest(model=model, forms=[Form.FORM_ONNX, Form.FORM_PT2], verification=digit_images)

    def broken(*_: object) -> bytes:
        raise Failed("torch.export: no")

    monkeypatch.setattr(export, "to_pt2", broken)
    pipeline = Pipeline(Loader(store=store, allow_code=True), tmp_path)
    result = pipeline.compress(request, quiet)
    assert [artifact.form for artifact in result.artifacts] == [Form.FORM_ONNX]
    assert [(f.form, f.reason, f.message) for f in result.failures] == [(Form.FORM_PT2, "FAILED", "torch.export: no")]
    del request.forms[0]
    with pytest.raises(Failed, match=r"torch\.export: no"):
        pipeline.compress(request, quiet)


def test_an_onnx_file_can_be_quantized_but_not_pruned(
    pipeline: Pipeline,
    checker: Checker,
    store: BlobStore,
    digit_images: Images,
    context: Context,
    digits_preprocessing: Preprocessing,
) -> None:
    code = store.put(export.to_onnx(network(), context.example))
    model = pb.Model(plugin="onnx", name="x.onnx", code=code, preprocessing=digits_preprocessing)
    steps = [pb.Step(kind="quantize", plugin="int8-static", config_json='{"images": 32}')]
    result = pipeline.compress(
        pb.CompressRequest(
            model=model, steps=steps, forms=[Form.FORM_QDQ_UNSIGNED], training=digit_images, verification=digit_images
        ),
        quiet,
    )
    assert result.artifacts[0].precision == Precision.PRECISION_INT8
    assert not result.statistics.HasField("macs")
    assert "pruned" in checker.check(pb.CheckRequest(model=model, steps=[pb.Step(kind="prune", plugin="removal",
        config_json='{"amount": 0.5}')])).refused  # fmt: skip


def test_calibration_draws_from_the_whole_split() -> None:
    images = np.arange(100, dtype=np.uint8)[:, None, None, None]
    split = Training(images=images, labels=np.zeros(100), preprocessing=Preprocessing(height=1, width=1, channels=1,
        mean=[0], std=[1]))  # fmt: skip
    drawn = np.round(split.sample(20, 0).ravel() * 255)
    assert len(set(drawn)) == 20 and drawn.max() > 50
    held_out = np.round(split.held_out(80, 0)[0].ravel() * 255)
    everything = np.round(split.sample(100, 0).ravel() * 255)
    assert len(set(held_out)) == 10 and len(everything) == 90 and not set(held_out) & set(everything)
    assert set(split.fitting(0)) == set(everything)


def test_labels_of_a_subset_are_right_among_its_outputs() -> None:
    images, outputs = np.zeros((4, 1, 1, 3), np.uint8), np.zeros((4, 12), np.float32)
    outputs[:, 11] = 9  # no output of the subset
    outputs[[0, 1, 2, 3], [2, 5, 5, 2]] = 1
    split = Training(images=images, labels=np.array([2, 5, 2, 2]), preprocessing=Preprocessing(), outputs=(2, 5, 7))
    assert split.accuracy(outputs, split.labels) == 75
    whole = Training(images=images, labels=split.labels, preprocessing=Preprocessing())
    assert whole.accuracy(outputs, split.labels) == 0


def test_a_file_that_is_quantized_already_is_measured_as_it_is_and_not_quantized_again(
    pipeline: Pipeline, checker: Checker, store: BlobStore, shared_cases: Path
) -> None:
    given = (shared_cases / "onnx/already-quantized.onnx").read_bytes()
    preprocessing = Preprocessing(height=32, width=32, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    model = pb.Model(plugin="onnx", name="q.onnx", code=store.put(given), preprocessing=preprocessing)
    for method in ("int8-static", "fp16"):
        steps = [pb.Step(kind="quantize", plugin=method)]
        refused = checker.check(pb.CheckRequest(model=model, steps=steps)).refused
        assert refused == "this file is quantized already: it has DequantizeLinear nodes"
    answer = checker.check(pb.CheckRequest(model=model))
    assert (answer.refused, answer.precision, answer.classes) == ("", Precision.PRECISION_INT8, 10)
    assert list(answer.forms) == [Form.FORM_QDQ_TOOL]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    images = Images(images=store.put_array(pixels), labels=store.put_array(np.zeros(4, np.int64)))
    result = pipeline.compress(pb.CompressRequest(model=model, forms=answer.forms, verification=images), quiet)
    (made,) = result.artifacts
    assert (made.form, made.precision) == (Form.FORM_QDQ_TOOL, Precision.PRECISION_INT8)
    assert onnx.load_from_string(store.read(made.blob)).graph == onnx.load_from_string(given).graph
    assert result.verifications[0].sqnr_db == 200


# The least dB of each precision, as it is told to users.
BOUNDS = {"FP32": 60, "FP16": 30, "BF16": 15, "INT8": 3, "INT8_DYNAMIC": 3, "FP8": 3, "INT4": 0}


@pytest.mark.parametrize(("name", "least"), BOUNDS.items())
def test_an_artifact_is_held_to_the_bound_of_its_precision(name: str, least: float) -> None:
    """An artifact that gives what it takes, against a reference that lies just above and just under the bound."""
    values = [onnx.helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, ["n", 1, 4, 4]) for one in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    artifact = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    inputs = np.random.default_rng(0).standard_normal((4, 1, 4, 4)).astype(np.float32)
    outputs, precision = inputs.reshape(4, 16).astype(np.float64), Precision.Value(f"PRECISION_{name}")

    def verified(decibels: float, form: Form = Form.FORM_ONNX) -> float:
        reference = outputs / (1 + 10 ** (-decibels / 20))  # so much smaller that the noise is so far below the signal
        return export.verify(artifact.SerializeToString(), form, precision, inputs, reference).sqnr_db

    assert verified(least + 0.1) == pytest.approx(least + 0.1, abs=1e-3)
    with pytest.raises(VerificationFailed, match=f"signal-to-noise {least - 0.1:.1f} dB, at least {least} dB wanted"):
        verified(least - 0.1)
    assert verified(-20, Form.FORM_QDQ_TOOL) == pytest.approx(-20, abs=1e-3), "is a finding"
