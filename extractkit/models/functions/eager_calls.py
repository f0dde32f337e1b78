"""Watching a function that runs eagerly: every operation's results, in the order of computation.

watched(function, arguments).operations  # {"op/MatMul": …, "op/AddV2": …, "op/MatMul.1": …}
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# What TensorFlow's own debugger builds on; there is no public way to see eager operations.
from tensorflow.python.framework import op_callbacks

from extractkit.models.naming import Ports

_HANDLES = (tf.resource, tf.variant)


@dataclass(frozen=True, eq=False)
class EagerCall:
    """One call of a function.

    Attributes:
        result: what it returned.
        operations: results of operations by port; `op/Split@1` is the second of one.
        types: the operations' types, by the same ports.
    """

    result: Any
    operations: Mapping[str, tf.Tensor]
    types: Mapping[str, str]


def watched(
    function: Callable[..., Any],
    arguments: Mapping[str, tf.Tensor],
    keep: Container[str] | None = None,
) -> EagerCall:
    """Call a function, nested `tf.function`s run eagerly too.

    Args:
        arguments: by name.
        keep: ports whose results are wanted; None: all. Others are let go at once.
    """
    ports = Ports()
    operations: dict[str, tf.Tensor] = {}
    types: dict[str, str] = {}

    def on_operation(
        op_type: str | bytes,
        inputs: Sequence[Any],
        attributes: Any,
        outputs: Sequence[Any],
        op_name: Any = None,
        graph: Any = None,
    ) -> None:
        if graph is not None:  # traced, not run
            return
        kind = op_type.decode() if isinstance(op_type, bytes) else op_type
        port = ports.unique(f"op/{kind}")
        for index, output in enumerate(outputs):
            name = port if index == 0 else f"{port}@{index}"
            if output.dtype not in _HANDLES and (keep is None or name in keep):
                operations[name], types[name] = output, kind

    with _functions_eager():
        op_callbacks.add_op_callback(on_operation)
        try:
            result = function(**arguments)
        finally:
            op_callbacks.remove_op_callback(on_operation)
    return EagerCall(result, operations, types)


@contextmanager
def _functions_eager() -> Iterator[None]:
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
