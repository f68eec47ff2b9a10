"""The cache of steps: shared by runs, set aside and begun anew where it is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pqbench_orchestrator.store.step_cache import StepCache
from pqbench_wire.errors import InvalidInput

from ..damage import DAMAGES, cut, of_another_kind


def test_the_cache_is_shared_between_runs(tmp_path: Path) -> None:
    first, second = StepCache(tmp_path / "c.sqlite"), StepCache(tmp_path / "c.sqlite")
    first.put("k", "build", {"a": [1]}, 1.0)
    assert second.get("k") == {"a": [1]} and second.get("other") is None
    first.close()
    second.close()


@pytest.mark.parametrize("damage", [DAMAGES[0], cut, of_another_kind])
def test_a_damaged_cache_is_set_aside_and_begun_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = tmp_path / "steps.sqlite"
    cache = StepCache(path)
    for number in range(200):
        cache.put(f"key {number}", "build", {"text": "x" * 100}, 1.0)
    cache.close()
    damage(path)
    notes: list[str] = []
    again = StepCache(path, notes.append)
    again.put("new", "build", {"a": 1}, 1.0)
    assert again.get("new") == {"a": 1}
    again.close()
    if notes:
        assert "set aside" in notes[0] and list(tmp_path.glob("steps.sqlite.damaged-*"))
    else:
        assert damage is of_another_kind, "a table of ours is made beside the others'"


def test_a_cache_that_cannot_be_reached_is_not_set_aside(tmp_path: Path) -> None:
    (tmp_path / "steps.sqlite").mkdir()
    with pytest.raises(InvalidInput, match="unable to open"):
        StepCache(tmp_path / "steps.sqlite")
    assert (tmp_path / "steps.sqlite").is_dir()


@pytest.mark.parametrize("damage", ["{}", '{"a": 2}', "[1]", "{cut", ""])
def test_a_damaged_result_in_the_cache_is_none(tmp_path: Path, damage: str) -> None:
    cache = StepCache(tmp_path / "steps.sqlite")
    cache.put("k", "build", {"a": 1}, 1.0)
    cache.close()
    with sqlite3.connect(tmp_path / "steps.sqlite") as db:
        db.execute("UPDATE results SET result = ? || substr(result, instr(result, char(10)))", (damage,))
    db.close()
    again = StepCache(tmp_path / "steps.sqlite")
    assert again.get("k") is None
    again.put("k", "build", {"a": 1}, 1.0)
    assert again.get("k") == {"a": 1}
    again.close()
