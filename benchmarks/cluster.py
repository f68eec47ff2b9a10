"""How much sooner an experiment of 5,000 cells ends on 8 and on 64 machines of a Ray cluster: a simulation.

    python benchmarks/cluster.py DATA

The order in which shards start is that of `pqbench run --on` (its function `startable`); free machines take them in it.
Steps take the mean seconds of their kind in the newest runs of the data folder DATA, each shard's up to a fifth more or
less. What Ray itself takes is not in it. Writes results/cluster.json.
"""

from __future__ import annotations

import heapq
import json
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from pqbench_orchestrator.commands.on_ray import startable
from pqbench_orchestrator.commands.ray_job import Job, Progress
from pqbench_orchestrator.store.durations import mean_durations

RESULT = Path(__file__).parent / "results" / "cluster.json"
MODELS, TARGETS, RECIPES = 50, 10, 10  # 5,000 cells at one batch size; a shard has the recipes of a model on a target
MACHINES = (1, 8, 64)
SPREAD = 0.2  # of a shard's speed
ONCE = ("prepare", "compress")  # kinds of steps that the first shard of a model does for all


@dataclass(frozen=True)
class Cost:
    """Seconds of a shard: what its model's first shard does before the others may start, and the rest."""

    shared: float
    own: float


def main(data: Path) -> None:
    """Simulate each number of machines and print how much sooner than one they end."""
    seconds = mean_durations(data)
    if "measure" not in seconds:
        sys.exit(f"{data} has no run from which steps' durations are known")
    costs = costs_of(seconds)
    total = makespan(costs, 1)
    rows = []
    for machines in MACHINES:
        took = makespan(costs, machines)
        rows.append({"machines": machines, "hours": round(took / 3600, 2), "speed_up": round(total / took, 2)})
        print(f"{machines:3} machines: {took / 3600:7.2f} h, {total / took:5.2f} times as fast")
    found = {"date": time.strftime("%Y-%m-%d"), "simulated": True, "cells": MODELS * TARGETS * RECIPES,
             "seconds_by_kind": {kind: round(value, 3) for kind, value in sorted(seconds.items())}, "rows": rows,
             "version": metadata.version("pqbench-orchestrator")}  # fmt: skip
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def costs_of(seconds: dict[str, float]) -> dict[str, Cost]:
    """Each shard's cost, by its name."""
    shared = RECIPES * sum(seconds.get(kind, 0.0) for kind in ONCE)
    own = RECIPES * sum(value for kind, value in seconds.items() if kind not in ONCE)
    speeds = np.random.default_rng(0).uniform(1 - SPREAD, 1 + SPREAD, MODELS * TARGETS).tolist()
    return {f"{index}": Cost(shared * speed, own * speed) for index, speed in enumerate(speeds)}


def makespan(costs: dict[str, Cost], machines: int) -> float:
    """Seconds until the last shard ends on so many machines."""
    waiting = [job(name, f"{int(name) // TARGETS}") for name in costs]
    queue: list[Job] = []  # submitted to Ray
    running: dict[str, Job] = {}
    progress: dict[str, Progress] = {}
    compressed: set[str] = set()  # models
    events: list[tuple[float, str, str]] = []  # time, "compressed" or "done", shard
    now, free = 0.0, machines
    while waiting or queue or running:
        for one in startable(waiting, [*running.values(), *queue], progress):
            waiting.remove(one)
            queue.append(one)
        while free and queue:
            one, free = queue.pop(0), free - 1
            running[one.shard] = one
            cost = costs[one.shard]
            shared = 0.0 if one.model in compressed else cost.shared
            progress[one.shard] = Progress(machine="", node="", kind="compress" if shared else "build")
            heapq.heappush(events, (now + shared, "compressed", one.shard))
            heapq.heappush(events, (now + shared + cost.own, "done", one.shard))
        now, what, shard = heapq.heappop(events)
        if what == "compressed":
            compressed.add(running[shard].model)
            progress[shard] = Progress(machine="", node="", kind="build")
        else:
            del running[shard]
            free += 1
    return now


def job(shard: str, model: str) -> Job:
    """A shard of a model."""
    return Job(shard=shard, model=model, target="", device="", file="", manifest="", inventory="", allow_code=False,
               store="", mark="", versions={}, data="")  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
