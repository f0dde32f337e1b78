"""Whether a sample is to blame for what went wrong in a model, or the machine."""

import tensorflow as tf

from extractkit.errors import JobError, SampleError
from extractkit.models.foreign import told, told_by_graph

_OF_GRAPHS = (
    *(tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError),
    *(tf.errors.FailedPreconditionError, tf.errors.UnimplementedError),
)
"""What values and shapes can cause; memory that is short, say, or a device that is lost, cannot."""

_OF_PYTHON = (ValueError, TypeError, ArithmeticError, LookupError, AssertionError)
"""The same where Python code runs: what it says of values that it does not like."""


def failed_on_batch(model: str, error: Exception) -> JobError:
    """What to raise in place of what TensorFlow, or a model's own Python code, has raised.

    Args:
        model: its name.

    Returns:
        A `SampleError` if the values of a sample can cause such an error.

    Raises:
        MemoryError: as it is.
    """
    if isinstance(error, MemoryError):
        raise error
    by_graph = isinstance(error, tf.errors.OpError)
    blamed = isinstance(error, _OF_GRAPHS if by_graph else _OF_PYTHON)
    said = told_by_graph(error) if by_graph else told(error)
    return (SampleError if blamed else JobError)(f"model {model!r} failed on a batch: {said}")
