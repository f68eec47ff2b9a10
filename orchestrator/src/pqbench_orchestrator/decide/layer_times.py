"""The time of each layer on a search's target, for recipes with `latencies: measured`.

Channels are removed at random, in shares from few to most; the models are quantized as these recipes are, built and
profiled, and a fixed and a proportional part are fitted for each layer. Nothing is scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pqbench_orchestrator.config.latencies import quantizations, without_latencies
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.config.recipes import Step as RecipeStep
from pqbench_orchestrator.execution.session import Session
from pqbench_orchestrator.planning.plan import Cell, Plan, needed
from pqbench_orchestrator.results.latencies import FEWEST, Fit, Profiled, fit, profiled
from pqbench_orchestrator.steps.step import Step
from pqbench_orchestrator.store.ledger import StepRecord
from pqbench_wire.errors import InvalidInput, Unavailable

SHARES = [round(0.05 + 0.03 * index, 2) for index in range(24)]  # of each layer's channels
ROUND_TO = 4  # finer than what is asked for most, so that the lines have points between
THINNED = "layers' times {}"  # the names of these recipes, by the index of the quantization
PROFILE_SECONDS = 0.3  # at least, for each model
ROLES = ("unpruned", "variant", "profile")  # of the steps that are needed


def profiling(manifest: Manifest) -> Manifest:
    """The manifest with recipes that thin out layers at random, after its own, which are thereby checked."""
    config = {"criterion": "random", "amount": SHARES, "round_to": ROUND_TO}
    random = RecipeStep(kind="prune", method="removal", config=config)
    thinned = tuple(
        Recipe(name=THINNED.format(index), steps=(random, *recipe.steps))
        for index, recipe in enumerate(quantizations(manifest).values())
    )
    seconds = max(manifest.measure.profile_seconds, PROFILE_SECONDS)
    measure = manifest.measure.model_copy(update={"profile_seconds": seconds})
    checked = without_latencies(manifest)
    return checked.model_copy(update={"recipes": (*checked.recipes, *thinned), "measure": measure, "repeats": 1})


def cells_to_profile(manifest: Manifest, plan: Plan) -> dict[str, list[Cell]]:
    """The cells of random widths by the definition of their quantization, of the plan of what `profiling` makes.

    Raises InvalidInput where there is nothing to profile.
    """
    found = {}
    for index, definition in enumerate(quantizations(manifest)):
        beginning = f"{THINNED.format(index)} "
        cells = [cell for cell in plan.cells if cell.recipe.label.startswith(beginning)]
        found[definition] = [cell for cell in cells if "profile" in cell.steps]
        if not found[definition]:
            why = next((cell.reason for cell in cells if cell.reason), "this precision is simulated, and is not timed")
            raise InvalidInput(f"latencies: measured: {why}")
    return found


def steps_of(cells: Iterable[Cell], plan: Plan) -> tuple[Step, ...]:
    """The steps of a plan that profiling some cells needs."""
    return needed(plan, {cell.steps[role] for cell in cells for role in ROLES})


def fit_to(cells: Sequence[Cell], session: Session) -> Fit:
    """Profile cells and fit each layer's time to them.

    Raises InvalidInput where too few could be profiled or no layer is named, and Unavailable where a service went away.
    """
    _check_names(_profiles(cells[:1], session)[0])
    found, failures = _profiles(cells, session)
    if len(found) < FEWEST:
        why = next((one.reason for one in failures), "there are no more")
        raise InvalidInput(f"latencies: measured: {len(found)} of {len(cells)} models were profiled: {why}")
    return fit(found)


def _check_names(found: Sequence[Profiled]) -> None:
    """Raise InvalidInput where a profiler names no layer, which one model shows."""
    try:
        if found:
            fit(found)
    except InvalidInput as error:
        raise InvalidInput(f"latencies: measured: {error}") from error


def _profiles(cells: Sequence[Cell], session: Session) -> tuple[list[Profiled], list[StepRecord]]:
    """The profiles of cells, and the records of steps without a result."""
    session.execution.run(Plan(steps=steps_of(cells, session.plan), cells=tuple(cells)), keep=True)
    ledger = session.execution.ledger
    records = [{role: ledger.step(cell.steps[role]) for role in ROLES} for cell in cells]
    failures = [one for found in records for one in found.values() if one is not None and not one.done]
    if gone := [one for one in failures if one.outcome == "unavailable"]:
        raise Unavailable(f"latencies: measured: {gone[0].reason}; --continue goes on")
    results = [
        {role: one.result for role, one in found.items() if one and one.done and one.result} for found in records
    ]
    return [profiled(found) for found in results if len(found) == len(ROLES)], failures
