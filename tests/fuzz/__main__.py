"""Feeds a parser mutated inputs: python -m tests.fuzz TARGET [--count N | --minutes M] [--seed S] [--corpus FOLDER]

Every input must be taken or refused with a typed error, in bounded time and memory; the first that is not ends the run
with exit code 1. The corpus keeps that input, and one for each place in the code from which an input was refused. What
it has is tried first the next time, and mutated further.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import logging
import random
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pqbench_wire.errors import Internal, PqbenchError

from .mutate import mutated
from .targets import TARGETS, quietly, scratch

HANG_SECONDS = 120
MOST_MEMORY = 6 << 30  # bytes
LARGEST_KEPT = 1 << 20  # bytes of an input in the corpus


class Corpus:
    """The inputs that earlier runs kept of a target, and those that this one adds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.inputs = [file.read_bytes() for file in sorted(folder.glob("*.bin"))]
        self._places: set[str] = set()

    def keep(self, data: bytes) -> Path:
        """Store an input; returns its file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
        file.write_bytes(data)
        return file

    def note(self, data: bytes, error: PqbenchError) -> None:
        """Store an input that was refused from a place from which none was before in this run."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}"
        if place not in self._places and len(data) <= LARGEST_KEPT:
            self._places.add(place)
            if data not in self.inputs:
                self.inputs.append(data)
                self.keep(data)


def main(name: str, count: int | None, minutes: float, seed: int, corpus: Corpus) -> int:
    """Try `count` inputs, or for `minutes`; returns the exit code."""
    quietly()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    chance, outcomes, begin = random.Random(seed), Counter[str](), time.monotonic()
    with scratch() as folder, TARGETS[name](Path(folder)) as (seeds, attempt):
        whole = [*seeds, *corpus.inputs]
        for number in _numbers(count, begin + minutes * 60):
            data = whole[number % len(whole)] if number < 2 * len(whole) else mutated(chance, [*seeds, *corpus.inputs])
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            try:
                attempt(data)
                outcomes["taken"] += 1
            except PqbenchError as error:
                outcomes[type(error).__name__] += 1
                if isinstance(error, Internal) or type(error) is PqbenchError:
                    return _found(name, number, corpus.keep(data), error)
                corpus.note(data, error)
            except Exception as error:
                return _found(name, number, corpus.keep(data), error)
        faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    told = ", ".join(f"{outcome} {n}" for outcome, n in outcomes.most_common())
    print(f"{name}: {outcomes.total()} inputs in {time.monotonic() - begin:.0f} s, peak {peak} MB: {told}")
    return 0


def _numbers(count: int | None, deadline: float) -> Iterator[int]:
    """The numbers of the inputs: so many, or until the deadline."""
    number = 0
    while number < count if count is not None else time.monotonic() < deadline:
        yield number
        number += 1


def _found(name: str, number: int, file: Path, error: Exception) -> int:
    traceback.print_exception(error, limit=-6)
    print(f"{name}: input {number}, kept in {file}: {type(error).__name__}: {error}")
    return 1


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("target", choices=list(TARGETS))
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--count", type=int, help="inputs to try")
    limit.add_argument("--minutes", type=float, default=1.0, help="how long to try, without --count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="folder of the corpora of all targets")
    return parser.parse_args()


if __name__ == "__main__":
    given = _parsed()
    sys.exit(main(given.target, given.count, given.minutes, given.seed, Corpus(given.corpus / given.target)))
