"""Functions that call others which use constants, tables and variables made outside of both."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.component import Component
from extractkit.core.requests import Value
from extractkit.errors import ModelError
from extractkit.models import Fetch, Model
from extractkit.models.module import load
from tests.models.programs import values_of

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
TEXTS = np.array([b"a", b"b", b"z"], object)


class Nested(tf.Module):
    """Two functions that call another one each."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = tf.constant(2.0)
        self.w = tf.Variable(WEIGHT, name="layer/w")
        keys, values = tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64)
        initializer = tf.lookup.KeyValueTensorInitializer(keys, values)
        self.table = tf.lookup.StaticHashTable(initializer, 0)

    @tf.function
    def inner(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(x @ self.w * self.scale, name="hidden")

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def outer(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": self.inner(x) + 1.0}

    @tf.function
    def look(self, s: tf.Tensor) -> tf.Tensor:
        return self.table.lookup(s)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])
    def ids(self, s: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"ids": self.look(s)}


def loaded(path: str) -> object:
    return tf.saved_model.load(path)


def signature(path: str, name: str = "serving_default") -> object:
    """Nothing but the signature is left: the object that was loaded is gone, and its variables."""
    return tf.saved_model.load(path).signatures[name]


def method(path: str) -> object:
    return tf.saved_model.load(path).outer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested") / "saved"
    module = Nested()
    signatures = {"serving_default": module.outer, "ids": module.ids}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def model(factory: Callable[..., object], method: str | None = None, **arguments: object) -> Model:
    target = f"{__name__}.{factory.__name__}"
    return load(Component("model.factory", target, arguments), signature=method)


def expected() -> np.ndarray:
    return np.maximum(X.astype(np.float64) @ WEIGHT * 2, 0) + 1


def check_outer(found: Model) -> None:
    values = values_of(found, [":output.y"], {"x": X})  # type: ignore[arg-type]
    np.testing.assert_allclose(values[":output.y"], expected(), rtol=1e-5)
    hidden = next(r.address for r in found.catalog.records if r.address.endswith("hidden:0"))
    np.testing.assert_allclose(
        values_of(found, [hidden], {"x": X})[hidden],  # type: ignore[arg-type]
        expected() - 1,
        rtol=1e-5,
    )
    own = found.own_call().outputs({"x": X}, {})
    np.testing.assert_allclose(own[":output.y"], expected(), rtol=1e-5)
    assert found.definition_digest() is not None


def check_ids(found: Model) -> None:
    values = values_of(found, [":output.ids"], {"s": TEXTS})  # type: ignore[arg-type]
    assert values[":output.ids"].tolist() == [1, 2, 0]
    assert found.definition_digest() is not None


def test_a_function_called_by_another_uses_a_constant() -> None:
    check_outer(model(Nested, "outer"))


def test_a_function_called_by_another_uses_a_table() -> None:
    check_ids(model(Nested, "ids"))


def test_methods_of_a_loaded_object(saved: Path) -> None:
    check_outer(model(loaded, "outer", path=str(saved)))
    check_ids(model(loaded, "ids", path=str(saved)))


def test_a_signature_of_which_nothing_else_is_kept(saved: Path) -> None:
    found = model(signature, path=str(saved))
    check_outer(found)
    kept = model(loaded, "outer", path=str(saved))
    # The variables have the same names and values as those of an object that is alive.
    assert found.weights_digest() == kept.weights_digest()
    np.testing.assert_array_equal(found.constants([Fetch(Value("layer/w:0"))])[0], WEIGHT)
    check_ids(model(signature, path=str(saved), name="ids"))


def test_a_method_of_which_nothing_else_is_kept(saved: Path) -> None:
    # TensorFlow itself cannot call it. `test_methods_of_a_loaded_object` does what is advised.
    with pytest.raises(ModelError, match=r"variables are gone.* name the method: model.signature="):
        model(method, path=str(saved))


def test_the_constant_counts_in_the_definition() -> None:
    one, two = model(Nested, "outer"), model(Scaled, "outer")
    assert one.definition_digest() != two.definition_digest()


class Scaled(Nested):
    """The same with another constant."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = tf.constant(3.0)
