"""`pqbench search`: a multi-objective search over the manifest's recipes in place of the grid that `run` would try.

Optuna's TPE (Ozaki et al. 2022) proposes recipes under the goal's constraints. Between its proposals, the search
bisects the amounts of a recipe for the largest that is still feasible, because a larger amount costs less but also
loses more accuracy. Trials are cheap: accuracy on the images that judge, and a short measurement. The best recipes are
then tried in full. Steps other than measurements and profiles are shared with runs of the same data folder, and an
interrupted search can be continued.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pqbench_orchestrator.config.latencies import check_for_search
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.decide.recommend import (
    INVALID,
    cost_of,
    judged_images,
    judged_on,
    judged_percent,
    own_cost,
    violations,
)
from pqbench_orchestrator.execution import environment
from pqbench_orchestrator.execution.session import Session
from pqbench_orchestrator.planning.plan import Plan, needed, plan
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.collect import collect
from pqbench_orchestrator.results.tables import as_row, from_row, harmless, title_of
from pqbench_orchestrator.statistics import pareto_front
from pqbench_orchestrator.store.run_folder import STUDY, TRIALS, RunFolder
from pqbench_wire.errors import InvalidInput, first_line

FEWEST_TRIALS, SHARE = 12, 3  # by default one in SHARE of the recipes is tried at most, and FEWEST_TRIALS at least
PATIENCE = 6  # trials without a better recipe, after which a search by default has settled
RECIPE, AMOUNT = "recipe", "amount of {}"  # names of Optuna's parameters
BROKEN = 1e6  # Optuna's objectives and constraint for a recipe that could not run
BASELINE = Recipe(name="baseline")
UNIT = {"latency": "ms", "size": "bytes", "energy": "mJ an image"}


@dataclass(frozen=True, kw_only=True)
class Space:
    """The search space: the recipes of each entry of the manifest (a family), by rising amount."""

    families: Mapping[str, Sequence[Recipe]]

    def recipe(self, family: str, index: int) -> Recipe:
        return self.families[family][index]

    @property
    def size(self) -> int:
        """How many recipes there are."""
        return sum(len(recipes) for recipes in self.families.values())

    def distributions(self, family: str) -> dict[str, BaseDistribution]:
        """Optuna's parameters of a trial of a family: the family and, if it has several recipes, the recipe's index."""
        chosen: dict[str, BaseDistribution] = {RECIPE: CategoricalDistribution(list(self.families))}
        if len(self.families[family]) > 1:
            chosen[AMOUNT.format(family)] = IntDistribution(0, len(self.families[family]) - 1)
        return chosen


@dataclass(kw_only=True)
class Tried:
    """The results of the cheap trials, by family and index of the recipe in it."""

    cost: dict[tuple[str, int], float] = field(default_factory=dict)
    feasible: dict[tuple[str, int], bool] = field(default_factory=dict)
    cells: dict[tuple[str, int], CellResult] = field(default_factory=dict)
    baselines: dict[str, float] = field(default_factory=dict)  # target -> the baseline's latency in its first trial, ms


def space_of(manifest: Manifest) -> Space:
    """The search space of a manifest.

    Raises InvalidInput for more than one model, dataset, batch size or concurrency, for layers' times that cannot be
    measured, for two entries of one name, and without any recipe that has steps.
    """
    for name in ("models", "datasets", "batch_sizes", "concurrency"):
        if len(getattr(manifest, name)) > 1:
            raise InvalidInput(
                f"search takes one combination: {name} must have one entry, not {len(getattr(manifest, name))}"
            )
    check_for_search(manifest)
    families: dict[str, list[Recipe]] = {}
    for entry in manifest.recipes:
        recipes = sorted((recipe for recipe in entry.expanded() if recipe.steps), key=_amount)
        if recipes and entry.label in families:
            raise InvalidInput(f"recipes: two entries are called {entry.label!r}; give one another name")
        families |= {entry.label: recipes} if recipes else {}
    if not families:
        raise InvalidInput("recipes: search needs recipes with steps to choose from")
    return Space(families=families)


class Search:
    """A search in a run's folder; `tell` is called with a text for each trial, with the Pareto front so far."""

    def __init__(
        self, run: RunFolder, session: Session, tell: Callable[[str], None], trials: int | None = None
    ) -> None:
        self._run, self._session, self._tell = run, session, tell
        self._space = space_of(session.manifest)
        given = trials or session.manifest.search.trials
        self._trials = min(given or max(FEWEST_TRIALS, -(-self._space.size // SHARE)), self._space.size)
        self._may_settle = given is None
        self._tried = Tried()

    def explore(self) -> None:
        """Do cheap trials until there are enough, counting those of an interrupted search. Raises InvalidInput."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._storage(ValueError, KeyError, TypeError):
            study = self._study()
            for trial in study.get_trials(states=[TrialState.COMPLETE]):
                attributes = trial.user_attrs
                self._remember(attributes["family"], attributes["index"], from_row(json.loads(attributes["row"])))
        while len(self._tried.cost) < self._trials and not (self._may_settle and self._has_settled()):
            with self._storage():
                family, index = self._next(study)
            cell = self._evaluate(self._space.recipe(family, index))
            if cell.outcome != "unavailable":  # it may be available when the search is continued
                with self._storage():
                    study.add_trial(self._trial(family, index, cell))
            self._remember(family, index, cell)
            self._report(family, index, cell)
            self._write()

    @contextlib.contextmanager
    def _storage(self, *damage: type[Exception]) -> Iterator[None]:
        """Raise InvalidInput for errors of Optuna and its file, and for those that are a sign of `damage` to it."""
        errors: tuple[type[Exception], ...] = (SQLAlchemyError, optuna.exceptions.OptunaError, *damage)
        try:
            yield
        except errors as error:
            raise InvalidInput(
                f"{self._run / STUDY} is damaged or in use: {first_line(error)}; restore it, or start a new search"
            ) from error

    def promoted(self) -> Plan:
        """The plan for trying the baseline and the best recipes in full: feasible ones first, each by rising cost."""
        goal = self._session.manifest.goal
        names = sorted(self._tried.cost, key=lambda key: (not self._tried.feasible[key], self._tried.cost[key]))
        chosen = tuple(self._space.recipe(*key) for key in names[: self._session.manifest.search.promoted])
        self._tell(f"trying in full: {', '.join(recipe.label for recipe in chosen)} ({goal.minimize})")
        manifest = self._session.manifest.model_copy(update={"recipes": (BASELINE, *chosen)})
        return plan(manifest, self._session.facts, self._run.name, environment.own_versions())

    def _has_settled(self) -> bool:
        """Whether the last PATIENCE trials found nothing better, and no bisection could.

        It could in the best recipe's family, and in one of which a recipe is cheaper but not feasible.
        """
        tried = list(self._tried.cost)
        families = {family for family, _ in tried}
        feasible = [key for key in tried if self._tried.feasible[key]]
        if len(families) < len(self._space.families) or len(tried) < FEWEST_TRIALS or not feasible:
            return False
        best = min(feasible, key=lambda key: self._tried.cost[key])
        hopeful = {family for family in families if self._promise(family) < self._tried.cost[best]} | {best[0]}
        since = len(tried) - 1 - tried.index(best)
        return since >= PATIENCE and all(self._bisected(family) is None for family in hopeful)

    def _next(self, study: optuna.Study) -> tuple[str, int]:
        """The next recipe to try: the middle one of each family, then in turn a bisection step and TPE's proposal."""
        for family, recipes in self._space.families.items():
            if not any((family, index) in self._tried.cost for index in range(len(recipes))):
                return family, len(recipes) // 2
        if len(self._tried.cost) % 2 == 0 and (step := self._step()) is not None:
            return step
        return self._proposed(study) or self._step() or self._any()

    def _step(self) -> tuple[str, int] | None:
        """The bisection step in the most promising family that has one left; None where there is none."""
        for family in sorted(self._space.families, key=self._promise):
            if (index := self._bisected(family)) is not None:
                return family, index
        return None

    def _bisected(self, family: str) -> int | None:
        """Halfway between the largest feasible amount that was tried and the next infeasible one; None: no step."""
        last = len(self._space.families[family]) - 1
        known = {
            index: self._tried.feasible[family, index]
            for index in range(last + 1)
            if (family, index) in self._tried.cost
        }
        low = max((index for index, good in known.items() if good), default=-1)
        high = min((index for index, good in known.items() if not good and index > low), default=last + 1)
        return (low + high) // 2 if high - low > 1 else None

    def _promise(self, family: str) -> float:
        """The cost by which families are ordered for bisection: that of the cheapest trial, feasible or not."""
        costs = [cost for (name, _), cost in self._tried.cost.items() if name == family]
        return min(costs, default=-math.inf)

    def _proposed(self, study: optuna.Study) -> tuple[str, int] | None:
        """A recipe that TPE proposes and that was not tried yet; None if 20 proposals were all tried before."""
        for _ in range(20):
            trial = study.ask()
            family = trial.suggest_categorical(RECIPE, list(self._space.families))
            last = len(self._space.families[family]) - 1
            index = trial.suggest_int(AMOUNT.format(family), 0, last) if last else 0
            study.tell(trial, state=TrialState.FAIL)  # its result is added later, as a trial with attributes
            if (family, index) not in self._tried.cost:
                return family, index
        return None

    def _any(self) -> tuple[str, int]:
        every = ((family, index) for family, recipes in self._space.families.items() for index in range(len(recipes)))
        return next(key for key in every if key not in self._tried.cost)

    def _evaluate(self, recipe: Recipe) -> CellResult:
        """Try a recipe cheaply on all targets; returns the cheapest of the cells that break the constraints least."""
        chosen, measure = self._session.manifest.search, self._session.manifest.measure
        quick = measure.model_copy(update={
            "warmup_seconds": 0.05, "warmup_iterations": 3, "min_iterations": 12,
            "min_seconds": chosen.seconds, "max_seconds": 2 * chosen.seconds,
            "energy_seconds": measure.energy_seconds if self._by_energy else 0.0,
        })  # fmt: skip
        update = {"recipes": (BASELINE, recipe), "measure": quick, "repeats": 1, "build_replicates": 1}
        manifest = self._session.manifest.model_copy(update=update)
        name, versions = f"{self._run.name} cheap", environment.own_versions()
        whole = plan(manifest, self._session.facts, name, versions, cheap=True)
        mine = [cell for cell in whole.cells if cell.recipe.steps]
        # The baseline is built and its outputs predicted, but it is timed on its own only where cells are not paired.
        steps = needed(whole, (key for cell in mine for key in cell.steps.values()))
        execution = self._session.execution
        execution.run(Plan(steps=steps, cells=whole.cells), keep=True)
        cells = collect(Plan(steps=steps, cells=tuple(mine)), execution.ledger, execution.store)
        return min(cells, key=lambda cell: (self._broken(cell), self._cost_of(cell)))

    def _cost_of(self, cell: CellResult) -> float:
        """What the goal minimizes; infinite where the cell could not run.

        A paired latency is computed from the speed-up and the first trial's baseline, so that a drift of the machine
        cancels out.
        """
        if not self._ran(cell):
            return math.inf
        if cell.comparison is not None and cell.comparison.baseline_ms is not None:
            self._tried.baselines.setdefault(cell.target, cell.comparison.baseline_ms)
        return cost_of(cell, self._session.manifest.goal, self._tried.baselines.get(cell.target)) or math.inf

    def _ran(self, cell: CellResult) -> bool:
        is_timed = cell.is_ok and cell.median_ms is not None
        return is_timed and own_cost(cell, self._session.manifest.goal) is not None

    @property
    def _by_energy(self) -> bool:
        return self._session.manifest.goal.minimize == "energy"

    def _remember(self, family: str, index: int, cell: CellResult) -> None:
        key, ran = (family, index), self._ran(cell)
        self._tried.cost[key] = self._cost_of(cell)
        self._tried.feasible[key] = ran and not self._broken(cell)
        self._tried.cells[key] = cell

    def _broken(self, cell: CellResult) -> float:
        """By how much a cell breaks the constraints in sum, as for a recommendation; BROKEN where it did not run."""
        if not self._ran(cell):
            return BROKEN
        shares = violations([cell], self._session.manifest.goal, judged_on([cell]))
        shares.pop(INVALID, None)  # a cheap trial of a server has too few calls to be valid
        return min(BROKEN, sum(shares.values()))

    def _trial(self, family: str, index: int, cell: CellResult) -> FrozenTrial:
        """A finished trial for TPE: cost and negative accuracy are minimized, under the constraints."""
        distributions, ran = self._space.distributions(family), self._ran(cell)
        return optuna.create_trial(
            params={RECIPE: family} | {name: index for name in distributions if name != RECIPE},
            distributions=distributions,
            values=[self._cost_of(cell), -judged_percent(cell)] if ran else [BROKEN, BROKEN],
            user_attrs={"family": family, "index": index, "row": json.dumps(as_row(cell))},
            constraints={"goal": self._broken(cell)},
        )

    def _study(self) -> optuna.Study:
        sampler = optuna.samplers.TPESampler(
            seed=self._session.manifest.seed, n_startup_trials=len(self._space.families)
        )
        storage = f"sqlite:///{(self._run / STUDY).resolve()}"
        return optuna.create_study(
            study_name=self._question,
            storage=storage,
            sampler=sampler,
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )

    @property
    def _question(self) -> str:
        """The name of Optuna's study: a digest of space, goal and `seconds`, so that no other study is continued."""
        space = {name: [recipe.identity for recipe in recipes] for name, recipes in self._space.families.items()}
        asked = json.dumps([space, self._session.manifest.goal.model_dump(), self._session.manifest.search.seconds])
        return hashlib.sha256(asked.encode()).hexdigest()

    def _report(self, family: str, index: int, cell: CellResult) -> None:
        feasible = "" if self._tried.feasible[family, index] else ", not feasible"
        figures = f"{self._shown(cell)}{feasible}" if self._ran(cell) else f"{cell.outcome}: {cell.reason}"
        front = "; ".join(f"{one.recipe} {self._shown(one)}" for one in self.front())
        count, label = len(self._tried.cost), self._space.recipe(family, index).label
        self._tell(f"{count}/{self._trials} {label}: {figures}\n  front: {front or 'nothing feasible yet'}")

    def front(self) -> list[CellResult]:
        """The Pareto front: feasible cells that no other one dominates in cost and accuracy, by rising cost."""
        cells = [cell for key, cell in self._tried.cells.items() if self._tried.feasible[key]]
        return [cells[i] for i in pareto_front([(self._cost_of(cell), judged_percent(cell)) for cell in cells])]

    def _shown(self, cell: CellResult) -> str:
        return f"{self._cost_of(cell):.4g} {UNIT[self._session.manifest.goal.minimize]}, {judged_percent(cell):.2f} %"

    def _write(self) -> None:
        """Write the trials so far as CSV."""
        cost = f"Cost ({UNIT[self._session.manifest.goal.minimize]})"
        shared = {path: title_of(path) for path in ("recipe", "target", "outcome", "reason")}
        speedup = title_of("timing.comparison.speedup")
        names = (*shared.values(), cost, "Judged Accuracy", "Judged Images", speedup, "Feasible")
        with (self._run / TRIALS).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for key, cell in self._tried.cells.items():
                row: dict[str, Any] = {title: getattr(cell, path) for path, title in shared.items()}
                if self._ran(cell):
                    row |= {cost: self._tried.cost[key], "Judged Accuracy": judged_percent(cell)}
                row |= {"Judged Images": judged_images(cell, judged_on([cell])), speedup: cell.speedup}
                writer.writerow(harmless(row | {"Feasible": self._tried.feasible[key]}))


def _amount(recipe: Recipe) -> tuple[float, ...]:
    return tuple(float(step.config["amount"]) for step in recipe.steps if "amount" in step.config)
