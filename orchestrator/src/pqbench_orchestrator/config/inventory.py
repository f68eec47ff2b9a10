"""The inventory: WHERE the services of a manifest run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from pqbench_orchestrator.config.manifest import Manifest, Target
from pqbench_orchestrator.config.strict import Name, Strict, load
from pqbench_orchestrator.config.tensorrt_images import Version, how_to_build, image_with
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput


class ProcessPlace(Strict):
    """A local process, which pqbench starts and ends."""

    allow_code: bool = False
    python: str = ""  # Python interpreter of another environment; default: the one that runs pqbench


class EndpointPlace(Strict):
    """A service that already runs at an address; pqbench only connects to it."""

    address: Annotated[str, Field(pattern=r"^(unix:.+|.+:\d+)$")]
    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    certificates: Path | None = None  # folder of `pqbench certificates`, for the three above

    @model_validator(mode="after")
    def _one_way(self) -> EndpointPlace:
        if self.certificates and (self.tls_ca or self.tls_certificate or self.tls_key):
            raise ValueError("certificates stands for tls_ca, tls_certificate and tls_key: give it or them")
        return self


class DockerPlace(Strict):
    """A container, which pqbench starts and ends; containers run one at a time."""

    image: str = ""
    tensorrt: Version = ""  # in place of an image: the TensorRT version
    gpus: bool | None = None  # whether the container gets the GPUs; default: where `tensorrt` is given

    @model_validator(mode="after")
    def _one_image(self) -> DockerPlace:
        if bool(self.image) == bool(self.tensorrt):
            raise ValueError("needs exactly one of: image, tensorrt")
        return self

    @property
    def image_name(self) -> str:
        """The image that the container is started from."""
        return self.image or image_with(self.tensorrt)

    @property
    def how_to_get(self) -> str:
        """What to do where there is no such image."""
        by_name = f"docker pull {self.image}, or build it from services/runtime/Dockerfile"
        return by_name if self.image else how_to_build(self.tensorrt)

    @property
    def uses_gpus(self) -> bool:
        """Whether the container gets the GPUs."""
        return bool(self.tensorrt) if self.gpus is None else self.gpus


class Place(Strict):
    """Where one service runs: {process: {}}, {endpoint: {address: host:port}} or {docker: {image: name}}."""

    process: ProcessPlace | None = None
    endpoint: EndpointPlace | None = None
    docker: DockerPlace | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("endpoint"), str):
            return value | {"endpoint": {"address": value["endpoint"]}}
        if isinstance(value, dict) and isinstance(value.get("docker"), str):
            return value | {"docker": {"image": value["docker"]}}
        return {"process": {}} if value in ("process", {"process": None}) else value

    @model_validator(mode="after")
    def _one(self) -> Place:
        if sum(way is not None for way in (self.process, self.endpoint, self.docker)) != 1:
            raise ValueError("needs exactly one of: process, endpoint, docker")
        return self


LOCAL = Place(process=ProcessPlace())


class Inventory(Strict):
    """Where the compressors and the targets run: by default in local processes."""

    compressor: Place = LOCAL
    compressors: dict[Name, Place] = Field(default_factory=dict)  # others, for recipes whose plug-ins the first lacks
    targets: dict[str, Place] = Field(default_factory=dict)
    # For targets that are not in `targets`: by backend ("openvino"), or by backend and major version ("tensorrt 10").
    backends: dict[str, Place] = Field(default_factory=dict)
    # Of targets by name: the device class of the machines that measure them, where Ray chooses these (`run --on`).
    devices: dict[str, Name] = Field(default_factory=dict)

    @property
    def may_allow_code(self) -> bool:
        """Whether a compressor may run users' code by its own settings: it is not started here, or told so here."""
        places = (self.compressor, *self.compressors.values())
        return any(place.process is None or place.process.allow_code for place in places)

    def place_of(self, target: Target) -> Place | None:
        """Where a target runs: by its name here, else by its backend here, else the container that the manifest names.

        None where neither file says where: a local process.
        """
        by_kind = (self.backends[kind] for kind in _kinds(target) if kind in self.backends)
        return self.targets.get(target.name) or next(by_kind, None) or named_place(target)


def load_inventory(path: Path, manifest: Manifest) -> Inventory:
    """The inventory in a YAML file. Raises InvalidInput with file and key, also for a target not in the manifest."""
    inventory = load(path, Inventory)
    names = [target.name for target in manifest.targets]
    for key in ("targets", "devices"):
        for name in getattr(inventory, key):
            if name not in names:
                raise InvalidInput(f"{path}: {key}: {unknown('target', name, names)}")
    return inventory


def named_place(target: Target) -> Place | None:
    """The container that a manifest's target names by `image` or `tensorrt`; None where it names none."""
    named = target.image or target.tensorrt
    return Place(docker=DockerPlace(image=target.image, tensorrt=target.tensorrt)) if named else None


def _kinds(target: Target) -> tuple[str, ...]:
    """The keys of `Inventory.backends` that apply to a target, the most specific first: "tensorrt 10", "tensorrt"."""
    major = target.tensorrt.partition(".")[0]
    return (f"{target.backend} {major}", target.backend) if major else (target.backend,)
