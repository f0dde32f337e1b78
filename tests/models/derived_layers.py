"""Small models of both Kerases whose layers hold more than variables, before and after training."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

KERASES: dict[str, Any] = {"keras": keras, "tf_keras": tf_keras}

WORDS = ["good", "bad", "film"]
TEXTS = np.array([["good film"], ["bad bad day"], ["film"]])
NUMBERS = np.random.default_rng(0).normal(5, 3, (3, 4)).astype(np.float32)
ONE_WORD = np.array([["good"], ["day"], ["film"]])
CODES = np.array([[7], [8], [11]])


class _Finalizing:
    """Keeps a tensor that is derived from its weight whenever its state is finalized."""

    def build(self: Any, shape: Any) -> None:
        self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones")
        self.finalize_state()

    def finalize_state(self: Any) -> None:
        with tf.init_scope():
            self.doubled = 2.0 * tf.convert_to_tensor(self.scale)

    def load_own_variables(self: Any, store: Any) -> None:
        super().load_own_variables(store)  # type: ignore[misc]
        self.finalize_state()

    def call(self: Any, x: Any) -> Any:
        return x * self.doubled


class _FromBuild:
    """Keeps numbers that are derived from its weight when that is made, and never again."""

    def build(self: Any, shape: Any) -> None:
        self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones")
        with tf.init_scope():
            self.initial = np.asarray(tf.convert_to_tensor(self.scale)) + 1

    def call(self: Any, x: Any) -> Any:
        return x * self.initial + self.scale


class _Reading:
    """Reads its weight's value while it is called, so that a trace holds it as a constant."""

    def build(self: Any, shape: Any) -> None:
        self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones")

    def call(self: Any, x: Any) -> Any:
        with tf.init_scope():
            value = np.asarray(tf.convert_to_tensor(self.scale))
        return x * value


class Odd3(keras.layers.Layer):
    """Holds objects that are nothing that Keras or NumPy knows."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.nameless = object()
        self.__dict__["itself"] = [self]  # untracked
        self.of_texts = {1: {"a", "b"}, "x": np.array(["a", None], object)}
        self.ragged = tf.ragged.constant([[1], [2, 3]])
        self.plain = tf.Variable(3.0)

    def call(self, x: Any) -> Any:
        return x * self.plain


class Odd2(tf_keras.layers.Layer):
    """The same for Keras 2, which takes anything for a weight."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.nameless = object()
        self.of_texts = {"x": np.array(["a", None], object)}
        self._non_trainable_weights.append(self.nameless)

    def call(self, x: Any) -> Any:
        return x * 3.0


def _registered(kind: type, name: str) -> dict[str, Any]:
    """A class of the layer for each Keras, which files of it find by its name."""
    return {
        which: k.saving.register_keras_serializable()(
            type(f"{name}{k.__name__}", (kind, k.layers.Layer), {})
        )
        for which, k in KERASES.items()
    }


_OWN = {
    "finalizing": _registered(_Finalizing, "Finalizing"),
    "from_build": _registered(_FromBuild, "FromBuild"),
    "reading": _registered(_Reading, "Reading"),
}

NUMERIC = ("normalization", "nested", "discretization", "rescaling", "spectral", *_OWN)
TEXTUAL = ("string_lookup", "hashing")
KINDS = (*NUMERIC, *TEXTUAL, "integer_lookup", "tf_idf")


def inputs(kind: str) -> Any:
    """Three samples for a model of this kind."""
    if kind in NUMERIC:
        return NUMBERS
    if kind in TEXTUAL:
        return ONE_WORD
    return CODES if kind == "integer_lookup" else TEXTS


def build(which: str, kind: str, idf: float = 1.0) -> Any:
    """The architecture, as a program has it before weights are loaded."""
    k = KERASES[which]
    layers = k.layers
    dtype = "int64" if kind == "integer_lookup" else None if kind in NUMERIC else "string"
    x = k.Input((4,) if kind in NUMERIC else (1,), dtype=dtype, name="x")
    if kind == "nested":
        inner = [k.Input((4,)), layers.Normalization(name="norm")]
        y = k.Sequential(inner, name="inner")(x)
    elif kind in _OWN:
        y = _OWN[kind][which](name="own")(x)
    else:
        y = _layer(which, kind, idf)(x)
    if kind == "discretization":
        y = layers.Rescaling(1.0)(y)
    return k.Model(x, layers.Dense(2, name="out")(y))


def _layer(which: str, kind: str, idf: float) -> Any:
    layers = KERASES[which].layers
    if kind == "normalization":
        return layers.Normalization(name="norm")
    if kind == "discretization":  # its boundaries are weights to Keras 2, and settings to Keras 3
        own = {"bin_boundaries": [2.0, 5.0]} if which == "keras" else {"num_bins": 4}
        return layers.Discretization(**own, name="bins")
    if kind == "rescaling":
        return layers.Rescaling(0.5, name="half")
    if kind == "spectral":
        return layers.SpectralNormalization(layers.Dense(3), name="spectral")
    if kind == "string_lookup":
        return layers.StringLookup(vocabulary=WORDS, output_mode="one_hot", name="words")
    if kind == "hashing":
        return layers.Hashing(5, output_mode="one_hot", name="hashes")
    if kind == "integer_lookup":
        return layers.IntegerLookup(vocabulary=[7, 9, 11], output_mode="one_hot", name="codes")
    return layers.TextVectorization(
        vocabulary=WORDS,
        idf_weights=[idf, 2 * idf, 3 * idf],
        output_mode="tf_idf",
        name="words",
    )


def trained(which: str, kind: str, seed: int) -> Any:
    """The same with other weights than an initializer gives, and what is derived from them."""
    draw = np.random.default_rng(seed)
    model = build(which, kind, idf=float(seed + 2))
    data = draw.normal(5 * seed + 1, seed + 1, (64, 4)).astype(np.float32)
    for layer in model._flatten_layers():
        if layer.name == "norm" or (layer.name == "bins" and which == "tf_keras"):
            layer.adapt(data)
        elif layer.name in ("own", "out") or type(layer).__name__ == "SpectralNormalization":
            for variable in layer.weights:
                variable.assign(draw.uniform(0.5, 1.5, variable.shape))
        if hasattr(layer, "doubled"):
            layer.finalize_state()
    return model
