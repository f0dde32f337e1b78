"""The callback: it records what the weights of each step give, and leaves the training alone."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import extractkit
from extractkit.runs.comparing.result import Verdict
from extractkit.runs.manifest import Status
from tests.training.examples import (
    PROBE,
    QUICK,
    SELECTORS,
    X,
    Y,
    digests,
    drawn,
    probing,
    same,
    sequential,
    small,
    state,
    trained,
)


@pytest.mark.parametrize(
    ("package", "every"),
    [(keras, "epoch"), (tf_keras, 2), (tf_keras, "epoch")],
    ids=["keras-epoch", "tf_keras-2", "tf_keras-epoch"],
)
def test_not_a_bit_of_the_training_changes(package: Any, every: str | int, tmp_path: Path) -> None:
    plain, history = trained(package, validation_split=0.25, shuffle=True)
    expected, numbers = state(plain), drawn()
    callback = probing(tmp_path / "run", every=every)
    model, recorded = trained(package, [callback], validation_split=0.25, shuffle=True)
    same(state(model), expected)
    assert recorded == history
    assert drawn() == numbers
    steps = [0, 1, 2, 3] if every == "epoch" else [0, 2, 4, 6, 8]
    assert [one.step for one in callback.run.manifest.checkpoints] == steps
    assert callback.run.status is Status.FINISHED
    assert callback.run.checkpoints[-1] == ("epoch_3" if every == "epoch" else "step_8")


class Saver(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the weights before each epoch and after the last."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.model.save_weights(self.folder / f"epoch_{epoch}.weights.h5")

    def on_train_end(self, logs: object = None) -> None:
        self.on_epoch_begin(self.params["epochs"])


def test_each_step_is_what_its_weights_give_offline_bit_for_bit(tmp_path: Path) -> None:
    model = sequential(keras)
    model.build((None, 3))
    folder = tmp_path / "weights"
    folder.mkdir()
    callback = probing(tmp_path / "run")
    trained(keras, [callback, Saver(folder)], model=model)
    model.save(tmp_path / "net.keras")
    offline = extractkit.extract(
        [
            f"model={tmp_path / 'net.keras'}",
            f"model.checkpoints='{folder}/*.weights.h5'",
            r"model.checkpoint_step='epoch_(\d+)'",
        ],
        inputs=PROBE,
        selectors=SELECTORS,
        run_dir=tmp_path / "offline",
    )
    online = callback.run
    assert digests(online) == digests(offline)
    assert list(online) == list(offline)
    assert online.drift is not None
    assert offline.drift is not None
    assert online.drift.tensors == offline.drift.tensors
    for name in ("moments", "histogram"):
        found = online.statistics["hidden:output@spread"][name]
        for key, expected in offline.statistics["hidden:output@spread"][name].items():
            np.testing.assert_array_equal(found[key], expected)
    verdicts = {one.verdict for one in extractkit.diff(online, offline).tensors}
    assert verdicts == {Verdict.EQUAL}


class Counted(keras.layers.Layer):  # type: ignore[misc]
    """Counts how often Python runs its call."""

    calls = 0

    def call(self, inputs: Any) -> Any:
        Counted.calls += 1
        return inputs * 2.0


def test_the_model_is_traced_as_often_for_many_steps_as_for_one(tmp_path: Path) -> None:
    counts = []
    for every in (1000, 1):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(2), Counted(), keras.layers.Dense(2)])
        Counted.calls = 0
        callback = probing(tmp_path / str(every), {"all": {"path": "*:output"}}, every=every)
        trained(keras, [callback], model=model, validation_split=0.25)
        counts.append(Counted.calls)
        assert len(callback.run.checkpoints) == (1 if every == 1000 else 10)
    assert counts[0] == counts[1]


def test_values_of_a_forward_pass_by_hand_can_be_read_during_training(tmp_path: Path) -> None:
    seen = []

    class Reader(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            run = extractkit.open(tmp_path / "run")
            seen.append((run.status, run.checkpoints, run["last:output"].shape))
            step = run.at(epoch + 1)
            expected = self.model(PROBE, training=False)
            np.testing.assert_allclose(step["last:output"], expected, rtol=1e-5)
            kernel = self.model.get_layer("last").kernel
            np.testing.assert_array_equal(step["last:kernel"], kernel)
            hidden = np.asarray(step["hidden:output@activations"], np.float64)
            mean = step.statistics["hidden:output@spread"]["moments"]["mean"]
            np.testing.assert_allclose(mean, hidden.mean(0), rtol=1e-6)

    wanted = {name: SELECTORS[name] for name in ("activations", "weights", "spread")}
    trained(keras, [probing(tmp_path / "run", wanted), Reader()], epochs=2)
    labels = ("epoch_0", "epoch_1", "epoch_2")
    assert seen == [
        (Status.STARTED, labels[:2], (2, 10, 2)),
        (Status.STARTED, labels, (3, 10, 2)),
    ]
    assert not extractkit.verify(tmp_path / "run").failed


class Restless(keras.Model):  # type: ignore[misc]
    """A subclassed model that draws numbers and assigns to a variable in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = keras.layers.Dense(2, name="inner")
        self.generator = keras.random.SeedGenerator(5)
        self.calls = self.add_weight(name="calls", shape=(), trainable=False)

    def call(self, inputs: Any) -> Any:
        self.calls.assign_add(1.0)
        found = self.inner(inputs)
        return found + keras.random.normal(keras.ops.shape(found), seed=self.generator)


