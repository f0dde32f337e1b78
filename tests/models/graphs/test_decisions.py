"""Decisions that a batch takes by values: no sample gets what another one has decided.

Only one sample of many decides otherwise, so that a measurement on a few does not show it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.engine.sharing import Sharing
from extractkit.models.graphs.decisions import Decisions
from extractkit.models.graphs.rebuilding import SourceGraph
from extractkit.models.sessions.importing import SessionGraph

X = np.random.default_rng(0).uniform(0.5, 0.9, (40, 3)).astype(np.float32)
X[30] = (3, -9, 1)
SPEC = tf.TensorSpec([None, 3], tf.float32, name="x")
Function = Callable[[Any], Any]


def by_branch(x: Any) -> Any:
    return tf.cond(tf.reduce_max(x) > 2, lambda: x * 2, lambda: x + 0)


def by_constants(x: Any) -> Any:
    return x + tf.cond(tf.reduce_max(x) > 2, lambda: tf.constant(1.0), lambda: tf.constant(2.0))


def by_case(x: Any) -> Any:
    number = tf.cast(tf.reduce_max(x) > 2, tf.int32)
    return tf.switch_case(number, [lambda: x + 0, lambda: x * 2, lambda: x])


def by_steps(x: Any) -> Any:
    return tf.while_loop(lambda y: tf.reduce_max(y) > 0.3, lambda y: (y / 2,), (x,))[0]


def by_branch_in_steps(x: Any) -> Any:
    def body(at: Any, y: Any) -> Any:
        return at + 1, tf.cond(tf.reduce_max(y) > 2, lambda: y - 1, lambda: y + 0)

    return tf.while_loop(lambda at, y: at < 2, body, (0, x))[1]


def by_parity(x: Any) -> Any:
    def body(at: Any, y: Any) -> Any:
        return at + 1, tf.cond(tf.equal(at % 2, 0), lambda: y * 3, lambda: y + 1)

    return tf.while_loop(lambda at, y: at < 5, body, (0, x))[1]


def by_sample(x: Any) -> Any:
    return tf.map_fn(lambda one: by_branch(one), x)


def by_column(x: Any) -> Any:
    return tf.transpose(tf.map_fn(lambda one: by_branch(one), tf.transpose(x)))


def by_limit(x: Any) -> Any:
    steps = tf.cast(tf.reduce_max(x), tf.int32)
    return tf.while_loop(lambda at, y: at < steps, lambda at, y: (at + 1, y * 2), (0, x))[1]


DECIDED = [by_branch, by_constants, by_case, by_steps, by_branch_in_steps, by_column]
FREE = [by_parity, by_sample]


def in_version_2(function: Function) -> SourceGraph:
    concrete = tf.function(function, autograph=False).get_concrete_function(SPEC)
    graph = concrete.graph
    return SessionGraph(graph, {"x": graph.inputs[0]})  # type: ignore[arg-type]


def in_version_1(function: Function) -> SourceGraph:
    control_flow = tf.compat.v1.control_flow_v2_enabled()
    tf.compat.v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.float32, [None, 3], "x")
            tf.identity(function(x), "result")
    finally:
        if control_flow:
            tf.compat.v1.enable_control_flow_v2()
    return SessionGraph(graph, {"x": x})  # type: ignore[arg-type]


def decision(source: SourceGraph) -> str | None:
    rows = {"x:0"}
    last = source.graph.get_operations()[-1].outputs[0]
    return Decisions(source, rows).before(last)


@pytest.mark.parametrize("function", [*DECIDED, *FREE, by_limit], ids=lambda one: one.__name__)
def test_a_decision_by_values_is_found_in_the_graph(function: Function) -> None:
    found = decision(in_version_2(function))
    assert (found is not None) == (function in DECIDED), found


@pytest.mark.parametrize(
    "function", [*DECIDED[:5], by_parity, by_limit], ids=lambda one: one.__name__
)
def test_a_decision_in_a_graph_of_version_1_is_found(function: Function) -> None:
    found = decision(in_version_1(function))
    assert (found is not None) == (function in DECIDED), found


@pytest.mark.parametrize("function", [*DECIDED, *FREE], ids=lambda one: one.__name__)
def test_a_sample_gets_what_it_decides_alone(function: Function, tmp_path: Path) -> None:
    model = tf.function(function, input_signature=[SPEC], autograph=False)
    run = extractkit.extract(model=model, inputs=X, run_dir=tmp_path / "run", selectors="outputs")
    (view,) = run.values()
    alone = np.concatenate([model(row[None]).numpy() for row in X])
    np.testing.assert_allclose(np.asarray(view), alone, rtol=1e-6)
    assert (run.manifest.settings["sharing"] == Sharing.ALONE) == (function in DECIDED)


def test_the_plan_names_the_decision(tmp_path: Path) -> None:
    model = tf.function(by_steps, input_signature=[SPEC], autograph=False)
    plan = extractkit.plan(model=model, inputs=X, run_dir=tmp_path / "run", selectors="outputs")
    assert plan.to_json()["sharing_reason"] == (
        "the values of a whole batch decide how many steps 'while' runs"
    )


def test_a_loop_that_ends_by_values_has_steps_of_each_sample(tmp_path: Path) -> None:
    """The first samples all run as many steps."""

    def halved(x: Any) -> Any:
        step = lambda y: (tf.divide(y, 2, name="halved"),)  # noqa: E731
        return tf.while_loop(lambda y: tf.reduce_max(y) > 0.3, step, (x,))[0]

    model = tf.function(halved, input_signature=[SPEC], autograph=False)
    run = extractkit.extract(
        model=model,
        inputs=X,
        run_dir=tmp_path / "run",
        selectors={"steps": {"path": "*/halved:0"}},
    )
    (view,) = run.values()
    counts = [view.sample(at).shape[0] for at in range(len(X))]
    assert (set(counts), counts[30]) == ({2, 4}, 4)
