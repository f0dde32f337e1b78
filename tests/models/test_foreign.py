"""Exceptions of other people's libraries in one line."""

import keras
import pytest
import tensorflow as tf
import tf_keras

from extractkit.models.failures import error_summary

WHY = "there is nothing to begin with"


@pytest.mark.parametrize("package", [keras, tf_keras], ids=["Keras 3", "Keras 2"])
def test_what_a_layer_was_called_with_is_not_the_reason(package: object) -> None:
    class Refusing(package.layers.Layer):  # type: ignore[name-defined,misc]
        def call(self, x: object, training: bool = False) -> None:
            raise ValueError(WHY)

    layer = Refusing()
    with pytest.raises(ValueError, match=WHY) as eager:
        layer(tf.ones([1, 2]))
    with pytest.raises(ValueError, match=WHY) as traced:
        tf.function(layer)(tf.ones([1, 2]))
    assert "rguments received by" in str(eager.value)
    assert error_summary(eager.value) == f"ValueError: {WHY}"
    assert error_summary(traced.value).endswith(f"ValueError: {WHY}")
