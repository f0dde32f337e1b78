"""Values inside branches, compared with those of the same function run eagerly on each sample."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.values import Array
from extractkit.errors import UserError
from tests.models.session_graphs import control_flow, frozen

X = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
X[4] = (-0.5, -1.4, 0.2)  # a case that no other sample takes
SPEC = tf.TensorSpec([None, 3], tf.float32, name="x")
SEEN: dict[str, list[Array]] = {}


def seen(name: str, value: tf.Tensor) -> tf.Tensor:
    """Name a value in a graph; remember it in eager execution, which runs one branch only."""
    if not tf.executing_eagerly():
        return tf.identity(value, name)
    SEEN.setdefault(name, []).append(value.numpy())
    return value


def eagerly(function: Callable[[tf.Tensor], Any], sample: Array) -> dict[str, list[Array]]:
    """The values of one sample by name, in the order of computation, without the sample's axis."""
    SEEN.clear()
    function(tf.constant(sample[None]))
    return {name: [value[0] for value in values] for name, values in SEEN.items()}


class Branching(tf.Module):
    """Conditionals in conditionals, in loops and around loops, of values of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(np.random.default_rng(1).normal(size=(3, 3)), dtype=tf.float32)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        @tf.function(input_signature=[SPEC])
        def shared(y: tf.Tensor) -> tf.Tensor:
            return tf.sinh(y)

        def positive() -> tf.Tensor:
            tf.debugging.assert_greater(tf.reduce_sum(x), 0.0)
            h = seen("mixed", tf.matmul(x, self.weights))
            deeper = (lambda: seen("large", tf.exp(h)), lambda: h)
            return shared(tf.cond(tf.reduce_max(h) > 0.5, *deeper))

        def negative() -> tf.Tensor:
            return shared(seen("low", tf.tanh(x)))

        y = tf.cond(tf.reduce_sum(x) > 0, positive, negative)

        def body(step: tf.Tensor, y: tf.Tensor) -> Any:
            even = tf.equal(step % 2, 0)
            y = tf.cond(even, lambda: seen("even", tf.sin(y)), lambda: seen("odd", tf.cos(y)))
            return step + 1, tf.cond(
                tf.reduce_sum(y) > 0.5, lambda: seen("damped", y * 0.5), lambda: y
            )

        y = tf.while_loop(lambda step, _: step < 5, body, (tf.constant(0), y))[1]

        def twice() -> tf.Tensor:
            halve = (lambda step, y: (step + 1, seen("halved", y / 2)),)
            return tf.while_loop(lambda step, _: step < 2, *halve, (tf.constant(0), y))[1]

        y = tf.cond(x[0, 0] > 0, twice, lambda: y)
        cases = [lambda at=at: seen(f"case{at}", y + at) for at in range(5)]
        y = tf.switch_case(tf.cast(tf.abs(x[0, 1]) * 3, tf.int32), cases)
        return tf.cond(x[0, 2] > 0, lambda: seen("shifted", y - 1), lambda: y)


NAMES = ("mixed", "large", "low", "even", "odd", "damped", "halved", "case0", "case4", "shifted")


def found(run: Any, name: str) -> Any:
    (key,) = [key for key in run if key.endswith(f"/{name}:0")]
    return run[key]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The values of a function in memory, and of its SavedModel."""
    module = Branching()
    function = tf.function(module.__call__, input_signature=[SPEC])
    folder = tmp_path_factory.mktemp("branches")
    module.serve = function
    tf.saved_model.save(module, str(folder / "saved"), signatures=function)
    selectors = {"inner": {"path": [f"*/{name}:0" for name in NAMES]}}
    common = {"selectors": selectors, "inputs": X}
    saved = ["model=saved_model", f"model.path={folder / 'saved'}"]
    return {
        "memory": extractkit.extract(model=function, run_dir=folder / "memory", **common),
        "saved": extractkit.extract(saved, run_dir=folder / "run", **common),
    }


@pytest.mark.parametrize("where", ["memory", "saved"])
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_function_run_eagerly(
    runs: dict[str, Any], name: str, where: str
) -> None:
    view = found(runs[where], name)
    model = Branching()
    assert view.dims[1] == ("step" if name in ("even", "odd", "damped", "halved") else "taken")
    counts = set()
    for at, sample in enumerate(X):
        expected = eagerly(model, sample).get(name, [])
        counts.add(len(expected))
        assert view.sample(at).shape == (len(expected), 3)
        np.testing.assert_allclose(view.sample(at), np.reshape(expected, (-1, 3)), rtol=1e-6)
    if name not in ("even", "odd"):
        assert len(counts) > 1, "the samples are to take both branches"


