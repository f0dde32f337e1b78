"""The two Kerases behind one catalog: Keras 3, and Keras 2 as the package tf-keras.

Both name their classes alike; what differs is gathered here, so that trace and catalog ask the
dialect. tf-keras is never imported for a model that is not made with it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf
from keras.src import backend

from extractkit.models.foreign import patched
from extractkit.models.tensorflow_internals import autograph_enabled


@contextmanager
def repaired_keras() -> Iterator[None]:
    """Trace inside.

    `TimeDistributed` of Keras 3.15, where the number of steps is unknown, makes as many steps as
    there are samples: it takes the shape before it swaps the two axes and uses it after.
    """
    with patched(keras.layers.TimeDistributed, "call", _over_free_steps):
        yield


def _over_free_steps(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(wrapper: Any, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> Any:
        if inputs.shape[1] is not None:
            return original(wrapper, inputs, training=training, mask=mask)
        arguments: dict[str, Any] = {}
        if wrapper.layer._call_has_mask_arg and mask is not None:
            arguments["mask"] = _merged(mask)
        if wrapper.layer._call_has_training_arg:
            arguments["training"] = training
        samples_and_steps = tf.shape(inputs)[:2]
        return keras.tree.map_structure(
            lambda tensor: _apart(tensor, samples_and_steps),
            wrapper.layer.call(_merged(inputs), **arguments),
        )

    return call


def _merged(tensor: tf.Tensor) -> tf.Tensor:
    """(samples, steps, …) to (samples * steps, …)."""
    merged = tf.reshape(tensor, tf.concat([[-1], tf.shape(tensor)[2:]], 0))
    return tf.ensure_shape(merged, [None, *tensor.shape[2:]])


def _apart(tensor: tf.Tensor, samples_and_steps: tf.Tensor) -> tf.Tensor:
    """(samples * steps, …) to (samples, steps, …)."""
    apart = tf.reshape(tensor, tf.concat([samples_and_steps, tf.shape(tensor)[1:]], 0))
    return tf.ensure_shape(apart, [None, None, *tensor.shape[1:]])


@dataclass(frozen=True, eq=False)
class Dialect:
    """One Keras.

    Attributes:
        name: for messages.
        package: the package itself; `package.layers.Layer` is its layer, `package.Model` its model.
        variable_class: of its variables.
        own_weights: what a layer lists as its weights, without those of the layers inside it.
        variable_name: a variable's name within its layer.
        repaired: within it, layers compute when traced what they compute when called.
        converting: Entered in a traced function, converts the control flow of users' layers.
        loops: modules whose function `rnn` runs a step over time.
        mask_makers: classes, and their methods that make the dropout masks of an RNN's cells.
    """

    name: str
    package: Any
    variable_class: type
    own_weights: Callable[[Any], tuple[Any, ...]]
    variable_name: Callable[[Any], str]
    repaired: Callable[[], AbstractContextManager[None]]
    loops: tuple[ModuleType, ...]
    converting: Callable[[], AbstractContextManager[None]] = nullcontext
    mask_makers: tuple[tuple[type, str], ...] = ()

    def variables(self, weights: Iterable[Any]) -> tuple[Any, ...]:
        """Return those weights that are variables.

        Keras 2 lists the vocabulary of a lookup layer as a weight, and layers of somebody's own
        may list anything.
        """
        return tuple(one for one in weights if isinstance(one, self.variable_class))

    def own_variables(self, layer: Any) -> tuple[Any, ...]:
        """Return a layer's variables, without those of the layers inside it."""
        return self.variables(self.own_weights(layer))


KERAS_3 = Dialect(
    name="Keras 3",
    package=keras,
    variable_class=keras.Variable,
    own_weights=lambda layer: (*layer._trainable_variables, *layer._non_trainable_variables),
    variable_name=lambda variable: str(variable.name),
    repaired=repaired_keras,
    loops=(backend,),
    mask_makers=((keras.layers.RNN, "_maybe_config_dropout_masks"),),
)


@contextmanager
def control_flow_converted() -> Iterator[None]:
    """Let AutoGraph convert what Keras 2 has it convert inside `predict`.

    That is `call` of users' layers, where an `if` or a loop may depend on tensors. Entered inside
    a function traced with `autograph=False`, so that nothing else is converted.
    """
    with autograph_enabled():
        yield


def keras_2(package: Any) -> Dialect:
    """Return the dialect of tf-keras.

    Args:
        package: the imported module `tf_keras`.
    """
    return Dialect(
        name="Keras 2",
        package=package,
        variable_class=tf.Variable,
        own_weights=lambda layer: (*layer._trainable_weights, *layer._non_trainable_weights),
        # TensorFlow's own name, scopes and output number around it: `dense/kernel:0`.
        variable_name=lambda variable: variable.name.rpartition("/")[2].partition(":")[0],
        repaired=nullcontext,
        converting=control_flow_converted,
        # That of users' code, and that of its own layers.
        loops=(package.backend, package.src.backend),
    )


def dialect_of(model: object) -> Dialect | None:
    """Return the Keras that a model, or a layer, is made with; None: it is neither."""
    if isinstance(model, keras.layers.Layer):
        return KERAS_3
    # Whoever made a model with it has imported it.
    package = sys.modules.get("tf_keras")
    if package is not None and isinstance(model, package.layers.Layer):
        return keras_2(package)
    return None


def variables_of(model: Any) -> tuple[Any, ...]:
    """Return the variables of a model of either Keras, in its order of weights."""
    return (dialect_of(model) or KERAS_3).variables(model.weights)