def test_a_model_without_shapes_that_changes_itself_is_built_and_left_alone(tmp_path: Path) -> None:
    finals = []
    callback = probing(tmp_path / "run", {"inner": {"path": "inner:*", "kind": "layer_output"}})
    for callbacks in ([], [callback]):
        keras.utils.set_random_seed(3)
        model, _ = trained(keras, callbacks, model=Restless())
        finals.append(state(model))
    same(*finals)
    assert callback.run.checkpoints == ("epoch_0", "epoch_1", "epoch_2", "epoch_3")
    assert list(callback.run) == ["inner:output"]


def test_a_model_without_shapes_takes_those_of_labelled_samples(tmp_path: Path) -> None:
    """Gradients of a loss need labels."""
    labels = np.arange(20, dtype=np.float32).reshape(10, 2)
    target = {"of": {"loss": "mean_squared_error", "tensor": "inner:output"}}
    callback = extractkit.Callback(
        {"slope": {"path": "inner:output", "kind": "layer_output", "gradient": target}},
        extractkit.Labelled(PROBE, labels),
        tmp_path / "run",
        runtime={"self_check": False},
    )
    model, _ = trained(keras, [callback], model=Plain(), epochs=1)
    expected = np.asarray(model(PROBE)) - labels  # of the mean over two features
    found = callback.run.at("epoch_1")["inner:output@grad"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class Plain(keras.Model):  # type: ignore[misc]
    """A subclassed model, which does not declare its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = keras.layers.Dense(2, name="inner")

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs)


def test_several_steps_in_one_execution_are_recorded_where_they_end(tmp_path: Path) -> None:
    model = small()
    model.compile("sgd", "mse", steps_per_execution=3)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    callback = probing(tmp_path / "run", every=2, **QUICK)
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
    steps = [one.step for one in extractkit.open(tmp_path / "run").manifest.checkpoints]
    assert steps == [0, 3, 6, 9, 12]


class OtherOptimizer(keras.Model):  # type: ignore[misc]
    """Trains with an optimizer that is not `model.optimizer`."""

    def __init__(self) -> None:
        super().__init__()
        self.last = keras.layers.Dense(2, name="last")
        self.own = keras.optimizers.SGD(0.1)
        self.compile()

    def call(self, inputs: Any) -> Any:
        return self.last(inputs)

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(data[0]) - data[1]) ** 2)
        self.own.apply_gradients([(tape.gradient(loss, self.last.kernel), self.last.kernel)])
        return {"loss": loss}


def test_steps_of_another_optimizer_are_reported_as_not_counted(tmp_path: Path) -> None:
    callback = probing(tmp_path / "run", "outputs", every=2)
    with pytest.warns(UserWarning, match=r"every=2: no step is recorded.*give every='epoch'"):
        trained(keras, [callback], model=OtherOptimizer(), epochs=1)
    assert callback.run.checkpoints == ("step_0",)


@pytest.mark.parametrize("resumed", [False, True])
def test_an_error_of_another_callback_leaves_what_is_recorded(
    resumed: bool, tmp_path: Path
) -> None:
    def fail(epoch: int, logs: object) -> None:
        if epoch == 1:
            raise ValueError("stop")

    callback = probing(tmp_path / "run", **QUICK)
    failing = keras.callbacks.LambdaCallback(on_epoch_end=fail)
    with pytest.raises(ValueError, match="stop"):
        trained(keras, [callback, failing], model=small())
    run = extractkit.open(tmp_path / "run")
    assert (run.status, len(run.checkpoints)) == (Status.STARTED, 3)
    # `fit` does not report that it failed. A next callback takes the run over.
    again = callback if resumed else probing(tmp_path / "run", **QUICK)
    trained(keras, [again], model=small())
    assert (again.run.status, len(again.run.checkpoints)) == (Status.FINISHED, 4)


def test_gradients_and_several_inputs(tmp_path: Path) -> None:
    one, other = keras.Input((3,), name="one"), keras.Input((3,), name="other")
    joined = keras.layers.Concatenate(name="joined")([one, other])
    model = keras.Model([one, other], keras.layers.Dense(2, name="last")(joined))
    model.compile("adam", "mse")
    target = {"of": {"tensor": "last:output", "index": 1}}
    wanted = {"slope": {"path": "joined:output", "gradient": target}}
    callback = extractkit.Callback(wanted, {"one": PROBE, "other": PROBE}, tmp_path / "run")
    model.fit([X, X], Y, verbose=0, callbacks=[callback])
    kernel = model.get_layer("last").kernel.numpy()
    gradients = np.asarray(callback.run.at("epoch_1")["joined:output@grad"])
    np.testing.assert_allclose(gradients, np.tile(kernel[:, 1], (10, 1)), rtol=1e-6)
