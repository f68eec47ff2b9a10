"""The bill of materials of a process: what is installed where it runs, in CycloneDX 1.6 (ECMA-424), as JSON.

It lists the Python distributions on the import path and, on Debian and its kin, the system's packages.
"""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG_STATUS = Path("/var/lib/dpkg/status")


@functools.cache
def bill_of_materials(distribution: str) -> bytes:
    """The bill of `distribution`, the program that this process runs; the same as long as nothing is installed."""
    components = {one["bom-ref"]: one for one in (*_python(), *_system(DPKG_STATUS))}
    own = {"type": "application", "name": distribution, "version": metadata.version(distribution)}
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": sorted(components.values(), key=lambda one: str(one["bom-ref"])),
    }
    return json.dumps(bill, indent=1).encode()


def _python() -> Iterator[dict[str, Any]]:
    """The distributions that an import finds; of two with one name, the first on the path.

    setuptools, once imported, puts its own copies of others on the path, in `_vendor`; they are part of it.
    """
    seen: set[str] = set()
    for found in metadata.distributions(path=[folder for folder in sys.path if Path(folder).name != "_vendor"]):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"] or "").lower()
        if name and name not in seen:
            seen.add(name)
            yield _component(found.metadata["Name"], found.version, f"pkg:pypi/{name}")


def _system(status: Path) -> Iterator[dict[str, Any]]:
    """The installed packages of dpkg; none on other systems."""
    with contextlib.suppress(FileNotFoundError):
        system = platform.freedesktop_os_release()["ID"]
        for paragraph in status.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
            if fields.get("Status", "").endswith(" installed"):
                address = f"pkg:deb/{system}/{fields['Package']}"
                yield _component(fields["Package"], fields["Version"], address, f"?arch={fields['Architecture']}")


def _component(name: str, version: str, address: str, qualifiers: str = "") -> dict[str, Any]:
    package_url = f"{address}@{quote(version, safe=':~')}{qualifiers}"
    return {"type": "library", "bom-ref": package_url, "name": name, "version": version, "purl": package_url}
