"""`verify --recompute` of runs of TensorFlow models, where its numbers and types are special."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import extractkit
from extractkit.core.component import Component
from extractkit.models import module
from extractkit.runs.checking import Outcome


def test_a_nan_in_the_inputs_is_no_damage(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,), name="x"),
            keras.layers.Dense(3, "relu", name="hidden"),
            keras.layers.Dense(2),
        ]
    )
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    x[2, 1], x[4, 0] = np.nan, np.inf
    overrides = ["selectors=layers", "runtime.deterministic=false"]
    extractkit.extract(overrides, model=model, inputs=x, run_dir=tmp_path / "run")
    found = extractkit.verify(tmp_path / "run", recompute=9, model=model, inputs=x)
    assert [one.message for one in found.findings] == []


def letters() -> Any:
    """One text a sample, and as many as it has letters."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def call(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"upper": tf.strings.upper(text), "size": tf.strings.length(text)}

    return call


def test_outputs_may_be_one_text_a_sample(tmp_path: Path) -> None:
    model = module.load(Component("model.factory", f"{__name__}.letters"))
    live: dict[str, Any] = {"model": model, "inputs": ["a", "bé", "", "ccc"]}
    overrides = ["selectors=outputs", "runtime.deterministic=false"]
    extractkit.extract(overrides, run_dir=tmp_path / "run", **live)
    found = extractkit.verify(tmp_path / "run", recompute=9, **live)
    assert [one.message for one in found.findings] == []
    (outputs,) = (check for check in found.checks if check.name == "outputs")
    assert outputs.outcome is Outcome.OK
    assert outputs.detail.startswith("2 outputs for 4 samples")
