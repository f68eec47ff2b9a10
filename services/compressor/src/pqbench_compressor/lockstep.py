"""Two modules of one architecture, run node by node on the same batches: a pruned model beside the unpruned one.

Where blocks were removed, what leads to them stands for what left them: it should now give that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import fx, nn

from pqbench_compressor import blocks
from pqbench_compressor.program import Batch, PerBatch, Program
from pqbench_wire.errors import Refused


class Lockstep:
    """A pruned module and the unpruned one. `visit` is given each call of the pruned one before it is computed."""

    def __init__(self, pruned: nn.Module, unpruned: nn.Module, batches: Sequence[Batch]) -> None:
        self.pruned, self.unpruned = Program(pruned, batches), Program(unpruned, batches)
        removed = blocks.removed(pruned, unpruned)
        self._paired = _paired(self.pruned.nodes, self.unpruned.nodes, removed)
        self._theirs = self._paired | _moved(self._paired, self.unpruned.nodes, removed)
        self._unpaired = set(self.unpruned.nodes) - set(self._theirs.values())
        self._users = {node: len(node.users) for node in self._theirs}
        self._done: set[fx.Node] = set()

    def run(self, visit: Callable[[fx.Node], None]) -> None:
        """Compute all calls in order."""
        for node in self.pruned.nodes:
            self.reach(node, visit)

    def reach(self, node: fx.Node, visit: Callable[[fx.Node], None]) -> None:
        """Compute a call, and before it what it needs."""
        if node in self._done or node not in self._theirs:
            return
        for needed in node.all_input_nodes:
            self.reach(needed, visit)
        visit(node)
        self._done.add(node)
        self.pruned.value(node)
        self.unpruned.value(self._theirs[node])
        for passed in self._unpaired:
            self.unpruned.forget(passed)
        for needed in node.all_input_nodes:
            if needed in self._users:
                self._users[needed] -= 1
                if not self._users[needed]:
                    self.pruned.forget(needed)
                    self.unpruned.forget(self._theirs[needed])

    def wanted(self, node: fx.Node) -> PerBatch:
        """The unpruned model's value of a call of the pruned one."""
        value = self.unpruned.value(self._theirs[node])
        assert isinstance(value, PerBatch)
        return value

    def original(self, node: fx.Node, argument: int) -> torch.Tensor | None:
        """The unpruned model's parameter in a call's place `argument`, if there is one."""
        theirs = self._paired[node]
        given = theirs.args[argument] if argument < len(theirs.args) else None
        return self.unpruned.tensors.get(given) if isinstance(given, fx.Node) else None


def _paired(ours: Sequence[fx.Node], theirs: Sequence[fx.Node], removed: Sequence[str]) -> dict[fx.Node, fx.Node]:
    """The unpruned model's call for each of the pruned one's. Raises Refused where they do not correspond."""
    left = [node for node in theirs if _block_of(node, removed) is None]
    if [node.target for node in ours] != [node.target for node in left]:
        raise Refused("pruning changed which operations the model consists of: they cannot be paired")
    return dict(zip(ours, left, strict=True))


def _moved(
    paired: Mapping[fx.Node, fx.Node], theirs: Sequence[fx.Node], removed: Sequence[str]
) -> dict[fx.Node, fx.Node]:
    """For the calls that lead into removed blocks, those at the blocks' ends, whose values they should now give.

    These are the block's input and, as long as the same operations lead to the input and to the block's end, the calls
    before: of a sum and its activation, both.
    """
    ours = {node: own for own, node in paired.items()}
    found: dict[fx.Node, fx.Node] = {}
    for name in removed:
        inside = [node for node in theirs if _block_of(node, [name])]
        starts = {given for node in inside for given in _calls_before(node) if given not in inside}
        ends = [node for node in inside if any(user not in inside for user in node.users)]
        if len(starts) != 1 or len(ends) != 1:
            continue
        (start,), (end,) = starts, ends
        if (own := ours.get(start)) is None:
            continue
        ours[end] = own
        found[own] = end
        while own.target == end.target and len(_calls_before(own)) == len(_calls_before(end)) == 1:
            (own,), (end,) = _calls_before(own), _calls_before(end)
            found[own] = end
    return found


def _calls_before(node: fx.Node) -> list[fx.Node]:
    return [given for given in node.all_input_nodes if given.op == "call_function"]


def _block_of(node: fx.Node, removed: Sequence[str]) -> str | None:
    """The removed block that a call of the unpruned model belongs to."""
    stack = (node.meta.get("nn_module_stack") or {}).values()
    paths = [str(path) for path, _ in stack]
    return next((name for name in removed if any(path == name or path.startswith(f"{name}.") for path in paths)), None)
