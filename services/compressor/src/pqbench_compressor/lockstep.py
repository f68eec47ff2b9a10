"""Two modules of one architecture, run node by node on the same batches: a pruned model beside the unpruned one.

Where blocks were removed, what leads to them stands for what left them: it should now give that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.fx.node import map_arg

from pqbench_compressor import blocks
from pqbench_wire.errors import Refused

Batch = tuple[torch.Tensor, ...]


class PerBatch(list[Any]):
    """The value of a node for each batch."""


class Program:
    """An exported module. Values are computed when they are asked for, with the module's parameters of that moment."""

    def __init__(self, module: nn.Module, batches: Sequence[Batch]) -> None:
        exported = torch.export.export(module, batches[0]).run_decompositions({})
        self.graph, self._batches = exported.graph, batches
        self.tensors: dict[fx.Node, torch.Tensor] = {}  # parameters, buffers and constants, by their placeholder
        self.names: dict[fx.Node, str] = {}
        self._values: dict[fx.Node, Any] = {}
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        inputs = 0
        for node, spec in zip(placeholders, exported.graph_signature.input_specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self._values[node] = PerBatch(batch[inputs] for batch in batches)
                inputs += 1
                continue
            assert spec.target is not None
            self.names[node] = spec.target
            is_own = spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)
            self.tensors[node] = _found(module, spec.target) if is_own else exported.constants[spec.target]

    @property
    def nodes(self) -> list[fx.Node]:
        """The calls, in the order of execution."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    def value(self, node: fx.Node) -> Any:
        """The node's value, PerBatch where it depends on the input; what it needs is computed first."""
        if node in self.tensors:
            return self.tensors[node].detach()
        if node not in self._values:
            self._values[node] = self._computed(node)
        return self._values[node]

    def forget(self, node: fx.Node) -> None:
        """Free a value that nothing needs any more."""
        self._values.pop(node, None)

    def _computed(self, node: fx.Node) -> Any:
        for needed in node.all_input_nodes:
            self.value(needed)
        given = [self._values.get(needed) for needed in node.all_input_nodes]
        target: Any = node.target
        if not any(isinstance(value, PerBatch) for value in given):
            return target(*map_arg(node.args, self.value), **map_arg(node.kwargs, self.value))
        return PerBatch(
            target(*map_arg(node.args, pick), **map_arg(node.kwargs, pick))
            for pick in (self._picker(index) for index in range(len(self._batches)))
        )

    def _picker(self, index: int) -> Callable[[fx.Node], Any]:
        def pick(node: fx.Node) -> Any:
            value = self.value(node)
            return value[index] if isinstance(value, PerBatch) else value

        return pick


def _found(module: nn.Module, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(owner), leaf)
    return tensor


class Lockstep:
    """A pruned module and the unpruned one. `visit` is given each call of the pruned one before it is computed."""

    def __init__(self, pruned: nn.Module, unpruned: nn.Module, batches: Sequence[Batch]) -> None:
        self.pruned, self.unpruned = Program(pruned, batches), Program(unpruned, batches)
        removed = blocks.removed(pruned, unpruned)
        paired = _paired(self.pruned.nodes, self.unpruned.nodes, removed)
        self._theirs = paired | _moved(paired, self.unpruned.nodes, removed)
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
        theirs = self._theirs[node]
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
        own = ours[end] = ours[start]
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
