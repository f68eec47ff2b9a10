"""Pruners of the user's own."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from pqbench_compressor.plugins import Context
from pqbench_compressor.pruners import _own
from pqbench_wire.errors import Failed


class Masks:
    """What PyTorch's own tutorial does."""

    def prune(self, module: nn.Module, context: Context) -> None:
        nn.utils.prune.l1_unstructured(module[0], "weight", 0.5)


class Replaces:
    """A factorisation."""

    def prune(self, module: nn.Module, context: Context) -> None:
        module[0] = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 4))


def test_a_users_pruner_may_leave_masks_but_no_other_modules() -> None:
    context = Context(seed=0, report=lambda *_: None, classes=4, images=np.zeros((2, 4), np.float32))
    module = nn.Sequential(nn.Linear(4, 4))
    _own.run("Masks", Masks(), module, context)
    assert int((module[0].weight == 0).sum()) == 8 and set(module.state_dict()) == {"0.weight", "0.bias"}
    with pytest.raises(Failed, match="Replaces added or removed tensors"):
        _own.run("Replaces", Replaces(), module, context)
