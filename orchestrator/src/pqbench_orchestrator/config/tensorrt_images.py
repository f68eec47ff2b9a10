"""The tags of NVIDIA's TensorRT container images, by the TensorRT version in them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

# TensorRT version -> tag of nvcr.io/nvidia/tensorrt, without "-py3". The survey checks the version that the runtime
# reports.
TENSORRT_TAGS = {
    "8": "24.01", "8.6": "24.01",
    "10": "26.05", "10.0": "24.05", "10.9": "25.03", "10.11": "25.06", "10.16": "26.05",
    "11": "26.07", "11.0": "26.06", "11.1": "26.07",
}  # fmt: skip


def _has_an_image(version: str) -> str:
    if version and version not in TENSORRT_TAGS:
        raise ValueError(f"no image is known with TensorRT {version}, only {', '.join(TENSORRT_TAGS)}; give an image")
    return version


def image_with(version: str) -> str:
    """The name of the runtime's image for a TensorRT version, such as "10.16"."""
    return f"pqbench-runtime:tensorrt-{TENSORRT_TAGS[version]}"


def how_to_build(version: str) -> str:
    """The command that builds that image."""
    base = f"nvcr.io/nvidia/tensorrt:{TENSORRT_TAGS[version]}-py3"
    arguments = f"--build-arg BASE_IMAGE={base} --build-arg EXTRA=tensorrt"
    return f"docker build -f services/runtime/Dockerfile {arguments} -t {image_with(version)} ."


Version = Annotated[str, AfterValidator(_has_an_image)]
