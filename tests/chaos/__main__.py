"""Runs of a small experiment that are disturbed at random, each continued until it is complete.

    python -m tests.chaos --minutes 30 --seed 1

Each must end with the table of an undisturbed run, without a traceback, and leave no process behind. Prints what is
done and what comes of it; ends with code 1 at the first run that is wrong. The seed decides what is done; how far a
run is at that moment depends on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from pqbench_orchestrator.store.run_folder import MERGED
from tests.chaos.disturbances import DISTURBANCES, ON_RAY, Disturb
from tests.chaos.surroundings import Surroundings, surroundings

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pqbench_orchestrator.cli", "run"]
EVENTS = 3  # of a run
ON_RAY_EVERY = 3  # of so many runs one is on a Ray cluster, first the second
BETWEEN = (0.5, 8.0)  # seconds
MOST_TRIES = 20  # of --continue
RUN_SECONDS, GONE_SECONDS = 600.0, 30.0
OK, KILLED = 0, -9
ENDED = ("ok", "refused")  # others are tried again by --continue
CODES = (OK, 1, 2, KILLED)
TO_BEGIN = "leave out --continue to start one"  # what is said where the run was killed before it had a folder
SAME = ("Model", "Recipe", "Target", "Batch Size", "Outcome", "Reason", "Accuracy", "Agreement (%)", "SQNR (dB)",
        "Precision", "Executed Precision", "Original Size", "Compressed Size", "Parameters", "Non-zeros", "MACs", "Cell")  # fmt: skip
MANIFEST: dict[str, Any] = {
    "name": "chaos",
    "models": [{"model": "digits/resnet", "config": {"epochs": 2}}],
    "datasets": [{"dataset": "digits"}],
    "recipes": [
        {"name": "baseline"},
        {"name": "int8", "steps": [{"quantize": {"method": "int8-static", "images": 64}}]},
        {"name": "zeros", "steps": [{"prune": {"method": "l1-global", "amount": 0.5}}, {"finetune": {"epochs": 2}}]},
    ],
    "targets": [{"name": name, "backend": name, "options": {"threads": 1}} for name in ("onnxruntime", "openvino")],
    "batch_sizes": [4],
    "try_artifacts": False,
    "measure": {"warmup_seconds": 0.01, "min_seconds": 0.5, "max_seconds": 0.5, "min_iterations": 6},
}


class Wrong(Exception):
    """A run did not end as it must."""


def main() -> int:
    """Disturb runs until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    chance, begin = random.Random(options.seed), time.monotonic()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pqbench-chaos-") as name, surroundings(Path(name)) as around:
        manifest = Path(name) / "chaos.yaml"
        manifest.write_text(yaml.safe_dump(MANIFEST))
        expected = undisturbed(manifest, Path(name) / "undisturbed")
        count = 0
        while count == 0 or time.monotonic() - begin < options.minutes * 60:
            count += 1
            data = around.disk.folder / f"run-{count}"
            on_ray = around.cluster is not None and count % ON_RAY_EVERY == 2
            print(f"run {count}{', on a Ray cluster' if on_ray else ''}", flush=True)
            try:
                tries = disturbed(manifest, data, around, chance, on_ray)
                compare(expected, table(data, on_ray))
                if on_ray:
                    around.renew_machines(GONE_SECONDS)
            except (Wrong, RuntimeError) as error:
                print(f"run {count}: {error}")
                return 1
            print(f"run {count}: the right table after {tries} call{'s' if tries > 1 else ''}", flush=True)
            subprocess.run(["rm", "-r", str(data)], check=True)
    print(f"{count} runs in {(time.monotonic() - begin) / 60:.1f} minutes: each ended with the right table")
    return 0


def undisturbed(manifest: Path, data: Path) -> list[dict[str, str]]:
    """The table of a run that nothing is done to."""
    subprocess.run([*COMMAND, str(manifest), "--data", str(data)], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return table(data)


def disturbed(manifest: Path, data: Path, around: Surroundings, chance: random.Random, on_ray: bool) -> int:
    """Begin a run and continue it until it is complete; returns how many calls it took. Raises Wrong."""
    left, told = EVENTS, ""
    for number in range(1, MOST_TRIES + 1):
        options = around.options(data.name, on_ray, again=number > 1 and TO_BEGIN not in told)
        command = [*COMMAND, str(manifest), "--data", str(data), *options]
        with tempfile.TemporaryFile("w+") as said:
            process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=said, cwd=ROOT, env=around.environment)
            events, family = _disturb(process, around, chance, ON_RAY if on_ray else DISTURBANCES, left)
            left -= events
            said.seek(0)
            told = said.read()
        _check(process.wait(), told, family)
        if process.wait() == OK and all(row["Outcome"] in ENDED for row in table(data, on_ray)):
            return number
        last = told.strip().splitlines()[-1:]
        print(f"  ended with code {process.wait()}: {' '.join(last)}", flush=True)
    raise Wrong(f"not complete after {MOST_TRIES} calls: {told[-500:]}")


def _disturb(
    process: psutil.Popen, around: Surroundings, chance: random.Random, choices: Sequence[Disturb], most: int
) -> tuple[int, set[psutil.Process]]:
    """Disturb a run at random moments until it ends; returns how often, and its processes. Raises Wrong for a hang."""
    events, family, end = 0, set[psutil.Process](), time.monotonic() + RUN_SECONDS
    while _lives_for(process, chance.uniform(*BETWEEN), family):
        if time.monotonic() > end:
            for one in (process, *family):
                with contextlib.suppress(psutil.Error):
                    one.kill()
            raise Wrong(f"it had not ended after {RUN_SECONDS:.0f} s")
        if events == most:
            continue
        events += 1
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            print(f"  {chance.choice(choices)(process, around, chance)}", flush=True)
    return events, family


def _lives_for(process: psutil.Popen, seconds: float, family: set[psutil.Process]) -> bool:
    """Whether a run lives on for so long; meanwhile its processes are noted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        with contextlib.suppress(psutil.Error):
            family |= set(process.children(recursive=True))
        time.sleep(0.05)
    return True


def _check(code: int, told: str, processes: set[psutil.Process]) -> None:
    """Raise Wrong for a traceback, an unknown exit code, or processes that stay."""
    if "Traceback" in told:
        raise Wrong(f"a traceback: {told[-3000:]}")
    if code not in CODES:
        raise Wrong(f"exit code {code}: {told[-500:]}")
    _, alive = psutil.wait_procs(list(processes), GONE_SECONDS)
    if alive := [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        raise Wrong(f"processes stayed: {alive}")


def table(data: Path, on_ray: bool = False) -> list[dict[str, str]]:
    """The columns of a run's results that do not depend on time.

    There is one run; on Ray, it is the newest to which shards were merged.
    """
    every = data.glob("experiments/*/results.csv")
    found, *others = sorted(every, key=lambda path: path.stat().st_mtime, reverse=True)
    if on_ray:
        found = next(path for path in (found, *others) if (path.parent / MERGED).exists())
    elif others:
        raise Wrong(f"several runs: {found}, {others}")
    with found.open(encoding="utf-8", newline="") as file:
        return [{name: row[name] for name in SAME} for row in csv.DictReader(file)]


def compare(expected: list[dict[str, str]], found: list[dict[str, str]]) -> None:
    """Raise Wrong where two tables differ."""
    if found != expected:
        differing = [(a, b) for a, b in zip(expected, found, strict=False) if a != b]
        raise Wrong(f"{len(found)} rows, not {len(expected)}; the first that differ: {differing[:1]}")


if __name__ == "__main__":
    sys.exit(main())
