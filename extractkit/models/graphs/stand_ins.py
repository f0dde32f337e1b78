"""Placeholders in a GraphDef in place of operations that TensorFlow does not know."""

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

# An attribute whose name begins so is kept, whatever the operation.
_LACKED = "_extractkit_lacked"


def put_stand_ins(graph_def: Any) -> None:
    """Put placeholders where operations are unknown, in place.

    Each has the type that the operations after it take. A second output gets a placeholder of its
    own. Bodies of functions are left as they are.
    """
    functions = {one.signature.name: one.signature for one in graph_def.library.function}
    unknown = {
        node.name: node
        for node in graph_def.node
        if node.op not in functions and op_def_registry.get(node.op) is None
    }
    if not unknown:
        return
    names = {node.name for node in graph_def.node}
    types: dict[tuple[str, int], int] = {}
    stand_ins: dict[tuple[str, int], str] = {}
    for node in graph_def.node:
        if node.name in unknown:
            continue
        data = [given for given in node.input if not given.startswith("^")]
        for position, (given, kind) in enumerate(
            zip(data, _input_types(node, functions), strict=False)
        ):
            source, _, number = given.partition(":")
            if source not in unknown or not (number or "0").isdecimal():
                continue
            output = (source, int(number or 0))
            types.setdefault(output, kind)
            if output[1]:
                if output not in stand_ins:
                    stand_ins[output] = _unused(f"{source}/{output[1]}", names)
                node.input[position] = stand_ins[output]
    for output, name in stand_ins.items():
        _become_placeholder(graph_def.node.add(name=name), unknown[output[0]].op, types[output])
    for name, node in unknown.items():
        _become_placeholder(node, node.op, types.get((name, 0), _own_type(node)))


def lacked_operation(operation: Any) -> str | None:
    """Return the type of the unknown operation that a placeholder stands for, None for others."""
    value = operation.node_def.attr.get(_LACKED)
    return None if value is None else value.s.decode()


def _input_types(node: Any, functions: Mapping[str, Any]) -> Iterator[int]:
    """The type of each input, in order, by the definition of the operation or function."""
    definition = functions.get(node.op) or op_def_registry.get(node.op)
    defaults = {one.name: one.default_value for one in definition.attr}

    def attribute(name: str) -> Any:
        return node.attr[name] if name in node.attr else defaults[name]

    for argument in definition.input_arg:
        if argument.type_list_attr:
            yield from attribute(argument.type_list_attr).list.type
            continue
        count = attribute(argument.number_attr).i if argument.number_attr else 1
        kind = argument.type or attribute(argument.type_attr).type
        yield from repeat(kind, count)  # a damaged file may have any count


def _own_type(node: Any) -> int:
    """The type of a first output that nothing takes: the one that the operation names, if any."""
    named = [value.type for value in node.attr.values() if value.WhichOneof("value") == "type"]
    return named[0] if len(named) == 1 else int(tf.variant.as_datatype_enum)


def _unused(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    names.add(name)
    return name


def _become_placeholder(node: Any, lacked: str, kind: int) -> None:
    node.op = "Placeholder"
    node.ClearField("input")
    node.ClearField("attr")
    node.attr["dtype"].type = kind
    node.attr["shape"].shape.unknown_rank = True
    node.attr[_LACKED].s = lacked.encode()
