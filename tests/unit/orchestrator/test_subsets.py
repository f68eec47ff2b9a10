"""Imagenette and Imagewoof from a local web server: downloaded, checked, unpacked, scored on their ten outputs."""

from __future__ import annotations

import functools
import hashlib
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from pqbench_orchestrator.dataset import DATASETS
from pqbench_wire.errors import BlobCorrupt, InvalidInput, Unavailable


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the folder `web`."""
    (tmp_path / "web").mkdir()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "web"))
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    serving.server_close()
    thread.join()


def archive(name: str, folder: Path) -> str:
    """Write <name>2.tgz, two images a class, into the folder `web`; returns its checksum."""
    for part in ("train", "val"):
        for index, synset in enumerate(DATASETS.load(name).OUTPUTS):
            images = folder / f"{name}2" / part / synset
            images.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (40, 30), (20 * index, 100, 50 * number)).save(images / f"{number}.JPEG")
    packed = folder / "web" / f"{name}2.tgz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(folder / f"{name}2", f"{name}2")
    return f"md5:{hashlib.md5(packed.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("name", ["imagenette", "imagewoof"])
def test_a_subset_is_downloaded_once(server: str, tmp_path: Path, name: str) -> None:
    plugin = DATASETS.load(name)
    config = plugin.Config(url=f"{server}/{name}2.tgz", checksum=archive(name, tmp_path))
    told: list[float] = []
    data = plugin.load(config, tmp_path / "data", told.append)
    assert told[-1] == 1 and (tmp_path / "data" / f"{name}2" / "val").is_dir()
    assert not list((tmp_path / "data").glob("*.tgz"))
    assert data.outputs == tuple(plugin.OUTPUTS[synset][0] for synset in sorted(plugin.OUTPUTS))
    assert len(data.split("test").labels) == 20 and data.split("train").open(19).size == (40, 30)
    (tmp_path / "web" / f"{name}2.tgz").unlink()
    assert plugin.load(config, tmp_path / "data", told.append).classes == data.classes


def test_a_subset_that_cannot_be_had_says_what_to_put_where(server: str, tmp_path: Path) -> None:
    plugin = DATASETS.load("imagenette")
    absent = plugin.Config(url=f"{server}/nothing.tgz", checksum="md5:0")
    with pytest.raises(Unavailable, match=r"File not found.*; put the unpacked folder at .*imagenette2"):
        plugin.load(absent, tmp_path / "data", lambda _: None)
    archive("imagenette", tmp_path)
    other = plugin.Config(url=f"{server}/imagenette2.tgz", checksum="md5:0123456789abcdef0123456789abcdef")
    with pytest.raises(BlobCorrupt, match="expected 0123456789abcdef"):
        plugin.load(other, tmp_path / "data", lambda _: None)


def test_other_labels_are_other_data(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    plugin, found = DATASETS.load("imagenet1000"), []
    for labels in ([1, 2, 3], [1, 2, 4]):
        (tmp_path / "labels.json").write_text(json.dumps({f"{i}.png": label for i, label in enumerate(labels)}))
        found.append(plugin.load(plugin.Config(test=str(tmp_path)), tmp_path, lambda _: None).split("test").fingerprint)
    assert found[0] != found[1]


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00", b""])
def test_broken_arrays_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    plugin = DATASETS.load("arrays")
    with pytest.raises(InvalidInput, match="not an .npz with images and labels"):
        plugin.load(plugin.Config(test=str(tmp_path / "a.npz")), tmp_path, lambda _: None)


def test_a_broken_archive_and_a_wrong_checksum_say_so(tmp_path: Path) -> None:
    plugin = DATASETS.load("imagenette")
    with pytest.raises(InvalidInput, match="checksum must be md5:… or sha256:…, got 'abc'"):
        plugin.load(plugin.Config(checksum="abc"), tmp_path, lambda _: None)
    (tmp_path / "imagenette2.tgz").write_bytes(b"broken")
    with pytest.raises(InvalidInput, match="imagenette2.tgz cannot be unpacked: .*; delete it"):
        plugin.load(plugin.Config(), tmp_path, lambda _: None)
