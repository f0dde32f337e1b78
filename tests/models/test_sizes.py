"""Models that take some sizes alone: listed, measured and run at the sizes that they take.

The oracle is the model's own call, picture by picture.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import extractkit
from extractkit.core.component import Component
from extractkit.core.values import Array
from extractkit.errors import JobError
from extractkit.inputs.dataset import Dataset

LAYERS = "selectors=[layers,outputs]"


def given(samples: object) -> object:
    return samples


def dataset(samples: Sequence[Array]) -> Dataset:
    """Samples of any sizes."""
    return Dataset(Component("inputs.dataset", f"{__name__}.given", {"samples": list(samples)}))


def pictures(*sizes: tuple[int, ...]) -> list[Array]:
    draw = np.random.default_rng(0)
    return [draw.normal(size=(*size, 3)).astype(np.float32) for size in sizes]


def unet(package: Any, levels: int, interpolation: str | None = None) -> Any:
    """Pooled and enlarged again, each level joined with itself: multiples of 2 ** levels."""
    package.utils.set_random_seed(levels)
    layers = package.layers
    x = inputs = package.Input((None, None, 3), name="image")
    skipped = []
    for level in range(levels):
        x = layers.Conv2D(3, 3, padding="same", activation="relu", name=f"down_{level}")(x)
        skipped.append(x)
        x = layers.MaxPooling2D(name=f"pool_{level}")(x)
    for level in reversed(range(levels)):
        if interpolation is None:
            x = layers.Conv2DTranspose(3, 2, strides=2, name=f"up_{level}")(x)
        else:
            x = layers.UpSampling2D(2, interpolation=interpolation, name=f"up_{level}")(x)
        x = layers.Concatenate(name=f"skip_{level}")([skipped[level], x])
    return package.Model(inputs, layers.Conv2D(1, 1, name="mask")(x))


def strided(package: Any) -> Any:
    """A "valid" stride and its inverse: only odd sizes come back as they were."""
    layers = package.layers
    inputs = package.Input((None, None, 3), name="image")
    x = layers.Conv2D(3, 3, strides=2, name="down")(inputs)
    x = layers.Conv2DTranspose(3, 3, strides=2, name="up")(x)
    return package.Model(inputs, layers.Add(name="sum")([inputs, x]))


def cropped(package: Any) -> Any:
    """Without padding, as U-Nets were first: 12 more than a multiple of 4, 24 at the least."""
    layers = package.layers
    inputs = package.Input((None, None, 3), name="image")
    a = layers.Conv2D(3, 3, name="a")(inputs)
    b = layers.MaxPooling2D(name="b")(a)
    c = layers.Conv2D(3, 5, name="c")(b)
    d = layers.Conv2DTranspose(3, 2, strides=2, name="d")(c)
    skip = layers.Cropping2D(4, name="skip")(a)
    return package.Model(inputs, layers.Add(name="sum")([skip, d]))


def pooled(package: Any) -> Any:
    layers = package.layers
    inputs = package.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", strides=2, activation="relu", name="conv")(inputs)
    return package.Model(inputs, layers.GlobalAveragePooling2D(name="pool")(x))


def checked(run: Any, model: Any, samples: Sequence[Array], package: Any) -> None:
    """Every layer of the run is what the model itself gives for each sample alone."""
    inside = package.Model(model.inputs, [layer.output for layer in model.layers[1:]])
    for index, sample in enumerate(samples):
        wanted = inside([sample[None]])
        wanted = wanted if isinstance(wanted, list) else [wanted]
        for layer, want in zip(model.layers[1:], wanted, strict=True):
            got = run[f"{layer.name}:output"].sample(index)
            np.testing.assert_allclose(got, want[0], atol=1e-5, err_msg=f"{layer.name} {index}")


CASES: dict[str, tuple[Callable[[Any], Any], Sequence[tuple[int, int]]]] = {
    "one level": (lambda k: unet(k, 1), [(16, 16), (6, 2), (16, 16), (4, 10)]),
    "two levels": (lambda k: unet(k, 2), [(16, 16), (8, 4), (16, 16), (12, 20)]),
    "three levels": (lambda k: unet(k, 3), [(16, 8), (8, 8)]),
    "bilinear": (lambda k: unet(k, 2, "bilinear"), [(4, 8), (8, 4)]),
    "odd": (strided, [(9, 7), (5, 11), (9, 7)]),
    "no padding": (cropped, [(14, 18), (16, 20)]),
    "pooled": (pooled, [(9, 7), (12, 5), (9, 7)]),
}


@pytest.mark.parametrize("name", CASES)
def test_pictures_of_several_sizes_in_one_run(name: str, tmp_path: Path) -> None:
    package = tf_keras if name in ("two levels", "odd", "bilinear") else keras
    build, sizes = CASES[name]
    model, samples = build(package), pictures(*sizes)
    run = extractkit.extract([LAYERS], model=model, inputs=dataset(samples), run_dir=tmp_path / "r")
    assert all("?" not in (run[key].dims or ()) for key in run)
    checked(run, model, samples, package)


def test_dims_are_known_before_the_model_runs() -> None:
    model = extractkit.models.in_memory.live_model(unet(keras, 2))
    dims = {
        a: model.catalog[a].spec.undescribed.labels
        for a in ("skip_0:output", "pool_0:output", ":output")
    }
    assert dims == {
        "skip_0:output": ("sample", "axis1", "axis2", None),
        "pool_0:output": ("sample", "f(axis1)", "f(axis2)", None),
        ":output": ("sample", "axis1", "axis2", None),
    }


@pytest.mark.parametrize(
    ("build", "size", "reported"),
    [
        (
            lambda: unet(keras, 2),
            (18, 16),
            "it has 18 along 'axis1', where 16, 20 or another multiple of 4 would do",
        ),
        (
            lambda: unet(keras, 2),
            (18, 7),
            "along 'axis1', where 16, 20 or another multiple of 4 would do; it has 7 along "
            "'axis2', where 4, 8 or another multiple of 4 would do",
        ),
        (lambda: strided(keras), (9, 8), r"8 along 'axis2', where 7 or 9 \(steps of 2\) would do"),
        (lambda: cropped(keras), (14, 9), r"9 along 'axis2', where 12, 14, … would do"),
    ],
)
def test_a_size_that_the_model_does_not_take_is_named_with_its_sample(
    build: Callable[[], Any], size: tuple[int, int], reported: str, tmp_path: Path
) -> None:
    good = (9, 9) if "steps" in reported else (14, 14) if "12, 14" in reported else (16, 16)
    samples = dataset(pictures(good, good, size))
    with pytest.raises(JobError, match=rf"^sample '2' \(number 2\): .*{reported}"):
        extractkit.extract([LAYERS], model=build(), inputs=samples, run_dir=tmp_path / "r")


def test_such_a_sample_can_be_skipped(tmp_path: Path) -> None:
    samples = dataset(pictures((16, 16), (18, 16)))
    overrides = [LAYERS, "runtime.bad_samples=skip"]
    run = extractkit.extract(overrides, model=unet(keras, 2), inputs=samples, run_dir=tmp_path)
    assert "multiple of 4 would do" in run.missing[1]


def test_so_is_the_first_one(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="it has 18 along 'axis2', where 16, 20 or another multiple"):
        extractkit.extract(
            [LAYERS], model=unet(keras, 2), inputs=dataset(pictures((16, 18))), run_dir=tmp_path
        )


class Positions(keras.layers.Layer):
    """Adds one of 30 vectors to each token; Keras's own are looked up, and fail late."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.table = self.add_weight(shape=(30, 4), name="table")

    def call(self, x: Any) -> Any:
        return x + tf.slice(self.table.value, [0, 0], [tf.shape(x)[1], 4])


