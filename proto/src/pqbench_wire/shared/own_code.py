"""Users' own code: Python files, which run only with --allow-code, and live Python objects.

`benchmark()` puts the objects of its caller into OBJECTS. The compressor then runs in the caller's
process, and no request can put anything there.
"""

from __future__ import annotations

import inspect
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pqbench_wire.errors import Failed, InvalidInput, Refused, first_line

ALLOW_CODE = "allow-code"  # the compressor's command-line flag, and an argument of its workers
OBJECTS: dict[str, Any] = {}


def live(name: str) -> Any:
    """The live object of that name. Raises InvalidInput if there is none."""
    if name not in OBJECTS:
        raise InvalidInput(f"no object {name!r} is in the compressor's process; only benchmark() can put one there")
    return OBJECTS[name]


def load(file: Path | None, name: str, allowed: bool, arguments: Mapping[str, Any]) -> Any:
    """Run a Python file and return its class or function `name`, which takes the keyword arguments.

    Raises Refused unless code is allowed, InvalidInput if the file, the name or an imported module is missing or the
    arguments do not fit, Failed if the file raises.
    """
    if not allowed:
        raise Refused(f"{name!r} is your own code: allow it with --allow-code")
    if file is None:
        raise InvalidInput(f"{name!r}: write it as path/to/file.py:{name}")
    try:
        found = runpy.run_path(str(file)).get(name)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"the file of {name!r} imports {error.name!r}, which is not installed; only this one file is sent "
            "to the service: copy what it imports into it, or install that as a package"
        ) from error
    except (Exception, SystemExit) as error:
        raise Failed(f"the file of {name!r}: {type(error).__name__}: {first_line(error)}") from error
    if not callable(found):
        raise InvalidInput(f"the file has no class or function {name!r}")
    _check_arguments(name, found, arguments)
    return found


def _check_arguments(name: str, function: Any, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it is written in C and does not say what it takes
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InvalidInput(f"{name!r}: {error}; it takes {signature}") from None


def called(what: str, function: Any, *arguments: Any, **named: Any) -> Any:
    """Call a user's function; whatever it raises becomes Failed, with one line that begins with `what`."""
    try:
        return function(*arguments, **named)
    except (Exception, SystemExit) as error:
        raise Failed(f"{what}: {type(error).__name__}: {first_line(error)}") from error
