"""The time of each layer on a search's target, for recipes with `latencies: measured`.

Channels are removed at random, in shares from few to most; the models are quantized as these recipes are, built and
profiled, and a fixed and a proportional part are fitted for each layer. Nothing is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

from pqbench_orchestrator.config.latencies import quantization, waits, without_latencies
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe, Step
from pqbench_orchestrator.execution.session import Session
from pqbench_orchestrator.planning.plan import Cell, Plan, needed
from pqbench_orchestrator.results.latencies import Fit, fit, profiled
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_wire.errors import InvalidInput

SHARES = [round(0.05 + 0.03 * index, 2) for index in range(24)]  # of each layer's channels
ROUND_TO = 4  # finer than what is asked for most, so that the lines have points between
THINNED = "layers' times"  # begins the names of these recipes
PROFILE_SECONDS = 0.3  # at least, for each model
ROLES = ("unpruned", "variant", "profile")  # of the steps that are needed


def profiling(manifest: Manifest) -> Manifest:
    """The manifest with recipes that thin out layers at random, after its own, which are thereby checked."""
    quantizations = [quantization(recipe) for recipe in manifest.recipes if waits(recipe)]
    config = {"criterion": "random", "amount": SHARES, "round_to": ROUND_TO}
    random = Step(kind="prune", method="removal", config=config)
    thinned = tuple(
        Recipe(name=f"{THINNED}, {name}", steps=(random, *recipe.steps))
        for name, recipe in {one.definition: one for one in quantizations}.items()
    )
    seconds = max(manifest.measure.profile_seconds, PROFILE_SECONDS)
    measure = manifest.measure.model_copy(update={"profile_seconds": seconds})
    checked = without_latencies(manifest)
    return checked.model_copy(update={"recipes": (*checked.recipes, *thinned), "measure": measure, "repeats": 1})


def measure(session: Session) -> dict[str, Fit]:
    """Measure in the session of a manifest of `profiling`; the times by the definition of the quantization.

    Raises InvalidInput where no model could be profiled.
    """
    thinned = [cell for cell in session.plan.cells if cell.recipe.label.startswith(THINNED)]
    keys = {cell.steps[role] for cell in thinned for role in ROLES if role in cell.steps}
    session.execution.run(Plan(steps=needed(session.plan, keys), cells=tuple(thinned)))
    by_quantization: dict[str, list[Cell]] = {}
    for cell in thinned:
        by_quantization.setdefault(quantization(cell.recipe).definition, []).append(cell)
    return {name: _fitted(cells, session.execution.ledger) for name, cells in by_quantization.items()}


def _fitted(cells: Sequence[Cell], ledger: Ledger) -> Fit:
    records = [{role: ledger.step(cell.steps[role]) for role in ROLES if role in cell.steps} for cell in cells]
    done = [{role: one.result for role, one in found.items() if one and one.done and one.result} for found in records]
    results = [found for found in done if len(found) == len(ROLES)]
    if not results:
        reasons = [cell.reason for cell in cells] + [one.reason for found in records for one in found.values() if one]
        why = next(filter(None, reasons), "its runtime has no profiler")
        raise InvalidInput(f"latencies: measured: no model with fewer channels could be profiled: {why}")
    return fit([profiled(one) for one in results])
