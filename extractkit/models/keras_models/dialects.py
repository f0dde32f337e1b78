"""The differences between Keras 3 and Keras 2 (the package tf-keras).

tf-keras is never imported for a model that is not built with it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf

from extractkit.models.isolation import patched
from extractkit.models.keras_internals import (
    MASK_MAKER,
    attention_kernel_3,
    loops_2,
    loops_3,
    own_weights_2,
    own_weights_3,
    recurrent_registry_2,
    takes_mask,
    takes_training,
)
from extractkit.models.tensorflow_internals import autograph_enabled

Span = tuple[tf.Graph, int, int]
"""Operations start … end-1 of a graph, in the order of their creation."""


@contextmanager
def repaired_keras() -> Iterator[list[Span]]:
    """Repair Keras 3.15 within the block, for tracing: `TimeDistributed` and fused attention.

    With an unknown number of steps, `TimeDistributed` makes as many steps as there are samples,
    because it takes the shape before swapping the two axes and uses it afterwards. For attention,
    see `unfused_attention`.
    """
    with (
        patched(keras.layers.TimeDistributed, "call", _over_free_steps),
        unfused_attention() as unfused,
    ):
        yield unfused


@contextmanager
def unfused_attention() -> Iterator[list[Span]]:
    """Compute attention without a fused kernel where `flash_attention=True` asks for one.

    On TensorFlow, Keras has none and raises an error. A fused kernel would also have no
    probabilities.

    Yields:
        The operations of such attention, extended within the block.
    """
    spans: list[Span] = []

    def replacing(original: Callable[..., Any]) -> Callable[..., Any]:
        def attention(*args: Any, flash_attention: bool | None = None, **kwargs: Any) -> Any:
            graph = tf.compat.v1.get_default_graph()
            start = len(graph.get_operations())
            result = original(*args, **kwargs)
            if flash_attention:
                spans.append((graph, start, len(graph.get_operations())))
            return result

        return attention

    with patched(*attention_kernel_3(), replacing):
        yield spans


@contextmanager
def _nothing_repaired() -> Iterator[list[Span]]:
    yield []


def _over_free_steps(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(wrapper: Any, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> Any:
        if inputs.shape[1] is not None:
            return original(wrapper, inputs, training=training, mask=mask)
        arguments: dict[str, Any] = {}
        if takes_mask(wrapper.layer) and mask is not None:
            arguments["mask"] = _merged(mask)
        if takes_training(wrapper.layer):
            arguments["training"] = training
        samples_and_steps = tf.shape(inputs)[:2]
        return keras.tree.map_structure(
            lambda tensor: _split(tensor, samples_and_steps),
            wrapper.layer.call(_merged(inputs), **arguments),
        )

    return call


def _merged(tensor: tf.Tensor) -> tf.Tensor:
    """Reshape (samples, steps, …) to (samples * steps, …)."""
    merged = tf.reshape(tensor, tf.concat([[-1], tf.shape(tensor)[2:]], 0))
    return tf.ensure_shape(merged, [None, *tensor.shape[2:]])


def _split(tensor: tf.Tensor, samples_and_steps: tf.Tensor) -> tf.Tensor:
    """Reshape (samples * steps, …) to (samples, steps, …)."""
    apart = tf.reshape(tensor, tf.concat([samples_and_steps, tf.shape(tensor)[1:]], 0))
    return tf.ensure_shape(apart, [None, None, *tensor.shape[1:]])


@dataclass(frozen=True, eq=False)
class Dialect:
    """One implementation of Keras.

    Attributes:
        name: The name for messages.
        package: The imported package, with `package.layers.Layer` and `package.Model`.
        variable_class: The class of its variables.
        own_weights: Returns a layer's weights without those of inner layers.
        variable_name: Returns a variable's name within its layer.
        repaired: A context in which traced layers compute the same as called ones. It gives the
            operations of attention that was to be fused.
        converting: A context that converts the control flow of users' layers during tracing.
        inference: A context in which layers do not prepare for training.
        loops: Modules whose function `rnn` runs a step over time.
        mask_makers: Classes, and their methods that make the dropout masks of RNN cells.
    """

    name: str
    package: Any
    variable_class: type
    own_weights: Callable[[Any], tuple[Any, ...]]
    variable_name: Callable[[Any], str]
    repaired: Callable[[], AbstractContextManager[list[Span]]]
    loops: tuple[ModuleType, ...]
    converting: Callable[[], AbstractContextManager[None]] = nullcontext
    inference: Callable[[], AbstractContextManager[None]] = nullcontext
    mask_makers: tuple[tuple[type, str], ...] = ()

    def variables(self, weights: Iterable[Any]) -> tuple[Any, ...]:
        """Return the weights that are variables.

        Keras 2 lists the vocabulary of a lookup layer as a weight, and custom layers may list
        anything.
        """
        return tuple(one for one in weights if isinstance(one, self.variable_class))

    def own_variables(self, layer: Any) -> tuple[Any, ...]:
        """Return a layer's variables without those of inner layers."""
        return self.variables(self.own_weights(layer))


