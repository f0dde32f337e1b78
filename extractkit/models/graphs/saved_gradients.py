"""Custom gradients that a SavedModel holds: functions of TensorFlow in place of Python code.

TensorFlow saves them with `experimental_custom_gradients`, its default. Such a function takes the
gradients of the results of an operation (`IdentityN`), and captures tensors of the forward pass, by
their names in the function that the operation is part of. They have other names once calls are
inlined, and others again in copies. So the operation gets them as further inputs, which it keeps
wherever it is copied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.models.graphs import AnyTensor
from extractkit.models.graphs.rebuilding import (
    GraphPart,
    SourceGraph,
    needed_part,
    tensors_in_graph,
)
from extractkit.models.graphs.recomputation import GRADIENT_TYPE
from extractkit.models.tensorflow_internals import saved_gradient

LOST = (
    "has a custom gradient, which the SavedModel does not hold. Save it with "
    "options=tf.saved_model.SaveOptions(experimental_custom_gradients=True)"
)
"""Why an operation has no gradient: a clause."""

_UNUSABLE = "has a custom gradient, whose function in the SavedModel cannot be called: "
_OPERATION = "IdentityN"
_OWN = "ExtractkitSavedGradient"
_FUNCTION = "_extractkit_gradient"


def lost_gradients(graph_def: Any) -> frozenset[str]:
    """Return the types of custom gradients that a SavedModel's graph names, but does not hold.

    TensorFlow gives new names to those that it holds as it loads them.
    """
    held = {one.registered_op_type for one in graph_def.library.registered_gradients}
    nodes = (node for function in graph_def.library.function for node in function.node_def)
    return frozenset(
        node.attr[GRADIENT_TYPE].s.decode() for node in nodes if GRADIENT_TYPE in node.attr
    ).difference(held)


@dataclass(frozen=True, eq=False)
class SavedGradients:
    """The custom gradients of a SavedModel.

    Attributes:
        source: the graph of one of its functions, with calls inlined.
        lost: see `lost_gradients`. Another model in this process may have gradients of these names.
    """

    source: SourceGraph
    lost: frozenset[str]

    def reason(self, operation: Any) -> str | None:
        """Return why an operation with a custom gradient has none here, as a clause, or None."""
        found = self._captured(operation)
        return found if isinstance(found, str) else None

    def part(self, wanted: Sequence[str]) -> GraphPart:
        """Return the part of the graph that tensors need, with operations that have gradients.

        Args:
            wanted: names of the tensors.
        """
        source = self.source
        captured: dict[str, list[str] | str] = {}
        while True:
            taken = [name for one in captured.values() if not isinstance(one, str) for name in one]
            part = needed_part(source, source.inputs, [*wanted, *taken])
            nodes = [
                node
                for node in part.graph_def.node
                if node.op == _OPERATION and GRADIENT_TYPE in node.attr
            ]
            if all(node.name in captured for node in nodes):
                break
            for name in {node.name for node in nodes} - captured.keys():
                captured[name] = self._captured(source.graph.get_operation_by_name(name))
        for node in nodes:
            if not isinstance(names := captured[node.name], str):
                self._complete(node, names)
        return part

    def _complete(self, node: Any, captured: Sequence[str]) -> None:
        """Let a node take the tensors that its gradient captures."""
        data = [edge for edge in node.input if not edge.startswith("^")]
        control = [edge for edge in node.input if edge.startswith("^")]
        node.input[:] = [*data, *captured, *control]
        types = (self.source.graph.get_tensor_by_name(name).dtype for name in captured)
        node.attr["T"].list.type.extend(one.base_dtype.as_datatype_enum for one in types)
        node.attr.pop("_output_shapes", None)
        node.attr[_FUNCTION].s = node.attr[GRADIENT_TYPE].s
        node.attr[GRADIENT_TYPE].s = _OWN.encode()

    def _captured(self, operation: Any) -> list[str] | str:
        """Return the names of the tensors that a gradient captures, or why there is none."""
        kind = _type_of(operation)
        function = None if kind in self.lost else saved_gradient(kind)
        if function is None:
            return LOST
        specs = tf.nest.flatten(function.structured_outputs)
        results = len(operation.inputs)
        if operation.type != _OPERATION or len(specs) != results:
            return f"{_UNUSABLE}it gives {len(specs)} gradients for {results} inputs"
        if not all(one is None or isinstance(one, tf.TensorSpec) for one in specs):
            return f"{_UNUSABLE}it does not give tensors"
        found = []
        for outside, _ in _captures(function):
            if (name := self._name_of(outside, operation)) is None:
                return f"{_UNUSABLE}it needs {outside.name!r} of function {outside.graph.name!r}"
            found.append(name)
        return found

    def _name_of(self, tensor: tf.Tensor, operation: Any) -> str | None:
        """Return the name here of a tensor of the function that an operation is part of."""
        own = next(
            (
                one
                for one in tensor.graph.get_operations()
                # Definitions of operations are slow to get.
                if one.type == operation.type and _type_of(one) == _type_of(operation)
            ),
            None,
        )
        if own is None or not f"/{operation.name}".endswith(f"/{own.name}"):
            return None
        for given, here in zip(own.inputs, operation.inputs, strict=True):
            if given is tensor:
                return str(here.name)
        call = operation.name.removesuffix(own.name)
        name = f"{call}{tensor.name}"
        arguments = [at for at, one in enumerate(tensor.graph.inputs) if one is tensor]
        if call and arguments:
            passed = self._arguments(call)
            if len(passed) != len(tensor.graph.inputs):
                return None
            name = f"{passed[arguments[0]]}:0"
        try:
            return str(self.source.graph.get_tensor_by_name(name).name)
        except KeyError:  # it was pruned
            return None

    def _arguments(self, call: str) -> list[str]:
        """Return the names of the operations that pass on the arguments of an inlined call."""
        prefix = f"Func/{call}input/_"
        names = (one.name for one in self.source.graph.get_operations())
        numbers = [int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)]
        return [f"{prefix}{number}" for number in sorted(numbers)]


def _type_of(operation: Any) -> str:
    return str(operation.node_def.attr[GRADIENT_TYPE].s.decode())


def _captures(function: Any) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Return the tensors of the forward pass that a gradient captures, with its placeholders."""
    return [pair for pair in function.graph.captures if tf.is_symbolic_tensor(pair[0])]


@dataclass(frozen=True, eq=False)
class _Function:
    """The graph of a function, of which some placeholders are replaced; see `SourceGraph`."""

    graph: Any
    inputs: Mapping[str, AnyTensor]


@tf.RegisterGradient(_OWN)
def _gradients(operation: Any, *upstream: tf.Tensor | None) -> list[tf.Tensor | None]:
    """Return the gradients with respect to the inputs of an operation by the saved function."""
    function = saved_gradient(operation.get_attr(_FUNCTION).decode())
    assert function is not None, "the loaded model is kept"
    captures = _captures(function)
    own = len(operation.inputs) - len(captures)
    # Of whole numbers and handles of variables there are no gradients, and none are used.
    given = [
        one if gradient is None else gradient
        for one, gradient in zip(operation.inputs[:own], upstream, strict=False)
    ]
    taken = [*function.graph.inputs[:own], *(inside for _, inside in captures)]
    values = dict(zip((one.name for one in taken), [*given, *operation.inputs[own:]], strict=True))
    source = _Function(function.graph, {one.name: one for one in taken})
    results = iter(tensors_in_graph(source, values, [one.name for one in function.outputs]))
    specs = tf.nest.flatten(function.structured_outputs)
    return [*(None if one is None else next(results) for one in specs), *([None] * len(captures))]
