"""What is done to a run and to what it needs. Each takes seconds, and leaves everything working again."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable

import psutil

from tests.chaos.surroundings import MACHINES, Surroundings

SHORT, LONG = (1.0, 6.0), (1.0, 40.0)  # seconds; a database is waited for half a minute
MODULES = {"compressor": "pqbench_compressor", "compressor's worker": "pqbench_compressor.worker",
           "runtime": "pqbench_runtime", "runtime's worker": "pqbench_runtime.worker"}  # fmt: skip

Disturb = Callable[[psutil.Process, Surroundings, random.Random], str]


def kill_orchestrator(run: psutil.Process, around: Surroundings, chance: random.Random) -> str:
    run.send_signal(signal.SIGKILL)
    return "killed the orchestrator"


def kill_service(run: psutil.Process, around: Surroundings, chance: random.Random) -> str:
    name, process = _service(run, chance)
    process.send_signal(signal.SIGKILL)
    return f"killed the {name}"


def freeze(run: psutil.Process, around: Surroundings, chance: random.Random) -> str:
    name, process = chance.choice([("orchestrator", run), _service(run, chance)])
    seconds = chance.uniform(*SHORT)
    with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended meanwhile
        _for_a_while(seconds, process.suspend, process.resume)
    return f"froze the {name} for {seconds:.0f} s"


def kill_database(run: psutil.Process, around: Surroundings, chance: random.Random) -> str:
    if around.database is None:
        return "there is no database to kill"
    seconds = chance.uniform(*LONG)
    _for_a_while(seconds, around.database.stop, around.database.start)
    return f"killed the database for {seconds:.0f} s"


def kill_store(run: psutil.Process, around: Surroundings, chance: random.Random) -> str:
    seconds = chance.uniform(*SHORT)
    _for_a_while(seconds, around.store.stop, around.store.start)
    return f"killed the store, with all that was in it, for {seconds:.0f} s"


def cut_network(run: psutil.Process, around: Surroundings, chance: random.Random) -> str:
    names = {"store": around.store.proxy} | ({"database": around.database_proxy} if around.database_proxy else {})
    name = chance.choice(sorted(names))
    seconds = chance.uniform(*SHORT)
    _for_a_while(seconds, names[name].cut, names[name].mend)
    return f"cut the connections to the {name} for {seconds:.0f} s"


def fill_disk(run: psutil.Process, around: Surroundings, chance: random.Random) -> str:
    if not around.disk.can_be_full:
        return "may not mount a disk to fill"
    seconds = chance.uniform(*SHORT)
    _for_a_while(seconds, around.disk.fill, around.disk.free)
    return f"filled the disk for {seconds:.0f} s"


def kill_machine(run: psutil.Process, around: Surroundings, chance: random.Random) -> str:
    name = chance.choice(MACHINES)
    around.machines.kill(name)
    around.machines.start_worker(name)
    return f"killed machine {name}, with all that ran on it"


def freeze_machine(run: psutil.Process, around: Surroundings, chance: random.Random) -> str:
    name, seconds = chance.choice(MACHINES), chance.uniform(*SHORT)
    machine = around.machines.worker(name)
    processes = [machine, *machine.children(recursive=True)]
    _for_a_while(seconds, lambda: _each(processes, "suspend"), lambda: _each(processes, "resume"))
    return f"froze machine {name} for {seconds:.0f} s"


DISTURBANCES: tuple[Disturb, ...] = (
    kill_orchestrator, kill_service, freeze, kill_database, kill_store, cut_network, fill_disk,
)  # fmt: skip
ON_RAY: tuple[Disturb, ...] = (
    kill_machine, kill_machine, freeze_machine, kill_orchestrator, kill_database, kill_store, cut_network, fill_disk,
)  # fmt: skip


def _each(processes: list[psutil.Process], action: str) -> None:
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            getattr(one, action)()


def _for_a_while(seconds: float, begin: Callable[[], None], end: Callable[[], None]) -> None:
    begin()
    try:
        time.sleep(seconds)
    finally:
        end()


def _service(run: psutil.Process, chance: random.Random) -> tuple[str, psutil.Process]:
    """One of the services' processes, or the orchestrator where there is none."""
    found = []
    for process in run.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            found += [(name, process) for name, module in MODULES.items() if module in line]
    return chance.choice(found) if found else ("orchestrator", run)
