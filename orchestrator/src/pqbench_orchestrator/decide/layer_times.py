"""The time of each layer on a search's target, for recipes with `latencies: measured`.

Channels are removed at random, in shares from few to most; the models are quantized as these recipes are, built and
profiled, and a fixed and a proportional part are fitted for each layer. Nothing is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

from pqbench_orchestrator.config.latencies import quantizations, without_latencies
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe, Step
from pqbench_orchestrator.execution.session import Session
from pqbench_orchestrator.planning.plan import Cell, Plan, needed
from pqbench_orchestrator.results.latencies import FEWEST, Fit, fit, profiled
from pqbench_wire.errors import InvalidInput, Unavailable

SHARES = [round(0.05 + 0.03 * index, 2) for index in range(24)]  # of each layer's channels
ROUND_TO = 4  # finer than what is asked for most, so that the lines have points between
THINNED = "layers' times {}"  # the names of these recipes, by the index of the quantization
PROFILE_SECONDS = 0.3  # at least, for each model
ROLES = ("unpruned", "variant", "profile")  # of the steps that are needed


def profiling(manifest: Manifest) -> Manifest:
    """The manifest with recipes that thin out layers at random, after its own, which are thereby checked."""
    config = {"criterion": "random", "amount": SHARES, "round_to": ROUND_TO}
    random = Step(kind="prune", method="removal", config=config)
    thinned = tuple(
        Recipe(name=THINNED.format(index), steps=(random, *recipe.steps))
        for index, recipe in enumerate(quantizations(manifest).values())
    )
    seconds = max(manifest.measure.profile_seconds, PROFILE_SECONDS)
    measure = manifest.measure.model_copy(update={"profile_seconds": seconds})
    checked = without_latencies(manifest)
    return checked.model_copy(update={"recipes": (*checked.recipes, *thinned), "measure": measure, "repeats": 1})


def fits_of(manifest: Manifest, session: Session) -> dict[str, Fit]:
    """The times by the definition of the quantization, measured in the session of what `profiling` makes of a manifest.

    Raises InvalidInput where too few models could be profiled, and Unavailable where a service went away.
    """
    return {
        definition: _fitted(THINNED.format(index), session) for index, definition in enumerate(quantizations(manifest))
    }


def _fitted(name: str, session: Session) -> Fit:
    cells = [cell for cell in session.plan.cells if cell.recipe.label.startswith(f"{name} ")]
    timed = [cell for cell in cells if "profile" in cell.steps]
    if not timed:
        why = next((cell.reason for cell in cells if cell.reason), "this precision is simulated, and is not timed")
        raise InvalidInput(f"latencies: measured: {why}")
    _profiled(timed[:1], session)  # a profiler that names no layer is found with the first
    return _profiled(timed, session)


def _profiled(cells: Sequence[Cell], session: Session) -> Fit:
    execution = session.execution
    steps = needed(session.plan, {cell.steps[role] for cell in cells for role in ROLES})
    execution.run(Plan(steps=steps, cells=tuple(cells)), keep=True)
    records = [execution.ledger.newest([cell.steps[role] for role in ROLES]) for cell in cells]
    undone = [one for found in records for one in found.values() if not one.done]
    if gone := [one for one in undone if one.outcome == "unavailable"]:
        raise Unavailable(f"latencies: measured: {gone[0].reason}; --continue goes on")
    results = [
        {role: found[key].result or {} for role in ROLES if found[key := cell.steps[role]].done}
        for cell, found in zip(cells, records, strict=True)
    ]
    whole = [found for found in results if len(found) == len(ROLES)]
    if len(whole) < min(FEWEST, len(cells)):
        raise InvalidInput(
            f"latencies: measured: {len(whole)} of {len(cells)} models were profiled: {undone[0].reason}"
        )
    return fit([profiled(one) for one in whole])
