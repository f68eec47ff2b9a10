"""The files of mutual TLS in a folder that `pqbench certificates` wrote."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NamedTuple

from pqbench_wire.errors import InvalidInput

AUTHORITY, CLIENT = "ca", "client"  # names of their files, without .pem
KEY = "-key"  # the end of a private key's name
WAIT_SECONDS = 60.0  # for files that another container still makes
POLL = 0.2  # seconds


class Files(NamedTuple):
    """PEM files of one side of a connection."""

    authority: Path
    certificate: Path
    key: Path


def files_of(folder: Path, host: str = CLIENT) -> Files:
    """The files of a service's host, or of clients, once they are there. Raises InvalidInput if they do not come."""
    stem = stem_of(host)
    files = Files(folder / f"{AUTHORITY}.pem", folder / f"{stem}.pem", folder / f"{stem}{KEY}.pem")
    deadline, told = time.monotonic() + WAIT_SECONDS, False
    while missing := [file for file in files if not file.is_file()]:
        if not told:
            print(f"waiting up to {WAIT_SECONDS:.0f} s for {missing[0]}", file=sys.stderr, flush=True)
            told = True
        if time.monotonic() > deadline:
            raise InvalidInput(f"there is no {missing[0]}: `pqbench certificates {folder} HOST …` makes it")
        time.sleep(POLL)
    return files


def stem_of(host: str) -> str:
    """The name of a host's files, without .pem."""
    return host.replace(":", "-").replace("*", "any")
