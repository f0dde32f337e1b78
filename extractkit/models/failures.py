"""Classification of a model's failures: caused by a sample, or by the machine."""

import tensorflow as tf

from extractkit.errors import ExtractkitError, JobError, SampleError
from extractkit.models import NoOwnCallError
from extractkit.models.foreign import error_summary, graph_error_summary

_OF_GRAPHS = (
    *(tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError),
    *(tf.errors.FailedPreconditionError, tf.errors.UnimplementedError),
)
"""Errors that values and shapes can cause, unlike a lack of memory or a lost device."""

_OF_PYTHON = (ValueError, TypeError, ArithmeticError, LookupError, AssertionError)
"""The same for Python code."""

_ONEDNN_REFUSES = "received an exception:Status: 2,"
"""What oneDNN's kernels report of invalid arguments, such as a window larger than the input."""


def batch_failure(model: str, error: Exception) -> JobError:
    """Return the error to raise for an exception of TensorFlow or a model's Python code.

    Args:
        model: The model's name.

    Returns:
        A `SampleError` if the values of a sample can cause such an error, otherwise a `JobError`.

    Raises:
        MemoryError: A MemoryError is re-raised unchanged.
    """
    if isinstance(error, MemoryError):
        raise error
    by_graph = isinstance(error, tf.errors.OpError)
    blamed = isinstance(error, _OF_GRAPHS if by_graph else _OF_PYTHON) or (
        isinstance(error, tf.errors.AbortedError) and _ONEDNN_REFUSES in str(error)
    )
    text = graph_error_summary(error) if by_graph else error_summary(error)
    return (SampleError if blamed else JobError)(f"model {model!r} failed on a batch: {text}")


def own_call_failure(model: str, error: Exception) -> ExtractkitError:
    """Return the error to raise for an exception of the model's own call.

    The own call computes all outputs. If one that is not extracted draws random numbers, the call
    fails only because `runtime.deterministic` makes TensorFlow refuse unseeded draws. Neither the
    model nor a sample is at fault then.

    Raises:
        MemoryError: A MemoryError is re-raised unchanged.
    """
    if isinstance(error, tf.errors.InvalidArgumentError) and _UNSEEDED in str(error):
        return NoOwnCallError(
            "its own call draws random numbers without a seed, which TensorFlow refuses with "
            "runtime.deterministic=true. To have the other outputs compared: "
            "runtime.deterministic=false"
        )
    return batch_failure(model, error)


# TensorFlow has no error class of its own for this.
_UNSEEDED = "When determinism is enabled, random ops must have a seed"
