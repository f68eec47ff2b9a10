"""The time of each layer, fitted to profiles of cells in which it has different widths."""

from __future__ import annotations

import numpy as np
import pytest

from pqbench.compressor.v1.compressor_pb2 import LayerStatistics, Statistics
from pqbench.runtime.v1.runtime_pb2 import LayerTime
from pqbench_orchestrator.results.latencies import Line, Profiled, fit
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.layer_names import layer_of

WHOLE = {"stem": 1000, "block.conv": 4000, "block.conv2": 500}


def cell(times: dict[str, float], **macs: int) -> Profiled:
    """A cell whose layers took so many microseconds, with so many multiply-accumulates left."""
    named = {name.replace("_", "."): count for name, count in macs.items()}
    pruned, unpruned = (
        Statistics(layers=[LayerStatistics(name=name, macs=count) for name, count in counts.items()])
        for counts in (WHOLE | named, WHOLE)
    )
    layers = [LayerTime(name=name, seconds=time / 1e6) for name, time in times.items()]
    return Profiled(layers=layers, pruned=pruned, unpruned=unpruned)


def test_a_fixed_and_a_proportional_part_are_found() -> None:
    generator = np.random.default_rng(0)
    cells = []
    for share in np.linspace(0.2, 1, 24):
        time = (30 + 100 * share) * generator.normal(1, 0.02)
        cells.append(cell({"block.conv/Fused": time, "stem_token": 50.0, "Reorder": 9.0}, block_conv=int(4000 * share)))
    found = fit(cells)
    assert found.cells == 24 and found.error is not None and found.error < 0.03
    assert found.lines["block.conv"].fixed == pytest.approx(30, abs=4)
    assert found.lines["block.conv"].scaled == pytest.approx(100, abs=6)
    assert found.as_option()["stem"] == 50.0 and set(found.lines) == {"stem", "block.conv"}


def test_one_cell_cannot_tell_the_parts_apart() -> None:
    found = fit([cell({"stem": 40.0, "stem_relu": 2.0, "block.conv2_token_1": 8.0})])
    assert found.as_option() == {"stem": 42.0, "block.conv2": 8.0} and found.error is None


def test_profiles_that_name_no_layer_are_refused() -> None:
    with pytest.raises(InvalidInput, match="names a layer of the model"):
        fit([cell({"aten::conv2d": 40.0}), cell({})])
    assert fit([cell({"aten::conv2d": 40.0}), cell({"stem": 2.0})]).cells == 1


def test_neither_part_is_negative() -> None:
    rising = [cell({"stem": 10.0}, stem=1000), cell({"stem": 30.0}, stem=500)]
    assert fit(rising).lines["stem"] == Line(fixed=20.0, scaled=0.0)
    steep = [cell({"stem": 10.0}, stem=1000), cell({"stem": 2.0}, stem=500)]
    assert fit(steep).lines["stem"].fixed == 0


def test_an_error_of_cells_left_out_says_how_wrong_the_lines_are() -> None:
    """Times that do not depend on widths as lines say: every second cell takes twice as long."""
    cells = [cell({"stem": 50.0 * (1 + index % 2)}, stem=500 + 50 * index) for index in range(8)]
    assert (fit(cells).error or 0) > 0.2


@pytest.mark.parametrize(
    ("entry", "layer"),
    [("stem_token_1", "stem"), ("block.conv2/Bias", "block.conv2"), ("block.conv", "block.conv"),
     ("block.conv.weight", None), ("stemming", None), ("Reorder", None)],
)  # fmt: skip
def test_an_entry_belongs_to_the_layer_it_begins_with(entry: str, layer: str | None) -> None:
    assert layer_of(entry, WHOLE) == layer
