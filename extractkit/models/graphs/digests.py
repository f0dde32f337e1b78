"""The digest of what a graph computes.

Names do not enter the digest, since they depend on what was built before. A node is identified by
its operation, attributes, device if any, and the positions of its inputs in the order of nodes; a
function by its body, and by whether XLA has to compile it.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from extractkit.core.values import add_to_digest

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
