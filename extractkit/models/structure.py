"""The tensors of a nested structure by port."""

from typing import Any

import keras
import tensorflow as tf


def ports(name: str, value: Any) -> dict[str, Any]:
    """The tensors of a nested structure by port: `output`, `output.1`, `output.key`."""
    found: dict[str, Any] = {}
    for path, leaf in keras.tree.flatten_with_path(value):
        if not isinstance(leaf, tf.Tensor | tf.RaggedTensor | tf.SparseTensor):
            continue
        # The first of a plain list has the bare name, so that it is the same as a single one.
        parts = [] if path == (0,) else [str(part) for part in path]
        found[".".join([name, *parts])] = _in_graph(leaf)
    return found


def _in_graph(tensor: Any) -> Any:
    """A tensor that a layer made before the trace (its position ids) as the graph captures it."""
    symbolic = not isinstance(tensor, tf.Tensor) or tf.is_symbolic_tensor(tensor)
    if symbolic or not tf.inside_function():
        return tensor
    return tf.compat.v1.get_default_graph().capture(tensor)
