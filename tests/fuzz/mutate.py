"""Changing inputs at random: bytes are flipped, cut, repeated, replaced by what parsers stumble over."""

from __future__ import annotations

import random
from collections.abc import Sequence

TOKENS = (
    b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff" * 8, b"\xff" * 9 + b"\x01",
    b"-1", b"0", b"1e999", b"9" * 30, b"nan", b"-inf", b"null", b"true", b"[]", b"{}", b'""', b"'", b'"', b"\n", b": ", b"- ", b"&a ",
    b"*a", b"<<: ", b"!!python/object:os.system ", b"%s%n", b"../../etc/passwd", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\xef\xbb\xbf",
)  # fmt: skip
MOST_CHANGES = 8


def mutated(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with a few changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, MOST_CHANGES)):
        chance.choice((_flip, _flip, _insert, _insert, _delete, _repeat, _truncate, _splice))(chance, data, seeds)
    return bytes(data)


def _place(chance: random.Random, data: bytearray) -> int:
    return chance.randint(0, len(data))


def _flip(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _insert(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at, token = _place(chance, data), chance.choice(TOKENS)
    data[at : at + chance.choice((0, len(token)))] = token


def _delete(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = _place(chance, data)
    del data[at : at + chance.randint(1, 16)]


def _repeat(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = _place(chance, data)
    data[at:at] = data[at : at + chance.randint(1, 64)] * chance.randint(1, 20)


def _truncate(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if chance.random() < 0.3:
        del data[_place(chance, data) :]


def _splice(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = chance.choice(seeds)
    at, begin = _place(chance, data), chance.randint(0, len(other))
    data[at : at + chance.randint(0, 32)] = other[begin : begin + chance.randint(1, 64)]
