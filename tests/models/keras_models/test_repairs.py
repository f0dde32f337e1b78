"""Tracing with free axes gives what calling the model gives."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.dialects import repaired_keras
from tests.models.programs import values_of


@pytest.mark.parametrize(("samples", "steps"), [(2, 5), (5, 2), (3, 3), (1, 4)])
def test_time_distributed_makes_as_many_steps_as_there_are(samples: int, steps: int) -> None:
    ids = keras.Input((None,), dtype="int32", name="ids")
    embedded = keras.layers.Embedding(5, 6, mask_zero=True)(ids)
    model = keras.Model(ids, keras.layers.TimeDistributed(keras.layers.Dense(2))(embedded))
    batch = {"ids": np.arange(samples * steps, dtype=np.int32).reshape(samples, steps) % 5}
    found = values_of(live_model(model), [":output"], batch)[":output"]
    np.testing.assert_allclose(found, model(batch["ids"]), atol=1e-6)


def test_time_distributed_is_left_as_it_was() -> None:
    original = keras.layers.TimeDistributed.call
    x = keras.Input((None, 2))
    live_model(keras.Model(x, keras.layers.TimeDistributed(keras.layers.Dense(2))(x))).catalog  # noqa: B018
    assert keras.layers.TimeDistributed.call is original


def test_threads_that_trace_at_once_leave_it_as_it_was() -> None:
    original = keras.layers.TimeDistributed.call
    begun = threading.Event()

    def other() -> None:
        begun.set()
        with repaired_keras():
            pass

    with repaired_keras():
        thread = threading.Thread(target=other)
        thread.start()
        begun.wait()
    thread.join()
    assert keras.layers.TimeDistributed.call is original


def test_time_distributed_over_rows_of_free_length_keeps_every_axis() -> None:
    x = keras.Input((None, None, 3))
    pool = keras.layers.TimeDistributed(keras.layers.GlobalAveragePooling1D())
    model = keras.Model(x, pool(x))
    batch = {"input": np.asarray(tf.random.stateless_normal((2, 4, 5, 3), (1, 2)))}
    found = values_of(live_model(model), [":output"], batch)[":output"]
    np.testing.assert_allclose(found, batch["input"].mean(axis=2), atol=1e-6)
