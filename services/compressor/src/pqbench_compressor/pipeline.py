"""What one Compress call does: load, apply the steps, export, verify, count."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Artifact, Form, Precision, Preprocessing
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor import checkpoint, export, modules, normal_form, onnx_check, statistics, steps, weights
from pqbench_compressor.opset import lowered
from pqbench_compressor.plugins import MODELS, PRUNERS, Context, Files, ModelInfo, Needs, Report, Source, Training
from pqbench_compressor.sensitivity import Sensitivity
from pqbench_compressor.tensors import outputs_of
from pqbench_wire import own_code
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, InvalidInput, PqbenchError, Refused, VerificationFailed, reason_of
from pqbench_wire.inputs import Feed, Inputs, as_feed, check_preprocessing, load_inputs, store_inputs
from pqbench_wire.jobs import canonical

FP32_FORMS = (Form.FORM_ONNX, Form.FORM_PT2, Form.FORM_ONNX_UNTYPED)
LEAST_IMAGES = 2  # for verification; exporters specialise a batch of one


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Everything that a call needs from the service it runs in."""

    store: BlobStore
    allow_code: bool
    resume: Path  # folder of trainings under way

    def info(self, model: pb.Model) -> ModelInfo:
        """The model's preprocessing and classes; what the request gives wins over the plug-in's own."""
        plugin = MODELS.load(model.plugin)
        config = MODELS.configure(model.plugin, model.config_json)
        info = plugin.info(model.name, config, self._files(model))
        if model.preprocessing.height or model.preprocessing.inputs:
            info = replace(info, preprocessing=model.preprocessing)
        if not (info.preprocessing.height or info.preprocessing.inputs):
            raise InvalidInput(
                f"model {model.name}: its input is not known; give preprocessing: {{height, width, …}}, or inputs"
            )
        check_preprocessing(info.preprocessing)
        return info

    def check(self, request: pb.CheckRequest) -> pb.CheckResponse:
        """Validate a model and a recipe. Raises InvalidInput; what cannot work is `refused`."""
        info = self.info(request.model)
        recipe = self._recipe(request.steps)
        quantizer = steps.quantizer(recipe)
        answer = pb.CheckResponse(
            preprocessing=info.preprocessing,
            classes=info.classes,
            trains=info.trains and request.model.weights == pb.WEIGHTS_DEFAULT,
            precision=quantizer.PRECISION if quantizer else Precision.PRECISION_FP32,
            forms=quantizer.FORMS if quantizer else FP32_FORMS,
            needs=[_message(step.needs()) for step in recipe],
        )
        if request.model.plugin == "onnx":
            self._check_file(request.model, info, recipe, answer)
        elif not recipe:
            self._check_module(request.model, info, answer)
        answer.refused = answer.refused or self._refusal(request.model, recipe)
        return answer

    def _check_file(self, model: pb.Model, info: ModelInfo, recipe: list[steps.Step], answer: pb.CheckResponse) -> None:
        """What a user's ONNX file declares, against what it will be given."""
        given = self._given(model)
        operator = normal_form.quantized_operator(given)
        forms = [form for form in answer.forms if form != Form.FORM_PT2]
        answer.ClearField("forms")
        answer.forms.extend(forms if recipe or not operator else [Form.FORM_QDQ_TOOL])
        if recipe:
            answer.refused = f"this file is quantized already: it has {operator} nodes" if operator else ""
            return
        if operator:
            answer.precision = Precision.PRECISION_INT8
        found = onnx_check.examine(given, info.preprocessing)
        answer.refused, answer.fixed_batch = found.refused, found.fixed_batch
        answer.classes = answer.classes or found.classes
        if not operator and not answer.refused:
            try:
                normal_form.normalised(model.name, given)
            except InvalidInput as error:  # one file that cannot be converted does not end the plan of others
                answer.refused = str(error)

    def _check_module(self, model: pb.Model, info: ModelInfo, answer: pb.CheckResponse) -> None:
        """A user's file of weights is loaded, a user's own module is run. Raises InvalidInput for weights."""
        module = None
        if model.weights == pb.WEIGHTS_FILE:
            module, note = self.with_weights(model)
            answer.notes.extend([note] if note else [])
        if not getattr(MODELS.load(model.plugin), "OWN", False):
            return
        example = _example(info.preprocessing)
        module = module or _architecture(self, canonical(model))[0]
        answer.refused = modules.refusal(module, example)
        if not answer.refused and not answer.classes and _classifies(module, example):
            answer.classes = outputs_of(module, example)[0].shape[1]

    def compress(self, request: pb.CompressRequest, report: Report) -> pb.CompressResult:
        """Apply the request's steps and export its forms."""
        recipe = self._recipe(request.steps)
        if refused := steps.order_refusal([step.kind for step in recipe], request.model.plugin == "onnx"):
            raise Refused(refused)
        seconds: dict[str, float] = {}
        torch.manual_seed(request.seed)
        context = self._context(request, report, self.resume / hashlib.sha256(canonical(request)).hexdigest())
        if request.model.plugin == "onnx":
            return self._quantize_file(request, recipe, context, seconds)
        with _timed(seconds, "load"):
            module, history = self._load(request, context)
        notes: dict[str, Any] = {}
        for message, step in zip(request.steps, recipe, strict=True):
            if step.kind != "quantize":
                with _timed(seconds, step.kind):
                    notes[step.label] = step.apply(module, context)
            config = json.loads(message.config_json or "{}")
            history.append({"kind": message.kind, "plugin": message.plugin, "config": config})
        data = checkpoint.save(module, self.unpruned(request.model), history)
        result = pb.CompressResult(checkpoint=self.store.put(data))
        if request.forms:
            self._export(request, recipe, context, module, history, result, notes, seconds)
        with _timed(seconds, "statistics"):
            result.statistics.CopyFrom(statistics.of_module(module, context.example, len(data)))
        return _finish(result, notes, seconds)

    def analyse(self, request: pb.AnalyseRequest, report: Report) -> pb.AnalyseResult:
        """Sensitivity of every layer of the model's weights, as they are, to pruning and to rounding."""
        torch.manual_seed(request.seed)
        loading = pb.CompressRequest(
            model=request.model, training=request.training, verification=request.verification, seed=request.seed
        )
        context = self._context(loading, report, self.resume / "none")
        module = self._load(loading, context)[0]
        if not _classifies(module, context.example):
            raise Refused("sensitivity needs a classifier; this model gives more than one [N, classes]")
        analysis = Sensitivity(module, context, request.images)
        points = analysis.pruning(request.amounts) + analysis.rounding(request.bits)
        return pb.AnalyseResult(
            layers=[pb.LayerSensitivity(**dataclasses.asdict(point)) for point in points],
            accuracy=analysis.accuracy,
            images=analysis.images,
        )

    def _load(self, request: pb.CompressRequest, context: Context) -> tuple[nn.Module, checkpoint.History]:
        model, files = request.model, self._files(request.model)
        plugin, config = MODELS.load(model.plugin), MODELS.configure(model.plugin, model.config_json)
        if request.HasField("checkpoint"):
            module = self.unpruned(model)
            return module.eval(), checkpoint.load(self.store.path(request.checkpoint), module)
        if model.weights == pb.WEIGHTS_DEFAULT:
            return self._plain(model, plugin.pretrained(model.name, config, files, context)), []
        return (self.with_weights(model)[0] if model.weights == pb.WEIGHTS_FILE else self.unpruned(model)), []

    def unpruned(self, model: pb.Model) -> nn.Module:
        """The architecture with random weights, as it is compressed."""
        return self._plain(model, self._built(model))

    def with_weights(self, model: pb.Model) -> tuple[nn.Module, str]:
        """The architecture with the weights of the user's file, and what was taken of it. Raises InvalidInput."""
        module = self._built(model)
        note = weights.load(self.store.path(model.file), module, model.weights_key)
        return self._plain(model, module), note

    def _built(self, model: pb.Model) -> nn.Module:
        config = MODELS.configure(model.plugin, model.config_json)
        module: nn.Module = MODELS.load(model.plugin).build(model.name, config, self._files(model))
        return module

    def _plain(self, model: pb.Model, module: nn.Module) -> nn.Module:
        return modules.plain(module, _example(self.info(model).preprocessing), f"model {model.name}")

    def _export(
        self,
        request: pb.CompressRequest,
        recipe: list[steps.Step],
        context: Context,
        module: nn.Module,
        history: checkpoint.History,
        result: pb.CompressResult,
        notes: dict[str, Any],
        seconds: dict[str, float],
    ) -> None:
        source = Source(onnx=_once(lambda: self._exported(module, context, history)), module=module)
        quantizer = steps.quantizer(recipe)
        forms = tuple(request.forms)
        if quantizer is not None and Form.FORM_PT2 not in forms:
            with _timed(seconds, "export"):
                source.onnx()

        def make(wanted: tuple[Form, ...]) -> dict[Form, bytes]:
            if quantizer is not None:
                return quantizer.quantize(source, recipe[-1].config, context, wanted)
            return {form: self._fp32(form, source, context) for form in wanted}

        failures: dict[Form, PqbenchError] = {}
        with _timed(seconds, "quantize" if quantizer else "export"):
            artifacts = _made(make, forms, failures)
        notes.update(source.notes)
        assert source.module is not None
        reference = export.run_module(source.module, context.images)
        precision = quantizer.PRECISION if quantizer else Precision.PRECISION_FP32
        self._keep(artifacts, failures, result, precision, source, context.images, reference, seconds)

    @staticmethod
    def _fp32(form: Form, source: Source, context: Context) -> bytes:
        """A model that nothing quantizes, in a form."""
        if form == Form.FORM_PT2:
            assert source.module is not None  # an ONNX file has no such form
            return export.to_pt2(source.module, context.example)
        return lowered(source.onnx()) if form == Form.FORM_ONNX_UNTYPED else source.onnx()

    @staticmethod
    def _exported(module: nn.Module, context: Context, history: checkpoint.History) -> bytes:
        """The FP32 ONNX, which must still have what each pruning step promised."""
        data = export.to_onnx(module, context.example)
        for done in (step for step in history if step["kind"] == "prune" and step["plugin"] != steps.OWN_CODE):
            pruner = PRUNERS.load(done["plugin"])
            if problem := pruner.problem(data, module, PRUNERS.configure(done["plugin"], json.dumps(done["config"]))):
                raise VerificationFailed(problem)
        return data

    def _recipe(self, messages: Iterable[pb.Step]) -> list[steps.Step]:
        def own(step: pb.Step, name: str) -> Any:
            file = self.store.path(step.code) if step.HasField("code") else None
            return own_code.load(file, name, self.allow_code)

        return [steps.read(message, own) for message in messages]

    def _refusal(self, model: pb.Model, recipe: list[steps.Step]) -> str:
        if early := steps.order_refusal([step.kind for step in recipe], model.plugin == "onnx"):
            return early
        labelled = [step for step in recipe if step.needs().labels]
        if labelled and (names := [one.name for one in self.info(model).preprocessing.inputs]):
            return f"{labelled[0].label} needs an image classifier; this model takes {', '.join(names)}"
        tried = [step for step in recipe if step.kind in ("prune", "recalibrate", "finetune")]
        if model.plugin == "onnx" or not (tried or labelled):
            return ""
        module, classes, example = _architecture(self, canonical(model))
        if labelled and not _classifies(module, example):
            return f"{labelled[0].label} needs a classifier; this model gives more than one [N, classes]"
        return next((reason for step in tried if (reason := step.refusal(module, classes, example))), "")

    def _quantize_file(
        self, request: pb.CompressRequest, recipe: list[steps.Step], context: Context, seconds: dict[str, float]
    ) -> pb.CompressResult:
        given = self._given(request.model)
        as_it_is = given.SerializeToString(deterministic=True)
        quantized = bool(normal_form.quantized_operator(given))
        data = as_it_is if quantized else normal_form.normalised(request.model.name, given)
        source = Source(onnx=lambda: data, module=None)
        result = pb.CompressResult()
        if request.forms:
            quantizer = steps.quantizer(recipe)

            def make(wanted: tuple[Form, ...]) -> dict[Form, bytes]:
                if quantizer is None:
                    return {form: data if quantized else self._fp32(form, source, context) for form in wanted}
                return quantizer.quantize(source, recipe[-1].config, context, wanted)

            failures: dict[Form, PqbenchError] = {}
            with _timed(seconds, "quantize"):
                artifacts = _made(make, tuple(request.forms), failures)
            unchanged = Precision.PRECISION_INT8 if quantized else Precision.PRECISION_FP32
            precision = quantizer.PRECISION if quantizer else unchanged
            # What the file itself computes, not what it became here.
            reference = export.run_onnx(as_it_is, context.images)
            self._keep(artifacts, failures, result, precision, source, context.images, reference, seconds)
        result.statistics.CopyFrom(statistics.of_onnx(data))
        return _finish(result, source.notes, seconds)

    def _given(self, model: pb.Model) -> onnx.ModelProto:
        """The user's ONNX file with the weights that came beside it."""
        beside = {one.location: self.store.path(one.blob) for one in model.external}
        return normal_form.read(model.name, self.store.read(model.code), beside)

    def _keep(
        self,
        artifacts: dict[Form, bytes],
        failures: dict[Form, PqbenchError],
        result: pb.CompressResult,
        precision: Precision,
        source: Source,
        inputs: Feed,
        reference: np.ndarray,
        seconds: dict[str, float],
    ) -> None:
        """Verify and store what was made. Raises a form's failure where none is left."""
        calibration = None if source.calibration is None else store_inputs(self.store, source.calibration)
        with _timed(seconds, "verify"):
            for form, data in artifacts.items():
                try:
                    result.verifications.append(export.verify(data, form, precision, inputs, reference))
                except VerificationFailed as error:
                    failures[form] = error
                    continue
                blob = self.store.put(data)
                result.artifacts.append(Artifact(blob=blob, form=form, precision=precision, calibration=calibration))
        result.reference.CopyFrom(self.store.put_array(reference))
        if not result.artifacts:
            raise next(iter(failures.values()))
        for form, failure in failures.items():
            result.failures.add(form=form, reason=reason_of(failure), message=str(failure))

    def _context(self, request: pb.CompressRequest, report: Report, resume: Path) -> Context:
        info = self.info(request.model)
        training = None
        if request.HasField("training"):
            images, labels = load_inputs(self.store, request.training, info.preprocessing)
            outputs = tuple(request.training.outputs)
            if outputs:
                labels = np.asarray(outputs, np.int64)[labels]
            training = Training(images=images, labels=labels, preprocessing=info.preprocessing, outputs=outputs)
        load_baseline = None
        if request.HasField("baseline"):
            unpruned = pb.CompressRequest(model=request.model, checkpoint=request.baseline)
            load_baseline = _once(lambda: self._load(unpruned, context)[0])
        context = Context(
            seed=request.seed,
            report=report,
            classes=info.classes,
            images=self._images(request, info.preprocessing),
            training_split=training,
            load_baseline=load_baseline,
            resume=resume,
        )
        return context

    def _images(self, request: pb.CompressRequest, preprocessing: Preprocessing) -> Feed:
        images = load_inputs(self.store, request.verification, preprocessing)[0]
        if len(images) < LEAST_IMAGES:
            raise InvalidInput(f"at least {LEAST_IMAGES} verification images are needed, got {len(images)}")
        return as_feed(images, preprocessing)

    def _files(self, model: pb.Model) -> Files:
        code = self.store.path(model.code) if model.HasField("code") else None
        return Files(code=code, allow_code=self.allow_code)


