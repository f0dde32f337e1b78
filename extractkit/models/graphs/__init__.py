"""TensorFlow graphs, read without TensorFlow's Python objects.

TensorFlow imports a graph of 30,000 operations and infers its dtypes and shapes in a fraction of a
second. Creating Python objects for every operation takes five times as long, and each access calls
into TensorFlow again. An `ImportedGraph` skips that step, and reads what analysis needs once.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import tensorflow as tf

from extractkit.core.catalog import escape
from extractkit.core.spec import STEP, TAKEN
from extractkit.models.axes import RawShape
from extractkit.models.tensorflow_internals import (
    imported_operations,
    static_sizes,
    without_python_objects,
)

COLOCATION = "_class"
"""The attribute of a node that names others, with which it is to be on one device."""


class ImportedTensor:
    """One result of an operation.

    Attributes:
        op: The operation.
        value_index: Its position among the operation's results.
        name: `op:0`.
        dtype: The dtype of its elements.
        sizes: The length of each axis, or None if unknown. None as a whole for an unknown rank.
    """

    __slots__ = ("_consumers", "dtype", "name", "op", "sizes", "value_index")

    def __init__(self, op: "ImportedOperation", value_index: int, dtype: tf.DType, sizes: RawShape):
        self.op = op
        self.value_index = value_index
        self.name = f"{op.name}:{value_index}"
        self.dtype = dtype
        self.sizes = sizes
        self._consumers: list[ImportedOperation] = []

    @property
    def graph(self) -> "ImportedGraph":
        """The graph that contains it."""
        return self.op.graph

    @property
    def shape(self) -> tf.TensorShape:
        """The static shape."""
        return tf.TensorShape(self.sizes)

    def consumers(self) -> list["ImportedOperation"]:
        """Return the operations that consume it, once for each of their inputs."""
        return self._consumers


class ImportedOperation:
    """One operation.

    Attributes:
        graph: The graph that contains it.
        node_def: Its definition, with default values of attributes.
        name, type: Its name and type.
        inputs: The tensors that it consumes.
        control_inputs: The operations that have to run before it.
        outputs: Its results.
    """

    __slots__ = ("control_inputs", "graph", "inputs", "name", "node_def", "outputs", "type")

    def __init__(self, graph: "ImportedGraph", node_def: Any):
        self.graph = graph
        self.node_def = node_def
        self.name: str = node_def.name
        self.type: str = node_def.op
        self.inputs: list[ImportedTensor] = []
        self.control_inputs: list[ImportedOperation] = []
        self.outputs: list[ImportedTensor] = []


class ImportedGraph:
    """An imported graph. It is read-only.

    Args:
        graph_def: the graph.

    Raises:
        ValueError, TypeError, KeyError, tf.errors.OpError: TensorFlow cannot import it.
    """

    def __init__(self, graph_def: Any) -> None:
        self._native = tf.Graph()
        with self._native.as_default(), without_python_objects():
            tf.graph_util.import_graph_def(graph_def, name="")
        self._graph_def = self._native.as_graph_def()
        nodes = {node.name: node for node in self._graph_def.node}
        self._operations: dict[str, ImportedOperation] = {}
        for native in imported_operations(self._native):
            operation = ImportedOperation(self, nodes[native.name])
            operation.outputs = [
                ImportedTensor(operation, index, output.dtype, static_sizes(output))
                for index, output in enumerate(native.outputs)
            ]
            self._operations[operation.name] = operation
        for operation in self._operations.values():
            self._connect(operation)

    def as_graph_def(self) -> Any:
        """Return the definition, which must not be changed."""
        return self._graph_def

    def as_default(self) -> AbstractContextManager[Any]:
        """Return a context with the functions of the graph."""
        found: AbstractContextManager[Any] = self._native.as_default()
        return found

    def get_operations(self) -> list[ImportedOperation]:
        """Return every operation in topological order, except for the back edges of loops."""
        return self._listed

    def get_operation_by_name(self, name: str) -> ImportedOperation:
        """Return an operation by its name.

        Raises:
            KeyError: there is none.
        """
        return self._operations[name]

    def get_tensor_by_name(self, name: str) -> ImportedTensor:
        """Return a tensor by its name (`op:0`).

        Raises:
            KeyError: there is none.
        """
        operation, _, index = name.partition(":")
        outputs = self._operations[operation].outputs
        if not index.isdecimal() or int(index) >= len(outputs):
            raise KeyError(name)
        return outputs[int(index)]

    def static_value(self, tensor: ImportedTensor) -> Any:
        """Return the constant value of a tensor, or None if it is not constant."""
        if tensor.op.type == "Const":
            return tf.make_ndarray(tensor.op.node_def.attr["value"].tensor)
        return tf.get_static_value(self._whole.get_tensor_by_name(tensor.name))

    @cached_property
    def _listed(self) -> list[ImportedOperation]:
        return list(self._operations.values())

    @cached_property
    def _whole(self) -> tf.Graph:
        """Return the graph with TensorFlow's Python objects."""
        whole = tf.Graph()
        with whole.as_default():
            tf.graph_util.import_graph_def(self._graph_def, name="")
        return whole

    def _connect(self, operation: ImportedOperation) -> None:
        for edge in operation.node_def.input:
            if edge[0] == "^":
                operation.control_inputs.append(self._operations[edge[1:]])
                continue
            name, _, index = edge.partition(":")
            taken = self._operations[name].outputs[int(index or 0)]
            operation.inputs.append(taken)
            taken._consumers.append(operation)


