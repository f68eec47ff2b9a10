"""The bill of materials against CycloneDX's own schema."""

from __future__ import annotations

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from pqbench_wire import materials


def test_the_bill_is_in_the_standards_format() -> None:
    bill = materials.bill_of_materials("pqbench-wire")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.decode()) is None
