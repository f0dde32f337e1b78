"""A concrete function's inputs and outputs by name."""

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

import tensorflow as tf

from extractkit.models.composites import Argument
from extractkit.models.structure import components, ports

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


def composites_of(function: Any) -> dict[str, Argument]:
    """Return the function's ragged and sparse arguments by name; parts as `inputs_of` has them."""
    names = iter(inputs_of(function))
    found = {}
    for spec in tf.nest.flatten(function.structured_input_signature):
        if not isinstance(spec, tf.TypeSpec):
            continue
        parts = tuple(islice(names, len(tf.nest.flatten(spec, expand_composites=True))))
        if isinstance(spec, tf.RaggedTensorSpec | tf.SparseTensorSpec) and len(parts) > 1:
            found[parts[0]] = Argument.of(spec, parts)
    return found


def outputs_of(function: Any) -> dict[str, tf.Tensor]:
    """The function's results by name: their key in a dictionary, else `output`, `output.1`.

    Ragged and sparse ones by the tensors that they are made of; see `structure.components`.
    """
    flat = tf.nest.flatten(function.structured_outputs, expand_composites=True)
    results = iter(function.graph.outputs)
    tensors = [None if one is None else next(results) for one in flat]
    packed = tf.nest.pack_sequence_as(function.structured_outputs, tensors, expand_composites=True)
    return _results(packed)


def call(function: Any, given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Its results, named as by `outputs_of`, for arguments named as by `inputs_of`."""
    signature = function.structured_input_signature
    tensors = iter([given[name] for name in inputs_of(function)])
    flat = [
        next(tensors) if isinstance(one, tf.TypeSpec) else one
        for one in tf.nest.flatten(signature, expand_composites=True)
    ]
    arguments, by_name = tf.nest.pack_sequence_as(signature, flat, expand_composites=True)
    return _results(function(*arguments, **by_name))


def _results(structure: Any) -> dict[str, tf.Tensor]:
    named = components(ports("output", structure))
    return {_KEY.sub("", port): tensor for port, tensor in named.items()}
