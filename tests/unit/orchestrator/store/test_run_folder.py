"""A run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqbench_orchestrator.store.run_folder import ENVIRONMENT, RunFolder
from pqbench_wire.errors import InvalidInput


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"started": 1}',
        "\xff",
        '{"started": "x", "targets": []}',
        '{"started": "x", "targets": {"a": 1}}',
        '{"started": "x", "targets": {"a": {"versions": 1}}}',
    ],
)
def test_a_damaged_environment_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ENVIRONMENT).write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=f"{ENVIRONMENT} is missing or damaged: .*remove it"):
        RunFolder(tmp_path).environment()
