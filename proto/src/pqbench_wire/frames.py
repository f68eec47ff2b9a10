"""Length-prefixed protobuf messages on a pipe, between a service and its workers."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

PREFIX = struct.Struct("<I")
M = TypeVar("M", bound=Message)
Wait = Callable[[], None]  # returns once the pipe is ready


def _at_once() -> None:
    """Do not wait: reading and writing block until the descriptor is ready."""


def write(descriptor: int, message: Message, wait: Wait = _at_once) -> None:
    """Send one complete message; `wait` is called before each part of it."""
    data = message.SerializeToString()
    view = memoryview(PREFIX.pack(len(data)) + data)
    while view:
        wait()
        view = view[os.write(descriptor, view) :]


def read(descriptor: int, kind: type[M], wait: Wait = _at_once) -> M | None:
    """The next message, or None if the pipe was closed; `wait` is called before each part of it."""
    prefix = _exactly(descriptor, PREFIX.size, wait)
    if prefix is None:
        return None
    data = _exactly(descriptor, PREFIX.unpack(prefix)[0], wait)
    if data is None:
        return None
    message = kind()
    message.ParseFromString(data)
    return message


def _exactly(descriptor: int, size: int, wait: Wait) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        wait()
        part = os.read(descriptor, size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
