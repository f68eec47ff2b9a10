"""`pqbench search`: a multi-objective search over the manifest's recipes in place of the grid that `run` would try.

Optuna's TPE (Ozaki et al. 2022) proposes recipes under the goal's constraints; between its proposals the search walks
along a recipe's amounts towards the largest that is still feasible, because cost falls and accuracy suffers with the
amount. Trials are cheap: accuracy on the images that judge, a short measurement. The best are then tried in full.
Every step is shared with runs of the same data folder, and an interrupted search goes on where it was.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pqbench_orchestrator import environment, tables
from pqbench_orchestrator.execute import Watcher
from pqbench_orchestrator.manifest import Manifest, Recipe
from pqbench_orchestrator.plan import Plan, plan
from pqbench_orchestrator.recommend import COST, INVALID, JUDGES, UNIT, chosen_on, cost_of, judges, violations
from pqbench_orchestrator.run import STUDY, TRIALS, Prepared, Settings, complete, executing
from pqbench_orchestrator.stats import pareto_front
from pqbench_orchestrator.tables import Row
from pqbench_wire.errors import InvalidInput
from pqbench_wire.jobs import first_line

FEWEST_TRIALS, SHARE = 12, 3  # of the recipes one in SHARE is tried, and FEWEST at least
RECIPE, AMOUNT = "recipe", "amount of {}"
BROKEN = 1e6  # objectives and constraint of what could not run
BASELINE = Recipe(name="baseline")


@dataclass(frozen=True, kw_only=True)
class Space:
    """The recipes by the entry of the manifest that they stand for, each entry's by rising amount."""

    families: Mapping[str, Sequence[Recipe]]

    def recipe(self, family: str, index: int) -> Recipe:
        return self.families[family][index]

    @property
    def size(self) -> int:
        """How many recipes there are."""
        return sum(len(recipes) for recipes in self.families.values())

    def distributions(self, family: str) -> dict[str, BaseDistribution]:
        """What a trial of a family chooses."""
        made: dict[str, BaseDistribution] = {RECIPE: CategoricalDistribution(list(self.families))}
        if len(self.families[family]) > 1:
            made[AMOUNT.format(family)] = IntDistribution(0, len(self.families[family]) - 1)
        return made


@dataclass(kw_only=True)
class Tried:
    """What cheap trials found, by family and index of the amount."""

    cost: dict[tuple[str, int], float] = field(default_factory=dict)
    feasible: dict[tuple[str, int], bool] = field(default_factory=dict)
    rows: dict[tuple[str, int], Row] = field(default_factory=dict)
    baselines: dict[str, float] = field(default_factory=dict)  # target -> latency of the baseline when first seen, ms


def space_of(manifest: Manifest) -> Space:
    """The space that a manifest spans. Raises InvalidInput for more than one question at a time."""
    for name in ("models", "datasets", "batch_sizes", "concurrency"):
        if len(getattr(manifest, name)) > 1:
            raise InvalidInput(
                f"search answers one question: {name} must have one entry, not {len(getattr(manifest, name))}"
            )
    families: dict[str, list[Recipe]] = {}
    for entry in manifest.recipes:
        recipes = sorted((recipe for recipe in entry.expanded() if recipe.steps), key=_amount)
        if recipes and entry.label in families:
            raise InvalidInput(f"recipes: two entries are called {entry.label!r}; give one another name")
        families |= {entry.label: recipes} if recipes else {}
    if not families:
        raise InvalidInput("search needs recipes with steps to choose from")
    return Space(families=families)


