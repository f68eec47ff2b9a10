"""The catalog: names by file, libraries only on use, configuration with clear errors."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

import pytest
from pydantic import Field

from pqbench_wire.catalog import Catalog, parse_config
from pqbench_wire.errors import InvalidInput, Unavailable
from pqbench_wire.process import required_by, source_version


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
    for module in [name for name in sys.modules if name.partition(".")[0] == "some_plugins"]:  # of another test
        monkeypatch.delitem(sys.modules, module)
    return Catalog("thing", "some_plugins")


def test_a_plugin_is_a_file(catalog: Catalog) -> None:
    assert catalog.names == ("lacking", "with-hyphen")
    assert catalog.load("with-hyphen").REQUIRES == ()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalog: Catalog) -> Path:
    """A folder of the user's own plug-ins for the catalog."""
    folder = tmp_path / "own"
    (folder / catalog.package).mkdir(parents=True)
    monkeypatch.setenv("PQBENCH_PLUGINS", str(folder))
    return folder / catalog.package


def test_the_users_own_plugins_are_among_them(catalog: Catalog, own: Path) -> None:
    (own / "mine.py").write_text('"""Mine."""\nREQUIRES = ()\nVALUE = 3\n')
    assert catalog.names == ("lacking", "mine", "with-hyphen") and catalog.load("mine").VALUE == 3


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQBENCH_PLUGINS", "/no/such/folder")
    with pytest.raises(InvalidInput, match="PQBENCH_PLUGINS=/no/such/folder: there is no such folder"):
        tuple(Catalog("thing", "json").names)


class Wanted(Protocol):
    """What a plug-in must have."""

    REQUIRES: ClassVar[tuple[str, ...]]
    TITLE: ClassVar[str]

    def score(self) -> float: ...


@pytest.mark.parametrize(
    ("text", "reason"),
    [('"""Bad."""\nREQUIRES = (\n', "bad_one.py, line 2: '(' was never closed"),
     ('"""Bad."""\n', "bad_one.py has no REQUIRES"),
     ('"""Bad."""\nREQUIRES = "torch"\n', "bad_one.py: REQUIRES must be a tuple of names"),
     ('"""Bad."""\nREQUIRES = ()\nTITLE = "t"\n', "bad_one.py has no score"),
     ('"""Bad."""\nREQUIRES = ()\nfrom json import no_such_name\n', "thing bad-one cannot be imported: cannot import name"),
     ('"""Bad."""\nREQUIRES = ()\n1 / 0\n', "thing bad-one cannot be imported: ZeroDivisionError: division by zero"),
     ('"""Bad."""\nREQUIRES = ()\nTITLE = "t"\nscore = Config = open\n', "bad_one.py: Config has no JSON schema")],
)  # fmt: skip
def test_a_broken_plugin_is_unavailable_and_hides_no_other(own: Path, text: str, reason: str) -> None:
    (own / "bad_one.py").write_text(text)
    (own / "good.py").write_text(
        '"""Good."""\nREQUIRES = ()\nTITLE = "t"\nConfig = dict\n\ndef score():\n    return 1.0\n'
    )
    catalog = Catalog("thing", "some_plugins", Wanted)
    described = {name: catalog.describe(name) for name in ("bad-one", "good")}
    assert not described["bad-one"].available and reason in described["bad-one"].unavailable_reason
    assert described["good"].available
    if "JSON schema" not in reason:
        with pytest.raises(Unavailable, match=re.escape(reason)):
            catalog.load("bad-one")


def test_an_own_plugin_cannot_hide_one_of_pqbench(catalog: Catalog, own: Path) -> None:
    (own / "with_hyphen.py").write_text('"""Mine."""\nREQUIRES = ()\n')
    with pytest.raises(InvalidInput, match="with_hyphen.py: pqbench has a thing of this name; give the file another"):
        tuple(catalog.names)


def test_a_changed_plugin_is_another_version_of_its_own_service_only(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own"
    for kind in ("backends", "pruners"):
        (folder / kind).mkdir(parents=True)
    monkeypatch.setenv("PQBENCH_PLUGINS", str(folder))

    def versions() -> list[str]:
        source_version.cache_clear()
        return [source_version(name) for name in ("pqbench_runtime", "pqbench_wire")]

    before = versions()
    (folder / "pruners/mine.py").write_text("# a comment\n")
    assert versions() == before
    (folder / "backends/mine.py").write_text("# a comment\n")
    assert [one == other for one, other in zip(before, versions(), strict=True)] == [False, True]
    source_version.cache_clear()


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


def test_the_libraries_of_plugins_are_their_distributions_with_versions(catalog: Catalog, own: Path) -> None:
    (own / "mine.py").write_text('REQUIRES = ("numpy", "pydantic")\n')
    (own / "broken.py").write_text("REQUIRES = (\n")
    found = catalog.libraries()
    assert found["numpy"] == metadata.version("numpy") and found["pydantic"] == metadata.version("pydantic")
    assert not {"torch", "no-such-library"} & set(found)


def test_required_by_names_the_requirements_of_all_extras() -> None:
    assert {"grpcio", "numpy"} <= set(required_by("pqbench-wire")) and required_by("no-such-distribution") == []