KERAS_3 = Dialect(
    name="Keras 3",
    package=keras,
    variable_class=keras.Variable,
    own_weights=own_weights_3,
    variable_name=lambda variable: str(variable.name),
    repaired=repaired_keras,
    loops=loops_3(),
    mask_makers=((keras.layers.RNN, MASK_MAKER),),
)


@contextmanager
def control_flow_converted() -> Iterator[None]:
    """Let AutoGraph convert the `call` of users' layers, as Keras 2 does in `predict`.

    An `if` or a loop in it may depend on tensors. The context is entered inside a function traced
    with `autograph=False`, so that nothing else is converted.
    """
    with autograph_enabled():
        yield


def _without_gradients(original: Callable[..., Any]) -> Callable[..., Any]:
    """Register the function of an LSTM or GRU for GPUs without its gradients.

    Making them takes most of the time of a call in a graph, and only training needs them.
    """

    def register(function: Any, *args: Any, **kwargs: Any) -> Any:
        concrete = function.get_concrete_function(*args, **kwargs)
        concrete.add_to_graph()
        return concrete

    return register


def keras_2(package: Any) -> Dialect:
    """Return the dialect of tf-keras.

    Args:
        package: The imported module `tf_keras`.
    """

    def inference() -> AbstractContextManager[None]:
        return patched(*recurrent_registry_2(package), _without_gradients)

    return Dialect(
        name="Keras 2",
        package=package,
        variable_class=tf.Variable,
        own_weights=own_weights_2,
        # TensorFlow's name with scopes and output number: `dense/kernel:0`.
        variable_name=lambda variable: variable.name.rpartition("/")[2].partition(":")[0],
        repaired=_nothing_repaired,
        converting=control_flow_converted,
        inference=inference,
        loops=loops_2(package),
    )


def dialect_of(model: object) -> Dialect | None:
    """Return the Keras that a model or layer is built with, or None for other objects."""
    if isinstance(model, keras.layers.Layer):
        return KERAS_3
    # A model built with tf-keras implies that it is imported.
    package = sys.modules.get("tf_keras")
    if package is not None and isinstance(model, package.layers.Layer):
        return keras_2(package)
    return None


def variables_of(model: Any) -> tuple[Any, ...]:
    """Return the variables of a model of either Keras, in its order of weights."""
    return (dialect_of(model) or KERAS_3).variables(model.weights)


_KNOWN = ("keras", "tf_keras", "keras_hub", "keras_nlp")


def kinds_of(layer: Any) -> frozenset[str]:
    """Return the names of a layer's class and its bases, as far as these are Keras's or KerasHub's.

    There are none if another class defines the computation.
    """
    classes = type(layer).__mro__
    computing = next((one for one in classes if "call" in vars(one)), object)
    if not _is_known(computing):
        return frozenset()
    return frozenset(one.__name__ for one in classes if _is_known(one))


def _is_known(one: type) -> bool:
    return one.__module__.partition(".")[0] in _KNOWN
