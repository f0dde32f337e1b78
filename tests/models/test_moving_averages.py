"""Moving averages in the places of weights: what TensorFlow and Keras restore by themselves."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.errors import ConfigError, ModelError
from extractkit.models import Compilation, Fetch, checkpoint, keras_file, meta_graph
from extractkit.models.given_weights import named_averages

v1 = tf.compat.v1
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
DEFAULT = "ExponentialMovingAverage"


def network() -> list[tf.Variable]:
    """`x` (N, 4) to `net/h` (N, 3); `net/mean`, a statistic, is not trained."""
    x = v1.placeholder(tf.float32, [None, 4], name="x")
    draw = v1.random_normal_initializer(seed=1)
    kernel = v1.get_variable("net/w", [4, 3], initializer=draw)
    bias = v1.get_variable("net/b", [3], initializer=v1.zeros_initializer(), use_resource=True)
    mean = v1.get_variable("net/mean", [3], initializer=draw, trainable=False)
    tf.nn.relu(tf.matmul(x, kernel) + bias - mean, name="net/h")
    return [kernel, bias]


def trained(at: Path, steps: int = 3, name: str = DEFAULT) -> str:
    """A checkpoint and the graph that trained it."""
    with tf.Graph().as_default(), v1.Session() as session:
        variables = network()
        average = tf.train.ExponentialMovingAverage(0.5, name=name)
        with tf.control_dependencies([one.assign_add(tf.ones_like(one)) for one in variables]):
            step = average.apply(variables)
        session.run(v1.global_variables_initializer())
        for _ in range(steps):
            session.run(step)
        return str(v1.train.Saver().save(session, str(at)))


def by_tensorflow(prefix: str, averages: str | None) -> Array:
    """`net/h` as TensorFlow restores it: with `variables_to_restore()`, or without."""
    with tf.Graph().as_default() as graph, v1.Session() as session:
        variables = network()
        names: Any = None
        if averages:
            names = tf.train.ExponentialMovingAverage(0.5, name=averages).variables_to_restore(
                variables
            )
        v1.train.Saver(names).restore(session, prefix)
        return np.asarray(session.run(graph.get_tensor_by_name("net/h:0"), {"x:0": X}))


def hidden(model: Any) -> Array:
    (value,) = model.program([Fetch(Value("net/h:0"))], Compilation())({"x": X}, {})
    return np.asarray(value)


def test_a_graph_of_tensorflow_1_takes_averages_where_they_are_wanted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = trained(tmp_path / "model")
    raw, averaged = by_tensorflow(prefix, None), by_tensorflow(prefix, DEFAULT)
    assert np.abs(raw - averaged).max() > 0.1
    plain = meta_graph.load(prefix)
    np.testing.assert_allclose(hidden(plain), raw, atol=1e-6)
    assert caplog.messages == [
        f"model.path={prefix!r} holds moving averages of 2 variables beside its weights. The "
        f"weights themselves are used. To use the averages: model.moving_averages=true; to hide "
        f"this warning: model.moving_averages=false"
    ]
    assert plain.describe()["moving_averages"] == {"used": False, "found": 2}
    caplog.clear()
    model = meta_graph.load(prefix, moving_averages=True)
    np.testing.assert_allclose(hidden(model), averaged, atol=1e-6)
    recorded = {"used": True, "found": 2, "without_average": ["net/mean"]}
    assert model.describe()["moving_averages"] == recorded
    assert model.own_call().loaded_by.endswith("and extractkit's own reading of averages")
    assert model.weights_digest() != plain.weights_digest()
    np.testing.assert_allclose(hidden(meta_graph.load(prefix, moving_averages=False)), raw)
    assert caplog.messages == []


def test_averages_of_another_name(tmp_path: Path) -> None:
    prefix = trained(tmp_path / "model", name="shadow")
    model = meta_graph.load(prefix, moving_averages="shadow")
    np.testing.assert_allclose(hidden(model), by_tensorflow(prefix, "shadow"), atol=1e-6)
    with pytest.raises(ModelError) as raised:
        meta_graph.load(prefix, moving_averages=True)
    assert str(raised.value) == (
        f"model.moving_averages=true: model.path={prefix!r} holds no averages named "
        f"'ExponentialMovingAverage'. Available: 'shadow'. Leave model.moving_averages out to use "
        f"the weights themselves"
    )


def test_a_saver_that_restores_averages_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = trained(tmp_path / "model")
    with tf.Graph().as_default():
        names = tf.train.ExponentialMovingAverage(0.5).variables_to_restore(network())
        v1.train.export_meta_graph(
            str(tmp_path / "eval.meta"), saver_def=v1.train.Saver(names).saver_def
        )
    graph = str(tmp_path / "eval.meta")
    model = meta_graph.load(graph, checkpoint=prefix)
    np.testing.assert_allclose(hidden(model), by_tensorflow(prefix, DEFAULT), atol=1e-6)
    assert caplog.messages == []
    model = meta_graph.load(graph, checkpoint=prefix, moving_averages=False)
    np.testing.assert_allclose(hidden(model), by_tensorflow(prefix, None), atol=1e-6)


def test_each_checkpoint_of_many(tmp_path: Path) -> None:
    prefixes = [trained(tmp_path / f"model-{steps}", steps) for steps in (1, 3)]
    model = meta_graph.load(prefixes[0], checkpoints=prefixes, moving_averages=True)
    axis = model.checkpoints
    assert axis is not None
    axis.choose("fail")
    for position, prefix in enumerate(prefixes):
        axis.use(position)
        np.testing.assert_allclose(hidden(model), by_tensorflow(prefix, DEFAULT), atol=1e-6)


def test_averages_are_listed_as_what_they_are(tmp_path: Path) -> None:
    prefix = trained(tmp_path / "model")
    alone = checkpoint.load(prefix)
    kinds = {record.address: record.kind for record in alone.catalog.records}
    assert kinds == {
        "net:b": Kind.WEIGHT,
        f"net:b@{DEFAULT}": Kind.MOVING_AVERAGE,
        "net:mean": Kind.WEIGHT,
        "net:w": Kind.WEIGHT,
        f"net:w@{DEFAULT}": Kind.MOVING_AVERAGE,
    }
    assert alone.describe()["parameters"] == 12 + 3 + 3
    catalog = meta_graph.load(prefix, moving_averages=False).catalog
    kept = {r.address: r.kind for r in catalog.records if r.kind is Kind.MOVING_AVERAGE}
    assert list(kept) == [f"net/w/{DEFAULT}:0", f"net/b/{DEFAULT}:0"]


@pytest.mark.parametrize("given", [3, "", ["a"]])
def test_a_setting_that_is_none(given: object) -> None:
    with pytest.raises(ConfigError, match=r"^model\.moving_averages=.* is neither true, false nor"):
        meta_graph.load("anywhere", moving_averages=given)


def test_averages_made_in_a_variable_scope() -> None:
    keys = ["net/w", "net/w/ema", "train/net/w/ema", "train/net/b/ema", "other/ema"]
    assert named_averages(keys, {"net/w", "net/b"}, "ema") == {
        "net/w": "net/w/ema",
        "net/b": "train/net/b/ema",
    }


# ---- Keras


def small(package: Any) -> Any:
    x = package.layers.Input((4,))
    h = package.layers.BatchNormalization(name="norm")(package.layers.Dense(3, name="dense")(x))
    return package.Model(x, package.layers.Dense(3, name="last")(h))


def fitted(package: Any, scheduled: bool = False) -> Any:
    package.utils.set_random_seed(0)
    rate: Any = 0.1
    if scheduled:
        rate = package.optimizers.schedules.ExponentialDecay(0.1, 2, 0.9)
    model = small(package)
    optimizer = package.optimizers.Adam(rate, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer, "mse")
    weights = model.trainable_variables
    for _ in range(3):
        optimizer.apply_gradients([(tf.ones(weight.shape), weight) for weight in weights])
    return model


def values(model: Any) -> list[Array]:
    return [np.asarray(one) for one in model.get_weights()]


FILES: dict[str, tuple[Any, bool, str]] = {
    "Keras 3": (keras, False, "model.keras"),
    "Keras 3, rate of a schedule": (keras, True, "model.keras"),
    "Keras 3, HDF5": (keras, False, "model.h5"),
    "Keras 2": (tf_keras, False, "model.keras"),
    "Keras 2, HDF5": (tf_keras, True, "model.h5"),
}


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", FILES)
def test_what_an_optimizer_averages_is_what_it_finalizes(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package, scheduled, file = FILES[name]
    model = fitted(package, scheduled)
    path = str(tmp_path / file)
    model.save(path)
    raw = values(model)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    averaged = values(model)
    caplog.clear()
    plain = keras_file.load(path)
    np.testing.assert_equal(values(plain.keras_model), raw)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    found = keras_file.load(path, moving_averages=True)
    np.testing.assert_equal(values(found.keras_model), averaged)
    by = "models.load_model and extractkit's own reading of averages"
    assert found.own_call().loaded_by.endswith(by)
    without = ["norm/moving_mean", "norm/moving_variance"]
    recorded = {"used": True, "found": 6, "without_average": without}
    assert found.describe()["moving_averages"] == recorded
    assert any(not np.array_equal(a, b) for a, b in zip(raw, averaged, strict=True))


def test_after_fit_the_weights_are_the_averages_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = fitted(keras)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    keras_file.load(str(tmp_path / "model.keras"))
    assert caplog.messages == []


def keras_2_model() -> Any:
    return small(tf_keras)


FACTORY = Component("model.factory", f"{__name__}.keras_2_model")


def objects(at: Path) -> tuple[Any, list[Array], list[Array]]:
    """Keras 2's optimizer in TensorFlow's checkpoint of objects."""
    model = fitted(tf_keras)
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(at))
    raw = values(model)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    return model, raw, values(model)


def slots(at: Path) -> tuple[Any, list[Array], list[Array]]:
    """Slots named `average`, as tensorflow-addons' MovingAverage keeps them."""
    model = small(tf_keras)
    optimizer = tf_keras.optimizers.legacy.SGD()
    raw = values(model)
    for number, variable in enumerate(model.trainable_variables):
        optimizer.add_slot(variable, "average", tf.fill(variable.shape, float(number)))
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(at))
    for number, variable in enumerate(model.trainable_variables):
        variable.assign(tf.fill(variable.shape, float(number)))
    return model, raw, values(model)


