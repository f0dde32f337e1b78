"""Variables that a function's graph captures, including those whose Python objects are gone.

A graph holds the handles of its variables, but only weak references to the variables themselves.
A factory that returns `tf.saved_model.load(path).signatures["serving_default"]` drops the loaded
object, and the variables with it. TensorFlow still calls such a function, because the content
lives as long as the handle.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# There is no public way to ask a handle what it holds; its text shows the name of the variable, to
# which TensorFlow appends a counter, and the number of its type.
_HANDLE = re.compile(
    r'ResourceHandle\(name="(?P<name>[^"]*?)(?:/\d+)?".*type="tensorflow::Var".*'
    r"DType enum: (?P<dtype>\d+)"
)


@dataclass(frozen=True, eq=False)
class OrphanedVariable:
    """A variable of which only the handle is left, as far as models use variables.

    Attributes:
        name: of the variable, with `:0`.
        dtype, shape: of its content.
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
