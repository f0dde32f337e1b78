"""`selectors=attention` on graphs, which know no layers: softmaxes that are multiplied."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit

X = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def layer() -> Any:
    return keras.layers.MultiHeadAttention(2, 3, name="mha")


@pytest.fixture(scope="module")
def model(layer: Any) -> Any:
    x = keras.Input((5, 6), name="x")
    pooled = keras.layers.Flatten()(layer(x, x, use_causal_mask=True))
    return keras.Model(x, keras.layers.Dense(3, activation="softmax")(pooled))


def saved_model(model: Any, folder: Path) -> list[str]:
    tf.saved_model.save(model, str(folder / "saved"))
    return ["model=saved_model", f"model.path={folder / 'saved'}"]


def tflite(model: Any, folder: Path) -> list[str]:
    (folder / "net.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return ["model=tflite", f"model.path={folder / 'net.tflite'}"]


@pytest.mark.parametrize("write", [saved_model, tflite])
def test_probabilities_of_a_graph(write: Any, model: Any, layer: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    run = extractkit.extract(
        [
            *(*write(model, tmp_path), "selectors=attention", "inputs=arrays"),
            f"inputs.path={tmp_path / 'x.npy'}",
        ],
        run_dir=tmp_path / "run",
    )
    (view,) = run.values()
    _, scores = layer(X, X, use_causal_mask=True, return_attention_scores=True)
    np.testing.assert_allclose(np.asarray(view), scores, atol=1e-6)
