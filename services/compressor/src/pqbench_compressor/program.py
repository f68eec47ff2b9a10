"""An exported module as a graph of calls, whose values are computed one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.fx.node import map_arg

aten = torch.ops.aten
CONVOLUTION, PRODUCT = aten.conv2d.default, aten.linear.default
NORM = aten._native_batch_norm_legit_no_training.default

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


def norm_after(node: fx.Node) -> fx.Node | None:
    """The batch norm that alone reads a layer's output."""
    (user, *others) = node.users
    return user if not others and user.target == NORM else None
