"""Checks a model and a recipe before any work: what would be refused, what steps need, what the model is."""

from __future__ import annotations

import functools

from torch import nn

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor import modules, normal_form, onnx_check, steps
from pqbench_compressor.loading import Loader, example_of, is_classifier
from pqbench_compressor.plugins import MODELS, ModelInfo, Needs
from pqbench_compressor.tensors import outputs_of
from pqbench_wire.errors import InvalidInput
from pqbench_wire.results import canonical
from pqbench_wire.shared.inputs import Feed

FP32_FORMS = (Form.FORM_ONNX, Form.FORM_PT2, Form.FORM_ONNX_UNTYPED)


class Checker:
    """Answers Check requests."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def check(self, request: pb.CheckRequest) -> pb.CheckResponse:
        """Validate a model and a recipe; `refused` says what cannot work. Raises InvalidInput for a wrong request."""
        info = self._loader.info(request.model)
        recipe = self._loader.recipe(request.steps)
        quantizer, (forms, why) = steps.quantizer(recipe), steps.withheld(recipe)
        answer = pb.CheckResponse(
            preprocessing=info.preprocessing,
            classes=info.classes,
            has_module=not self._loader.is_file(request.model),
            trains=info.trains and request.model.weights == pb.WEIGHTS_DEFAULT,
            precision=quantizer.PRECISION if quantizer else Precision.PRECISION_FP32,
            forms=[form for form in (quantizer.FORMS if quantizer else FP32_FORMS) if form not in forms],
            withheld=why,
            needs=[_message(step.needs()) for step in recipe],
        )
        if not answer.has_module:
            self._check_file(request.model, info, recipe, answer)
        elif not recipe:
            self._check_module(request.model, info, answer)
        answer.refused = answer.refused or self._refusal(request.model, recipe)
        return answer

    def _check_file(self, model: pb.Model, info: ModelInfo, recipe: list[steps.Step], answer: pb.CheckResponse) -> None:
        """Check a user's ONNX file against the data it will get and against the recipe; completes `answer`."""
        given = self._loader.given(model)
        operator = normal_form.quantized_operator(given)
        forms = [form for form in answer.forms if form != Form.FORM_PT2]
        answer.ClearField("forms")
        answer.forms.extend(forms if recipe or not operator else [Form.FORM_QDQ_TOOL])
        if recipe:
            answer.refused = f"this file is already quantized ({operator} nodes): give an FP32 one" if operator else ""
            return
        if operator:
            answer.precision = Precision.PRECISION_INT8
        found = onnx_check.examine(given, info.preprocessing)
        answer.refused, answer.fixed_batch = found.refused, found.fixed_batch
        answer.classes = answer.classes or found.classes
        if not operator and not answer.refused:
            try:
                normal_form.normalised(model.name, given)
            except InvalidInput as error:  # a file that cannot be converted must not stop planning for others
                answer.refused = str(error)

    def _check_module(self, model: pb.Model, info: ModelInfo, answer: pb.CheckResponse) -> None:
        """Load a user's file of weights and run a user's own module. Raises InvalidInput for wrong weights."""
        module = None
        if model.weights == pb.WEIGHTS_FILE:
            module, note = self._loader.with_weights(model)
            answer.notes.extend([note] if note else [])
        if not getattr(MODELS.load(model.plugin), "OWN", False):
            return
        example = example_of(info.preprocessing)
        module = module or _architecture(self._loader, canonical(model))[0]
        answer.refused = modules.refusal(module, example)
        if not answer.refused and not answer.classes and is_classifier(module, example):
            answer.classes = outputs_of(module, example)[0].shape[1]

    def _refusal(self, model: pb.Model, recipe: list[steps.Step]) -> str:
        if early := steps.order_refusal([step.kind for step in recipe], self._loader.is_file(model)):
            return early
        if refused := steps.recovery_refusal([step.kind for step in recipe]):
            return refused
        labelled = [step for step in recipe if step.needs().labels]
        if labelled and (names := [one.name for one in self._loader.info(model).preprocessing.inputs]):
            return f"{labelled[0].label} needs an image classifier; this model takes {', '.join(names)}"
        tried = [step for step in recipe if step.kind != "quantize"]
        if self._loader.is_file(model) or not (tried or labelled):
            return ""
        module, classes, example = _architecture(self._loader, canonical(model))
        if labelled and not is_classifier(module, example):
            return f"{labelled[0].label} needs a classifier; this model does not return one tensor [N, classes]"
        return next((reason for step in tried if (reason := step.refusal(module, classes, example))), "")


@functools.lru_cache(maxsize=2)
def _architecture(loader: Loader, model: bytes) -> tuple[nn.Module, int, Feed]:
    """An unpruned model, its classes and an example input, cached because recipes are checked one after another."""
    request = pb.Model.FromString(model)
    info = loader.info(request)
    return loader.unpruned(request), info.classes, example_of(info.preprocessing)


def _message(needs: Needs) -> pb.StepNeeds:
    return pb.StepNeeds(
        training_images=needs.training,
        training_images_if_any=needs.training_if_any,
        baseline=needs.baseline,
        labels=needs.labels,
    )
