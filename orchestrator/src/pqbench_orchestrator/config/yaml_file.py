"""Reads an untrusted YAML file into plain JSON values; an error is one line that names the place in the file."""

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
MOST_VALUES = 100_000  # with aliases expanded: a few lines of nested aliases can stand for billions of values
# What PyYAML's constructors raise for values that do not fit the type of their tag.
UNMADE = (ValueError, OverflowError, KeyError, IndexError, AttributeError, TypeError, RecursionError)
MERGE = "tag:yaml.org,2002:merge"  # tag of the merge key <<
NOT_PLAIN = {
    datetime.date: "a date",
    bytes: "binary data",
    set: "a set",
    tuple: "a pair",
}


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file: dicts with text keys, lists, text, finite numbers, booleans and None.

    Raises InvalidInput with the file, and where possible the line or key, for a file that cannot be read, is too large
    or is not YAML, and for values of other types, duplicate keys, too deep nesting, and aliases that refer to
    themselves or stand for too many values.
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
        raise InvalidInput(f"{path}: too large: {len(data)} bytes, at most {MOST_BYTES} are allowed")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidInput(f"{path}: line {line}: cannot be read: not UTF-8; save it as UTF-8") from error


def _reason(error: yaml.YAMLError) -> str:
    """PyYAML's message with its line; cut, because it may quote much of the file."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    words = " ".join(str(problem or error).split())[:200]
    words = words.replace("but found another document", "a second document begins; one is expected")
    return f"line {mark.line + 1}: {words}" if mark is not None else words


@dataclass
class _Open:
    """A mapping or sequence whose end the parser has not reached yet."""

    anchor: str | None
    is_mapping: bool
    values: int = 1  # so far, its own and those inside it, with aliases expanded
    depth: int = 1  # of the nesting, its own level included, with aliases expanded
    children: int = 0  # items of a sequence; keys and values of a mapping
    key: str = ""  # key or index that the parser is at


@dataclass
class _Size:
    """Counts the values and the depth of a document, with aliases expanded, before its values are constructed."""

    open: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[int, int]] = field(default_factory=dict)  # anchor -> number of values, depth

    def check(self, event: yaml.Event) -> str:
        """The problem that this event brings to the document; empty where there is none."""
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
        """The keys and indices that lead to the parser's place, for a message: the first 8, 80 characters at most."""
        return ".".join([one.key for one in self.open[:8] if one.key])[:80]


def _check_size(path: Path, text: str) -> None:
    size = _Size()
    for event in yaml.parse(text, yaml.SafeLoader):
        if problem := size.check(event):
            line = event.start_mark.line + 1 if event.start_mark is not None else 0
            raise InvalidInput(f"{path}: line {line}{f', {size.path}' if size.path else ''}: {problem}")


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys, of which PyYAML would silently keep the last."""

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
    """Every value or key that is not plain JSON: the keys that lead to it, and the problem."""
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
