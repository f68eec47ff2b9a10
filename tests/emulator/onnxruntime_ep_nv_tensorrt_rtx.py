"""A stand-in for the wheel of NVIDIA's plug-in provider: where its library is."""

from pathlib import Path


def get_library_path() -> str:
    return str(Path(__file__).parent / "libonnxruntime_providers_nv_tensorrt_rtx.so")
