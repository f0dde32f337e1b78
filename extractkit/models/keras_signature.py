"""What a Keras model takes: its inputs by name, and how to hand them over again."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from extractkit.errors import ModelError
from extractkit.inputs.protocol import InputSpec
from extractkit.models.graph_signature import input_spec

INPUT = "input"
"""Name of an input that nobody named; a second one is `input.1`."""

_MADE_UP = re.compile(r"keras_tensor(_\d+)?")


def input_specs(structure: Any) -> tuple[InputSpec, ...]:
    """A named spec for each input, in the order in which Keras flattens them."""
    flat = keras.tree.flatten(structure)
    return tuple(
        input_spec(name, tensor.dtype, tensor.shape[1:], alone=len(flat) == 1)
        for name, tensor in zip(_names(structure), flat, strict=True)
    )


def packer(structure: Any) -> Callable[[Mapping[str, tf.Tensor]], Any]:
    """From inputs by name to the structure that the model is called with."""
    names = _names(structure)

    def pack(features: Mapping[str, tf.Tensor]) -> Any:
        return keras.tree.pack_sequence_as(structure, [features[name] for name in names])

    return pack


def input_structure(model: keras.Model, example: Any = None) -> Any:
    """The model's inputs as Keras tensors, in whatever nesting it is called with.

    Args:
        example: arrays that it can be called with, for a model that does not know its inputs.

    Raises:
        ModelError: neither the model nor an example tells.
    """
    if getattr(model, "inputs", None):
        # A Sequential has an `input` only once it has been called.
        structure = model.inputs if isinstance(model, keras.Sequential) else model.input
        # Keras wraps a single input in a list; the model is called with the tensor itself.
        single = isinstance(structure, list) and len(structure) == 1
        return structure[0] if single else structure
    if example is not None:
        return keras.tree.map_structure(
            lambda array: keras.KerasTensor((None, *array.shape[1:]), array.dtype.name, name=INPUT),
            example,
        )
    shapes = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shapes is None:
        raise ModelError(
            f"{type(model).__name__} {model.name!r} does not tell what it takes: it is neither "
            f"functional nor built from the shapes of its inputs. Give arrays with it "
            f"(extractkit.extract(…, inputs=arrays)), or save it after model.build(shape)"
        )
    return _from_shapes(shapes)


def _from_shapes(shapes: Any) -> Any:
    """Inputs of a subclassed model, of which Keras keeps the shapes it was built with alone."""
    if isinstance(shapes, Mapping):
        return {name: _from_shapes(shape) for name, shape in shapes.items()}
    if (
        isinstance(shapes, list | tuple)
        and shapes
        and isinstance(shapes[0], list | tuple | Mapping)
    ):
        return [_from_shapes(shape) for shape in shapes]
    return keras.KerasTensor((None, *shapes[1:]), keras.config.floatx(), name=INPUT)


def _names(structure: Any) -> list[str]:
    """A unique name for each input: its key in a dictionary, else the tensor's own name."""
    names: list[str] = []
    for path, tensor in keras.tree.flatten_with_path(structure):
        name = ".".join(map(str, path)) if isinstance(structure, Mapping) else tensor.name
        # Keras counts unnamed tensors over the whole process; their order is the same anywhere.
        name = INPUT if _MADE_UP.fullmatch(name) else name
        unique, count = name, 0
        while unique in names:
            count += 1
            unique = f"{name}.{count}"
        names.append(unique)
    return names
