"""What one Compress call does (load, apply the steps, export, verify, count), and what one Analyse call does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Artifact, Form, Precision, Preprocessing
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor import checkpoint, export, normal_form, statistics, steps
from pqbench_compressor.loading import Loader, is_classifier
from pqbench_compressor.opset import lowered
from pqbench_compressor.plugins import PRUNERS, Context, Report, Source, Training
from pqbench_compressor.sensitivity import Sensitivity
from pqbench_wire.errors import Failed, InvalidInput, PqbenchError, Refused, VerificationFailed, reason_of
from pqbench_wire.results import canonical
from pqbench_wire.shared.inputs import Feed, as_feed, load_inputs, store_inputs

LEAST_IMAGES = 2  # for verification; exporters specialise a batch of one


class Pipeline:
    """Handles Compress and Analyse requests; the folder `resume` holds the state of unfinished trainings."""

    def __init__(self, loader: Loader, resume: Path) -> None:
        self._loader, self._store, self._resume = loader, loader.store, resume

    def compress(self, request: pb.CompressRequest, report: Report) -> pb.CompressResult:
        """Apply the request's steps, then export, verify and store an artifact in each of its forms.

        Raises Refused if the order of the steps is impossible, and a form's failure if no artifact is left.
        """
        recipe = self._loader.recipe(request.steps)
        if refused := steps.order_refusal([step.kind for step in recipe], self._loader.is_file(request.model)):
            raise Refused(refused)
        seconds: dict[str, float] = {}
        torch.manual_seed(request.seed)
        context = self._context(request, report, self._resume / hashlib.sha256(canonical(request)).hexdigest())
        if self._loader.is_file(request.model):
            return self._quantize_file(request, recipe, context, seconds)
        with _timed(seconds, "load"):
            module, history = self._loader.load(request, context)
        notes: dict[str, Any] = {}
        for message, step in zip(request.steps, recipe, strict=True):
            if step.kind != "quantize":
                with _timed(seconds, step.kind):
                    notes[step.label] = step.apply(module, context)
            config = json.loads(message.config_json or "{}")
            history.append({"kind": message.kind, "plugin": message.plugin, "config": config})
        data = checkpoint.save(module, self._loader.unpruned(request.model), history)
        result = pb.CompressResult(checkpoint=self._store.put(data))
        if request.forms:
            self._export(request, recipe, context, module, history, result, notes, seconds)
        with _timed(seconds, "statistics"):
            result.statistics.CopyFrom(statistics.of_module(module, context.example, len(data)))
        return _finish(result, notes, seconds)

    def analyse(self, request: pb.AnalyseRequest, report: Report) -> pb.AnalyseResult:
        """The sensitivity of every layer to pruning and to rounding, measured on the uncompressed model.

        Raises Refused if the model is not a classifier.
        """
        torch.manual_seed(request.seed)
        loading = pb.CompressRequest(
            model=request.model, training=request.training, verification=request.verification, seed=request.seed
        )
        context = self._context(loading, report, self._resume / "none")
        module = self._loader.load(loading, context)[0]
        if not is_classifier(module, context.example):
            raise Refused("sensitivity needs a classifier; this model does not return one tensor [N, classes]")
        analysis = Sensitivity(module, context, request.images)
        points = analysis.pruning(request.amounts) + analysis.rounding(request.bits)
        return pb.AnalyseResult(
            layers=[pb.LayerSensitivity(**dataclasses.asdict(point)) for point in points],
            accuracy=analysis.accuracy,
            images=analysis.images,
        )

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
        """The artifact of a model that is not quantized, in one form."""
        if form == Form.FORM_PT2:
            assert source.module is not None  # an ONNX file has no such form
            return export.to_pt2(source.module, context.example)
        return lowered(source.onnx()) if form == Form.FORM_ONNX_UNTYPED else source.onnx()

    @staticmethod
    def _exported(module: nn.Module, context: Context, history: checkpoint.History) -> bytes:
        """The FP32 ONNX. Raises VerificationFailed if it lost a property that a pruning step guarantees."""
        data = export.to_onnx(module, context.example)
        for done in (step for step in history if step["kind"] == "prune" and step["plugin"] != steps.OWN_CODE):
            pruner = PRUNERS.load(done["plugin"])
            if problem := pruner.problem(data, module, PRUNERS.configure(done["plugin"], json.dumps(done["config"]))):
                raise VerificationFailed(problem)
        return data

    def _quantize_file(
        self, request: pb.CompressRequest, recipe: list[steps.Step], context: Context, seconds: dict[str, float]
    ) -> pb.CompressResult:
        given = self._loader.given(request.model)
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
            # The reference is the user's file as it is, not its normal form.
            reference = export.run_onnx(as_it_is, context.images)
            self._keep(artifacts, failures, result, precision, source, context.images, reference, seconds)
        result.statistics.CopyFrom(statistics.of_onnx(data))
        return _finish(result, source.notes, seconds)

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
        """Verify and store the artifacts, and record failures. Raises one of the failures if no artifact is left."""
        calibration = None if source.calibration is None else store_inputs(self._store, source.calibration)
        with _timed(seconds, "verify"):
            for form, data in artifacts.items():
                try:
                    result.verifications.append(export.verify(data, form, precision, inputs, reference))
                except VerificationFailed as error:
                    failures[form] = error
                    continue
                blob = self._store.put(data)
                result.artifacts.append(Artifact(blob=blob, form=form, precision=precision, calibration=calibration))
        result.reference.CopyFrom(self._store.put_array(reference))
        if not result.artifacts:
            raise next(iter(failures.values()))
        for form, failure in failures.items():
            result.failures.add(form=form, reason=reason_of(failure), message=str(failure))

    def _context(self, request: pb.CompressRequest, report: Report, resume: Path) -> Context:
        info = self._loader.info(request.model)
        training = None
        if request.HasField("training"):
            images, labels = load_inputs(self._store, request.training, info.preprocessing)
            outputs = tuple(request.training.outputs)
            if outputs:
                labels = np.asarray(outputs, np.int64)[labels]
            training = Training(images=images, labels=labels, preprocessing=info.preprocessing, outputs=outputs)
        load_baseline = None
        if request.HasField("baseline"):
            unpruned = pb.CompressRequest(model=request.model, checkpoint=request.baseline)
            load_baseline = _once(lambda: self._loader.load(unpruned, context)[0])
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
        images = load_inputs(self._store, request.verification, preprocessing)[0]
        if len(images) < LEAST_IMAGES:
            raise InvalidInput(f"at least {LEAST_IMAGES} verification images are needed, got {len(images)}")
        return as_feed(images, preprocessing)


def _made(
    make: Callable[[tuple[Form, ...]], dict[Form, bytes]], forms: tuple[Form, ...], failures: dict[Form, PqbenchError]
) -> dict[Form, bytes]:
    """All forms in one call or, if that fails, one by one: a form that fails does not affect the others."""
    try:
        return make(forms)
    except (Refused, Failed) as error:
        if len(forms) == 1:
            failures[forms[0]] = error
            return {}
    return {form: data for one in forms for form, data in _made(make, (one,), failures).items()}


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
    kept: list[Any] = []

    def get() -> Any:
        if not kept:
            kept.append(make())
        return kept[0]

    return get
