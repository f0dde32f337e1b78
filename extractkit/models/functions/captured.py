"""What a function's graph captures: weights by their records, anything else by its content."""

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from extractkit.models import digests
from extractkit.models.functions.variables import captured_variables
from extractkit.values import as_array

_LOOK_UP = "LookupTableFindV2"


def captured_contents(graph: Any, weights: Mapping[int, str]) -> dict[str, str] | None:
    """A text for each of the graph's placeholders that something is captured by, by its name.

    Args:
        graph: of a function.
        weights: what stands for each, by the id of its variable's handle.

    Returns:
        None where nobody can tell what a captured object does.
    """
    variables = captured_variables(graph)
    contents = {}
    for outside, inside in graph.captures:
        content = weights.get(id(outside))
        if content is None:
            # A variable that is no weight of the model is a constant to it.
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
    """Of a lookup table; None: it is something else, or only functions inside functions use it."""
    for operation in _consumers(inside):
        if operation.type == _LOOK_UP:
            keys, values = tf.raw_ops.LookupTableExportV2(
                table_handle=handle,
                Tkeys=operation.get_attr("Tin"),
                Tvalues=operation.get_attr("Tout"),
            )
            return f"table {digests.of_table(keys.numpy(), values.numpy())}"
    return None


def _consumers(tensor: tf.Tensor) -> Iterator[Any]:
    """Operations that take the tensor, or what hands it on unchanged where a call was inlined."""
    for operation in tensor.consumers():
        if operation.type == "Identity":
            yield from _consumers(operation.outputs[0])
        else:
            yield operation
