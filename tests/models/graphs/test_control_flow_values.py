"""What constants alone decide; random numbers go in and, where dropout is off, none come out."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from extractkit.models.graphs.control_flow import known_ranges

v1 = tf.compat.v1


def known(build: Callable[[], tf.Tensor]) -> float | None:
    """The value of the tensor where it is reported."""
    with tf.Graph().as_default() as graph:
        name = build().name
        found = known_ranges(graph, frozenset()).get(name)
    return found.low if found is not None and found.known else None


def uniform(low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    drawn = v1.raw_ops.RandomUniform(shape=[1000], dtype=tf.float32, seed=3)
    return drawn * (high - low) + low


CASES: dict[str, tuple[Callable[[], tf.Tensor], float | None]] = {
    "old_dropout_off": (lambda: tf.floor(uniform() + 1.0), 1.0),
    "the_other_way_round": (lambda: tf.floor(1.0 + uniform()), 1.0),
    "rounded_down": (lambda: tf.floor(uniform(2.0, 3.0)), 2.0),
    "new_dropout_off": (lambda: uniform() >= 0.0, 1.0),
    "negated": (lambda: tf.logical_not(tf.constant(True)), 0.0),
    "cast": (lambda: tf.cast(tf.identity(tf.constant(3)), tf.float32), 3.0),
    "default": (lambda: v1.placeholder_with_default(2.0, []) - 1.0, 1.0),
    "old_dropout": (lambda: tf.floor(uniform() + 0.5), None),
    "new_dropout": (lambda: uniform() >= 0.5, None),
    "random": (lambda: uniform(), None),
    "cast_random": (lambda: tf.cast(uniform(), tf.int32), None),
    "fed": (lambda: v1.placeholder(tf.float32, []) * 0.0, None),
    "not_a_number": (lambda: tf.constant(float("nan")) + 1.0, None),
    "several": (lambda: tf.constant([1.0, 2.0]), None),
}


@pytest.mark.parametrize("case", CASES)
def test_ranges(case: str) -> None:
    build, value = CASES[case]
    assert known(build) == value
    if value is not None:
        with tf.Graph().as_default(), v1.Session() as session:
            assert np.all(session.run(build()) == value)


@pytest.mark.parametrize(("keep", "off"), [(1.0, True), (0.9999999, False), (0.5, False)])
def test_old_dropout_is_off_only_where_it_keeps_everything(keep: float, off: bool) -> None:
    """As TensorFlow wrote it until 1.12: x / keep * floor(keep + uniform)."""
    assert (known(lambda: tf.floor(tf.constant(keep) + uniform())) == 1.0) is off
