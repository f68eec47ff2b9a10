"""Length-prefixed protobuf messages on a pipe, between the service and its workers."""

from __future__ import annotations

import os
import struct
from typing import TypeVar

from google.protobuf.message import Message

PREFIX = struct.Struct("<I")
M = TypeVar("M", bound=Message)


def write(descriptor: int, message: Message) -> None:
    """Send one message whole."""
    data = message.SerializeToString()
    view = memoryview(PREFIX.pack(len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def read(descriptor: int, kind: type[M]) -> M | None:
    """The next message, or None at the end of the pipe."""
    prefix = _exactly(descriptor, PREFIX.size)
    if prefix is None:
        return None
    data = _exactly(descriptor, PREFIX.unpack(prefix)[0])
    if data is None:
        return None
    message = kind()
    message.ParseFromString(data)
    return message


def _exactly(descriptor: int, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(descriptor, size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
