"""Fetching pretrained weights into PyTorch's own cache."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pqbench_compressor.checkpoint import unwrap
from pqbench_compressor.plugins import Context
from pqbench_wire.download import download


def fetch_state(url: str, context: Context) -> dict[str, torch.Tensor]:
    """The state dict at `url`, whose file name ends in the beginning of its SHA-256, as PyTorch's do.

    Raises Unavailable, saying what to put where, without network; BlobCorrupt for another file.
    """
    name = url.rpartition("/")[2]
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    assert digest is not None, f"{name} does not name its SHA-256"
    folder = Path(torch.hub.get_dir(), "checkpoints")
    path = download(
        url, folder / name, f"sha256:{digest[1]}",
        f"put the file at that name into {folder} ($TORCH_HOME/hub/checkpoints), or give weights: <path>",
        lambda fraction: context.report("download", fraction, name),
    )  # fmt: skip
    return unwrap(torch.load(path, map_location="cpu", weights_only=True))
