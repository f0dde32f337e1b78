"""Tensors of a session's graph by the names that a configuration has for them."""

from collections.abc import Sequence

from extractkit.errors import ConfigError, choices
from extractkit.models.graphs.feeding import tensor_named
from extractkit.models.graphs.imported import AnyGraph, AnyTensor
from extractkit.models.graphs.stand_ins import lacked_operation
from extractkit.models.sessions.graph import PLACEHOLDERS


def placeholders(graph: AnyGraph) -> dict[str, AnyTensor]:
    """A graph's own placeholders by the names of their operations."""
    return {
        operation.name: operation.outputs[0]
        for operation in graph.get_operations()
        if operation.type in PLACEHOLDERS and lacked_operation(operation) is None
    }


def outputs_named(graph: AnyGraph, names: Sequence[str] | None) -> dict[str, AnyTensor]:
    """`model.outputs` as tensors by name.

    Raises:
        ConfigError: there is no such tensor.
    """
    outputs = {}
    for name in names or ():
        tensor = tensor_named(graph, name)
        if tensor is None:
            there = [operation.name for operation in graph.get_operations() if operation.outputs]
            raise ConfigError(f"model.outputs: {name!r} is not a tensor. {choices(name, there)}")
        outputs[name] = tensor
    return outputs
