"""Small models that are trained with fixed seeds, and what a run of their training holds."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import extractkit
from extractkit.core.values import Array

_DRAWN = np.random.default_rng(0)
X = _DRAWN.random((48, 3), dtype=np.float32)
Y = _DRAWN.random((48, 2), dtype=np.float32)
PROBE = _DRAWN.random((10, 3), dtype=np.float32)

SELECTORS = {
    "activations": {"path": ["hidden:output", "last:output"]},
    "weights": {"kind": "weight"},
    "spread": {"path": "hidden:output", "statistics": ["moments", "histogram"]},
    "slope": {"path": "hidden:output", "gradient": {"of": {"tensor": "last:output", "index": 0}}},
}


def sequential(package: Any, units: int = 4) -> Any:
    """Return a model that is built when it is first called, with state of every kind."""
    layers = package.layers
    return package.Sequential(
        [
            layers.Dense(units, activation="relu", name="hidden"),
            layers.BatchNormalization(name="normal"),
            layers.Dropout(0.3, name="dropout"),
            layers.GaussianNoise(0.1, name="noise"),
            layers.Dense(2, name="last"),
        ]
    )


def trained(
    package: Any,
    callbacks: Sequence[Any] = (),
    *,
    epochs: int = 3,
    seed: int = 1,
    model: Any = None,
    **arguments: Any,
) -> tuple[Any, Any]:
    """Train a new model, or a given one; return it and its history."""
    if model is None:
        for one in (keras, package):
            one.utils.set_random_seed(seed)
        model = sequential(package)
    if not getattr(model, "optimizer", None):
        model.compile("adam", "mse", metrics=["mae"])
    given = {"batch_size": 16, "shuffle": False, "verbose": 0, **arguments}
    history = model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **given)
    return model, history.history


def probing(run_dir: Path, selectors: Any = None, **settings: Any) -> extractkit.Callback:
    """Return the callback for the model of `sequential`."""
    given = {"inputs": PROBE, **settings}
    return extractkit.Callback(selectors or SELECTORS, run_dir=run_dir, **given)


def state(model: Any) -> list[Array]:
    """Return everything that training keeps in a model and its optimizer."""
    optimizer = model.optimizer.variables
    kept = [*model.variables, *(optimizer() if callable(optimizer) else optimizer)]
    return [np.asarray(one) for one in kept]


def drawn() -> list[float]:
    """Return the next number of every generator of the process."""
    return [
        random.random(),
        float(np.random.random()),
        float(tf.random.uniform(())),
        float(keras.random.uniform(())),
    ]


def digests(run: extractkit.Run) -> dict[str, str]:
    """Return the digest of each shard's values by its key."""
    return run.journal.digests()


def same(one: Sequence[Array], other: Sequence[Array]) -> None:
    """Assert that arrays are equal bit for bit."""
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second, strict=True)


FEW = {"all": {"path": "*:output"}, "spread": {"path": "a:output", "statistics": ["moments"]}}
QUICK = {"selectors": FEW, "runtime": {"self_check": False}}


def small(seed: int = 0) -> Any:
    """Return a model whose trace takes little time."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="a")])


def train(
    run_dir: Path,
    epochs: int = 3,
    model: Any = None,
    further: Sequence[Any] = (),
    **settings: Any,
) -> Any:
    """Train the small model, or train a given one further, and return it."""
    given: dict[str, Any] = {**QUICK, **settings.pop("callback", {})}
    model = small() if model is None else model
    callbacks = [probing(run_dir, **given), *further]
    return trained(keras, callbacks, model=model, epochs=epochs, **settings)[0]
