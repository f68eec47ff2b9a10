"""Downloads pretrained weights into the caches of PyTorch and Hugging Face, with progress, and verifies them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch

from pqbench_compressor.plugins import Context
from pqbench_compressor.weights import state_dict
from pqbench_wire.blobs import blob_of
from pqbench_wire.errors import BlobCorrupt, Unavailable
from pqbench_wire.shared.download import download


def fetch_state(url: str, context: Context) -> dict[str, torch.Tensor]:
    """The state dict at `url`, whose file name must end in the first digits of its SHA-256, as PyTorch's do.

    Raises Unavailable, with what to do, if it cannot be downloaded; BlobCorrupt if the digest differs.
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
    return state_dict(path)


def fetch_from_hub(repository: str, context: Context, endpoint: str | None = None) -> Path:
    """The path of a Hugging Face repository's `model.safetensors` in the cache, downloaded if it is not there.

    `repository` is "owner/name" or "owner/name@revision". Raises Unavailable, with what to do, if it cannot be
    downloaded; BlobCorrupt if its SHA-256 differs.
    """
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    class Bar(tqdm):
        """A progress bar that reports to `context` instead of drawing."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **options | {"file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            done = super().update(n)
            context.report("download", min(1.0, self.n / self.total) if self.total else 0.0, repository)
            return done

    name, _, revision = repository.partition("@")
    try:
        path = Path(
            hf_hub_download(name, "model.safetensors", revision=revision or None, tqdm_class=Bar, endpoint=endpoint)
        )
    except Exception as error:
        # huggingface_hub has no common base class for "offline", "not found" and "connection refused".
        raise Unavailable(
            f"{repository}: cannot download its weights ({type(error).__name__}); fill the Hugging Face cache "
            "($HF_HOME) on a machine with network, or give weights: <path>"
        ) from error
    _check_hub(path.resolve(), repository)
    return path


def _check_hub(path: Path, repository: str) -> None:
    """Verify a large file, which the cache names by its SHA-256. Raises BlobCorrupt if the digest differs.

    A damaged file is deleted, so that the next try downloads it again.
    """
    if not re.fullmatch("[0-9a-f]{64}", path.name):
        return
    if (found := blob_of(path).sha256) != path.name:
        path.unlink()
        raise BlobCorrupt(f"{repository}: sha256 is {found}, expected {path.name}; the file was deleted, run again")
