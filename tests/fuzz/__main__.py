"""Feeds a parser mutated inputs: python -m tests.fuzz TARGET COUNT [SEED]

Every input must be taken or refused with a typed error, in bounded time and memory; the first that is not is written
beside, and the exit code is 1.
"""

from __future__ import annotations

import faulthandler
import logging
import random
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from pqbench_wire.errors import Internal, PqbenchError

from .mutate import mutated
from .targets import TARGETS, quietly, scratch

HANG_SECONDS = 120
MOST_MEMORY = 6 << 30  # bytes


def main(name: str, count: int, seed: int) -> int:
    """Returns the exit code."""
    quietly()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    chance, outcomes, begin = random.Random(seed), Counter[str](), time.monotonic()
    with scratch() as folder, TARGETS[name](Path(folder)) as (seeds, attempt):
        for number in range(count):
            data = seeds[number % len(seeds)] if number < 2 * len(seeds) else mutated(chance, seeds)
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            try:
                attempt(data)
                outcomes["taken"] += 1
            except PqbenchError as error:
                outcomes[type(error).__name__] += 1
                if isinstance(error, Internal) or type(error) is PqbenchError:
                    return _found(name, number, data, error)
            except Exception as error:
                return _found(name, number, data, error)
        faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    told = ", ".join(f"{outcome} {n}" for outcome, n in outcomes.most_common())
    print(f"{name}: {count} inputs in {time.monotonic() - begin:.0f} s, peak {peak} MB: {told}")
    return 0


def _found(name: str, number: int, data: bytes, error: Exception) -> int:
    file = Path(f"fuzz-{name}-{number}.bin")
    file.write_bytes(data)
    traceback.print_exception(error, limit=-6)
    print(f"{name}: input {number}, kept in {file}: {type(error).__name__}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0))
