"""Small Keras models of every kind, for what has to hold whatever the model is."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from extractkit.core.values import Array
from extractkit.inputs import Signature
from tests.models import zoo_layers


def sequential() -> keras.Model:
    return keras.Sequential(
        [layers.Input((4,)), layers.Dense(5, "relu"), layers.Dense(3), layers.Softmax()]
    )


def convolutional() -> keras.Model:
    image = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(3, 3, padding="same")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.MaxPooling2D()(layers.ReLU()(x))
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))


def shared_and_nested() -> keras.Model:
    """Two inputs, two outputs, a shared layer, a model in a model."""
    one, two = keras.Input((4,), name="one"), keras.Input((4,), name="two")
    shared = layers.Dense(4, name="shared")
    inside = keras.Input((4,))
    block = keras.Model(inside, layers.Dense(4, "tanh")(layers.LayerNormalization()(inside)))
    a, b = shared(one), shared(two)
    merged = layers.Concatenate()([block(a), block(b)])
    return keras.Model([one, two], {"sum": layers.Add()([a, b]), "head": layers.Dense(2)(merged)})


def tokens_and_mask() -> keras.Model:
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(9, 4, mask_zero=True)(ids)
    x = layers.LSTM(3, return_sequences=True, name="lstm")(x)
    x = layers.Bidirectional(layers.GRU(2, return_sequences=True), name="both")(x)
    return keras.Model(ids, layers.TimeDistributed(layers.Dense(2), name="each")(x))


def unrolled() -> keras.Model:
    x = keras.Input((3, 4))
    return keras.Model(x, layers.LSTM(2, unroll=True, return_state=True, name="lstm")(x))


def attention() -> keras.Model:
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(9, 4, name="embedding")(ids)
    dropped = layers.MultiHeadAttention(2, 3, dropout=0.5, name="dropped")
    x = dropped(x, x, use_causal_mask=True)
    x, scores = layers.MultiHeadAttention(2, 3, name="plain")(x, x, return_attention_scores=True)
    return keras.Model(ids, [x, scores])


def subclassed() -> keras.Model:
    model = zoo_layers.Subclassed()
    model(tf.zeros((2, 4)))
    return model


def flattened() -> keras.Model:
    """Operations by hand: samples and tokens in one axis, the samples not in front."""
    x = keras.Input((None, 4), name="x")
    return keras.Model(x, zoo_layers.Flattening(name="flattening")(x))


def control_flow() -> keras.Model:
    x = keras.Input((4,))
    y = zoo_layers.Loop(name="loop")(x)
    y = zoo_layers.Scan(name="scan")(y)
    y = zoo_layers.Branch(name="branch")(y)
    return keras.Model(x, zoo_layers.NestedFunction(name="nested")(y))


def half_precision() -> keras.Model:
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(3, dtype="mixed_bfloat16", name="half")(x))


MODELS: dict[str, Callable[[], keras.Model]] = {
    build.__name__: build
    for build in (
        sequential,
        convolutional,
        shared_and_nested,
        tokens_and_mask,
        unrolled,
        attention,
        subclassed,
        flattened,
        control_flow,
        half_precision,
    )
}


def drawn(signature: Signature, samples: int, length: int, seed: int = 0) -> dict[str, Array]:
    """A batch for a model: standard normal, or whole numbers from 1 to 8."""
    draw = np.random.default_rng(seed)
    batch: dict[str, Array] = {}
    for spec in signature.specs:
        shape = (samples, *(length if size is None else size for size in spec.shape))
        whole = "int" in spec.dtype
        values: Any = draw.integers(1, 9, shape) if whole else draw.normal(size=shape)
        batch[spec.name] = values.astype(spec.dtype)
    return batch
