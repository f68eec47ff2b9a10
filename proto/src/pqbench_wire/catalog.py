"""Plug-ins: each is a file (or, rarely, folder) in a package's folder, found by its name, imported on first use.

The folder named by the environment variable PQBENCH_PLUGINS may hold more, in a subfolder with the
last part of the package's name, such as `pruners`.

A plug-in module has `REQUIRES`, a tuple of importable names, and `Config`, a frozen keyword-only
dataclass whose fields state their unit and meaning. `REQUIRES` is read from the source, so that
listing a plug-in imports none of its libraries.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pqbench.common.v1.common_pb2 import Plugin
from pqbench_wire.errors import InvalidInput, Unavailable, first_line
from pqbench_wire.process import own_plugins, versions_of

# Import names whose package on PyPI has another name.
PACKAGES = {
    "cv2": "opencv-python-headless",
    "torch_pruning": "torch-pruning",
    "onnxruntime_ep_nv_tensorrt_rtx": "onnxruntime-ep-nv-tensorrt-rtx-cu12",
    "modelopt": "nvidia-modelopt",
    "pynvml": "nvidia-ml-py",
    "quark": "amd-quark==0.13",  # without its version, pip may take a former one, which is empty
    "tensorrt_rtx_bindings": "tensorrt-rtx-cu12-bindings",
    "tensorrt_rtx_libs": "tensorrt-rtx-cu12-libs",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "yaml": "pyyaml",
}


class Catalog:
    """The plug-ins of one kind: the modules of `package`, e.g. kind "pruner" in pqbench_compressor.pruners."""

    def __init__(self, kind: str, package: str, protocol: type | None = None) -> None:
        self.kind = kind
        self.package = package
        self._wanted = _members(protocol) if protocol else ()
        self._loaded: dict[str, ModuleType] = {}

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the plug-ins: those of their files or folders, with hyphens for underscores.

        Raises InvalidInput for a user's plug-in with the name of one of pqbench's own, which would hide it.
        """
        paths = [path for folder in self._folders() for path in sorted(Path(folder).iterdir())]
        modules: dict[str, Path] = {}
        for path in paths:
            if path.name[0] == "_" or not (path.suffix == ".py" or (path / "__init__.py").is_file()):
                continue
            if modules.setdefault(path.stem, path) != path:
                raise InvalidInput(f"{path}: pqbench has a {self.kind} of this name; give the file another one")
        return tuple(sorted(name.replace("_", "-") for name in modules))

    def missing(self, name: str) -> str:
        """The pip command that installs what `name` lacks; empty if nothing is missing."""
        absent = [r for r in self._requires(name) if find_spec(r) is None]
        packages = " ".join(PACKAGES.get(r, r.replace("_", "-")) for r in absent)
        return f"pip install {packages}" if packages else ""

    def load(self, name: str) -> Any:
        """The plug-in's module. Raises InvalidInput for an unknown name, Unavailable for a missing library."""
        if name not in self.names:
            raise InvalidInput(unknown(self.kind, name, self.names))
        if name not in self._loaded:
            if hint := self.missing(name):
                raise Unavailable(f"{self.kind} {name} is unavailable: {hint}")
            self._loaded[name] = self._module(name)
        return self._loaded[name]

    def libraries(self) -> dict[str, str]:
        """The installed distributions that the plug-ins' REQUIRES name, with their versions.

        A broken plug-in's are left out: it cannot run.
        """
        modules: set[str] = set()
        for name in self.names:
            with contextlib.suppress(Unavailable):
                modules |= set(self._requires(name))
        known = _distributions()
        found = [known.get(module) or [PACKAGES.get(module, module)] for module in sorted(modules)]
        return versions_of(*(package for packages in found for package in packages))

    def configure(self, name: str, config_json: str) -> Any:
        """The plug-in's Config from JSON. Raises InvalidInput, which names the wrong field, and what `load` raises."""
        return parse_config(self.load(name).Config, config_json, f"{self.kind} {name}")

    def describe(self, name: str, schema: bool = True) -> Plugin:
        """What GetCapabilities publishes of one plug-in; `schema` imports it. A broken one is unavailable, with why."""
        plugin = Plugin(kind=self.kind, name=name)
        try:
            plugin.summary = (ast.get_docstring(self._tree(name)) or "").partition("\n")[0]
            plugin.unavailable_reason = self.missing(name)
            if schema and not plugin.unavailable_reason:
                plugin.config_schema_json = self._schema(name)
        except Unavailable as error:
            plugin.unavailable_reason = str(error)
        plugin.available = not plugin.unavailable_reason
        return plugin

    def _schema(self, name: str) -> str:
        module = self._module(name)
        try:
            return json.dumps(TypeAdapter(module.Config).json_schema(), sort_keys=True)
        except Exception as error:  # pydantic's errors about types have no common base class
            raise Unavailable(f"{self._file(name)}: Config has no JSON schema: {first_line(error)}") from error

    def _folders(self) -> Sequence[str]:
        """The package's own folder and the user's, which is added to the package's search path."""
        folders = importlib.import_module(self.package).__path__
        added = own_plugins()
        more = added / self.package.rpartition(".")[2] if added else None
        if more and more.is_dir() and str(more) not in folders:
            folders.append(str(more))
        return folders

    def _module(self, name: str) -> ModuleType:
        try:
            module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        except Exception as error:  # a library for another ABI or without its native parts, or a mistake in the file
            what = "" if isinstance(error, (ImportError, OSError)) else f"{type(error).__name__}: "
            raise Unavailable(f"{self.kind} {name} cannot be imported: {what}{first_line(error)}") from error
        if lacking := [one for one in self._wanted if not hasattr(module, one)]:
            raise Unavailable(f"{self._file(name)} has no {', '.join(lacking)} (docs/plugins.md)")
        return module

    def _file(self, name: str) -> Path:
        self._folders()
        spec = find_spec(f"{self.package}.{name.replace('-', '_')}")
        assert spec is not None and spec.origin is not None
        return Path(spec.origin)

    def _tree(self, name: str) -> ast.Module:
        path = self._file(name)
        try:
            return ast.parse(path.read_text(encoding="utf-8"), str(path))
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise Unavailable(f"{path}{line}: {error.args[0]}") from error

    def _requires(self, name: str) -> tuple[str, ...]:
        for node in self._tree(name).body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "REQUIRES" for t in node.targets
            ):
                return _literal(node.value, self._file(name))
        raise Unavailable(f"{self._file(name)} has no REQUIRES (docs/plugins.md)")