def search(
    folder: Path, settings: Settings, watcher: Watcher, tell: Callable[[str], None], trials: int | None = None
) -> list[Row]:
    """Search in a run's folder, or go on there; returns the table of what was tried in full.

    `tell` is told of each trial and of the front so far.
    """
    with executing(folder, settings, watcher) as ready:
        space = space_of(ready.manifest)
        wanted = trials or ready.manifest.search.trials or max(FEWEST_TRIALS, -(-space.size // SHARE))
        one = _Search(folder, ready, space, min(wanted, space.size), tell)
        one.explore()
        return complete(folder, ready, one.promoted(), settings)


@dataclass(kw_only=False)
class _Search:
    folder: Path
    ready: Prepared
    space: Space
    trials: int
    tell: Callable[[str], None]
    tried: Tried = field(default_factory=Tried)

    def explore(self) -> None:
        """Cheap trials until there are enough of them."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = self._study()
            for trial in study.get_trials(states=[TrialState.COMPLETE]):
                told = trial.user_attrs
                self._remember(told["family"], told["index"], json.loads(told["row"]))
        except (SQLAlchemyError, optuna.exceptions.OptunaError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{self.folder / STUDY} is damaged or in use: {first_line(error)}; restore it, or begin the search anew"
            ) from error
        while len(self.tried.cost) < self.trials:
            family, index = self._next(study)
            row = self._evaluate(self.space.recipe(family, index))
            if row["Outcome"] != "unavailable":  # what is not there now may be there when the search goes on
                study.add_trial(self._trial(family, index, row))
            self._remember(family, index, row)
            self._report(family, index, row)
            self._write()

    def promoted(self) -> Plan:
        """The plan of what is worth trying in full: the cheapest feasible recipes, and the baseline."""
        goal = self.ready.manifest.goal
        names = sorted(self.tried.cost, key=lambda key: (not self.tried.feasible[key], self.tried.cost[key]))
        chosen = tuple(self.space.recipe(*key) for key in names[: self.ready.manifest.search.promoted])
        self.tell(f"in full: {', '.join(recipe.label for recipe in chosen)} ({goal.minimize})")
        manifest = self.ready.manifest.model_copy(update={"recipes": (BASELINE, *chosen)})
        return plan(manifest, self.ready.facts, self.folder.name, environment.own_versions())

    def _next(self, study: optuna.Study) -> tuple[str, int]:
        """First the middle of every entry, then in turn a step along the best entry's amounts and TPE's proposal."""
        for family, recipes in self.space.families.items():
            if not any((family, index) in self.tried.cost for index in range(len(recipes))):
                return family, len(recipes) // 2
        if len(self.tried.cost) % 2 == 0 and (step := self._step()) is not None:
            return step
        return self._proposed(study) or self._step() or self._any()

    def _step(self) -> tuple[str, int] | None:
        """Along the amounts of the entry that promises most: between the largest feasible and the smallest not."""
        for family in sorted(self.space.families, key=self._promise):
            last = len(self.space.families[family]) - 1
            known = {
                index: self.tried.feasible[family, index]
                for index in range(last + 1)
                if (family, index) in self.tried.cost
            }
            low = max((index for index, good in known.items() if good), default=-1)
            high = min((index for index, good in known.items() if not good and index > low), default=last + 1)
            if high - low > 1:
                return family, (low + high) // 2
        return None

    def _promise(self, family: str) -> float:
        """The cost that an entry could still come to: that of its cheapest trial, feasible or not."""
        costs = [cost for (name, _), cost in self.tried.cost.items() if name == family]
        return min(costs, default=-math.inf)

    def _proposed(self, study: optuna.Study) -> tuple[str, int] | None:
        """A recipe of TPE's that was not tried yet."""
        for _ in range(20):
            trial = study.ask()
            family = trial.suggest_categorical(RECIPE, list(self.space.families))
            last = len(self.space.families[family]) - 1
            index = trial.suggest_int(AMOUNT.format(family), 0, last) if last else 0
            study.tell(trial, state=TrialState.FAIL)  # what it is worth is added with its attributes
            if (family, index) not in self.tried.cost:
                return family, index
        return None

    def _any(self) -> tuple[str, int]:
        every = ((family, index) for family, recipes in self.space.families.items() for index in range(len(recipes)))
        return next(key for key in every if key not in self.tried.cost)

    def _evaluate(self, recipe: Recipe) -> Row:
        """A cheap trial's row on the cheapest target, feasible if any is; without a cost where none could run it."""
        chosen, measure = self.ready.manifest.search, self.ready.manifest.measure
        quick = measure.model_copy(update={
            "warmup_seconds": 0.05, "warmup_iterations": 3, "min_iterations": 12,
            "min_seconds": chosen.seconds, "max_seconds": 2 * chosen.seconds,
            "energy_seconds": measure.energy_seconds if self._by_energy else 0.0,
        })  # fmt: skip
        update = {"recipes": (BASELINE, recipe), "measure": quick, "repeats": 1, "build_replicates": 1}
        manifest = self.ready.manifest.model_copy(update=update)
        made = plan(manifest, self.ready.facts, f"{self.folder.name} cheap", environment.own_versions(), cheap=True)
        mine = {cell.key for cell in made.cells if cell.recipe.steps}
        needed = _needed(made, mine)
        self.ready.execution.run(Plan(steps=needed, cells=made.cells), keep=True)
        rows = tables.rows(made, self.ready.execution.ledger, self.ready.execution.store)
        own = [row for row in rows if row["Cell"] in mine]
        return min(own, key=lambda row: (self._broken(row), self._cost_of(row)))

    def _cost_of(self, row: Row) -> float:
        """What the goal minimizes; infinite where it could not run. A latency as if the machine had not changed."""
        if not self._ran(row):
            return math.inf
        if row.get("Baseline Time (ms)") is not None:
            self.tried.baselines.setdefault(row["Target"], row["Baseline Time (ms)"])
        return cost_of(row, self.ready.manifest.goal, self.tried.baselines.get(row["Target"])) or math.inf

    def _ran(self, row: Row) -> bool:
        timed = row["Outcome"] == "ok" and row.get("Inference Time (ms)") is not None
        return timed and row.get(self._cost) is not None

    @property
    def _cost(self) -> str:
        return COST[self.ready.manifest.goal.minimize]

    @property
    def _by_energy(self) -> bool:
        return self.ready.manifest.goal.minimize == "energy"

    def _remember(self, family: str, index: int, row: Row) -> None:
        key, ran = (family, index), self._ran(row)
        self.tried.cost[key] = self._cost_of(row)
        self.tried.feasible[key] = ran and not self._broken(row)
        self.tried.rows[key] = row

    def _broken(self, row: Row) -> float:
        """By how much the constraints are broken, by the same rule as the recommendation's."""
        if not self._ran(row):
            return BROKEN
        shares = violations([row], self.ready.manifest.goal, chosen_on([row]))
        shares.pop(INVALID, None)  # a cheap trial of a server has too few calls to be valid
        return min(BROKEN, sum(shares.values()))

    def _trial(self, family: str, index: int, row: Row) -> FrozenTrial:
        """A trial for TPE: cost and accuracy as objectives, broken constraints beside them."""
        distributions, ran = self.space.distributions(family), self._ran(row)
        return optuna.create_trial(
            params={RECIPE: family} | {name: index for name in distributions if name != RECIPE},
            distributions=distributions,
            values=[self._cost_of(row), -_accuracy(row)] if ran else [BROKEN, BROKEN],
            user_attrs={"family": family, "index": index, "row": json.dumps(row)},
            constraints={"goal": self._broken(row)},
        )

    def _study(self) -> optuna.Study:
        sampler = optuna.samplers.TPESampler(seed=self.ready.manifest.seed, n_startup_trials=len(self.space.families))
        storage = f"sqlite:///{(self.folder / STUDY).resolve()}"
        return optuna.create_study(
            study_name=self._question,
            storage=storage,
            sampler=sampler,
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )

    @property
    def _question(self) -> str:
        """What the trials are about: those of another space or goal are not gone on with."""
        space = {name: [recipe.identity for recipe in recipes] for name, recipes in self.space.families.items()}
        asked = json.dumps([space, self.ready.manifest.goal.model_dump(), self.ready.manifest.search.seconds])
        return hashlib.sha256(asked.encode()).hexdigest()

    def _report(self, family: str, index: int, row: Row) -> None:
        feasible = "" if self.tried.feasible[family, index] else ", not feasible"
        said = f"{self._shown(row)}{feasible}" if self._ran(row) else f"{row['Outcome']}: {row['Reason']}"
        front = "; ".join(f"{one['Recipe']} {self._shown(one)}" for one in self.front())
        count, label = len(self.tried.cost), self.space.recipe(family, index).label
        self.tell(f"{count}/{self.trials} {label}: {said}\n  front: {front or 'nothing feasible yet'}")

    def front(self) -> list[Row]:
        """Feasible rows that no other beats in both cost and accuracy, by rising cost."""
        rows = [row for key, row in self.tried.rows.items() if self.tried.feasible[key]]
        return [rows[i] for i in pareto_front([(self._cost_of(row), _accuracy(row)) for row in rows])]

    def _shown(self, row: Row) -> str:
        return f"{self._cost_of(row):.4g} {UNIT[self.ready.manifest.goal.minimize]}, {_accuracy(row):.2f} %"

    def _write(self) -> None:
        """The trials so far as CSV."""
        cost = f"Cost ({UNIT[self.ready.manifest.goal.minimize]})"
        names = ("Recipe", "Target", "Outcome", "Reason", cost, "Judged Accuracy", "Judged Images", "Speedup")
        with (self.folder / TRIALS).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, (*names, "Feasible"), extrasaction="ignore")
            writer.writeheader()
            for key, row in self.tried.rows.items():
                figures = {cost: self.tried.cost[key], "Judged Accuracy": _accuracy(row)} if self._ran(row) else {}
                images = judges(row, chosen_on([row]))
                judged = {"Judged Images": images, "Feasible": self.tried.feasible[key]}
                writer.writerow(tables.harmless(row | figures | judged))


def _needed(made: Plan, cells: set[str]) -> tuple[Any, ...]:
    """The steps that some cells need: the baseline is built and asked, but not timed for itself."""
    steps = {step.key: step for step in made.steps}
    wanted: set[str] = set()
    waiting = [key for cell in made.cells if cell.key in cells for key in cell.steps.values()]
    while waiting:
        key = waiting.pop()
        if key not in wanted:
            wanted.add(key)
            waiting += steps[key].needs.values()
    return tuple(step for step in made.steps if step.key in wanted)


def _accuracy(row: Row) -> float:
    """On the images on which recipes are chosen."""
    values = (row.get(judge.accuracy) for judge in JUDGES.values())
    return float(next((value for value in values if value is not None), 0.0))


def _amount(recipe: Recipe) -> tuple[float, ...]:
    return tuple(float(step.config["amount"]) for step in recipe.steps if "amount" in step.config)
