"""Models read without their initial weights, and those that need them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from extractkit.models.keras_models.loading import with_stored_weights


class Forgetful(keras.layers.Layer):
    """A layer that does not save its weight."""

    def __init__(self, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.seed = seed

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(
            shape=(shape[-1], 2), initializer=keras.initializers.RandomNormal(seed=self.seed)
        )
        self.double = np.asarray(self.kernel) * 2

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.kernel)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}

    def save_own_variables(self, store: Any) -> None:
        """Save nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing."""


def saved(path: Path, *layers: keras.Layer) -> tuple[keras.Model, Callable[[], Any]]:
    """Return a model with values of its own, and what reads its file."""
    model = keras.Sequential([keras.Input((6, 4)), *layers])
    model.save(path)
    custom = {"Forgetful": Forgetful}
    return model, lambda: keras.models.load_model(path, custom_objects=custom, compile=False)


def weights(model: Any) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in model.weights]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The initial weights that are drawn, by the name of the initializer."""
    found: list[str] = []
    for kind in (keras.initializers.VarianceScaling, keras.initializers.RandomNormal):
        original = kind.__call__

        def called(self: Any, *args: Any, original: Any = original, **options: Any) -> Any:
            found.append(type(self).__name__)
            return original(self, *args, **options)

        monkeypatch.setattr(kind, "__call__", called)
    return found


def test_stored_weights_are_those_of_keras(tmp_path: Path, drawn: list[str]) -> None:
    layers = (keras.layers.LSTM(3, return_sequences=True), keras.layers.Dense(2))
    model, read = saved(tmp_path / "m.keras", *layers)
    assert drawn
    drawn.clear()
    for one, expected in zip(weights(with_stored_weights(read)), weights(model), strict=True):
        np.testing.assert_array_equal(one, expected)
    assert drawn == []


def test_a_weight_without_a_stored_value_is_drawn(tmp_path: Path, drawn: list[str]) -> None:
    _, read = saved(tmp_path / "m.keras", Forgetful())
    drawn.clear()
    found = with_stored_weights(read)
    assert drawn == ["RandomNormal"]
    assert len(np.unique(weights(found)[0])) == 8


def test_layers_may_rely_on_a_seed(tmp_path: Path) -> None:
    model, read = saved(tmp_path / "m.keras", Forgetful(seed=3))
    found = with_stored_weights(read).layers[0]
    np.testing.assert_array_equal(found.double, model.layers[0].double)
    np.testing.assert_array_equal(found.kernel, model.layers[0].kernel)