@functools.cache
def _distributions() -> dict[str, list[str]]:
    """Installed distributions by importable name.

    As importlib.metadata.packages_distributions, which takes four times as long and lacks some in Python 3.10.
    """
    found: dict[str, set[str]] = {}
    for distribution in metadata.distributions():
        names = (distribution.read_text("top_level.txt") or "").split() or _recorded(distribution)
        if owner := distribution.metadata["Name"]:  # none in what is left of a broken installation
            for name in names:
                found.setdefault(name, set()).add(owner)
    return {name: sorted(distributions) for name, distributions in found.items()}


def _recorded(distribution: metadata.Distribution) -> set[str]:
    """The importable names among a distribution's installed files."""
    files = (line.partition(",")[0] for line in (distribution.read_text("RECORD") or "").splitlines())
    return {file.partition("/")[0].partition(".")[0] for file in files if file.endswith((".py", ".so", ".pyd"))}


def _literal(node: ast.expr, file: Path) -> tuple[str, ...]:
    """REQUIRES as it is written. Raises Unavailable where it is no tuple of names."""
    try:
        names = ast.literal_eval(node)
    except ValueError:
        names = None
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise Unavailable(f'{file}: REQUIRES must be a tuple of names, as ("torch",)')
    return names


def _members(protocol: type) -> tuple[str, ...]:
    """The constants and functions that a protocol asks for."""
    functions = [name for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"]
    return (*protocol.__annotations__, *functions)


def unknown(what: str, name: str, known: tuple[str, ...] | list[str]) -> str:
    """The error message for an unknown name, with a known one: the shortest that begins with it, else the closest."""
    longer = sorted((one for one in known if name and one.startswith(name)), key=lambda one: (len(one), one))
    close = longer[:1] or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
    return f"unknown {what} {name!r}; {hint}"


def parse_config(config: type, config_json: str, where: str) -> Any:
    """A `config` dataclass from JSON; unknown fields and wrong values raise InvalidInput."""
    try:
        values = json.loads(config_json or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where}: configuration is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{where}: configuration must be a mapping")
    fields = tuple(config.__dataclass_fields__)  # type: ignore[attr-defined]
    for key in values:
        if key not in fields:
            raise InvalidInput(
                f"{where}: {unknown('key', key, fields)}" if fields else f"{where}: takes no key {key!r}"
            )
    try:
        return TypeAdapter(config).validate_json(config_json or "{}", strict=True)
    except ValidationError as error:
        raise InvalidInput(f"{where}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation error in one line: the key and what is wrong with its value."""
    problem = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
    if problem["type"] == "value_error":  # raised by the Config itself: its text is complete
        return f"{path}: {message.removeprefix('value error, ')}".removeprefix(": ")
    given = "" if problem["type"] == "missing" else f", got {_short(problem['input'])}"
    return f"{path or 'value'}: {message}{given}{_instead(problem)}"


def _instead(problem: Any) -> str:
    """A hint on what to write instead of a number in quotes; empty for other problems."""
    given = problem["input"]
    if problem["type"] not in ("int_type", "float_type") or not isinstance(given, str):
        return ""
    try:
        number = float(given.removesuffix("%"))
    except ValueError:
        return ""
    return f"; write {number / 100 if given.endswith('%') else number:g}, without quotes"


def _short(value: object) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, Mapping) else "a mapping"
    return text if len(text) <= 60 else text[:57] + "..."
