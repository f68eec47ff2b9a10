"""Downloads against a real HTTP server: progress, resuming, checksums, no network."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from pqbench_wire.errors import BlobCorrupt, Unavailable
from pqbench_wire.shared.download import CHUNK, download

CONTENT = bytes(range(256)) * (CHUNK // 64)  # four chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; /broken ends half-way unless asked to go on."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        Handler.asked.append(f"{self.path} {begin}")
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        end = len(CONTENT) // 2 if self.path == "/broken" and not begin else len(CONTENT)
        self.wfile.write(CONTENT[begin:end])

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a running server."""
    Handler.asked = []
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_a_file_is_fetched_once_with_progress(server: str, tmp_path: Path) -> None:
    fractions: list[float] = []
    for _ in range(2):
        path = download(f"{server}/file", tmp_path / "new" / "file", f"sha256:{SHA256[:12]}", "", fractions.append)
    assert path.read_bytes() == CONTENT
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(fractions) >= 4
    assert Handler.asked == ["/file 0"]


def test_a_broken_download_goes_on_where_it_ended(server: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="run again to go on.*; put it there"):
        download(f"{server}/broken", tmp_path / "file", f"sha256:{SHA256}", "put it there")
    assert not (tmp_path / "file").exists()
    assert download(f"{server}/broken", tmp_path / "file", f"sha256:{SHA256}", "").read_bytes() == CONTENT
    assert Handler.asked == ["/broken 0", f"/broken {len(CONTENT) // 2}"]


def test_a_whole_file_that_was_not_renamed_is_only_checked(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(CONTENT)
    assert download(f"{server}/file", tmp_path / "file", f"sha256:{SHA256}", "").read_bytes() == CONTENT


def test_another_file_is_refused_and_deleted(server: str, tmp_path: Path) -> None:
    with pytest.raises(BlobCorrupt, match="md5 is .*, expected 0000"):
        download(f"{server}/file", tmp_path / "file", "md5:0000", "")
    assert not any(path.suffix == ".partial" for path in tmp_path.iterdir())


def test_no_network_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot download http://127.0.0.1:1/x .*refused.*put the file into"):
        download("http://127.0.0.1:1/x", tmp_path / "x", "md5:0", "put the file into the folder")
