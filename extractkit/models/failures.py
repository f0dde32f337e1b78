"""Whether a sample is to blame for what went wrong in a model, or the machine."""

import tensorflow as tf

from extractkit.errors import ExtractkitError, JobError, SampleError
from extractkit.models.foreign import error_summary, graph_error_summary
from extractkit.models.protocol import NoOwnCallError

_OF_GRAPHS = (
    *(tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError),
    *(tf.errors.FailedPreconditionError, tf.errors.UnimplementedError),
)
"""What values and shapes can cause; memory that is short, say, or a device that is lost, cannot."""

_OF_PYTHON = (ValueError, TypeError, ArithmeticError, LookupError, AssertionError)
"""The same where Python code runs: what it says of values that it does not like."""


def batch_failure(model: str, error: Exception) -> JobError:
    """Return what to raise in place of what TensorFlow, or a model's own Python code, has raised.

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
    said = graph_error_summary(error) if by_graph else error_summary(error)
    return (SampleError if blamed else JobError)(f"model {model!r} failed on a batch: {said}")


def own_call_failure(model: str, error: Exception) -> ExtractkitError:
    """What to raise in place of what the model's own call has raised, which computes all outputs.

    A call that draws random numbers for an output that is not extracted fails only because
    `runtime.deterministic` asks TensorFlow to refuse unseeded draws: no fault of model or sample.

    Raises:
        MemoryError: as it is.
    """
    if isinstance(error, tf.errors.InvalidArgumentError) and _UNSEEDED in str(error):
        return NoOwnCallError(
            "its own call draws random numbers without a seed, which TensorFlow refuses with "
            "runtime.deterministic=true. To have the other outputs compared: "
            "runtime.deterministic=false"
        )
    return batch_failure(model, error)


# TensorFlow's words; it has no error of its own for this.
_UNSEEDED = "When determinism is enabled, random ops must have a seed"
