"""Reading a YAML file that a person wrote, or somebody hostile: plain JSON values, or one line that says where not."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pqbench_wire.errors import InvalidInput

MOST_BYTES = 1 << 18
MOST_DEPTH = 32
MOST_BITS = 64
MOST_VALUES = 100_000  # aliases written out: a few lines of aliases of aliases stand for billions
# What PyYAML's constructors raise of values that are not of the type that their tags name.
UNMADE = (ValueError, OverflowError, KeyError, IndexError, AttributeError, TypeError, RecursionError)
MERGE = "tag:yaml.org,2002:merge"  # of the key <<
NOT_PLAIN = {
    datetime.date: "a date",
    bytes: "binary data",
    set: "a set",
    tuple: "a pair",
}


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file: dicts with text keys, lists, text, finite numbers, booleans and None.

    Raises InvalidInput with the file and the key or line of what is anything else, is nested too deeply, refers to
    itself, or has aliases that stand for too much.
    """
    text = _text(path)
    try:
        _check_size(path, text)
        values = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path}: not valid YAML: {_reason(error)}") from error
    except UNMADE as error:  # dates that do not exist, numbers of thousands of digits, tags that do not fit
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInput(f"{path}: not valid YAML: a value does not fit its type: {words}") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{path}: must be a mapping of keys")
    for where, problem in _problems(values, ()):
        raise InvalidInput(f"{path}: {'.'.join(where)}: {problem}")
    return values


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MOST_BYTES:
        raise InvalidInput(f"{path}: {len(data)} bytes; at most {MOST_BYTES} are read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidInput(f"{path}: line {line}: cannot be read: not UTF-8; save it as UTF-8") from error


def _reason(error: yaml.YAMLError) -> str:
    """What PyYAML says of the problem and its line; what it quotes may be long."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    words = " ".join(str(problem or error).split())[:200]
    words = words.replace("but found another document", "a second document begins; one is expected")
    return f"line {mark.line + 1}: {words}" if mark is not None else words


@dataclass
class _Open:
    """A collection whose end has not come yet."""

    anchor: str | None
    is_mapping: bool
    values: int = 1
    depth: int = 1  # of what is in it, aliases written out
    children: int = 0
    key: str = ""


@dataclass
class _Size:
    """Counts the values of a document, aliases written out, and its depth, before anything is made of it."""

    open: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[int, int]] = field(default_factory=dict)  # values and depth

    def check(self, event: yaml.Event) -> str:
        """What is wrong with the document up to this event; empty where nothing."""
        if self.open and not self.open[-1].is_mapping:
            self.open[-1].key = str(self.open[-1].children)
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self.open.append(_Open(anchor=event.anchor, is_mapping=isinstance(event, yaml.MappingStartEvent)))
            return f"nested over {MOST_DEPTH} deep" if len(self.open) > MOST_DEPTH else ""
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            done = self.open.pop()
            return self._add(done.values, done.depth, done.anchor)
        if isinstance(event, yaml.AliasEvent):
            if any(one.anchor == event.anchor for one in self.open):
                return f"*{event.anchor} refers to itself"
            return self._add(*self.anchors.get(event.anchor or "", (1, 0)), None)
        if isinstance(event, yaml.ScalarEvent):
            return self._add(1, 0, event.anchor, event.value)
        return ""

    def _add(self, values: int, depth: int, anchor: str | None, text: str = "") -> str:
        if anchor is not None:
            self.anchors[anchor] = (values, depth)
        if not self.open:
            return ""
        parent = self.open[-1]
        if parent.is_mapping and parent.children % 2 == 0:
            parent.key = text
        parent.children += 1
        parent.values += values
        parent.depth = max(parent.depth, depth + 1)
        if len(self.open) + depth > MOST_DEPTH:
            return f"nested over {MOST_DEPTH} deep"
        return f"aliases stand for over {MOST_VALUES} values" if parent.values > MOST_VALUES else ""

    @property
    def path(self) -> str:
        """The keys down to here."""
        return ".".join([one.key for one in self.open[:8] if one.key])[:80]


def _check_size(path: Path, text: str) -> None:
    size = _Size()
    for event in yaml.parse(text, yaml.SafeLoader):
        if problem := size.check(event):
            line = event.start_mark.line + 1 if event.start_mark is not None else 0
            raise InvalidInput(f"{path}: line {line}{f', {size.path}' if size.path else ''}: {problem}")


class _Loader(yaml.SafeLoader):
    """Safe, and strict about a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag == MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            value = self.construct_object(key, deep=deep)
            if value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {value!r} is given twice", key.start_mark)
            seen.add(value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _problems(value: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is no plain JSON value, with its keys."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield (*where, _shown(key)), "a key must be text: put it in quotes"
                return
            if problem := _bad_text(key):
                yield (*where, _shown(key)), f"the key {problem}"
                return
            yield from _problems(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems(item, (*where, str(index)))
    elif problem := _bad_scalar(value):
        yield where, problem


def _bad_scalar(value: Any) -> str:
    if isinstance(value, str):
        return _bad_text(value)
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value} is not a finite number"
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return f"a number of over {MOST_BITS} bits"
    kind = next((words for kind, words in NOT_PLAIN.items() if isinstance(value, kind)), "")
    return f"YAML reads {_shown(value)} as {kind}; put it in quotes if it is text" if kind else ""


def _bad_text(text: str) -> str:
    if "\0" in text:
        return "holds a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half of a surrogate pair, which is no character"
    return ""


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, (bytes, str)) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
