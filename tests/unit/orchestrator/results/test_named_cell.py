"""The cell that CELL names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pqbench_orchestrator.results.named_cell import finished_cell, recorded_cell
from pqbench_orchestrator.results.tables import as_row
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.errors import InvalidInput

from ..cells import cell

CELLS: list[dict[str, Any]] = [
    {"Cell": "0123456789ab", "Recipe": "int8", "Target": "ort", "Batch Size": 1},
    {"Cell": "0123ffffffff", "Recipe": "int8", "Target": "ort", "Batch Size": 32},
    {"Cell": "aaaaaaaaaaaa", "Recipe": "removal + int8", "Target": "ov", "Batch Size": 1},
    {"Cell": "bbbbbbbbbbbb", "Recipe": "fp16", "Target": "ov", "Batch Size": 1, "Outcome": "failed", "Reason": "why"},
]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(tmp_path)
    with folder.ledger_to_write() as ledger:
        ledger.record_plan({one["Cell"]: {} for one in CELLS})
        ledger.record_cells((one["Cell"], "ok", "", as_row(cell(one))) for one in CELLS)
    yield folder


@pytest.mark.parametrize(
    ("reference", "key"),
    [("0123456789ab", "0123456789ab"), ("01234567", "0123456789ab"), ("removal + int8@ov", "aaaaaaaaaaaa")],
)
def test_a_key_its_beginning_or_recipe_and_target_name_a_cell(run: RunFolder, reference: str, key: str) -> None:
    assert finished_cell(run, reference)[0].key == key


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (
            "int8@ort",
            r"2 cells are called 'int8@ort': name one by its key: 01234567 \(m, batch 1\), 0123ffff \(m, batch 32",
        ),
        ("0123", "2 cells are called '0123'"),
        ("int8@ov", r"has no cell 'int8@ov'; did you mean '.*int8@o"),
        ("", "has no cell ''"),
        ("bbbb", "cell bbbb is failed: why"),
    ],
)
def test_what_names_none_or_several_is_one_line(run: RunFolder, reference: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        finished_cell(run, reference)


def test_a_cell_that_failed_has_a_record_too(run: RunFolder) -> None:
    assert recorded_cell(run, "fp16@ov")[0].outcome == "failed"