def test_a_longest_length(tmp_path: Path) -> None:
    inputs = keras.Input((None,), dtype="int32", name="ids")
    x = keras.layers.Embedding(10, 4, name="words")(inputs)
    x = keras.layers.LSTM(4, return_sequences=True, name="lstm")(Positions(name="places")(x))
    model = keras.Model(inputs, x)
    draw = np.random.default_rng(0)
    samples = [draw.integers(1, 10, n).astype(np.int32) for n in (30, 3, 29, 1)]
    run = extractkit.extract([LAYERS], model=model, inputs=dataset(samples), run_dir=tmp_path / "r")
    checked(run, model, samples, keras)
    samples.append(np.ones(33, np.int32))
    with pytest.raises(JobError, match=r"sample '4'.*it has 33 along 'token', where at most 30"):
        extractkit.extract([LAYERS], model=model, inputs=dataset(samples), run_dir=tmp_path / "s")
    overrides = [LAYERS, "runtime.bad_samples=skip"]
    run = extractkit.extract(
        overrides, model=model, inputs=dataset(samples), run_dir=tmp_path / "t"
    )
    assert list(run.missing) == [4]  # not those that were padded to its length
    checked(run, model, samples[:4], keras)


class Hidden(keras.layers.Layer):
    """Behind a NumPy function nothing of a shape is known."""

    def call(self, x: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(np.array, [x], tf.float32), [None] * 4)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def test_shapes_that_only_running_tells_are_measured_at_sizes_of_the_data(tmp_path: Path) -> None:
    """From 12 outwards, 15 and 9 fail; the other sizes in the data do not."""
    inputs = keras.Input((None, None, 3), name="image")
    model = unet(keras, 2)
    hidden = keras.Model(inputs, model(Hidden(name="hidden")(inputs)))
    samples = pictures((12, 12), (8, 16))
    live = extractkit.models.in_memory.live_model(hidden)
    address = f"{model.name}/mask:output"
    assert set(live.catalog[address].spec.undescribed.labels or ()) == {"?", None}
    run = extractkit.extract(
        [f'+selectors.s.path="{address}"'], model=live, inputs=dataset(samples), run_dir=tmp_path
    )
    assert run[address].spec.undescribed.labels == ("sample", "axis1", "axis2", None)
    for index, sample in enumerate(samples):
        want = model(sample[None])[0]
        np.testing.assert_allclose(run[address].sample(index), want, atol=1e-5)


