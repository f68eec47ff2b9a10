"""A run of which only the ledger can be read here, in a database: its folder is on another machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pqbench_orchestrator.store import postgres
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_wire.errors import InvalidInput

SILENT_SECONDS = 1800.0  # without a word of a step, after which a run counts as ended


@dataclass(frozen=True)
class RemoteRun:
    """The run at an address."""

    address: postgres.Address

    @property
    def name(self) -> str:
        """The run's name."""
        return self.address.run

    def ledger(self) -> Ledger:
        """The run's ledger, to read. Raises InvalidInput."""
        return Ledger(self.address, read_only=True)

    @property
    def _active(self) -> tuple[float, float, bool]:
        with self.ledger() as ledger:
            return ledger.active()

    @property
    def started(self) -> float:
        """When its first step began, in seconds since the epoch; 0 where none did."""
        return self._active[0]

    @property
    def is_running(self) -> bool:
        """Whether a step has begun and not ended, not too long ago to be alive."""
        _, last, is_under_way = self._active
        return is_under_way and time.time() - last < SILENT_SECONDS


def remote_runs(url: str, here: set[str]) -> list[RemoteRun]:
    """The runs of a database that are not `here`, the newest last; those that cannot be read are left out."""
    found = []
    for name in set(postgres.runs_of(url)) - here:
        run = RemoteRun(postgres.Address(url, name))
        try:
            found.append((run.started, name, run))
        except InvalidInput:  # it was removed meanwhile
            continue
    return [run for _, _, run in sorted(found, key=lambda one: one[:2])]
