"""The survey: asks the services what they can do, and loads the datasets, before the plan is made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Form, Precision, Preprocessing
from pqbench.compressor.v1 import compressor_pb2, compressor_pb2_grpc
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.config.manifest import Dataset, Manifest, Model, Target
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.dataset import DATASETS, Data
from pqbench_orchestrator.metric import METRICS
from pqbench_orchestrator.planning.facts import CompressorFacts, DatasetFacts, RecipeFacts, Survey, TargetFacts, kind_of
from pqbench_orchestrator.planning.places import of_target
from pqbench_orchestrator.steps.compress import OWN_CODE, step_message
from pqbench_wire.blobs import BlobStore
from pqbench_wire.catalog import unknown
from pqbench_wire.client import Client, blobs_in
from pqbench_wire.errors import InvalidInput, PqbenchError, Refused, Timeout, Unavailable
from pqbench_wire.shared.onnx_walk import external_locations

ONNX = "onnx"  # the plug-in for an ONNX file
SHORT_NAMES = "thesis"  # the model family of names without a slash
WEIGHTS = {"default": compressor_pb2.WEIGHTS_DEFAULT, "none": compressor_pb2.WEIGHTS_NONE}


class Services(Protocol):
    """What the survey needs of `execution.services.Services`."""

    @property
    def compressors(self) -> list[str]:
        """The places of the compressors, in the order in which they are asked."""
        ...

    def client(self, name: str) -> Client:
        """A client of the service at the place `name`, which is started if necessary. Raises Unavailable."""
        ...

    def swapped(self, name: str) -> bool:
        """Whether the service takes turns with others: of those that do, only one runs at a time."""
        ...

    def alive(self, name: str) -> bool:
        """Whether the service was started and still runs, as far as is known without a call to it."""
        ...

    def stop(self, name: str) -> None:
        """End the service if pqbench started it; its next use starts it again."""
        ...


def survey(
    manifest: Manifest,
    services: Services,
    store: BlobStore,
    datasets: dict[str, Data],
    progress: Callable[[str], None] = lambda _: None,
) -> Survey:
    """Ask every service what it can do. Raises InvalidInput with the manifest's key for what its author must change."""
    for index, name in enumerate(manifest.metrics):
        with _at(f"metrics.{index}"):
            METRICS.load(name)
    progress("starting services, asking what they can do")
    models = {}
    for index, model in enumerate(manifest.models):
        with _at(f"models.{index}"):
            models[model.label] = model_message(model, store)
    with ThreadPoolExecutor(1 + len(manifest.targets)) as pool:  # services take seconds to import their libraries
        compressor = pool.submit(_ask_compressors, manifest, services, store, models, progress)
        together = [target for target in manifest.targets if not services.swapped(of_target(target.name))]
        answers = {target.name: pool.submit(_ask_target, manifest, target, services) for target in together}
    compressors, recipes = compressor.result()
    found = {name: answer.result() for name, answer in answers.items()}
    for target in manifest.targets:
        if target.name not in found:
            progress(f"asking {target.name} what it can do")
            found[target.name] = _ask_target(manifest, target, services)
    targets = {target.name: found[target.name] for target in manifest.targets}
    return Survey(
        models={label: json_format.MessageToDict(model) for label, model in models.items()},
        recipes=recipes,
        targets=targets,
        datasets={label: _dataset_facts(data) for label, data in datasets.items()},
        compressors=compressors,
    )


