"""Loops and branches of TensorFlow 1, found by the edges of graphs."""

import pytest
import tensorflow as tf

from extractkit.models.graphs.control_flow import control_flow as flow_of
from tests.models.session_graphs import control_flow

v1 = tf.compat.v1


@pytest.fixture
def graph() -> tf.Graph:
    with tf.Graph().as_default() as graph, control_flow(1):
        yield graph


def reimported(graph: tf.Graph) -> tf.Graph:
    """Without the contexts that TensorFlow keeps while a graph is written."""
    with tf.Graph().as_default() as copy:
        tf.graph_util.import_graph_def(graph.as_graph_def(), name="")
    return copy


def reasons(graph: tf.Graph) -> dict[str, str]:
    return dict(flow_of(reimported(graph), frozenset()).reasons)


def test_a_loops_inside_has_a_reason_and_its_result_none(graph: tf.Graph) -> None:
    start = v1.placeholder(tf.float32, [3], "start")
    limit = tf.constant(5.0, name="limit")
    end = v1.while_loop(
        lambda x: tf.reduce_sum(x) < limit, lambda x: tf.add(x, 1.0, name="step"), [start]
    )
    tf.negative(end, name="after")
    reported = reasons(graph)
    inside = {o.name for o in graph.get_operations() if o.name.startswith("while/")}
    without = {name for name in inside if f"{name}:0" not in reported}
    assert without == {"while/Exit"}
    assert "inside a loop" in reported["while/step:0"]
    assert not {"start:0", "limit:0", "after:0"} & set(reported)


def test_a_loop_in_a_loop_ends_in_the_outer_one(graph: tf.Graph) -> None:
    def inner(x: tf.Tensor) -> tf.Tensor:
        return v1.while_loop(lambda y: y < 3.0, lambda y: y + 1.0, [x], name="inner")

    v1.while_loop(lambda x: x < 9.0, lambda x: inner(x) * 2.0, [tf.constant(1.0)], name="outer")
    reported = reasons(graph)
    assert "inside a loop" in reported["outer/inner/Exit:0"]
    assert "outer/Exit:0" not in reported


def branch(predicate: tf.Tensor, x: tf.Tensor, name: str = "cond") -> tf.Tensor:
    return v1.cond(
        predicate,
        lambda: tf.square(x, name="yes") + tf.constant(1.0, name="one"),
        lambda: tf.exp(x, name="no"),
        name=name,
    )


def test_both_sides_of_an_open_branch_may_not_run_and_what_they_meet_in_does(
    graph: tf.Graph,
) -> None:
    branch(v1.placeholder(tf.bool, []), v1.placeholder(tf.float32, [2], "x"))
    reported = reasons(graph)
    for name in ("cond/yes:0", "cond/one:0", "cond/no:0"):
        assert reported[name] == "made inside a branch, which may not run"
    assert not {"cond/Merge:0", "x:0"} & set(reported)


@pytest.mark.parametrize("value", [True, False])
def test_a_decided_branch_runs_one_side_for_certain(graph: tf.Graph, value: bool) -> None:
    branch(tf.constant(value, name="flag"), v1.placeholder(tf.float32, [2]))
    reported = reasons(graph)
    alive, dead = ("cond/yes:0", "cond/no:0") if value else ("cond/no:0", "cond/yes:0")
    assert alive not in reported
    assert "does not run" in reported[dead]
    assert f"is {value}" in reported[dead]
    assert f"{dead.removesuffix(':0')}" in flow_of(reimported(graph), frozenset()).inert


def test_what_is_fed_decides_nothing(graph: tf.Graph) -> None:
    flag = v1.placeholder_with_default(True, [], "flag")
    branch(flag, v1.placeholder(tf.float32, [2]))
    copy = reimported(graph)
    assert "cond/yes:0" not in flow_of(copy, frozenset()).reasons
    assert "cond/yes:0" in flow_of(copy, frozenset({"flag:0"})).reasons


def test_a_branch_in_a_decided_branch_stays_open(graph: tf.Graph) -> None:
    x = v1.placeholder(tf.float32, [2])
    v1.cond(
        tf.constant(True),
        lambda: branch(v1.placeholder(tf.bool, []), x, "inner"),
        lambda: tf.identity(x, name="never"),
        name="outer",
    )
    reported = reasons(graph)
    assert "may not run" in reported["outer/inner/yes:0"]
    assert "outer/inner/Merge:0" not in reported
    assert "does not run" in reported["outer/never:0"]


def test_a_branch_in_a_loop_is_reported_as_the_loop(graph: tf.Graph) -> None:
    v1.while_loop(lambda x: x < 9.0, lambda x: branch(x > 3.0, x), [tf.constant(1.0)])
    assert "inside a loop" in reasons(graph)["while/cond/yes:0"]
