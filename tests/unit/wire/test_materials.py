"""The bill of materials."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from pqbench_wire import materials

STATUS = """Package: libc6
Status: install ok installed
Version: 1:2.36-9+deb12u14
Architecture: amd64
Description: a library
 Version: 9 in a longer text

Package: removed
Status: deinstall ok config-files
Version: 1
Architecture: all
"""


def test_the_bill_lists_what_is_installed() -> None:
    bill = materials.bill_of_materials("pqbench-wire")
    found = {one["purl"] for one in json.loads(bill)["components"]}
    assert f"pkg:pypi/numpy@{metadata.version('numpy')}" in found
    assert json.loads(bill)["metadata"]["component"]["name"] == "pqbench-wire"
    materials.bill_of_materials.cache_clear()
    assert materials.bill_of_materials("pqbench-wire") == bill


def test_copies_inside_setuptools_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("_vendor", "site"):
        info = tmp_path / folder / f"{folder.strip('_')}_package-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.strip('_')}-package\nVersion: 1.0\n")
        monkeypatch.syspath_prepend(tmp_path / folder)
    names = {one["name"] for one in materials._python()}
    assert "site-package" in names and "vendor-package" not in names


def test_system_packages_are_those_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materials.platform, "freedesktop_os_release", lambda: {"ID": "debian"})
    (tmp_path / "status").write_text(STATUS)
    (only,) = materials._system(tmp_path / "status")
    assert only["purl"] == "pkg:deb/debian/libc6@1:2.36-9%2Bdeb12u14?arch=amd64" and only["name"] == "libc6"
    assert list(materials._system(tmp_path / "none")) == []
