"""Which INT8 a CPU gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pqbench.common.v1.common_pb2 import Form
from pqbench_runtime import host
from pqbench_runtime.backends._int8_cpu import int8_routes


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    host.int8_saturates.cache_clear()
    yield
    host.int8_saturates.cache_clear()


@pytest.mark.parametrize(
    ("cpu", "first"),
    [
        ({"flags": "ssse3 avx2"}, Form.FORM_QDQ_UNSIGNED_7),
        ({"flags": "ssse3 avx2 avx512f"}, Form.FORM_QDQ_UNSIGNED_7),
        ({"flags": "ssse3 avx2 avx_vnni"}, Form.FORM_QDQ_UNSIGNED),
        ({"flags": "ssse3 avx512f avx512_vnni"}, Form.FORM_QDQ_UNSIGNED),
        ({"Features": "fp asimd"}, Form.FORM_QDQ_UNSIGNED),
    ],
)
def test_a_cpu_whose_products_saturate_gets_weights_of_seven_bits_where_there_are_such(
    cpu: dict[str, str], first: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_cpuinfo", lambda: cpu)
    forms = [route.form for route in int8_routes("why")]
    assert forms[0] == first and forms[-2:] == [Form.FORM_QDQ_UNSIGNED, Form.FORM_QDQ_TOOL], "own quantizers give U"
