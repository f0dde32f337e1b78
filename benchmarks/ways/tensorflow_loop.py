"""The strongest loop by hand in TensorFlow: traced once, sorted texts, no padding, a writer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks.ways import TEXT_WORKS, Assets, Work, array_work, serve, text_work
from benchmarks.ways.keras_models import bert, lstm, resnet50

Forward = Callable[..., Sequence[Any]]


TOKENS = [tf.TensorSpec((None, None), tf.int32)] * 2


def traced(model: keras.Model, inputs: Sequence[tf.TensorSpec] | None = None) -> Forward:
    """Return a function of arrays, traced once, that returns a list of tensors."""
    function = tf.function(
        lambda *given: tf.nest.flatten(model(list(given), training=False)),
        input_signature=inputs or [tf.TensorSpec(one.shape, one.dtype) for one in model.inputs],
        autograph=False,
    ).get_concrete_function()
    return lambda *batch: function(*map(tf.convert_to_tensor, batch))


def signature_of(assets: Assets) -> Forward:
    signature = tf.saved_model.load(str(assets.saved_model)).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    return lambda batch: list(signature(**{name: tf.convert_to_tensor(batch)}).values())


def _arrays(forward: Forward, samples: NDArray[np.float32]) -> Work:
    return array_work(samples, lambda batch: [one.numpy() for one in forward(batch)])


def _texts(name: str, assets: Assets) -> Work:
    model = traced(bert(assets.minilm, name), TOKENS)

    def forward(ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Sequence[NDArray[Any]]:
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        return [one.numpy() for one in model(ids.astype("int32"), mask.astype("int32"))]

    return text_work(assets, name, forward)


if __name__ == "__main__":
    serve(
        {
            **{name: partial(_texts, name) for name in TEXT_WORKS},
            "resnet50": lambda assets: _arrays(traced(resnet50(assets)), assets.array("pictures")),
            "lstm": lambda assets: _arrays(traced(lstm(assets)), assets.array("sequences")),
            "saved_model": lambda assets: _arrays(signature_of(assets), assets.array("audio")),
        },
        ["tensorflow", "keras"],
    )
