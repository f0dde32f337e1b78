"""The loop that people write by hand: `keras.Model(inputs, outputs)`, `predict_on_batch`, h5py.

Texts are in their order in batches of 32 and padded to 128 tokens, and the padding is stored.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks.ways import (
    BATCH_SIZE,
    MAX_LENGTH,
    TEXT_WORKS,
    Assets,
    Totals,
    Work,
    means,
    serve,
    stored,
)
from benchmarks.ways.keras_models import bert, lstm, resnet50


def _loop(path: Path, batches: Sequence[Any], predict: Any, count: int) -> None:
    """Write what `predict` returns for each batch, one dataset a value."""
    with h5py.File(path, "w") as file:
        for index, batch in enumerate(batches):
            found = predict(batch)
            for number, values in enumerate(found if isinstance(found, list) else [found]):
                name = f"value_{number}"
                if not index:
                    file.create_dataset(name, (count, *values.shape[1:]), values.dtype)
                file[name][index * BATCH_SIZE : index * BATCH_SIZE + len(values)] = values


def _texts(name: str, assets: Assets) -> Work:
    model = bert(assets.minilm, name)

    def encoded(texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        rows = [one.ids for one in assets.tokenizer.encode_batch(list(texts))]
        ids = np.zeros((len(rows), MAX_LENGTH), np.int32)
        mask = np.zeros_like(ids)
        for row, on, tokens in zip(ids, mask, rows, strict=True):
            row[: len(tokens)] = tokens
            on[: len(tokens)] = 1
        return ids, mask

    def predict(texts: Sequence[str]) -> list[NDArray[Any]]:
        ids, mask = encoded(texts)
        found: list[NDArray[Any]] = tf.nest.flatten(model.predict_on_batch([ids, mask]))
        if name == "pooled":
            found = [means(values, mask.sum(1)) for values in found]
        return found

    def run(path: Path) -> None:
        texts = assets.texts
        batches = [texts[i : i + BATCH_SIZE] for i in range(0, len(texts), BATCH_SIZE)]
        _loop(path, batches, predict, len(texts))

    def totals(path: Path) -> Totals:
        if name == "pooled":
            return stored(path)
        lengths = encoded(assets.texts)[1].sum(1)
        with h5py.File(path) as file:
            return Totals.of(
                [
                    one[:, :length, :length] if name == "attention" else one[:length]
                    for dataset in file.values()
                    for one, length in zip(dataset, lengths, strict=True)
                ]
            )

    return Work(run, totals)


def _arrays(predict: Any, samples: NDArray[np.float32]) -> Work:
    batches = [samples[i : i + BATCH_SIZE] for i in range(0, len(samples), BATCH_SIZE)]
    return Work(lambda path: _loop(path, batches, predict, len(samples)), stored)


def _saved_model(assets: Assets) -> Any:
    signature = tf.saved_model.load(str(assets.saved_model)).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    return lambda batch: [one.numpy() for one in signature(**{name: tf.constant(batch)}).values()]


def _tflite(assets: Assets) -> Work:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(assets.tflite), num_threads=2)
    samples = assets.array("audio")
    interpreter.resize_tensor_input(
        interpreter.get_input_details()[0]["index"], [1, *samples.shape[1:]]
    )
    interpreter.allocate_tensors()
    (given,), outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        found = []
        for sample in batch:
            interpreter.set_tensor(given["index"], sample[None])
            interpreter.invoke()
            found.append([interpreter.get_tensor(one["index"]) for one in outputs])
        return [np.concatenate(values) for values in zip(*found, strict=True)]

    return _arrays(predict, samples)


def _weights(assets: Assets) -> Work:
    from keras_hub.models import BertBackbone

    model = BertBackbone.from_preset(str(assets.minilm))

    def run(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for variable in model.trainable_variables:  # the others are seeds
                file.create_dataset(variable.path, data=np.asarray(variable.value))

    return Work(run, stored)


if __name__ == "__main__":
    serve(
        {
            **{name: partial(_texts, name) for name in TEXT_WORKS},
            "resnet50": lambda assets: _arrays(
                resnet50(assets).predict_on_batch, assets.array("pictures")
            ),
            "lstm": lambda assets: _arrays(
                lstm(assets).predict_on_batch, assets.array("sequences")
            ),
            "saved_model": lambda assets: _arrays(_saved_model(assets), assets.array("audio")),
            "tflite": _tflite,
            "weights": _weights,
        },
        ["tensorflow", "keras", "keras-hub"],
    )
