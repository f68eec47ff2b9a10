"""docs/rtx-plans.md: NVIDIA's builders take models in every form, as its tables say; one of its 14 here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import rtx_plans

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
# The others take over an hour; benchmarks/rtx_plans.py builds them all.
SMALLER = ("thesis/squeezenet",)


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rtx_plans.RESULT.read_text())
    assert found["versions"] == list(rtx_plans.VERSIONS), "run benchmarks/rtx_plans.py with these versions"
    return found


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("libraries")
    return {version: rtx_plans.installed(version, folder) for version in rtx_plans.VERSIONS}


def test_the_page_is_the_results(table: dict[str, Any]) -> None:
    assert rtx_plans.page(table) == rtx_plans.PAGE.read_text() and tuple(table["models"]) == rtx_plans.MODELS


@pytest.mark.parametrize("model", SMALLER)
def test_every_form_is_built_or_refused_as_the_page_says(
    model: str, table: dict[str, Any], pythons: dict[str, Path]
) -> None:
    for recipe, cells in rtx_plans.built(model, pythons).items():
        for version, cell in cells.items():
            expected = table["models"][model][recipe][version]
            assert cell.get("why") == expected.get("why"), (recipe, version, cell, expected)
            if "mb" in expected:
                assert cell["mb"] == pytest.approx(expected["mb"], rel=0.02), (recipe, version)
