"""Recipes: ordered lists of compression steps."""

from __future__ import annotations

import itertools
import json
from typing import Any, Literal

from pydantic import model_validator

from pqbench_orchestrator.config.strict import Name, Strict
from pqbench_wire.catalog import unknown

SHORT = {"int8": "int8-static"}  # short name of a method -> the method: pqbench's own INT8, in each target's best form
# Kinds of steps that have a single method.
WITHOUT_METHOD = {"recalibrate": "batch-norm", "compensate": "least-squares", "finetune": "gradient"}
KINDS = ("prune", *WITHOUT_METHOD, "quantize")


class Step(Strict):
    """A step: {prune: {method: …, …}}, {recalibrate: {…}}, {compensate: {…}}, {finetune: {…}} or {quantize: …}."""

    kind: Literal["prune", "recalibrate", "compensate", "finetune", "quantize"]
    method: str
    config: dict[str, Any]

    @property
    def is_own(self) -> bool:
        """Whether the method is a class in the user's own file."""
        return ".py:" in self.method

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        """The schema of what users write: a mapping with one kind."""
        named = {"type": "object", "properties": {"method": {"type": "string"}}, "required": ["method"]}
        choices = {
            kind: {"type": ["object", "null"]} if kind in WITHOUT_METHOD else {"anyOf": [{"type": "string"}, named]}
            for kind in KINDS
        }
        return {
            "type": "object", "description": cls.__doc__, "properties": choices, "additionalProperties": False,
            "minProperties": 1, "maxProperties": 1,
        }  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"a step is a mapping, such as {{prune: {{…}}}}, got {json.dumps(value)[:60]}")
        if set(value) == {"kind", "method", "config"}:
            return value
        if len(value) != 1:
            raise ValueError(
                f"a step has one kind; got {', '.join(map(str, value)) or 'none'}: write one list item for each"
            )
        kind, config = next(iter(value.items()))
        if kind not in KINDS:
            raise ValueError(unknown("step", str(kind), KINDS))
        if isinstance(config, str) and kind not in WITHOUT_METHOD:
            config = {"method": config}
        config = {} if config is None else config
        if not isinstance(config, dict):
            wanted = "a mapping" if kind in WITHOUT_METHOD else "a method's name, or a mapping with method"
            raise ValueError(f"{kind} takes {wanted}, got {json.dumps(config)[:60]}")
        config = dict(config)
        if kind not in WITHOUT_METHOD and "method" not in config:
            raise ValueError(f"{kind} needs a method: pqbench list pruners, or quantizers, shows them")
        method = WITHOUT_METHOD.get(kind) or config.pop("method")
        return {"kind": kind, "method": SHORT.get(method, method) if kind == "quantize" else method, "config": config}

    @model_validator(mode="after")
    def _counts(self) -> Step:
        """Check that an amount is a number or a list of numbers; a user's own class defines what its `amount` is."""
        if "amount" in self.config and not self.is_own:
            given = self.config["amount"]
            if given == []:
                raise ValueError(f"{self.kind}.amount: an empty list gives no recipe")
            for amount in given if isinstance(given, list) else [given]:
                if isinstance(amount, bool) or not isinstance(amount, (int, float)):
                    raise ValueError(
                        f"{self.kind}.amount must be a number, such as 0.5, or a list of numbers, "
                        f"got {json.dumps(amount)[:60]}"
                    )
        return self


class Recipe(Strict):
    """An ordered list of steps; without any it is the baseline. A list as `amount` stands for one recipe per value."""

    name: Name | None = None
    steps: tuple[Step, ...] = ()
    targets: tuple[str, ...] | None = None  # names of the only targets that it runs on; default: all

    @model_validator(mode="after")
    def _quantizes_last(self) -> Recipe:
        if any(step.kind == "quantize" for step in self.steps[:-1]):
            raise ValueError("steps: quantize must be the last step: what follows would undo it")
        return self

    @property
    def label(self) -> str:
        """The recipe's name in tables."""
        return self.name or " + ".join(_short(step) for step in self.steps) or "baseline"

    @property
    def identity(self) -> str:
        """The steps as JSON: equal for recipes that do the same, whatever their names."""
        return f"[{', '.join(map(as_json, self.steps))}]"

    @property
    def definition(self) -> str:
        """The steps in words, with all that the manifest says of them: equal for recipes that do the same."""
        return " + ".join(map(_whole, self.steps)) or "no step"

    def expanded(self) -> list[Recipe]:
        """One recipe for each combination of amounts; steps with method `none` are left out."""
        steps = [step for step in self.steps if step.method != "none"]
        choices = [_amounts(step) for step in steps]
        many = any(len(choice) > 1 for choice in choices)
        recipes = []
        for chosen in itertools.product(*choices):
            amounts = " ".join(_written(s.config["amount"]) for s in chosen if "amount" in s.config)
            name = f"{self.name} {amounts}" if self.name and many else self.name
            recipes.append(Recipe.model_construct(name=name, steps=tuple(chosen), targets=self.targets))
        return recipes


def as_json(step: Step) -> str:
    """A step as JSON, equal for steps that do the same."""
    return json.dumps(step.model_dump(), sort_keys=True)


def _amounts(step: Step) -> list[Step]:
    amounts = step.config.get("amount")
    if not isinstance(amounts, list):
        return [step]
    return [step.model_copy(update={"config": step.config | {"amount": amount}}) for amount in amounts]


def _short(step: Step) -> str:
    amount = step.config.get("amount")
    name = step.kind if step.kind in WITHOUT_METHOD else step.method.rpartition(":")[2]
    return f"{name} {amount:g}" if isinstance(amount, (int, float)) else name


def _whole(step: Step) -> str:
    config = dict(sorted(step.config.items()))
    return " ".join(filter(None, (step.kind, step.method, json.dumps(config) if config else "")))


def _written(amount: Any) -> str:
    return f"{amount:g}" if isinstance(amount, (int, float)) else str(amount)
