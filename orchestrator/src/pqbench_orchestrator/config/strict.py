"""The base class for parts of files that users write (immutable, typed, no unknown keys), and reading such a file."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from pqbench_orchestrator.config import yaml_file
from pqbench_wire.catalog import first_problem, unknown
from pqbench_wire.errors import InvalidInput

LONGEST_NAME = 120


def _as_text(name: object) -> object:
    """A name as text: YAML reads a name that has only digits as a number."""
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


def _names_no_path(name: str) -> str:
    if not 1 <= len(name) <= LONGEST_NAME or name != name.strip() or name.startswith("."):
        raise ValueError(
            f"a name has 1 to {LONGEST_NAME} characters, no leading dot, no space at either end, got {name[:60]!r}"
        )
    if any(character in "/\\" or ord(character) < 32 for character in name):
        raise ValueError(f"a name has no slashes, line breaks and control characters, got {name[:60]!r}")
    return name


Name = Annotated[str, BeforeValidator(_as_text), AfterValidator(_names_no_path)]


class Strict(BaseModel):
    """A part of a file that a user writes: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Part = TypeVar("Part", bound=Strict)


def load(path: Path, kind: type[Part]) -> Part:
    """The content of a YAML file as a `kind`. Raises InvalidInput with file and key."""
    values = yaml_file.read(path)
    try:
        # Validated as JSON, because strict validation then still accepts a list for a tuple.
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_problem(error, kind)}") from error


def _problem(error: ValidationError, kind: type[BaseModel]) -> str:
    problems = error.errors(include_url=False)
    # A misspelt key is often why another key is missing, so it is reported first.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    *parents, last = problem["loc"] or ("",)
    if problem["type"] == "extra_forbidden":
        where = ".".join(str(part) for part in parents)
        return f"{where + ': ' if where else ''}{unknown('key', str(last), _keys(kind, parents))}"
    return first_problem(error)


def _keys(kind: type[BaseModel], path: list[int | str]) -> list[str]:
    """The valid keys of the mapping at `path` in a `kind`."""
    for part in path:
        if isinstance(part, str) and part in kind.model_fields:
            kind = _nested(kind.model_fields[part].annotation) or kind
    return list(kind.model_fields)


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_nested(argument) for argument in typing.get_args(annotation))
    return next((kind for kind in found if kind), None)
