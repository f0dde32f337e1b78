"""The catalog of a graph: TensorFlow's own names, and what is not extractable and why."""

from collections.abc import Iterator, Mapping

import pytest
import tensorflow as tf

from extractkit.core.catalog import Catalog, Kind, TensorRecord
from extractkit.models.graphs.catalog import facts_of, find_operations, terminal_tensors
from tests.models.session_graphs import classifier

v1 = tf.compat.v1


@pytest.fixture
def graph() -> Iterator[tf.Graph]:
    with tf.Graph().as_default() as graph:
        yield graph


def catalog(
    graph: tf.Graph, inputs: list[str], outputs: Mapping[str, str] | None = None, **settings: object
) -> Mapping[str, TensorRecord]:
    fed = {name: graph.get_tensor_by_name(f"{name}:0") for name in inputs}
    if outputs is None:
        settings["signature"] = False
        results = terminal_tensors(graph, fed)
    else:
        results = {name: graph.get_tensor_by_name(tensor) for name, tensor in outputs.items()}
    return Catalog(one.record for one in find_operations(graph, fed, results, [], **settings))


def test_operations_go_by_their_names_and_ports(graph: tf.Graph) -> None:
    x = v1.placeholder(tf.float32, [None, 4], "a/x")
    tf.split(x, 2, axis=1, name="b/parts")
    records = catalog(graph, ["a/x"])
    assert list(records) == ["a/x:0", "b/parts/split_dim:0", "b/parts:0", "b/parts:1"]
    assert records["a/x:0"].kind is Kind.MODEL_INPUT
    assert records["b/parts:1"].op_type == "Split"
    assert records["b/parts:1"].scopes == ()


def test_a_signatures_names_stand_beside_the_operations(graph: tf.Graph) -> None:
    x = v1.placeholder(tf.float32, [None, 4], "x")
    tf.nn.relu(x, name="y")
    records = catalog(graph, ["x"], {"scores/all": "y:0", "output.1": "y:0"})
    assert list(records) == [":input.x", "y:0", ":output.scores%2Fall", ":output.1"]
    assert records["y:0"].kind is Kind.OP
    assert records[":output.1"].kind is Kind.MODEL_OUTPUT


def test_results_that_nobody_consumes_are_outputs(graph: tf.Graph) -> None:
    x = v1.placeholder(tf.float32, [None, 2], "x")
    y = tf.nn.relu(x, name="y")
    v1.summary.histogram("seen", y)
    tf.constant(3.0, name="lonely")
    records = catalog(graph, ["x"])
    assert [a for a, record in records.items() if record.kind is Kind.MODEL_OUTPUT] == ["y:0"]


def test_a_loss_that_needs_labels_hides_no_output(graph: tf.Graph) -> None:
    x = v1.placeholder(tf.float32, [None, 2], "x")
    y = tf.nn.relu(x, name="y")
    tf.subtract(y, v1.placeholder(tf.float32, [None, 2], "labels"), name="loss")
    records = catalog(graph, ["x"])
    assert records["y:0"].kind is Kind.MODEL_OUTPUT
    reason = records["loss:0"].reason
    assert reason is not None
    assert "'labels'" in reason
    assert "model.input_axes" in reason
    assert "model.constants" in reason
    assert catalog(graph, ["x", "labels"])["loss:0"].extractable


def test_constants_of_a_frozen_graph_are_weights(graph: tf.Graph) -> None:
    tf.constant([1.0, 2.0], name="kernel")
    tf.constant(1.0, name="epsilon")
    tf.constant([1, 2], name="axes")
    kinds = {a: record.kind for a, record in catalog(graph, [], frozen=True).items()}
    assert kinds == {"kernel:0": Kind.WEIGHT, "epsilon:0": Kind.OP, "axes:0": Kind.OP}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("FIFOQueue", "outside the graph"),
        ("PyFunc", "Python code"),
        ("SaveV2", "would change things"),
        ("Assign", "would change things"),
    ],
)
def test_side_effects(graph: tf.Graph, kind: str, reason: str) -> None:
    x = v1.placeholder(tf.float32, [2], "x")
    if kind == "FIFOQueue":
        tf.negative(v1.FIFOQueue(3, [tf.float32], [[2]]).dequeue(), name="read")
    elif kind == "PyFunc":
        tf.negative(v1.py_func(lambda a: a, [x], tf.float32, name="python"), name="read")
    elif kind == "Assign":
        zeros = v1.zeros_initializer()
        v1.assign(v1.get_variable("v", [2], initializer=zeros, use_resource=False), x, name="read")
    else:
        save = v1.raw_ops.SaveV2(prefix="p", tensor_names=["x"], shape_and_slices=[""], tensors=[x])
        with tf.control_dependencies([save]):
            tf.identity(x, name="read")
    records = catalog(graph, ["x"])
    assert reason in (records["read:0"].reason or "")


def test_what_is_fed_in_the_midst_needs_nothing_before_it(graph: tf.Graph) -> None:
    queue = v1.FIFOQueue(3, [tf.float32], [[2]])
    tf.negative(queue.dequeue(name="next"), name="y")
    assert not catalog(graph, [])["y:0"].extractable
    assert catalog(graph, ["next"])["y:0"].extractable


def test_the_wrappers_prefix_is_dropped_where_what_remains_is_unique(graph: tf.Graph) -> None:
    for name in ("Call/Call/model/a", "Call/b", "b", "Call/model/c", "Call"):
        tf.constant(1.0, name=name)
    records = catalog(graph, [], drop_prefix="Call/")
    assert list(records) == ["model/a:0", "Call/b:0", "b:0", "model/c:0", "Call:0"]
    assert records["Call/Call/model/a:0"].address == "model/a:0"


def test_functions_inside_are_named_by_the_operation_that_runs_them(graph: tf.Graph) -> None:
    classifier(version=2)
    records = catalog(graph, ["x", "training"])
    inside = [a for a in records if a.startswith(("loop/body/", "loop/cond/", "drop/"))]
    assert {"loop/body/Tanh:0", "loop/cond/Less:0", "drop/else_branch/Identity:0"} <= set(inside)
    assert records["loop/body/Tanh:0"].extractable
    assert "loop's condition" in (records["loop/cond/Less:0"].reason or "")
    assert records["drop/else_branch/Identity:0"].extractable
    assert records["loop:0"].op_type == "StatelessWhile"


def test_random_numbers_do_not_pass_where_constants_decide(graph: tf.Graph) -> None:
    x = v1.placeholder(tf.float32, [None, 2], "x")
    v1.nn.dropout(x, rate=tf.constant(0.0), seed=1, name="off")
    v1.nn.dropout(x, rate=tf.constant(0.5), seed=1, name="on")
    inert = facts_of(graph, [x]).inert
    assert "off/GreaterEqual" in inert
    assert "on/GreaterEqual" not in inert