@contextmanager
def _at(key: str) -> Iterator[None]:
    """Put the manifest's key before the message of an InvalidInput."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{key}: {error}") from error


def _dataset_facts(data: Data) -> DatasetFacts:
    inputs = data.split("test").inputs or {}
    return DatasetFacts(
        fingerprints={name: f"{split.fingerprint} {data.outputs}" for name, split in data.splits.items()},
        inputs={name: kind_of(array.dtype, array.shape[1:]) for name, array in inputs.items()},
        unlabelled=tuple(name for name, split in data.splits.items() if not split.labelled),
        labels=1 + (max(data.outputs) if data.outputs else max(int(s.labels.max()) for s in data.splits.values())),
        class_names=tuple(data.classes),
        outputs=data.outputs,
        scores_all=data.outputs is None and not inputs and data.split("test").labelled,
        notes=tuple(dict.fromkeys(note for split in data.splits.values() for note in split.notes)),
    )


def load_datasets(
    manifest: Manifest, root: Path, allow_code: bool = False, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Data]:
    """The manifest's datasets by label.

    Raises InvalidInput or Unavailable, whose message says what to do, BlobCorrupt for a download with a wrong checksum,
    and Failed where a user's own function fails.
    """
    found = {}
    for index, dataset in enumerate(manifest.datasets):
        with _at(f"datasets.{index} ({dataset.label})"):
            found[dataset.label] = _dataset(dataset, root, allow_code, progress)
    return found


def _dataset(dataset: Dataset, root: Path, allow_code: bool, progress: Callable[[str], None]) -> Data:
    name, values = dataset.dataset, dataset.config
    if dataset.is_own:
        name, values = OWN_CODE, {"function": dataset.dataset, "arguments": dataset.config}
    if name == OWN_CODE and not allow_code:
        raise InvalidInput(f"dataset {dataset.label} is your own code: allow it with --allow-code")
    if name not in DATASETS.names:
        raise InvalidInput(unknown("dataset", name, DATASETS.names))
    plugin = DATASETS.load(name)
    config = DATASETS.configure(name, json.dumps(values))
    return plugin.load(config, root, lambda fraction: progress(f"downloading {dataset.label}: {fraction:.0%}"))


def model_message(model: Model, store: BlobStore) -> compressor_pb2.Model:
    plugin, name, code = _split_name(model.model)
    message = compressor_pb2.Model(
        plugin=plugin, name=name, config_json=json.dumps(model.config, sort_keys=True), weights_key=model.weights_key
    )
    if code is not None:
        message.code.CopyFrom(store.put_file(_existing(code, "model:")))
        for location, path in files_beside(code) if plugin == ONNX else ():
            message.external.add(location=location, blob=store.put_file(path))
    message.weights = WEIGHTS.get(model.weights, compressor_pb2.WEIGHTS_FILE)
    if message.weights == compressor_pb2.WEIGHTS_FILE:
        message.file.CopyFrom(store.put_file(_existing(Path(model.weights), "weights: default, none, or a file;")))
    if model.preprocessing is not None:
        values = model.preprocessing.model_dump()
        for key in ("mean", "std"):
            values[key] = list(values[key]) * (values["channels"] if len(values[key]) == 1 else 1)
        message.preprocessing.CopyFrom(Preprocessing(**values))
    for name_of, tensor in model.inputs.items():
        message.preprocessing.inputs.add(name=name_of, dtype=tensor.dtype, shape=tensor.shape)
    return message


def files_beside(file: Path) -> Iterator[tuple[str, Path]]:
    """The files in which an ONNX file keeps weights (external data): for each its name in the ONNX file, and its path.

    Raises InvalidInput for a file that is missing, or is not in the ONNX file's folder or below.
    """
    for location in external_locations(file):
        path = file.parent / location
        outside = Path(location).is_absolute() or ".." in Path(location).parts
        if outside or path.resolve() != file.parent.resolve() / location:  # a symbolic link may lead outside
            raise InvalidInput(f"{file} keeps weights in {location!r}, which is not in its own folder: move it there")
        yield location, _existing(path, f"{file} keeps weights in {location!r};")


def _split_name(name: str) -> tuple[str, str, Path | None]:
    """What a model's name in the manifest means: plug-in, member of its family, and the user's file if it is one."""
    if name.endswith(".onnx"):
        return ONNX, Path(name).name, Path(name)
    if ".py:" in name:
        path, _, function = name.rpartition(":")
        return OWN_CODE, function, Path(path)
    family, slash, member = name.partition("/")
    return (family, member, None) if slash else (SHORT_NAMES, name, None)


def _existing(path: Path, what: str) -> Path:
    try:
        found = path.is_file()
    except (OSError, ValueError):  # a name that no file can have, such as one that is too long
        found = False
    if not found:
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:100]}… ({len(str(path))} characters)"
        raise InvalidInput(f"{what} there is no file {shown}")
    return path


def _ask_compressors(
    manifest: Manifest,
    services: Services,
    store: BlobStore,
    models: dict[str, compressor_pb2.Model],
    progress: Callable[[str], None],
) -> tuple[dict[str, CompressorFacts], dict[tuple[str, str], RecipeFacts]]:
    """The facts about each compressor, and about each recipe, from the first compressor that has its plug-ins."""
    compressors: dict[str, CompressorFacts] = {}
    recipes: dict[tuple[str, str], RecipeFacts] = {}
    wanted = [(label, identity) for label in models for identity in _with_beginnings(manifest)]
    for name, is_again in ((name, is_again) for name in services.compressors for is_again in (False, True)):
        missing = [key for key in wanted if key not in recipes or recipes[key].unavailable]
        if missing and (not is_again or _went_away(name, services)):
            compressors[name], found = _ask_compressor(name, manifest, services, store, models, missing, progress)
            recipes |= {key: facts for key, facts in found.items() if key not in recipes or not facts.unavailable}
    return compressors, recipes


def _ask_compressor(
    name: str,
    manifest: Manifest,
    services: Services,
    store: BlobStore,
    models: dict[str, compressor_pb2.Model],
    wanted: list[tuple[str, str]],
    progress: Callable[[str], None],
) -> tuple[CompressorFacts, dict[tuple[str, str], RecipeFacts]]:
    try:
        client = services.client(name)
        stub = compressor_pb2_grpc.CompressorServiceStub(client.channel)
        capabilities = client.call(stub.GetCapabilities, compressor_pb2.GetCapabilitiesRequest())
    except (Unavailable, Timeout) as error:
        return CompressorFacts(), dict.fromkeys(wanted, RecipeFacts(unavailable=f"{name}: {error}"))
    known = [p.name for p in capabilities.plugins if p.kind == "model"]
    beginnings = _with_beginnings(manifest)
    recipes: dict[tuple[str, str], RecipeFacts] = {}
    steps = manifest.keys_of_steps()
    keys = {model.label: f"models.{index} ({model.label})" for index, model in enumerate(manifest.models)}
    for label, identity in wanted:
        model, recipe = models[label], beginnings[identity]
        with _at(keys[label] if not recipe.steps else steps[identity]):
            if model.plugin not in known:
                raise InvalidInput(unknown("family", model.plugin, known))
            client.push(store, blobs_in(model))
            for step in (step for step in recipe.steps if step.is_own):
                client.push(store, [store.put_file(_existing(Path(step.method.rpartition(":")[0]), "method:"))])
            baseline = recipes.get((label, Recipe().identity))
            if baseline is not None and baseline.unchecked:
                recipes[label, identity] = baseline  # running the model timed out, and this recipe would run it too
                continue
            progress(f"checking {label}: {recipe.label}")
            request = compressor_pb2.CheckRequest(model=model, steps=[step_message(step) for step in recipe.steps])
            recipes[label, identity] = dataclasses.replace(
                _check(client, stub, request, manifest.stall_seconds), compressor=name
            )
    own = CompressorFacts(versions=dict(capabilities.versions), bill_of_materials=capabilities.bill_of_materials)
    return own, recipes


def _with_beginnings(manifest: Manifest) -> dict[str, Recipe]:
    """Every recipe, and every recipe cut short after some of its steps, by identity; the baseline is first."""
    parts = [Recipe(steps=recipe.steps[:n]) for recipe in manifest.all_recipes for n in range(len(recipe.steps) + 1)]
    return {part.identity: part for part in (Recipe(), *parts)}


def _check(client: Client, stub: Any, request: compressor_pb2.CheckRequest, seconds: float) -> RecipeFacts:
    """The compressor's facts about a recipe. Raises InvalidInput.

    A recipe whose check fails or takes longer than `seconds` counts as refused, so that the others can be planned.
    """
    try:
        answer = client.call(stub.Check, request, seconds)
    except Refused as error:
        return RecipeFacts(refused=str(error))
    except Unavailable as error:
        return RecipeFacts(unavailable=str(error))
    except Timeout:
        reason = f"it could not be checked within {seconds:.0f} s: its model may never end (stall_seconds)"
        return RecipeFacts(refused=reason, unchecked=True)
    except InvalidInput:
        raise
    except PqbenchError as error:
        return RecipeFacts(refused=f"it cannot be checked: {error}")
    return RecipeFacts(
        refused=answer.refused,
        preprocessing=json_format.MessageToDict(answer.preprocessing),
        trains=answer.trains,
        precision=Precision.Name(answer.precision),
        forms=tuple(Form.Name(form) for form in answer.forms),
        withheld=answer.withheld,
        needs_training=tuple(needs.training_images for needs in answer.needs),
        needs_baseline=tuple(needs.baseline for needs in answer.needs),
        needs_labels=tuple(needs.labels for needs in answer.needs),
        uses_training=tuple(needs.training_images_if_any for needs in answer.needs),
        classes=answer.classes,
        fixed_batch=answer.fixed_batch,
        notes=tuple(answer.notes),
        has_module=answer.has_module,
    )


def _ask_target(manifest: Manifest, target: Target, services: Services) -> TargetFacts:
    with _at(f"targets.{manifest.targets.index(target)} ({target.name})"):
        try:
            return _asked(target, services)
        except (Unavailable, Timeout) as error:
            if not _went_away(of_target(target.name), services):
                return TargetFacts(unavailable=str(error))
        try:
            return _asked(target, services)
        except (Unavailable, Timeout) as error:
            return TargetFacts(unavailable=str(error))


def _went_away(name: str, services: Services) -> bool:
    """Whether a service has ended by itself, so that it is worth asking a new one."""
    if services.alive(name):
        return False
    services.stop(name)
    return True


def _asked(target: Target, services: Services) -> TargetFacts:
    """What a target's service says. Raises Unavailable and Timeout."""
    client = services.client(of_target(target.name))
    stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
    request = runtime_pb2.GetCapabilitiesRequest(backends=[target.backend])
    capabilities = client.call(stub.GetCapabilities, request)
    options = json.dumps(target.options, sort_keys=True)
    checked = client.call(stub.Check, runtime_pb2.CheckRequest(backend=target.backend, options_json=options))
    backend = capabilities.backends[0]
    if not _has_version(backend.versions.get("tensorrt", ""), target.tensorrt):
        reason = f"TensorRT {target.tensorrt} is wanted; the image has {backend.versions.get('tensorrt') or 'none'}"
        return TargetFacts(unavailable=reason)
    routes: dict[str, tuple[str, ...]] = {}
    for route in checked.routes:
        precision = Precision.Name(route.precision)
        routes[precision] = (*routes.get(precision, ()), Form.Name(route.form))
    return TargetFacts(
        backend=target.backend,
        options_json=checked.options_json,
        routes=routes,
        versions=dict(backend.versions) | dict(capabilities.versions),
        device=checked.device,
        lacks_device=checked.unavailable_reason,
        built_for=checked.built_for,
        refused=dict(checked.refused),
        timed_options=tuple(checked.timed_options),
        engine_file=checked.engine_file,
        scripts=dict(checked.scripts),
        environment=dict(capabilities.environment),
        bill_of_materials=capabilities.bill_of_materials,
    )


def _has_version(version: str, wanted: str) -> bool:
    parts = wanted.split(".") if wanted else []
    return version.split(".")[: len(parts)] == parts
