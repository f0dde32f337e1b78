"""Nodes of graphs and of the functions in their libraries, as definitions.

In a graph, `op:1` is the second result of an operation. In a function, `op:name:0` names a result
by its argument in the operation's definition, and arguments of the function have plain names.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from extractkit.models.graphs import CONDITIONALS, LOOPS
from extractkit.models.tensorflow_internals import operation_definition

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
"""Types of operations that run a function once."""

ADDED = "extractkit_steps"
"""A part of the names of nodes that are added to graphs and functions."""

_ONLY = {**dict.fromkeys(LOOPS, "body"), **dict.fromkeys(CALLS, "f")}


def functions_of(node: Any) -> dict[str, Any]:
    """Return the functions that a node names, by role: `body`, `then_branch`, `branches.1`."""
    found = {}
    for key in sorted(node.attr):
        attribute = node.attr[key]
        if attribute.HasField("func"):
            found[key] = attribute.func
        elif attribute.HasField("list"):
            functions = enumerate(attribute.list.func)
            found |= {f"{key}.{position}": function for position, function in functions}
    return found


def returning(node: Any) -> dict[str, Any]:
    """Return those of a node's functions that can be made to return more, by role."""
    functions = functions_of(node)
    if node.op in CONDITIONALS:
        return functions
    role = _ONLY.get(node.op)
    return {role: functions[role]} if role in functions else {}


def with_role(name: str, role: str) -> str:
    """Return an operation's name with the role of one of its functions. No name contains `@`."""
    return f"{name}@{role}"


def split_role(part: str) -> tuple[str, str]:
    """Return the name and the role in the result of `with_role`."""
    name, _, role = part.partition("@")
    return name, role


def data_inputs(node: Any) -> list[str]:
    """Return the inputs of a node without control inputs."""
    return [edge for edge in node.input if not edge.startswith("^")]


class Nodes:
    """The nodes of a graph or function, by name, and its names of their results.

    Args:
        nodes: The nodes.
        function: The function that they are the body of. None for a graph.
    """

    def __init__(self, nodes: Any, function: Any) -> None:
        self._nodes = nodes
        self.function = function
        self._by_name = {node.name: node for node in nodes}
        self._arguments = [one.name for one in function.signature.input_arg] if function else []

    def __getitem__(self, name: str) -> Any:
        """Return a node by its name."""
        return self._by_name[name]

    def producer(self, edge: str) -> Any:
        """Return the node of an edge, through identities; None for an argument of a function."""
        node = self._by_name.get(edge.lstrip("^").partition(":")[0])
        while node is not None and node.op == "Identity":
            edge = node.input[0]
            node = self._by_name.get(edge.partition(":")[0])
        return node

    def argument(self, edge: str) -> int | None:
        """Return the position of the argument that an edge passes on; None if it is another."""
        while (node := self._by_name.get(edge.partition(":")[0])) is not None:
            if node.op != "Identity":
                return None
            edge = node.input[0]
        return self._arguments.index(edge) if edge in self._arguments else None

    def add(self, name: str, op: str, inputs: Sequence[str], **types: Any) -> Any:
        """Add a node with attributes that are types, and return it."""
        node = self._nodes.add(name=self.unused(name), op=op, input=inputs)
        for key, value in types.items():
            node.attr[key].type = value.as_datatype_enum
        self._by_name[node.name] = node
        return node

    def add_list_argument(self) -> str:
        """Add an argument that is a list to the function, and return its name."""
        name = self.unused(ADDED)
        self.function.signature.input_arg.add(name=name, type=tf.variant.as_datatype_enum)
        self._arguments.append(name)
        if "_input_shapes" in self.function.attr:
            self.function.attr["_input_shapes"].list.shape.add()
        return name

    def add_result(self, edge: str, dtype: tf.DType) -> None:
        """Have the function return an edge too."""
        results = self.function.signature.output_arg
        name = f"{ADDED}_{len(results)}"
        results.add(name=name, type=dtype.as_datatype_enum)
        self.function.ret[name] = edge

    def unused(self, name: str) -> str:
        """Return a name that no node or argument has."""
        unused, count = name, 0
        while unused in self._by_name or unused in self._arguments:
            count += 1
            unused = f"{name}_{count}"
        return unused

    def constant(self, name: str, value: Any, dtype: tf.DType) -> Any:
        """Add a constant, and return its node."""
        node = self.add(name, "Const", (), dtype=dtype)
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype))
        return node

    def edge(self, node: Any, output: str = "output", index: int = 0) -> str:
        """Return the edge from a result: its argument in the operation's definition, and index."""
        if self.function is not None:
            return f"{node.name}:{output}:{index}"
        return f"{node.name}:{index}"


def outputs_of(node: Any, functions: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield argument, index and type of each result of a node."""
    called = functions.get(node.op)
    definition = operation_definition(node.op) if called is None else called.signature
    return typed(node, definition, definition.output_arg)


def typed(node: Any, definition: Any, arguments: Iterable[Any]) -> Iterator[tuple[str, int, int]]:
    """Yield argument, index and type of each input or result of a node.

    Args:
        definition: The definition of its operation, or the signature of its function.
        arguments: The inputs or the results among it. A damaged file may have any number of them.
    """
    defaults = {one.name: one.default_value for one in definition.attr}

    def attribute(name: str) -> Any:
        return node.attr[name] if name in node.attr else defaults[name]

    for argument in arguments:
        if argument.type_list_attr:
            kinds = attribute(argument.type_list_attr).list.type
            yield from ((argument.name, at, kind) for at, kind in enumerate(kinds))
            continue
        count = attribute(argument.number_attr).i if argument.number_attr else 1
        kind = argument.type or attribute(argument.type_attr).type
        yield from ((argument.name, at, kind) for at in range(count))
