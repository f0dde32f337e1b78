"""Graphs as definitions: nodes, functions, the digest of what they compute, and their data flow.

In a graph, `op:1` is the second result of an operation. In a function, `op:name:0` names a result
by its argument in the operation's definition, and arguments of the function have plain names.

Names do not enter the digest, since they depend on what was built before. A node is identified by
its operation, attributes, device if any, and the positions of its inputs in the order of nodes; a
function by its body, and by whether XLA has to compile it.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.core.values import add_to_digest
from extractkit.models.graphs import COLOCATION, CONDITIONALS, LOOPS
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


def called(node: Any) -> list[str]:
    """Return the names of the functions that a node calls."""
    return [function.name for function in functions_of(node).values()]


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


_PYTHON = re.compile(r"^(Stateless|Eager)?PyFunc")
# Attributes that only group nodes.
_SHARED = ("shared_name", "frame_name", "tensor_array_name", "stack_name")
_NAMES = ("container", "debug_name")
# The only internal attribute of TensorFlow that changes the computation.
_XLA = "_XlaMustCompile"


def graph_digest(graph_def: Any, contents: Mapping[str, str]) -> str | None:
    """Return the SHA-256 over every node, in order.

    Args:
        graph_def: The graph, and the functions in its library that it runs.
        contents: Texts that replace the attributes of nodes, by name, for nodes whose attributes do
            not describe their content or must not count.

    Returns:
        The digest in hexadecimal. None if the graph calls Python code, which it does not contain.
    """
    library = {function.signature.name: function for function in graph_def.library.function}
    for nodes in (graph_def.node, *(function.node_def for function in library.values())):
        if any(_PYTHON.search(node.op) for node in nodes):
            return None
    return _Digests(library).body(graph_def.node, contents=contents).hex()


class _Digests:
    """Digests of functions, each computed once.

    Args:
        library: Definitions of functions by name.
    """

    def __init__(self, library: Mapping[str, Any]) -> None:
        self._library = library
        self._made: dict[str, bytes] = {}

    def body(
        self,
        nodes: Sequence[Any],
        arguments: Sequence[str] = (),
        results: Sequence[str] = (),
        contents: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the digest of nodes in order.

        Args:
            arguments: Names that the nodes' inputs may refer to, besides the nodes themselves.
            results: The edges of the results.
            contents: See `graph_digest`.
        """
        names = [*arguments, *(node.name for node in nodes)]
        positions = {name: position for position, name in enumerate(names)}
        shared: dict[bytes, int] = {}
        digests = [
            self._node(node, positions, shared, (contents or {}).get(node.name)) for node in nodes
        ]
        return _digest([str(len(arguments)), *digests, *(_edge(one, positions) for one in results)])

    def _node(
        self, node: Any, positions: Mapping[str, int], shared: dict[bytes, int], content: str | None
    ) -> bytes:
        data = [_edge(one, positions) for one in node.input if not one.startswith("^")]
        # Control inputs are a set.
        control = sorted(_edge(one, positions) for one in node.input if one.startswith("^"))
        operation = self._function(node.op) if node.op in self._library else node.op
        parts = [content] if content is not None else self._attributes(node.attr, shared)
        placed = ["device", _device(node.device)] if node.device else []
        parts += [*placed, *_compilation(node.attr)]
        return _digest([operation, "inputs", *data, *control, "attributes", *parts])

    def _attributes(
        self, attributes: Mapping[str, Any], shared: dict[bytes, int]
    ) -> list[str | bytes]:
        parts: list[str | bytes] = []
        for key in sorted(attributes):
            value = attributes[key]
            if key.startswith("_") or key in _NAMES:
                continue
            if key in _SHARED:
                parts += [key, str(shared.setdefault(value.s, len(shared))) if value.s else ""]
            else:
                parts += [key, self._attribute(value)]
        return parts

    def _attribute(self, value: Any) -> bytes:
        kind = value.WhichOneof("value")
        if kind == "func":
            return self._called(value.func)
        if kind == "tensor":
            return _tensor(value.tensor)
        if kind == "list" and (value.list.func or value.list.tensor):
            return _digest([*map(self._called, value.list.func), *map(_tensor, value.list.tensor)])
        return bytes(value.SerializeToString(deterministic=True))

    def _called(self, function: Any) -> bytes:
        parts = self._attributes(function.attr, {})
        return _digest([self._function(function.name), *parts, *_compilation(function.attr)])

    def _function(self, name: str) -> bytes:
        if name not in self._library:
            return name.encode()
        if name not in self._made:
            # A placeholder while it is computed, for recursive functions.
            self._made[name] = b"recursion"
            function = self._library[name]
            body = self.body(
                function.node_def,
                [argument.name for argument in function.signature.input_arg],
                [
                    *(function.ret[one.name] for one in function.signature.output_arg),
                    *(f"^{one}" for one in sorted(function.control_ret.values())),
                ],
            )
            compiled = _compilation(function.attr)
            self._made[name] = _digest([body, *compiled]) if compiled else body
        return self._made[name]


