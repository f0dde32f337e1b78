"""A concrete function's inputs and outputs by name."""

import re
from typing import Any

import tensorflow as tf

from extractkit.models.graphs.signature import Declared
from extractkit.models.keras_models.tracing import ports

_UNNAMED = "input"
# What stands before a key; a number alone is no name.
_KEY = re.compile(r"^output\.(?!\d+$)")


def inputs_of(function: Any) -> dict[str, tf.Tensor]:
    """The function's placeholders by the names of its arguments, what is captured left out."""
    captured = len(function.graph.captures)
    own = function.graph.inputs[: len(function.graph.inputs) - captured]
    flat = tf.nest.flatten(function.structured_input_signature, expand_composites=True)
    specs = [spec for spec in flat if isinstance(spec, tf.TypeSpec)]
    named: dict[str, tf.Tensor] = {}
    for index, placeholder in enumerate(own):
        name = specs[index].name if index < len(specs) else None
        name = name or placeholder.op.name or _UNNAMED
        unique, count = name, 0
        while unique in named:
            count += 1
            unique = f"{name}.{count}"
        named[unique] = placeholder
    return named


def outputs_of(function: Any) -> dict[str, tf.Tensor]:
    """The function's results by name: their key in a dictionary, else `output`, `output.1`."""
    flat = tf.nest.flatten(function.structured_outputs, expand_composites=True)
    results = iter(function.graph.outputs)
    tensors = [None if one is None else next(results) for one in flat]
    named = ports("output", tf.nest.pack_sequence_as(function.structured_outputs, tensors))
    return {_KEY.sub("", port): tensor for port, tensor in named.items()}


def declared(name: str, placeholder: tf.Tensor | tf.TensorSpec) -> Declared:
    """What a placeholder, or its spec, says of an input."""
    rank = placeholder.shape.rank
    shape = None if rank is None else tuple(placeholder.shape.as_list())
    return Declared(name, placeholder.dtype.name, shape)
