"""Downloads a file once: with progress, resumed after a broken connection, verified, complete or not there."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pqbench_wire.errors import BlobCorrupt, InvalidInput, Unavailable

CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without a byte
PARTIAL = 206  # HTTP status: the server continues at the requested byte
Progress = Callable[[float], None]  # fraction 0 to 1


def download(url: str, path: Path, checksum: str, hint: str, progress: Progress = lambda _: None) -> Path:
    """Fetch `url` to `path` unless it is there; returns `path`.

    `checksum` is "md5:…" or "sha256:…", with all or the first digits of the digest. What arrived
    before a broken connection is kept beside `path` and continued. Raises Unavailable if the file
    cannot be downloaded (`hint` says what to put where), BlobCorrupt if its digest differs,
    InvalidInput for a malformed `checksum`.
    """
    if path.is_file():
        return path
    if not re.fullmatch("(md5|sha256):[0-9a-f]+", checksum):
        raise InvalidInput(f"{url}: checksum must be md5:… or sha256:…, got {checksum!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that want the same file fetch it once
        if path.is_file():
            return path
        try:
            _fetch(url, partial, progress)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"cannot download {url} ({_reason(error)}); {hint}") from error
        _check(partial, checksum, url)
        partial.replace(path)
    return path


def _fetch(url: str, partial: Path, progress: Progress) -> None:
    done = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the partial file is complete already; the checksum decides
        raise
    with answer:
        if answer.status != PARTIAL:
            done = 0
        total = done + int(answer.headers.get("Content-Length") or 0)
        with partial.open("ab" if done else "wb") as out:
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                done += len(chunk)
                progress(done / total if total else 0.0)
    if done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes; run again to go on from there")


def _check(partial: Path, checksum: str, url: str) -> None:
    kind, _, wanted = checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with partial.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    if not found.startswith(wanted):
        partial.unlink()
        raise BlobCorrupt(f"{url}: {kind} is {found}, expected {wanted}; the file was deleted, run again")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error or type(error).__name__)
