"""What the machine says of itself."""

from __future__ import annotations

from pathlib import Path

from pqbench_runtime import host


def test_the_nvidia_driver_and_its_gpus_are_read_from_the_kernel_module(tmp_path: Path) -> None:
    assert host.nvidia(tmp_path) == ""
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX Kernel Module  580.95.05\nGCC version: 13\n")
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        folder = tmp_path / "gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA L4\nBus Location: {bus}\n")
    assert (
        host.nvidia(tmp_path) == "NVRM version: NVIDIA UNIX Kernel Module  580.95.05" + " | Model: \t\t NVIDIA L4" * 2
    )
