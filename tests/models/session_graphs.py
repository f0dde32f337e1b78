"""Graphs of TensorFlow 1, written with its own API: loops and branches of both versions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


@contextmanager
def control_flow(version: int) -> Iterator[None]:
    """Loops and branches as this version of TensorFlow writes them."""
    (v1.enable_control_flow_v2 if version == 2 else v1.disable_control_flow_v2)()
    try:
        yield
    finally:
        v1.enable_control_flow_v2()


def classifier(version: int = 1, resource: bool = False) -> None:
    """`x` (N, 6) → hidden (N, 5) → dropout, in a branch → a loop of three steps → probs (N, 4)."""
    with control_flow(version), v1.variable_scope("", use_resource=resource):
        x = v1.placeholder(tf.float32, [None, 6], "x")
        training = v1.placeholder(tf.bool, [], "training")
        keep = v1.placeholder_with_default(np.float32(1.0), [], "keep")
        hidden = tf.nn.relu(tf.matmul(x, weight("hidden/kernel", [6, 5])), name="hidden/Relu")
        kept = v1.cond(
            training,
            lambda: v1.nn.dropout(hidden, keep, seed=1),
            lambda: tf.identity(hidden),
            name="drop",
        )
        state = v1.while_loop(
            lambda step, _: step < 3,
            lambda step, state: (step + 1, tf.tanh(state * 1.5 + 0.1)),
            (tf.constant(0), kept),
            name="loop",
        )[1]
        tf.nn.softmax(tf.matmul(state, weight("top/kernel", [5, 4])), name="probs")


def trained() -> None:
    """`x` (N, 3) → y (N, 2), a loss on `labels`, Adam, a metric's own variables, a table."""
    x = v1.placeholder(tf.float32, [None, 3], "x")
    labels = v1.placeholder(tf.float32, [None, 2], "labels")
    y = tf.nn.sigmoid(tf.matmul(x, weight("kernel", [3, 2])), name="y")
    loss = tf.reduce_mean(tf.square(y - labels), name="loss")
    v1.train.AdamOptimizer(0.1).minimize(loss, global_step=v1.train.get_or_create_global_step())
    v1.metrics.mean(loss, name="metric")
    words = tf.constant(["a", "b"])
    table = v1.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="table")
    filled = v1.raw_ops.LookupTableImportV2(
        table_handle=table, keys=words, values=tf.constant([7, 8], tf.int64)
    )
    v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, filled)
    word = v1.placeholder(tf.string, [None], "word")
    v1.raw_ops.LookupTableFindV2(
        table_handle=table, keys=word, default_value=tf.constant(-1, tf.int64), name="found"
    )


def weight(name: str, shape: list[int]) -> tf.Tensor:
    """A variable with values drawn from its name alone."""
    seed = sum(name.encode())
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return v1.get_variable(name, initializer=values)


def frozen(build: Callable[[], None], outputs: list[str], path: Path) -> Path:
    """A GraphDef with constants for variables; `.pbtxt` as text."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        build()
        session.run(v1.global_variables_initializer())
        graph_def = v1.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), outputs
        )
    tf.io.write_graph(graph_def, str(path.parent), path.name, as_text=path.suffix == ".pbtxt")
    return path


def saved(build: Callable[[], None], prefix: Path) -> Path:
    """A `.meta` file and a checkpoint of that prefix."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        build()
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(prefix))
    return prefix


def by_hand(x: np.ndarray) -> dict[str, np.ndarray]:
    """What `classifier` makes of x where it drops nothing, in float64."""

    def kernel(name: str, shape: list[int]) -> np.ndarray:
        generator = np.random.default_rng(sum(name.encode()))
        return generator.normal(size=shape).astype(np.float32).astype(np.float64)

    hidden = np.maximum(x.astype(np.float64) @ kernel("hidden/kernel", [6, 5]), 0)
    state = hidden
    for _ in range(3):
        state = np.tanh(state * 1.5 + 0.1)
    logits = state @ kernel("top/kernel", [5, 4])
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return {"hidden/Relu:0": hidden, "probs:0": powers / powers.sum(1, keepdims=True)}