AnyGraph: TypeAlias = tf.Graph | ImportedGraph
AnyOperation: TypeAlias = tf.Operation | ImportedOperation
AnyTensor: TypeAlias = tf.Tensor | ImportedTensor
"""The types that analysis takes: TensorFlow's objects for traced functions, or these."""

INSIDE = "|"
"""Separates the parts of an inner tensor's name. No operation's name contains it."""


LOOPS = ("While", "StatelessWhile")
"""Types of operations that run a function as long as another one returns True."""

CONDITIONALS = ("If", "StatelessIf", "Case", "StatelessCase")
"""Types of operations that run one of several functions. Their first input decides which."""


def leading_axes(kinds: Sequence[str]) -> tuple[tuple[str, ...], frozenset[int]]:
    """Return the axes in front of a value that operations of these types, outermost first, make.

    Each loop adds an axis of its steps. A branch decides at how many steps of the loop around it
    there is a value. In a branch outside of all loops, a loop runs all of its steps or none, and
    any other value is there once or not at all, along an axis of its own.

    Returns:
        The names of the axes, and the positions of those whose lengths branches decide.
    """
    steps, varying = 0, set()
    for kind in kinds:
        if kind in LOOPS:
            steps += 1
        elif kind in CONDITIONALS:
            varying.add(max(0, steps - 1))
    return (STEP,) * steps or (TAKEN,) * bool(varying), frozenset(varying)


@dataclass(frozen=True, eq=False)
class InnerTensor:
    """A tensor inside a loop, a branch or a nested function: its values at all steps.

    Its graph does not contain it. A part of the graph that is rebuilt for its name does; see
    `graphs.loops`.

    Attributes:
        inner: The tensor of one step, in its own graph.
        op: The operation of the main graph that runs the loop, branch or function. In TensorFlow 1,
            where the main graph contains these, the tensor's own operation.
        name: The names of the operations to go through, outermost first, and of the tensor.
        axes: The names of the axes in front of those of one step; see `leading_axes`.
        varying: The positions among them of those whose lengths branches decide.
        deciding: The tensors that decide which branches are taken, each in its own graph.
        loops: The loops around it, outermost first, one for each axis of steps.
    """

    inner: tf.Tensor
    op: AnyOperation
    name: str
    axes: tuple[str, ...]
    varying: frozenset[int] = frozenset()
    deciding: tuple[AnyTensor, ...] = ()
    loops: tuple[AnyOperation, ...] = ()

    @property
    def graph(self) -> AnyGraph:
        """The main graph."""
        graph: AnyGraph = self.op.graph
        return graph

    @property
    def dtype(self) -> tf.DType:
        """The dtype of its elements."""
        return self.inner.dtype

    @property
    def sizes(self) -> RawShape:
        """The static length of each axis. Those in front are not known."""
        if self.inner.shape.rank is None:
            return None
        return (*(None,) * len(self.axes), *self.inner.shape.as_list())

    @property
    def position(self) -> tuple[int, int]:
        """The positions of its operation in the innermost function, and among its results."""
        return self.inner.graph.get_operations().index(self.inner.op), self.inner.value_index


def around(name: str) -> str:
    """Return the first part of an inner tensor's name; in TensorFlow 1, all but the tensor's."""
    return name.partition(INSIDE)[0] or name.rpartition(INSIDE)[0]


def of_one_step(value: Any) -> Any:
    """Return the tensor in its function's graph for an inner tensor, or any other value itself."""
    return value.inner if isinstance(value, InnerTensor) else value


def is_tensor(value: object) -> bool:
    """Return whether a value is a tensor of a graph, or inside one of its functions."""
    return isinstance(value, AnyTensor | InnerTensor)


def static_value(tensor: AnyTensor) -> Any:
    """Return the constant value of a tensor as an array, or None if it is not constant."""
    if isinstance(tensor, ImportedTensor):
        return tensor.graph.static_value(tensor)
    return tf.get_static_value(tensor)


_HANDLES = (tf.resource, tf.variant)


def readable(operation: Any) -> list[AnyTensor]:
    """Return the operation's results that are not handles."""
    return [tensor for tensor in operation.outputs if not is_handle(tensor.dtype)]


@cache
def is_handle(dtype: tf.DType) -> bool:
    """Return whether tensors of a type are handles, which cannot be copied out."""
    return dtype.base_dtype in _HANDLES


def short_paths(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Return the path in the address for each operation's name.

    Args:
        prefix: A prefix to remove from names, repeatedly, unless the rest is another name.
    """

    def short(name: str) -> str:
        while prefix and name.startswith(prefix) and name != prefix:
            name = name.removeprefix(prefix)
        return name

    shortened = {name: short(name) for name in names}
    counts = Counter(shortened.values())
    return {name: escaped(rest if counts[rest] == 1 else name) for name, rest in shortened.items()}


def escaped(path: str) -> str:
    """Return the path with each part escaped for addresses."""
    return "/".join(escape(part) for part in path.split("/"))
