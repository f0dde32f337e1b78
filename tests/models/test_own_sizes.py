"""Values, and which samples have some, are those of each sample alone, whatever shares its batch.

The oracle is a loop: the model's own call on one sample after the other. Weights and samples are
small whole numbers, so sums are exact in any order and values are equal to the bit.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.values import Array
from extractkit.errors import JobError
from tests.models.test_sizes import dataset

L = keras.layers


def joined(size: int, x: Any) -> Any:
    """Pooled, enlarged and added: multiples of a size alone."""
    return L.Add()([x, L.UpSampling1D(size)(L.MaxPooling1D(size)(x))])


def unet(x: Any) -> Any:
    """Two levels: multiples of 4 alone."""
    a = L.Conv2D(2, 1)(x)
    b = L.MaxPooling2D()(a)
    c = L.Add()([b, L.UpSampling2D()(L.MaxPooling2D()(b))])
    return L.Add()([a, L.UpSampling2D()(c)])


def fourth(x: Any) -> Any:
    """An element that short samples lack, and padding would give them."""
    return L.Lambda(lambda t: t + t[:, 3][:, None], output_shape=(None, 2))(x)


def strided(x: Any) -> Any:
    return L.Conv1D(2, 3, strides=2)(x)


def halved_and_repeated(x: Any) -> Any:
    """As long as the sample; where the stride begins depends on the length."""

    def cut(tensors: Any) -> Any:
        values, like = tensors
        return values[:, : tf.shape(like)[1]]

    y = L.UpSampling1D(2)(L.Conv1D(2, 3, strides=2, padding="same")(x))
    return L.Lambda(cut, output_shape=(None, 2))([y, x])


def every_second(x: Any) -> Any:
    return x[:, ::2]


def dilated(x: Any) -> Any:
    return L.Conv1D(2, 3, dilation_rate=4, padding="causal")(x)


LENGTHS = (3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 21)
SIDES = (4, 6, 8, 9, 12)
MODELS: dict[str, tuple[Callable[[Any], Any], int, Sequence[int]]] = {
    "pooled by 2 and added": (lambda x: joined(2, L.Dense(2)(x)), 1, LENGTHS),
    "pooled by 3 and added": (lambda x: joined(3, L.Dense(2)(x)), 1, LENGTHS),
    "U-Net": (unet, 2, SIDES),
    "fourth element": (fourth, 1, LENGTHS),
    "strided": (strided, 1, LENGTHS),
    "halved and repeated": (halved_and_repeated, 1, LENGTHS),
    "every second": (every_second, 1, LENGTHS),
    "dilated": (dilated, 1, LENGTHS),
}


def network(then: Callable[[Any], Any], axes: int) -> Any:
    inputs = keras.Input((*(None,) * axes, 2), name="x")
    model = keras.Model(inputs, then(inputs))
    draw = np.random.default_rng(1)
    model.set_weights([draw.integers(-3, 4, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def drawn(draw: np.random.Generator, axes: int, sizes: Sequence[int], count: int) -> list[Array]:
    shapes = [(*draw.choice(sizes, axes).tolist(), 2) for _ in range(count)]
    return [draw.integers(-4, 5, shape).astype(np.float32) for shape in shapes]


def alone(model: Any, sample: Array) -> Array | None:
    """The model's own value of a sample; None where it fails."""
    try:
        return np.asarray(model(sample[None]))[0]
    except (tf.errors.OpError, ValueError):
        return None


@pytest.mark.parametrize("name", MODELS)
def test_batches_change_neither_values_nor_which_samples_have_some(
    name: str, tmp_path: Path
) -> None:
    then, axes, sizes = MODELS[name]
    model = network(then, axes)
    draw = np.random.default_rng(sum(map(ord, name)))
    samples = drawn(draw, axes, sizes, 14)
    expected = [alone(model, sample) for sample in samples]
    assert sum(one is not None for one in expected) > 1
    runtimes: tuple[list[str], ...] = ([], ["runtime.batch_size=3", "runtime.shard_size=5"])
    for at, runtime in enumerate(runtimes):
        order = draw.permutation(len(samples)).tolist()
        run = extractkit.extract(
            ["selectors=outputs", "runtime.bad_samples=skip", *runtime],
            model=model,
            inputs=dataset([samples[one] for one in order]),
            run_dir=tmp_path / str(at),
        )
        refused = [at for at, one in enumerate(order) if expected[one] is None]
        assert list(run.missing) == refused
        for place, one in enumerate(order):
            if (value := expected[one]) is not None:
                np.testing.assert_array_equal(run[":output"].sample(place), value)


def test_padding_does_not_hide_a_size_that_the_model_refuses(tmp_path: Path) -> None:
    model = network(lambda x: joined(2, L.Dense(2)(x)), 1)
    samples = [np.ones((length, 2), np.float32) for length in (8, 9, 12)]
    with pytest.raises(JobError) as caught:
        extractkit.extract(
            ["selectors=outputs"], model=model, inputs=dataset(samples), run_dir=tmp_path / "fails"
        )
    assert str(caught.value).startswith(
        "sample '1' (number 1): it has 9 along 'axis1', where 8, 10 or another multiple of 2 "
        "would do"
    )
    run = extractkit.extract(
        ["selectors=outputs", "runtime.bad_samples=skip"],
        model=model,
        inputs=dataset(samples),
        run_dir=tmp_path / "skips",
    )
    assert list(run.missing) == [1]
    assert run.manifest.settings["sharing"] == "samples of any lengths"
    found = extractkit.verify(tmp_path / "skips", recompute=2, model=model, inputs=dataset(samples))
    assert not found.findings
    assert {check.name: str(check.outcome) for check in found.checks}["recomputed"] == "ok"


def test_a_window_larger_than_a_sample_is_the_samples_fault(tmp_path: Path) -> None:
    """oneDNN's pooling aborts there, where other kernels complain of an argument."""
    model = network(lambda x: joined(3, L.Dense(2)(x)), 1)
    run = extractkit.extract(
        ["selectors=outputs", "runtime.bad_samples=skip"],
        model=model,
        inputs=dataset([np.ones((length, 2), np.float32) for length in (6, 2, 9)]),
        run_dir=tmp_path / "r",
    )
    assert list(run.missing) == [1]
    assert "it has 2 along 'axis1'" in run.missing[1]
