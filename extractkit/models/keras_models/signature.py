"""What a Keras model takes: its inputs by name, and how to hand them over again."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from extractkit.errors import ConfigError, ModelError, choices
from extractkit.inputs.protocol import InputSpec, Signature
from extractkit.models.graphs.signature import Declared, chosen, signature_of
from extractkit.models.input_settings import AT, InputSetting
from extractkit.models.keras_models.dialects import KERAS_3, dialect_of
from extractkit.tensors import SAMPLE

INPUT = "input"
"""Name of an input that nobody named; a second one is `input.1`."""

# Of a tensor, of a saved input layer, and what Keras 2 called one.
_MADE_UP = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")

Settings = Mapping[str, InputSetting]


def signature(name: str, structure: Any, settings: Settings | None = None) -> Signature:
    """What a model takes: a named spec for each input, in the order in which Keras flattens them.

    Args:
        name: the model's, for messages.
        structure: its inputs as Keras tensors; see `input_structure`.
        settings: what `model.inputs` says of them.

    Raises:
        ConfigError: it names an input that does not exist, or axes or a type that do not fit.
    """
    settings = settings or {}
    flat = keras.tree.flatten(structure)
    declared = [
        Declared(name, tensor.dtype, tuple(tensor.shape))
        for name, tensor in zip(_names(structure), flat, strict=True)
    ]
    chosen(declared, settings)
    return signature_of(name, [_typed(one, settings.get(one.name)) for one in declared], settings)


def input_specs(structure: Any) -> tuple[InputSpec, ...]:
    """A named spec for each input, in the order in which Keras flattens them."""
    return signature("", structure).specs


def packer(structure: Any) -> Callable[[Mapping[str, tf.Tensor]], Any]:
    """From inputs by name to the structure that the model is called with."""
    names = _names(structure)

    def pack(features: Mapping[str, tf.Tensor]) -> Any:
        return keras.tree.pack_sequence_as(structure, [features[name] for name in names])

    return pack


def input_structure(model: Any, example: Any = None, settings: Settings | None = None) -> Any:
    """The model's inputs as tensors of Keras 3, in whatever nesting it is called with.

    Args:
        model: of any Keras.
        example: arrays that it can be called with, for a model that does not know its inputs.
        settings: what `model.inputs` says, likewise; several inputs make a dictionary.

    Raises:
        ModelError: none of them tells.
    """
    if getattr(model, "inputs", None):
        # A Sequential has an `input` only once it has been called.
        sequential = (dialect_of(model) or KERAS_3).package.Sequential
        structure = model.inputs if isinstance(model, sequential) else model.input
        # Keras wraps a single input in a list; the model is called with the tensor itself.
        single = isinstance(structure, list) and len(structure) == 1
        return keras.tree.map_structure(_declared, structure[0] if single else structure)
    if settings and all(setting.dims is not None for setting in settings.values()):
        tensors = {name: _configured(name, setting) for name, setting in settings.items()}
        return tensors if len(tensors) > 1 else next(iter(tensors.values()))
    if example is not None:
        return keras.tree.map_structure(
            lambda array: keras.KerasTensor((None, *array.shape[1:]), array.dtype.name, name=INPUT),
            example,
        )
    shapes = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shapes is None:
        raise ModelError(
            f"{type(model).__name__} {model.name!r} does not tell what it takes: it is neither "
            f"functional nor built from the shapes of its inputs. Say what its axes are: "
            f"'{AT}={{x: {{dims: [{SAMPLE}, 64, 64, 3], dtype: float32}}}}'. Or give arrays with "
            f"it (extractkit.extract(…, inputs=arrays)), or save it after model.build(shape)"
        )
    return _from_shapes(shapes)


def with_free_rows(structure: Any, settings: Settings, stateful: bool) -> Any:
    """The same inputs, where all declare one size of their batches, with batches of any size.

    The rows of a batch are samples. Left as they are: inputs whose configured axes name no
    samples, and batches of one row that no layer keeps a state of.
    """
    flat = keras.tree.flatten(structure)
    sizes = {tensor.shape[0] if tensor.shape else None for tensor in flat}
    (size,) = sizes if len(sizes) == 1 else (None,)
    named = [setting.dims for setting in settings.values() if setting.dims is not None]
    if size is None or (size == 1 and not stateful) or any(SAMPLE not in dims for dims in named):
        return structure
    return keras.tree.map_structure(
        lambda one: keras.KerasTensor((None, *one.shape[1:]), one.dtype, name=one.name), structure
    )


def _declared(tensor: Any) -> keras.KerasTensor:
    """One input of a functional model; tf-keras has tensors of its own."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return keras.KerasTensor(tuple(tensor.shape), dtype, name=tensor.name)


def _configured(name: str, setting: InputSetting) -> keras.KerasTensor:
    shape = tuple(dim if isinstance(dim, int) else None for dim in setting.dims or ())
    return keras.KerasTensor(shape, keras.config.floatx(), name=name)


def _from_shapes(shapes: Any) -> Any:
    """Inputs of a subclassed model, of which Keras keeps the shapes it was built with alone."""
    if isinstance(shapes, Mapping):
        return {name: _from_shapes(shape) for name, shape in shapes.items()}
    if (
        isinstance(shapes, list | tuple)
        and shapes
        and isinstance(shapes[0], list | tuple | Mapping | tf.TensorShape)
    ):
        return [_from_shapes(shape) for shape in shapes]
    return keras.KerasTensor((None, *shapes[1:]), keras.config.floatx(), name=INPUT)


def _typed(one: Declared, setting: InputSetting | None) -> Declared:
    """With the element type that was configured, if one was."""
    if setting is None or setting.dtype is None:
        return one
    try:
        dtype = tf.as_dtype(setting.dtype).name
    except TypeError:
        known = [t.name for t in vars(tf.dtypes).values() if isinstance(t, tf.DType)]
        raise ConfigError(
            f"{AT}.{one.name}.dtype={setting.dtype!r} is not a type. "
            f"{choices(setting.dtype, known)}"
        ) from None
    return replace(one, dtype=dtype)


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