def test_xla_does_not_compile_values_inside_branches(tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "model": tf.function(Branching().__call__, input_signature=[SPEC]),
        "inputs": X,
        "runtime": {"compile": "xla"},
    }
    with pytest.raises(UserError, match=r"xla cannot run .*/low:0' is inside a branch, and XLA"):
        extractkit.plan(selectors={"inner": {"path": "*/low:0"}}, **common)
    for runtime in ({"compile": "xla"}, {}):
        run = extractkit.extract(
            selectors="outputs",
            run_dir=tmp_path / str(len(runtime)),
            **{**common, "runtime": runtime},
        )
        (view,) = run.values()
        alone = [common["model"](row[None])[0] for row in X]
        np.testing.assert_allclose(np.asarray(view), alone, rtol=1e-4, atol=1e-6)


def test_a_branch_has_its_role_in_the_address(runs: dict[str, Any]) -> None:
    keys = "\n".join(runs["memory"])
    assert "cond/then_branch/cond/cond/then_branch/cond/cond/large:0" in keys
    assert "while/body/while/cond/else_branch/while/cond/odd:0" in keys
    assert "/then_branch/cond_1/while/body/cond_1/while/halved:0" in keys
    assert "switch_case/indexed_case/branches.4/switch_case/indexed_case/case4:0" in keys


class Folded(keras.layers.Layer):
    """A branch that the values of the whole batch choose."""

    def call(self, x: Any) -> Any:
        return keras.ops.cond(keras.ops.sum(x) > 0, lambda: keras.ops.sin(x), lambda: x - 1)


def test_a_branch_of_a_keras_layer_is_taken_for_each_sample_alone(tmp_path: Path) -> None:
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, Folded(name="fold")(inputs))
    run = extractkit.extract(
        model=model,
        inputs=X,
        selectors={"inner": {"op_type": "Sin"}, "out": {"path": "fold:output"}},
        run_dir=tmp_path / "run",
    )
    view = run["fold:op/Sin"]
    assert view.dims[:2] == ("sample", "taken")
    for at, sample in enumerate(X):
        positive = sample.sum() > 0
        expected = np.sin(sample)[None] if positive else np.zeros((0, 3))
        assert view.sample(at).shape == expected.shape
        np.testing.assert_allclose(view.sample(at), expected, rtol=1e-6)
        output = np.sin(sample) if positive else sample - 1
        np.testing.assert_allclose(run["fold:output"].sample(at), output, rtol=1e-6)


def in_version_1() -> None:
    v1 = tf.compat.v1
    x = v1.placeholder(tf.float32, [None, 3], "x")

    def positive() -> tf.Tensor:
        h = tf.exp(x, "raised")
        deeper = (lambda: tf.sin(h, "large"), lambda: tf.cos(h, "small"))
        return v1.cond(tf.reduce_max(h) > 3, *deeper, name="deeper")

    def negative() -> tf.Tensor:
        return tf.multiply(x, tf.fill(tf.shape(x), 2.0, name="filled"), name="doubled")

    y = v1.cond(tf.reduce_sum(x) > 0, positive, negative, name="either")
    tf.identity(y, "y")


def by_hand(x: Array) -> dict[str, Array]:
    if x.sum() <= 0:
        return {"doubled": x * 2, "filled": np.full(3, 2)}
    h = np.exp(x)
    return {"raised": h} | ({"large": np.sin(h)} if h.max() > 3 else {"small": np.cos(h)})


def test_branches_of_version_1_have_values_where_they_are_taken(tmp_path: Path) -> None:
    with control_flow(1):
        path = frozen(in_version_1, ["y"], tmp_path / "graph.pb")
    run = extractkit.extract(
        ["model=frozen_graph", f"model.path={path}", "selectors=outputs"],
        selectors={"inner": {"path": "either/*", "op_type": ["Exp", "Sin", "Cos", "Mul", "Fill"]}},
        inputs=X,
        run_dir=tmp_path / "run",
    )
    names = {key.rpartition("/")[2].removesuffix(":0"): key for key in run if "/" in key}
    assert set(names) == {"raised", "large", "small", "doubled", "filled"}
    for name, key in names.items():
        assert run[key].dims[1] == "taken"
        expected = [by_hand(row).get(name) for row in X.astype(np.float64)]
        assert len({one is None for one in expected}) == 2, "both branches are to be taken"
        for at, one in enumerate(expected):
            value = run[key].sample(at)
            assert value.shape == (one is not None, 3)
            if one is not None:
                np.testing.assert_allclose(value[0], one, rtol=1e-5)
