"""Recomputation of tensors of a graph with other values of a tensor that they depend on.

What depends on the replaced tensor is added to the graph once more, in the body of a loop for
example. Everything else is shared. Gradients that are in the graph already are recomputed like any
other tensor, custom ones included, since they are plain operations there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import tensorflow as tf

from extractkit.errors import SelectionError
from extractkit.models.graphs import AnyTensor
from extractkit.models.graphs.definitions import called
from extractkit.models.graphs.rebuilding import forget_others

GRADIENT_TYPE = "_gradient_op_type"
"""The attribute of an operation with the name of a gradient, in place of that of its type."""

_COPIED = 1024
"""Most elements of a constant that is copied, so that shapes remain static where it is consumed."""

_ENTERING = ("Enter", "RefEnter")
"""Types of the operations through which all values come into a loop of TensorFlow 1."""


class Dependent:
    """The part of the current graph between some tensors and those that depend on them.

    Args:
        replaced: the tensors to replace.
        wanted: the tensors to recompute.
        held: tensors that keep their values, although they depend on replaced ones.

    Raises:
        SelectionError: a loop of TensorFlow 1 is in that part. Its operations form a cycle, and
            belong to one frame: they cannot be copied from it one by one. The message is a clause.
    """

    def __init__(
        self,
        replaced: Sequence[AnyTensor],
        wanted: Sequence[AnyTensor],
        held: Iterable[AnyTensor] = (),
    ) -> None:
        self._replaced = [tensor.name for tensor in replaced]
        self._wanted = [tensor.name for tensor in wanted]
        graph = tf.compat.v1.get_default_graph()
        kept = {tensor.name for tensor in held}
        operations = _dependent(wanted, {*self._replaced}, kept)
        for one in operations:
            # All that reaches a loop enters it, and nothing before the first one is in a cycle.
            if one.type in _ENTERING:
                raise SelectionError(
                    "a loop of TensorFlow 1 depends on what is replaced, and cannot be recomputed "
                    "for other values"
                )
        own = {one.name for operation in operations for one in operation.outputs} - kept
        constants: dict[str, Any] = {}
        self._shared: dict[str, AnyTensor] = {}
        for operation in operations:
            for tensor in operation.inputs:
                if tensor.name in own or tensor.name in self._replaced:
                    continue
                if _is_small_constant(tensor.op):
                    constants[tensor.op.name] = tensor.op
                else:
                    self._shared[tensor.name] = tensor
        self._shared |= {
            one.name: one
            for one in wanted
            if one.name not in own and one.name not in self._replaced
        }
        # A reference of TensorFlow 1 to a variable cannot be passed to a loop.
        self._shared = {
            name: tf.identity(one) if one.dtype != one.dtype.base_dtype else one
            for name, one in self._shared.items()
        }
        self._graph = graph
        self._graph_def = _graph_def(graph, [*constants.values(), *operations])
        self._used = {name for one in operations for name in (two.name for two in one.inputs)}

    def operation_types(self) -> "OperationTypes":
        """Return the types of the operations of this part."""
        functions = {one.signature.name: one for one in self._graph_def.library.function}
        within: set[str] = set()
        waiting, seen = [*chain.from_iterable(map(called, self._graph_def.node))], set[str]()
        while waiting:
            name = waiting.pop()
            if name in functions and name not in seen:
                seen.add(name)
                within |= {node.op for node in functions[name].node_def}
                waiting += chain.from_iterable(map(called, functions[name].node_def))
        return OperationTypes(
            frozenset(node.op for node in self._graph_def.node), frozenset(within)
        )

    def at(
        self, values: Sequence[tf.Tensor], gradients: Mapping[str, str] | None = None
    ) -> list[tf.Tensor]:
        """Return the wanted tensors for these values of the replaced ones, in the current graph.

        Args:
            gradients: names of registered gradients to use in place of those of some types of
                operations.
        """
        known = {**self._shared, **dict(zip(self._replaced, values, strict=True))}
        graph = tf.compat.v1.get_default_graph()
        inside = {name: _within(graph, tensor) for name, tensor in known.items()}
        names = [name for name in dict.fromkeys(self._wanted) if name not in inside]
        graph_def = self._graph_def
        if graph is self._graph:
            # It has the functions, and would lose them if they were added again.
            graph_def = tf.compat.v1.GraphDef(versions=graph_def.versions, node=graph_def.node)
        if gradients:
            graph_def = _with_gradients(graph_def, gradients)
        found = tf.graph_util.import_graph_def(
            graph_def,
            input_map={name: one for name, one in inside.items() if name in self._used},
            return_elements=names,
            name="recomputed",
        )
        inside |= dict(zip(names, found, strict=True))
        return [inside[name] for name in self._wanted]


@dataclass(frozen=True)
class OperationTypes:
    """The types of the operations of a part of a graph.

    Attributes:
        outside: those of the graph itself.
        within: those in functions that these call, branches and bodies of loops included.
    """

    outside: frozenset[str]
    within: frozenset[str]


def _with_gradients(graph_def: Any, gradients: Mapping[str, str]) -> Any:
    """Return a copy with other gradients for some types of operations."""
    changed = tf.compat.v1.GraphDef()
    changed.CopyFrom(graph_def)
    for node in changed.node:
        if node.op in gradients:
            node.attr[GRADIENT_TYPE].s = gradients[node.op].encode()
    return changed


def _within(graph: Any, tensor: tf.Tensor) -> tf.Tensor:
    """Return a tensor of an outer graph in a graph, such as that of the body of a loop."""
    return tensor if tensor.graph is graph else graph.capture(tensor)


def _dependent(wanted: Iterable[AnyTensor], replaced: set[str], held: set[str]) -> list[Any]:
    """Return the operations that depend on replaced tensors, and that wanted tensors need."""
    known: dict[str, bool] = {}
    found = []
    waiting = [(tensor.op, False) for tensor in wanted if tensor.name not in replaced | held]
    while waiting:
        operation, seen = waiting.pop()
        if seen:
            depends = any(
                tensor.name in replaced
                or (tensor.name not in held and known.get(tensor.op.name, False))
                for tensor in operation.inputs
            )
            known[operation.name] = depends
            if depends:
                found.append(operation)
        elif operation.name not in known:
            known[operation.name] = False
            waiting.append((operation, True))
            waiting += [
                (tensor.op, False)
                for tensor in operation.inputs
                if tensor.name not in replaced | held and tensor.op.name not in known
            ]
    return found


def _is_small_constant(operation: Any) -> bool:
    if operation.type != "Const":
        return False
    elements = operation.outputs[0].shape.num_elements()
    return elements is not None and elements <= _COPIED


def _graph_def(graph: Any, operations: Iterable[Any]) -> Any:
    """Return operations of a graph, with the functions that they may call."""
    nodes = {operation.name: operation.node_def for operation in operations}
    whole = graph.as_graph_def() if any(map(called, nodes.values())) else None
    graph_def = tf.compat.v1.GraphDef(
        versions=graph.graph_def_versions, library=None if whole is None else whole.library
    )
    for node in nodes.values():
        own = graph_def.node.add()
        own.CopyFrom(node)
        forget_others(own, nodes)
    return graph_def