def names(at: Path) -> tuple[Any, list[Array], list[Array]]:
    """TensorFlow 1's names."""
    model = small(tf_keras)
    trainable = {id(variable) for variable in model.trainable_variables}
    raw = values(model)
    with tf.Graph().as_default(), v1.Session() as session:
        for variable, value in zip(model.weights, raw, strict=True):
            name = variable.name.partition(":")[0]
            v1.get_variable(name, initializer=value)
            if id(variable) in trainable:
                v1.get_variable(f"{name}/{DEFAULT}", initializer=value + 1)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(at), write_meta_graph=False)
    averaged = [
        value + (id(variable) in trainable)
        for variable, value in zip(model.weights, raw, strict=True)
    ]
    return model, raw, averaged


@pytest.mark.parametrize("write", [objects, slots, names])
def test_checkpoints_of_tensorflow_with_averages_into_a_keras_model(
    write: Callable[[Path], tuple[Any, list[Array], list[Array]]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prefix = tmp_path / "model"
    _, raw, averaged = write(prefix)
    settings: dict[str, Any] = {"factory": FACTORY, "checkpoint": str(prefix)}
    np.testing.assert_equal(values(keras_file.load(**settings).keras_model), raw)
    assert "model.moving_averages=true" in caplog.text
    found = keras_file.load(**settings, moving_averages=True)
    np.testing.assert_equal(values(found.keras_model), averaged)
    assert found.own_call().loaded_by == (
        f"{FACTORY.target} and extractkit's own reading of averages"
    )
    alone = checkpoint.load(str(prefix)).catalog
    assert sum(record.kind is Kind.MOVING_AVERAGE for record in alone.records) == 6


def test_numbers_that_nobody_names_are_refused(tmp_path: Path) -> None:
    fitted(tf_keras).save_weights(tmp_path / "model.weights.h5")
    path = str(tmp_path / "model.weights.h5")
    with pytest.raises(ModelError) as raised:
        keras_file.load(factory=FACTORY, checkpoint=path, moving_averages=True)
    assert str(raised.value) == (
        f"model.moving_averages: model.checkpoint={path!r} only numbers the variables "
        f"of its optimizer, so the averages among them are not known. "
        f"Remove model.moving_averages, and save a copy with them in place of the weights: "
        f"model.optimizer.finalize_variable_values(model.trainable_variables), then model.save"
    )


def test_averages_that_a_file_does_not_have_are_refused(tmp_path: Path) -> None:
    small(keras).save(tmp_path / "model.keras")
    path = str(tmp_path / "model.keras")
    with pytest.raises(ModelError, match="holds no averages named 'ExponentialMovingAverage'"):
        keras_file.load(path, moving_averages=True)
