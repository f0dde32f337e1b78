"""Tensors of a session's graph by the names that a configuration has for them."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from extractkit.errors import ConfigError, choices
from extractkit.models.input_settings import InputSetting
from extractkit.models.sessions.graph import PLACEHOLDERS


def placeholders(graph: tf.Graph) -> dict[str, tf.Tensor]:
    """A graph's placeholders by the names of their operations."""
    return {
        operation.name: operation.outputs[0]
        for operation in graph.get_operations()
        if operation.type in PLACEHOLDERS
    }


def outputs_named(graph: tf.Graph, names: Sequence[str] | None) -> dict[str, tf.Tensor]:
    """`model.outputs` as tensors by name.

    Raises:
        ConfigError: there is no such tensor.
    """
    outputs = {}
    for name in names or ():
        tensor = tensor_named(graph, name)
        if tensor is None:
            there = [operation.name for operation in graph.get_operations() if operation.outputs]
            raise ConfigError(f"model.outputs: {name!r} is no tensor. {choices(name, there)}")
        outputs[name] = tensor
    return outputs


def tensor_named(graph: tf.Graph, name: str) -> tf.Tensor | None:
    """A tensor by its name (`op:1`), or an operation's first (`op`); None: there is none."""
    try:
        return graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
    except (KeyError, ValueError):
        return None


def settings_named(
    settings: Mapping[str, InputSetting] | None, graph: tf.Graph
) -> dict[str, tf.Tensor]:
    """Tensors in the midst of a graph that samples are to be read for."""
    tensors = {name: tensor_named(graph, name) for name in settings or ()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
