"""Answers that a service keeps on disk, found again by their request's digest, even after a restart."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

log = logging.getLogger(__name__)
DIGEST = hashlib.sha256().digest_size
KEPT = 4096  # answers on disk to one kind of request; the oldest are removed first

Stored = TypeVar("Stored", bound=Message)


class Results(Generic[Stored]):
    """The answers to one kind of request.

    `salt` becomes part of each key. It holds what else decides an answer, such as versions: an answer never survives an
    upgrade.
    """

    def __init__(self, folder: Path, message: type[Stored], salt: str) -> None:
        self._folder, self._message, self._salt = folder, message, salt
        folder.mkdir(parents=True, exist_ok=True)
        self._count = len(self._listed())
        self._lock = threading.Lock()

    def key(self, request: Message, salt: str = "") -> str:
        """A request's key; `salt` is what else decides the answer to this one, in addition to the constructor's."""
        kind = f"{self._salt}\n{salt}\n{request.DESCRIPTOR.full_name}\n"
        return hashlib.sha256(kind.encode() + canonical(request)).hexdigest()

    def get(self, key: str) -> Stored | None:
        """The stored answer; None if there is none, or if it is damaged."""
        path, message = self._folder / key, self._message()
        try:
            stored = path.read_bytes()
            digest, data = stored[:DIGEST], stored[DIGEST:]
            if digest != hashlib.sha256(data).digest():
                raise DecodeError("it has another digest")
            message.ParseFromString(data)
        except FileNotFoundError:
            return None
        except (DecodeError, OSError):
            log.warning("stored result %s is unreadable; doing the work again", path)
            return None
        return message

    def put(self, key: str, result: Stored) -> None:
        """Store an answer; one that cannot be stored is logged, because its caller still gets it."""
        partial = self._folder / f".{key}.{os.getpid()}.{threading.get_ident()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)  # it may have been cleaned away
            data = canonical(result)
            partial.write_bytes(hashlib.sha256(data).digest() + data)
            partial.replace(self._folder / key)
        except OSError as error:
            log.warning("the result %s is not kept: %s", key[:8], error)
            partial.unlink(missing_ok=True)
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        with self._lock:
            self._count += 1
            if self._count <= KEPT:
                return
            oldest_first = sorted(self._listed(), key=_age, reverse=True)
            for path in oldest_first[: max(0, len(oldest_first) - KEPT)]:
                path.unlink(missing_ok=True)
            self._count = min(len(oldest_first), KEPT)

    def _listed(self) -> list[Path]:
        return list(self._folder.glob("[0-9a-f]*"))


def canonical(message: Message) -> bytes:
    """A message's bytes, which are equal for equal messages within one version of the protos."""
    return message.SerializeToString(deterministic=True)


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
