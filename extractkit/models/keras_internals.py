"""Interfaces of Keras 3, tf-keras and keras-hub that their documentation does not promise.

The only file that uses them. Known to work with Keras 3.15, tf-keras 2.21 and keras-hub 0.32.
`tests/internals/test_keras.py` checks each name on its own, so that a release without one fails
with what it lacks.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from keras.src import backend

IDENTIFIED = (
    "keras.src.backend.",
    "keras.src.ops.",
    "keras.src.utils.tracking",
    "tf_keras.src.engine.node",
    "tf_keras.src.engine.keras_tensor",
)
"""Prefixes of modules whose objects belong to a graph of layers, not to a layer's state."""

OPERATIONS = "keras.src.ops."
"""Prefix of the modules of Keras 3's operations; `keras.ops` only exports functions."""

MASK_MAKER = "_maybe_config_dropout_masks"
"""The method of Keras 3's RNN that calls a cell to make dropout masks; `call` runs it first."""


# ---------------------------------------------------------------------------- layers


def layers_in(layer: Any, *, include_self: bool = True, recursive: bool = True) -> list[Any]:
    """Return the layers inside a layer of either Keras.

    Uses `Layer._flatten_layers`. The public `Model.layers` lists neither those inside a layer that
    is not a model, nor those inside lists and mappings.
    """
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def own_weights_3(layer: Any) -> tuple[Any, ...]:
    """Return the weights of a layer of Keras 3, without those of the layers inside it.

    Uses `_trainable_variables` and `_non_trainable_variables`. The public lists include those of
    the layers inside.
    """
    return (*layer._trainable_variables, *layer._non_trainable_variables)


def own_weights_2(layer: Any) -> tuple[Any, ...]:
    """Return the weights of a layer of tf-keras, without those of the layers inside it.

    Uses `_trainable_weights` and `_non_trainable_weights`. The public lists include those of the
    layers inside.
    """
    return (*layer._trainable_weights, *layer._non_trainable_weights)


def takes_mask(layer: Any) -> bool:
    """Return whether `call` of a layer of Keras 3 has a mask, as Keras decides it.

    Uses `_call_has_mask_arg`. `supports_masking` has another meaning.
    """
    return bool(layer._call_has_mask_arg)


def takes_training(layer: Any) -> bool:
    """Return whether `call` of a layer of Keras 3 has `training`, as Keras decides it.

    Uses `_call_has_training_arg`. There is no public equivalent.
    """
    return bool(layer._call_has_training_arg)


def loops_3() -> tuple[ModuleType, ...]:
    """Return the modules of Keras 3 whose `rnn` runs a step over time.

    Uses `keras.src.backend`, where RNN layers look the function up. No public function is called.
    """
    return (backend,)


def loops_2(package: Any) -> tuple[ModuleType, ...]:
    """Return the corresponding modules of tf-keras: one for users' code, one for its own layers.

    Uses `tf_keras.src.backend`, which the public `tf_keras.backend` only copies.
    """
    return (package.backend, package.src.backend)


def recurrent_registry_2(package: Any) -> tuple[ModuleType, str]:
    """Return the module and the function of tf-keras that add an LSTM or GRU for GPUs to a graph.

    Uses `tf_keras.src.layers.rnn.gru_lstm_utils.function_register`. There is no public equivalent.
    """
    return package.src.layers.rnn.gru_lstm_utils, "function_register"


def attention_kernel_3() -> tuple[ModuleType, str]:
    """Return the module and the function of Keras 3 that computes dot-product attention.

    Uses `keras.src.backend.nn`, where `keras.ops.dot_product_attention` looks the function up.
    Layers import the public function before it could be replaced.
    """
    return backend.nn, "dot_product_attention"


def inner_variable(variable: Any) -> Any:
    """Return TensorFlow's variable inside a variable of Keras 3 or of a mixed precision policy.

    Uses `_value` of Keras 3 and `_variable` of tf-keras. The public `value` of Keras 3 may cast.
    """
    inside = getattr(variable, "_value", None)
    if inside is None:
        inside = getattr(variable, "_variable", None)
    return variable if inside is None else inside


# ---------------------------------------------------------------------------- training

FOR_TRAINING = frozenset(
    {
        *("optimizer", "history", "stop_training", "stop_evaluating"),
        *("_compile_config", "_eval_data_handler", "_eval_epoch_iterator"),
        "_self_unconditional_dependency_names",
        "_self_unconditional_checkpoint_dependencies",
    }
)
"""Attributes that `compile` and `fit` add to a model of either Keras. Its call ignores them."""


class BatchHooks:
    """Answers to what `fit` of tf-keras asks a callback that is not one of its own class.

    Has `_implements_train_batch_hooks`, `_implements_test_batch_hooks`,
    `_implements_predict_batch_hooks` and `_supports_tf_logs` of its `Callback`. With Keras 3's
    public class and these, one class is a callback of both.

    Attributes:
        each_batch: Whether the callback is called after each batch of training.
    """

    each_batch = False
    _supports_tf_logs = True

    def _implements_train_batch_hooks(self) -> bool:
        return self.each_batch

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False


# ---------------------------------------------------------------------------- models of tf-keras


def is_model_2(model: object) -> bool:
    """Return whether what tf-keras loaded is a layer or model, and not a bare object.

    Uses the presence of `_flatten_layers`: revived objects have it without a public base class.
    """
    return hasattr(model, "_flatten_layers")


def revived_class() -> Any:
    """Return the class of layers that tf-keras revived without their own class.

    Uses `RevivedLayer`. tf-keras has no public name for it.
    """
    from tf_keras.src.saving.legacy.saved_model.load import RevivedLayer

    return RevivedLayer


def is_functional_2(layer: Any) -> bool:
    """Return whether a layer of tf-keras is a functional or sequential model.

    Uses `_is_graph_network`. The class `Functional` is not public.
    """
    return bool(getattr(layer, "_is_graph_network", False))


def give_input_shape(layer: Any, wrapper: Any) -> None:
    """Give a layer of tf-keras the input shape of its wrapper, unless it has one.

    Uses `_batch_input_shape`. The public `batch_input_shape` is an argument of the constructor.
    """
    shape = getattr(wrapper, "_batch_input_shape", None)
    if shape is not None and not hasattr(layer, "_batch_input_shape"):
        layer._batch_input_shape = shape


# ---------------------------------------------------------------------------- keras-hub


@dataclass(frozen=True)
class BertBlock:
    """The layers of a block of keras-hub's BERT."""

    attention: Any
    attention_norm: Any
    intermediate: Any
    output: Any
    output_norm: Any


def bert_block(block: Any) -> BertBlock:
    """Return the layers of a `TransformerEncoder`.

    Uses its attributes `_self_attention_layer` and so on. It has no public ones.
    """
    return BertBlock(
        attention=block._self_attention_layer,
        attention_norm=block._self_attention_layer_norm,
        intermediate=block._feedforward_intermediate_dense,
        output=block._feedforward_output_dense,
        output_norm=block._feedforward_layer_norm,
    )


# ---------------------------------------------------------------------------- transformers


def keys_to_ignore(model: Any) -> tuple[list[str], list[str]]:
    """Return patterns of weights that a model of transformers may lack, and may leave unread.

    Uses `_keys_to_ignore_on_load_missing` and `_keys_to_ignore_on_load_unexpected`. They have no
    public names.
    """
    missing = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    unexpected = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return list(missing), list(unexpected)
