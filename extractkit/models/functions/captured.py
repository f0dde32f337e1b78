"""What the graph of a function captures: variables and tables, and the content of each.

A graph holds the handles of its variables, but only weak references to the variables themselves.
A factory that returns `tf.saved_model.load(path).signatures["serving_default"]` drops the loaded
object, and the variables with it. TensorFlow still calls such a function, because the content
lives as long as the handle.
"""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.core import digests
from extractkit.core.values import as_array
from extractkit.models.graphs.purity import consumers

# There is no public way to get the content of a handle. Its text shows the variable's name, to
# which TensorFlow appends a counter, and the number of its type.
_HANDLE = re.compile(
    r'ResourceHandle\(name="(?P<name>[^"]*?)(?:/\d+)?".*type="tensorflow::Var".*'
    r"DType enum: (?P<dtype>\d+)"
)


@dataclass(frozen=True, eq=False)
class OrphanedVariable:
    """A variable of which only the handle is left, with the members that models use.

    Attributes:
        name: the variable's name, with `:0`.
        dtype, shape: those of its content.
        handle: the resource that holds it.
    """

    name: str
    dtype: tf.DType
    shape: tf.TensorShape
    handle: tf.Tensor

    def __tf_tensor__(self, dtype: tf.DType | None = None, name: str | None = None) -> tf.Tensor:
        """Return the content; TensorFlow calls this to convert the object to a tensor."""
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype, name=name)

    def assign(self, value: tf.Tensor) -> None:
        """Replace the content."""
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=value)


def captured_variables(graph: Any) -> dict[int, Any]:
    """Return the variables of a function's graph by the `id` of their handles."""
    try:
        return {id(variable.handle): variable for variable in graph.variables}
    except AssertionError:  # how TensorFlow reports that a weak reference is dead
        return {id(variable.handle): variable for variable in _orphaned(graph)}


def _orphaned(graph: Any) -> Iterator[OrphanedVariable]:
    for outside, inside in graph.captures:
        held = _HANDLE.search(repr(outside)) if outside.dtype == tf.resource else None
        if held is not None:
            dtype = tf.as_dtype(int(held["dtype"]))
            content = tf.raw_ops.ReadVariableOp(resource=outside, dtype=dtype)
            name = held["name"] or inside.op.name
            yield OrphanedVariable(f"{name}:0", dtype, content.shape, outside)


_LOOK_UP = "LookupTableFindV2"


def captured_contents(
    graph: Any, weights: Mapping[int, str], impure: Container[str] = frozenset()
) -> dict[str, str] | None:
    """Return a text for each placeholder of a captured object, by the placeholder's name.

    Args:
        graph: the graph of a function.
        weights: The text for each weight, by the id of its variable's handle.
        impure: Names of operations whose results are not extracted. What only they use decides no
            value, and the state of a random generator differs each time a model is loaded.

    Returns:
        None if the content of a captured object is not known.
    """
    variables = captured_variables(graph)
    contents = {}
    for outside, inside in graph.captures:
        content = weights.get(id(outside))
        uses = [operation.name in impure for operation in inside.consumers()]
        if content is None and uses and all(uses):
            content = "random"
        if content is None:
            # A variable that is not a weight of the model is a constant.
            content = _content(variables.get(id(outside), outside), inside)
        if content is None:
            return None
        contents[inside.op.name] = content
    return contents


def _content(outside: Any, inside: tf.Tensor) -> str | None:
    if outside.dtype == tf.resource:
        return _table(outside, inside)
    if outside.dtype == tf.variant:
        return None
    return f"constant {digests.of_array(as_array(tf.convert_to_tensor(outside).numpy()))}"


def _table(handle: tf.Tensor, inside: tf.Tensor) -> str | None:
    """Return the content of a lookup table, or None for anything else or a nested use."""
    for operation in consumers(inside):
        if operation.type == _LOOK_UP:
            keys, values = tf.raw_ops.LookupTableExportV2(
                table_handle=handle,
                Tkeys=operation.get_attr("Tin"),
                Tvalues=operation.get_attr("Tout"),
            )
            return f"table {digests.of_table(keys.numpy(), values.numpy())}"
    return None
