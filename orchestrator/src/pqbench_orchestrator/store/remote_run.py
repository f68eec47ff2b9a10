"""A run of which only the ledger can be read here, in a database: its folder is on another machine."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from pqbench_orchestrator.store import postgres
from pqbench_orchestrator.store.ledger import Ledger

SILENT_SECONDS = 1800.0  # without a word of a step, after which a run that is not complete counts as ended


@dataclass(frozen=True)
class RemoteRun:
    """The run at an address, whose first step began at `started` (seconds since the epoch; 0: none did)."""

    address: postgres.Address
    started: float = 0.0

    @property
    def name(self) -> str:
        """The run's name."""
        return self.address.run

    def ledger(self) -> Ledger:
        """The run's ledger, to read. Raises InvalidInput."""
        return Ledger(self.address, read_only=True)


def may_be_running(ledger: Ledger, ended: int) -> bool:
    """Whether a run of which so many steps have ended has more to do and said something lately."""
    return ended < ledger.planned_steps and time.time() - ledger.last_active < SILENT_SECONDS


def remote_run(url: str, name: str) -> RemoteRun | None:
    """The run `name` of a database, if it has one. Raises InvalidInput."""
    return RemoteRun(postgres.Address(url, name)) if name in postgres.runs_of(url) else None


def remote_runs(url: str, here: Collection[str]) -> list[RemoteRun]:
    """The runs of a database that are not `here`. Raises InvalidInput."""
    names = [name for name in postgres.runs_of(url) if name not in here]
    return [
        RemoteRun(postgres.Address(url, name), started) for name, started in postgres.beginnings(url, names).items()
    ]