def _edge(text: str, positions: Mapping[str, int]) -> str:
    """Return an edge by position: `name`, `name:1`, `^name`, or in a function `name:output:0`."""
    control = "^" if text.startswith("^") else ""
    name, _, output = text.lstrip("^").partition(":")
    return f"{control}{positions[name]}:{output or '0'}"


def _compilation(attributes: Mapping[str, Any]) -> list[str]:
    # Looking up a missing key would add it.
    return [_XLA] if _XLA in attributes and attributes[_XLA].b else []


def _device(name: str) -> str:
    """Return the type and number of a device, without its process."""
    try:
        device = tf.DeviceSpec.from_string(name)
    except ValueError:  # TensorFlow refuses it if it is used
        return name
    return f"{device.device_type}:{device.device_index}"


def _tensor(tensor: Any) -> bytes:
    """Return the digest of a tensor's content, which has several encodings."""
    try:
        array = tf.make_ndarray(tensor)
    except (TypeError, ValueError):  # NumPy does not have the type
        return bytes(tensor.SerializeToString(deterministic=True))
    sha = hashlib.sha256()
    add_to_digest(sha, "", tf.as_dtype(tensor.dtype).name, array)
    return sha.digest()


def _digest(parts: Iterable[str | bytes]) -> bytes:
    sha = hashlib.sha256()
    for part in parts:
        encoded = part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
        sha.update(len(encoded).to_bytes(8, "little") + encoded)
    return sha.digest()


@dataclass(frozen=True, eq=False)
class FrozenGraph:
    """A TensorFlow graph without variables.

    Attributes:
        graph: The graph, to which operations may be added.
        inputs: Its placeholders by input.
        outputs: Its results, in order.
    """

    graph: tf.Graph
    inputs: Mapping[str, tf.Tensor]
    outputs: Sequence[tf.Tensor]


def data_flow(frozen: FrozenGraph) -> FrozenGraph:
    """Return what the outputs need, without control edges and branches that are decided."""
    same = _decided(frozen.graph)
    graph_def = frozen.graph.as_graph_def()
    for node in graph_def.node:
        edges = [
            same.get(edge if ":" in edge else f"{edge}:0", edge)
            for edge in node.input
            if edge[0] != "^"
        ]
        del node.input[:]
        node.input.extend(edges)
        node.attr.pop(COLOCATION, None)
    outputs = [same.get(one.name, one.name) for one in frozen.outputs]
    inputs = {name: one.name for name, one in frozen.inputs.items()}
    edges_of = {node.name: node.input for node in graph_def.node}
    needed: set[str] = set()
    waiting = [*outputs, *inputs.values()]
    while waiting:
        if (name := waiting.pop().partition(":")[0]) not in needed:
            needed.add(name)
            waiting.extend(edges_of[name])
    pruned = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    pruned.node.extend(node for node in graph_def.node if node.name in needed)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(pruned, name="")
        return FrozenGraph(
            graph,
            {name: graph.get_tensor_by_name(tensor) for name, tensor in inputs.items()},
            [tf.identity(graph.get_tensor_by_name(tensor)) for tensor in outputs],
        )


def _decided(graph: tf.Graph) -> dict[str, str]:
    """Return tensors of branches by name with the tensors that they equal, if it is known which."""
    same: dict[str, str] = {}
    dead: set[str] = set()
    for operation in graph.get_operations():
        inputs, outputs = operation.inputs, operation.outputs
        if operation.type in ("Switch", "RefSwitch"):
            predicate = inputs[1]
            while predicate.op.type == "Identity":
                predicate = predicate.op.inputs[0]
            if (taken := tf.get_static_value(predicate)) is not None:
                name = inputs[0].name
                same[outputs[int(taken)].name] = same.get(name, name)
                dead.add(outputs[1 - int(taken)].name)
        elif operation.type in ("Merge", "RefMerge"):
            alive = [one.name for one in inputs if one.name not in dead]
            if len(alive) == 1:
                same[outputs[0].name] = same.get(alive[0], alive[0])
        elif any(one.name in dead for one in inputs) or any(
            one.outputs and all(output.name in dead for output in one.outputs)
            for one in operation.control_inputs
        ):
            dead.update(one.name for one in outputs)
    return same
