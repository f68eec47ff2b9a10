"""The catalog: names by file, libraries only on use, configuration with clear errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from pqbench_wire.catalog import Catalog, parse_config
from pqbench_wire.errors import InvalidInput, Unavailable


@dataclass(frozen=True, kw_only=True)
class Config:
    amount: Annotated[float, Field(ge=0, lt=1)]
    epochs: int = 1


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    package = tmp_path / "some_plugins"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "with_hyphen.py").write_text('"""Summary line.\n\nMore."""\nREQUIRES = ()\n')
    (package / "lacking.py").write_text('"""Needs much."""\nREQUIRES = ("no_such_library", "torch_pruning_x")\n')
    (package / "_private.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return Catalog("thing", "some_plugins")


def test_a_plugin_is_a_file(catalog: Catalog) -> None:
    assert catalog.names == ("lacking", "with-hyphen")
    assert catalog.load("with-hyphen").REQUIRES == ()


def test_a_missing_library_says_what_to_install(catalog: Catalog) -> None:
    with pytest.raises(Unavailable, match="pip install no-such-library torch-pruning-x"):
        catalog.load("lacking")
    plugin = catalog.describe("lacking")
    assert not plugin.available and plugin.unavailable_reason.startswith("pip install")
    assert plugin.summary == "Needs much."


def test_an_unknown_name_gets_the_closest(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="unknown thing 'with-hyfen'; did you mean 'with-hyphen'"):
        catalog.load("with-hyfen")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ('{"amont": 0.5}', "unknown key 'amont'; did you mean 'amount'"),
        ('{"amount": 2}', "amount: input should be less than 1, got 2"),
        ("{}", "amount: field required"),
        ('{"amount": "much"}', 'amount: .*got "much"'),
        ("[1]", "must be a mapping"),
        ("{", "not JSON"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(config: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        parse_config(Config, config, "thing x")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("thing x: ")
