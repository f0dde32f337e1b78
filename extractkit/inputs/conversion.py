"""From values as they are given to the type and rank that a model takes, as Keras changes them."""

from extractkit.inputs.protocol import InputSpec
from extractkit.inputs.strings import objects
from extractkit.plan import numpy_dtype
from extractkit.tensors import TEXT
from extractkit.values import Array

Shape = tuple[int, ...]


def as_taken(shape: Shape, taken: tuple[int | None, ...]) -> Shape:
    """Return the shape of a sample as a model takes it, as far as that is another rank alone.

    An input of shape (1,) takes a single number, and one of shape () an array with one element.

    Args:
        shape: as given.
        taken: of the model's input, without the sample axis.
    """
    if shape == () and taken == (1,):
        return (1,)
    if shape == (1,) and taken == ():
        return ()
    return shape


def converted(values: Array, spec: InputSpec, *, copy: bool = True) -> Array:
    """Return values that were checked in the type that a model takes.

    Args:
        copy: whether they need memory of their own.
    """
    if spec.dtype == TEXT:
        return objects(values)
    return values.astype(numpy_dtype(spec.dtype), copy=copy)
