"""A rewrite rule for attention: the exporter transposes its keys by way of shapes; one Transpose does the same.

`scaled_dot_product_attention` comes out of the exporter as Shape, Slice, Concat, Reshape, Transpose and Reshape, as
its decomposition knows no rank. Runtimes recognise attention by its plain form, and shapes that are computed are a
burden to all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleClassBase

LARGEST, SMALLEST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


class _TransposedKeys(RewriteRuleClassBase):
    """The last two axes of a tensor, exchanged by flattening all axes before them."""

    def pattern(
        self, op: Any, keys: Any, begin: Any, rest_end: Any, rows_begin: Any, rows_end: Any, columns_begin: Any,
        end: Any, flat: Any,
    ) -> Any:  # fmt: skip
        shape = op.Shape(keys)
        rest = op.Slice(shape, begin, rest_end)
        rows, columns = op.Slice(shape, rows_begin, rows_end), op.Slice(shape, columns_begin, end)
        matrices = op.Reshape(keys, op.Concat(flat, rows, columns, axis=0))
        return op.Reshape(op.Transpose(matrices, perm=[0, 2, 1]), op.Concat(rest, columns, rows, axis=0))

    def check(self, op: Any, *_: Any, **bounds: Any) -> MatchResult:
        keys: ir.Value = bounds["keys"]
        wanted = {"begin": SMALLEST, "rest_end": -2, "rows_begin": -2, "rows_end": -1, "columns_begin": -1,
                  "end": LARGEST, "flat": -1}  # fmt: skip
        found = {name: _number(bounds[name]) for name in wanted}
        result = MatchResult()
        return result if found == wanted and keys.shape is not None else result.fail("other slices of the shape")

    def rewrite(self, op: Any, keys: ir.Value, **_: Any) -> Any:
        assert keys.shape is not None
        *others, rows, columns = range(len(keys.shape))
        return op.Transpose(keys, perm=[*others, columns, rows])


def _number(value: ir.Value) -> int | None:
    """The only element of a constant."""
    constant = ir.convenience.get_const_tensor(value)
    return int(constant.numpy().item()) if constant is not None and constant.size == 1 else None


def rule() -> RewriteRule:
    """The rule for onnxscript's rewriter."""
    return _TransposedKeys.rule()
