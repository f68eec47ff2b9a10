"""timm's weights from a server that answers as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch

from pqbench_compressor.models import _weights
from pqbench_compressor.plugins import MODELS, Context, Files
from pqbench_wire.errors import BlobCorrupt, Unavailable

NAME = "test_resnet"


class Hub(BaseHTTPRequestHandler):
    """Serves one file, named by its SHA-256."""

    content: ClassVar[bytes] = b""
    etag: ClassVar[str] = ""

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{Hub.etag}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(Hub.content)))
        self.end_headers()

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        self._head()
        self.wfile.write(Hub.content)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The hub's address; its file are a model's random weights."""
    plugin = MODELS.load("timm")
    torch.manual_seed(3)
    state = plugin.build(NAME, plugin.Config(), Files()).state_dict()
    Hub.content = safetensors.torch.save(state)
    Hub.etag = hashlib.sha256(Hub.content).hexdigest()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{serving.server_address[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield address
    serving.shutdown()
    serving.server_close()
    thread.join()


def context(told: list[float]) -> Context:
    images = np.zeros((2, 3, 8, 8), np.float32)
    return Context(seed=0, report=lambda _, fraction, __: told.append(fraction), classes=0, images=images)


def test_weights_arrive_with_progress_and_are_loaded(hub: str) -> None:
    told: list[float] = []
    plugin = MODELS.load("timm")
    module = plugin.pretrained(NAME, plugin.Config(), Files(), context(told))
    wanted = safetensors.torch.load(Hub.content)
    assert told and told[-1] == 1
    assert all(torch.equal(wanted[key], value) for key, value in module.state_dict().items())


def test_a_damaged_file_is_deleted(hub: str) -> None:
    Hub.content = Hub.content[:-1] + b"x"
    with pytest.raises(BlobCorrupt, match="sha256 is .* expected .*; the file was deleted, run again"):
        _weights.fetch_from_hub("timm/any", context([]))
    Hub.content = io.BytesIO(b"whole").getvalue()
    Hub.etag = hashlib.sha256(Hub.content).hexdigest()
    assert _weights.fetch_from_hub("timm/any", context([])).read_bytes() == b"whole"


def test_no_network_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the hub's retries
    with pytest.raises(Unavailable, match="cannot download its weights .*HF_HOME.*or give weights: <path>"):
        _weights.fetch_from_hub("timm/none", context([]), "http://127.0.0.1:1")