def _made(
    make: Callable[[tuple[Form, ...]], dict[Form, bytes]], forms: tuple[Form, ...], failures: dict[Form, PqbenchError]
) -> dict[Form, bytes]:
    """All forms at once or, where that fails, each for itself: one that fails takes no other with it."""
    try:
        return make(forms)
    except (Refused, Failed) as error:
        if len(forms) == 1:
            failures[forms[0]] = error
            return {}
    return {form: data for one in forms for form, data in _made(make, (one,), failures).items()}


@functools.lru_cache(maxsize=2)
def _architecture(pipeline: Pipeline, model: bytes) -> tuple[nn.Module, int, Feed]:
    """A model with random weights, its classes and a random input, kept for the next step's check."""
    request = pb.Model.FromString(model)
    info = pipeline.info(request)
    return pipeline.unpruned(request), info.classes, _example(info.preprocessing)


def _example(preprocessing: Preprocessing) -> Feed:
    """One random image; of other inputs one of ones: 1 is valid as a mask and, nearly always, as a token."""
    if preprocessing.inputs:
        return Inputs({i.name: np.ones((1, *i.shape), i.dtype) for i in preprocessing.inputs})
    shape = (1, preprocessing.channels, preprocessing.height, preprocessing.width)
    return np.random.default_rng(0).random(shape, np.float32)


def _classifies(module: nn.Module, example: Feed) -> bool:
    """Whether a module gives one [N, classes]."""
    with torch.inference_mode():
        outputs = outputs_of(module, example)
    return len(outputs) == 1 and outputs[0].ndim == 2


def _message(needs: Needs) -> pb.StepNeeds:
    return pb.StepNeeds(
        training_images=needs.training,
        training_images_if_any=needs.training_if_any,
        baseline=needs.baseline,
        labels=needs.labels,
    )


def _finish(result: pb.CompressResult, notes: dict[str, Any], seconds: dict[str, float]) -> pb.CompressResult:
    result.notes_json = json.dumps(notes, sort_keys=True)
    for stage, value in seconds.items():
        result.stage_seconds[stage] = value
    return result


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - start


def _once(make: Callable[[], Any]) -> Callable[[], Any]:
    made: list[Any] = []

    def get() -> Any:
        if not made:
            made.append(make())
        return made[0]

    return get
