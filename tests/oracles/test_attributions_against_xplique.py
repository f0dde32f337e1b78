"""Attributions against those of xplique, on the same models.

Skipped where xplique is missing. It wants an older TensorFlow, but its methods run with this one.
To run the tests, make a copy of the environment, add to it, and from the root of the repository:

    python -m pip install --no-deps xplique==2.0.2 einops deprecated wrapt scikit-learn \
        scikit-image networkx lazy-loader imageio tifffile scipy joblib threadpoolctl \
        opencv-python-headless tensorflow-probability==0.25.0 dm-tree cloudpickle decorator
    python -m pytest tests/oracles/test_attributions_against_xplique.py
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import extractkit
from extractkit.core.values import Array

xplique = pytest.importorskip("xplique.attributions", reason="needs xplique: see the docstring")

pytestmark = pytest.mark.oracle

PIXELS = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 2)).astype("float32")


def network(activation: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    given = keras.Input((16, 16, 2), name="pixels")
    x = layers.Conv2D(6, 3, activation=activation, name="edges")(given)
    x = layers.Conv2D(6, 3, activation=activation, name="parts")(x)
    x = layers.Flatten()(layers.MaxPooling2D(3)(x) if activation == "relu" else x)
    return keras.Model(given, layers.Dense(3, name="head")(x))


def both(
    tmp_path: Path, model: keras.Model, method: Any, path: str, of: dict[str, Any]
) -> tuple[Array, Array]:
    """Return what extractkit and xplique find of the logits that the model chooses."""
    selector = {"path": path, "gradient": {"of": "argmax", **of}}
    run = extractkit.extract(
        ["selectors=none"],
        model=model,
        inputs=PIXELS,
        selectors={"g": selector},
        run_dir=tmp_path / "run",
    )
    explained = method.explain(PIXELS, chosen(model))
    return np.asarray(run[f"{path}@grad"]), np.asarray(explained)


def chosen(model: keras.Model) -> Array:
    return np.eye(3, dtype="float32")[model.predict(PIXELS, verbose=0).argmax(1)]


def alike(found: Array, wanted: Array, tolerance: float) -> None:
    scale = np.abs(wanted).max()
    assert scale > 0
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=tolerance)


def test_grad_cam(tmp_path: Path) -> None:
    model = network("relu")
    method = xplique.GradCAM(model)
    found, wanted = both(tmp_path, model, method, "parts:output", {"cam": True})
    enlarged = tf.image.resize(found[..., None], (16, 16), tf.image.ResizeMethod.BICUBIC)
    alike(np.asarray(enlarged), wanted, 1e-5)


def test_guided_gradients(tmp_path: Path) -> None:
    model = network("relu")
    method = xplique.GuidedBackprop(model, reducer=None)
    found, wanted = both(tmp_path, model, method, ":input.pixels", {"guided": True})
    alike(found, wanted, 1e-5)


def test_integrated_gradients(tmp_path: Path) -> None:
    """By the trapezoidal rule of many points there."""
    model = network("tanh")
    method = xplique.IntegratedGradients(model, reducer=None, steps=400)
    found, wanted = both(tmp_path, model, method, ":input.pixels", {"integrate": {}})
    alike(found, wanted, 1e-4)


def test_smoothgrad(tmp_path: Path) -> None:
    """Noise is drawn independently, so means differ by the error of a mean of 500 draws."""
    model = network("tanh")
    width = np.ptp(PIXELS.reshape(3, -1), axis=1)
    assert width == pytest.approx(2, abs=0.01)
    tf.random.set_seed(0)
    method = xplique.SmoothGrad(model, reducer=None, nb_samples=500, noise=0.5 * width.mean())
    smooth = {"smooth": {"draws": 500, "noise": 0.5}}
    found, wanted = both(tmp_path, model, method, ":input.pixels", smooth)
    plain = np.asarray(xplique.Saliency(model, reducer=None).explain(PIXELS, chosen(model)))
    error = np.abs(found - wanted).mean()
    assert error < 0.05 * np.abs(wanted).mean()
    assert error < 0.2 * np.abs(np.abs(plain) - np.abs(wanted)).mean()
