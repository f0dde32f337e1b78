"""Tensors in the midst of a graph that samples are given for, by the names in `model.inputs`.

A tensor goes by TensorFlow's name (`op:1`, or `op` for the first of an operation) or by the address
that the catalog lists it under.
"""

from collections.abc import Container, Iterable, Mapping

from extractkit.advice import nested_override
from extractkit.errors import ConfigError, choices
from extractkit.models.graphs.addresses import is_handle, readable, short_paths
from extractkit.models.graphs.imported import AnyGraph, AnyOperation, AnyTensor
from extractkit.models.input_settings import AT
from extractkit.tensors import join


def inner_tensors(
    graph: AnyGraph,
    names: Iterable[str],
    inputs: Mapping[str, AnyTensor],
    drop_prefix: str = "",
) -> dict[str, AnyTensor]:
    """Return the graph's tensors for the names that are not among its inputs.

    Args:
        graph: every function that it calls is inlined.
        inputs: the graph's own inputs by name.
        drop_prefix: as the catalog has it; see `find_operations`.

    Raises:
        ConfigError: there is no such tensor, it is a handle, or two names are one tensor's.
    """
    found: dict[str, AnyTensor] = {}
    taken = {tensor.name: name for name, tensor in inputs.items()}
    for name in names:
        if name in inputs:
            continue
        tensor = tensor_named(graph, name)
        if tensor is None:
            tensor = _by_address(graph, name, drop_prefix)
        if tensor is None:
            there = [*inputs, *_addresses(graph, drop_prefix, taken)]
            raise ConfigError(
                f"{AT}: {name!r} is neither an input nor a tensor of the graph. "
                f"{choices(name, there)}"
            )
        if is_handle(tensor.dtype):
            raise ConfigError(f"{AT}: {_handle(name, tensor)}")
        if tensor.name in taken:
            raise ConfigError(f"{AT}: {name!r} and {taken[tensor.name]!r} are the same tensor")
        taken[tensor.name] = name
        found[name] = tensor
    return found


def tensor_named(graph: AnyGraph, name: str) -> AnyTensor | None:
    """Return a tensor by its name (`op:1`), or an operation's first (`op`); None: there is none."""
    try:
        return graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
    except (KeyError, ValueError):
        return None


def advised_inputs(tensors: Iterable[AnyTensor]) -> str:
    """Return the override that makes inputs of these tensors, ready for a shell."""
    return nested_override(AT, {tensor.name: _dims(tensor) for tensor in tensors})


def reading_operations(source: AnyOperation) -> list[AnyOperation]:
    """Return the operations that read values through the handles that an operation makes."""
    found: dict[str, AnyOperation] = {}
    seen, waiting = set(), [source]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        if readable(operation):
            found[operation.name] = operation
        else:
            waiting.extend(c for tensor in operation.outputs for c in tensor.consumers())
    return list(found.values())


def _by_address(graph: AnyGraph, name: str, drop_prefix: str) -> AnyTensor | None:
    """Return the tensor that has a name as its address, with or without its port."""
    paths = short_paths((operation.name for operation in graph.get_operations()), drop_prefix)
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            path = paths[operation.name]
            if name == join(path, str(tensor.value_index)) or (
                name == path and tensor.value_index == 0
            ):
                return tensor
    return None


def _addresses(graph: AnyGraph, drop_prefix: str, taken: Container[str]) -> list[str]:
    paths = short_paths((operation.name for operation in graph.get_operations()), drop_prefix)
    return [
        join(paths[operation.name], str(tensor.value_index))
        for operation in graph.get_operations()
        for tensor in readable(operation)
        if tensor.name not in taken
    ]


def _handle(name: str, tensor: AnyTensor) -> str:
    said = f"{name!r} ({tensor.op.type}) is a handle, which has no values to give"
    read = [
        one
        for operation in reading_operations(tensor.op)
        for one in readable(operation)
        if one.consumers()
    ]
    if not read:
        return f"{said}. Name a tensor that is read from it"
    return f"{said}. Name what is read from it: {advised_inputs(read)}"


def _dims(tensor: AnyTensor) -> str:
    """Axes as `model.inputs` has them, the first one for samples."""
    sizes = tensor.shape.as_list() if tensor.shape.rank else []
    rest = ["null" if size is None else str(size) for size in sizes[1:]]
    return f"[{', '.join(['sample', *rest])}]" if sizes else "[]"