def test_squares_alone(tmp_path: Path) -> None:
    """Neither axis changes alone, so lengths follow both; shapes are unknown before the loop."""

    class Turned(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            y = tf.while_loop(
                lambda i, _: i < 1,
                lambda i, y: (i + 1, y + tf.transpose(y, [0, 2, 1, 3])),
                (0, x),
                shape_invariants=(tf.TensorShape([]), tf.TensorShape([None] * 4)),
            )[1]
            return y

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    inputs = keras.Input((None, None, 3), name="image")
    model = keras.Model(inputs, Turned(name="turned")(inputs))
    samples = pictures((4, 4), (6, 6), (4, 4))
    run = extractkit.extract([LAYERS], model=model, inputs=dataset(samples), run_dir=tmp_path / "r")
    for index, sample in enumerate(samples):
        want = sample + np.transpose(sample, (1, 0, 2))
        np.testing.assert_array_equal(run["turned:output"].sample(index), want)


@pytest.mark.parametrize("kind", ["saved_model", "frozen_graph"])
def test_the_same_in_formats_without_layers(kind: str, tmp_path: Path) -> None:
    model, samples = unet(keras, 2), pictures((8, 8), (4, 12), (8, 8))
    if kind == "saved_model":
        model.export(tmp_path / "m", verbose=False)
    else:
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        call = tf.function(lambda image: model(image))
        spec = tf.TensorSpec([None, None, None, 3], tf.float32, name="image")
        frozen = convert_variables_to_constants_v2(call.get_concrete_function(spec))
        (tmp_path / "m").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    run = extractkit.extract(
        [f"model={kind}", f"model.path={tmp_path / 'm'}", "selectors=outputs"],
        inputs=dataset(samples),
        run_dir=tmp_path / "r",
    )
    (key,) = run
    for index, sample in enumerate(samples):
        want = model(sample[None])[0]
        np.testing.assert_allclose(run[key].sample(index), want, atol=1e-5)
