"""Graphs with an operation that TensorFlow does not know: what does not need it is extracted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.requests import Value
from extractkit.errors import ModelError
from extractkit.models import Compilation, Fetch
from extractkit.models.frozen_graph import load
from extractkit.models.saved_model import load as load_saved_model
from extractkit.testing.models import drawn

v1 = tf.compat.v1

_WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)
_REASON = (
    "it needs 'lacked' (MyOwnOp), which this TensorFlow does not have. If a library has it, "
    "import that: model.imports=[MODULE]"
)


def build() -> dict[str, tf.Tensor]:
    """A graph whose operation `lacked` is renamed afterwards: it has two outputs, and two users."""
    x = v1.placeholder(tf.float32, [None, 4], name="x")
    hidden = tf.nn.relu(tf.matmul(x, tf.constant(_WEIGHTS, name="weights")), name="hidden")
    values, places = tf.raw_ops.TopKV2(input=hidden, k=2, name="lacked")
    after = tf.multiply(values, tf.constant(2.0), name="after")
    tf.add(places, 1, name="places")
    return {"x": x, "after": after, "beside": tf.add(hidden, 1.0, name="beside")}


def renamed(graph_def: Any) -> Any:
    """The same with an operation of a library that is not there."""
    (node,) = [node for node in graph_def.node if node.name == "lacked"]
    node.op = "MyOwnOp"
    node.attr["own"].s = b"whatever"
    return graph_def


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with tf.Graph().as_default() as graph:
        build()
    path = tmp_path_factory.mktemp("lacking") / "graph.pb"
    path.write_bytes(renamed(graph.as_graph_def()).SerializeToString())
    return path


def test_a_frozen_graph_is_listed_and_extracted_up_to_it(file: Path) -> None:
    model = load(str(file))
    assert [spec.name for spec in model.signature.specs] == ["x"]
    batch = drawn(model, 3)
    fetches = [Fetch(Value("hidden:0")), Fetch(Value("beside:0"))]
    hidden, beside = model.program(fetches, Compilation())(batch.features, batch.lengths)
    expected = np.maximum(batch.features["x"] @ _WEIGHTS, 0)
    np.testing.assert_allclose(hidden, expected, rtol=1e-5)
    np.testing.assert_allclose(beside, expected + 1, rtol=1e-5)
    np.testing.assert_array_equal(model.constants([Fetch(Value("weights:0"))])[0], _WEIGHTS)
    refused = {r.address: r.reason for r in model.catalog.records if r.reason is not None}
    assert refused["after:0"] == _REASON
    assert refused["lacked:0"] == _REASON
    assert "MyOwnOp" in refused["places:0"]
    assert model.catalog["places:0"].spec.dtype == "int32"


def test_a_whole_job_on_it(file: Path, tmp_path: Path) -> None:
    x = np.ones((2, 4), np.float32)
    given = ["model=frozen_graph", f"model.path={file}", "selectors=[ops,outputs]"]
    run = extractkit.extract(given, inputs={"x": x}, run_dir=tmp_path / "run")
    np.testing.assert_allclose(np.asarray(run["beside:0"]), x @ _WEIGHTS + 1)
    assert "after:0" in {one.address for one in run.manifest.unextractable}


def test_a_saved_model_of_tensorflow_1(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    with tf.Graph().as_default(), v1.Session() as session:
        tensors = build()
        outputs = {name: tensors[name] for name in ("after", "beside")}
        v1.saved_model.simple_save(session, str(folder), {"x": tensors["x"]}, outputs)
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    renamed(message.meta_graphs[0].graph_def)
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    model = load_saved_model(str(folder))
    assert model.catalog[":output.after"].reason == _REASON
    batch = drawn(model, 2)
    (beside,) = model.program([Fetch(Value(":output.beside"))], Compilation())(
        batch.features, batch.lengths
    )
    expected = np.maximum(batch.features["x"] @ _WEIGHTS, 0) + 1
    np.testing.assert_allclose(beside, expected, rtol=1e-5)


def test_a_meta_graph(tmp_path: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        tensors = build()
        kernel = v1.get_variable("kernel", initializer=_WEIGHTS)
        tf.matmul(tensors["x"], kernel, name="product")
        session.run(kernel.initializer)
        v1.train.Saver().save(session, str(tmp_path / "model"))
    meta = v1.MetaGraphDef.FromString((tmp_path / "model.meta").read_bytes())
    renamed(meta.graph_def)
    (tmp_path / "model.meta").write_bytes(meta.SerializeToString())
    x = np.ones((2, 4), np.float32)
    given = ["model=meta_graph", f"model.path={tmp_path / 'model.meta'}", "selectors=[ops,outputs]"]
    run = extractkit.extract(given, inputs={"x": x}, run_dir=tmp_path / "run")
    np.testing.assert_allclose(np.asarray(run["product:0"]), x @ _WEIGHTS)
    reasons = {one.address: one.reason for one in run.manifest.unextractable}
    assert reasons["after:0"] == _REASON


def of_functions(tmp_path: Path) -> Path:
    """A SavedModel of TensorFlow 2 with unknown operations in a nested function and in a loop."""
    module = tf.Module()
    module.weights = tf.Variable(_WEIGHTS, name="weights")

    @tf.function(autograph=False)
    def inner(hidden: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values, places = tf.raw_ops.TopKV2(input=hidden, k=2, name="lacked")
        return values * 2.0, places

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden = tf.nn.relu(x @ module.weights, name="hidden")
        after, places = inner(hidden)
        (looped,) = tf.while_loop(
            lambda y: tf.reduce_sum(y) < 100.0, lambda y: (tf.math.erf(y) + y,), [hidden + 1.0]
        )
        beside = tf.add(hidden, 1.0, name="beside")
        return {"after": after, "places": places + 1, "looped": looped, "beside": beside}

    takes = [tf.TensorSpec([None, 4], name="x")]
    module.call = tf.function(call, input_signature=takes, autograph=False)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.call)
    lack(tmp_path / "m", {"TopKV2": "MyOwnOp", "Erf": "MyOwnErf"})
    return tmp_path / "m"


def lack(folder: Path, renaming: dict[str, str]) -> None:
    """Rename operations in the functions of a SavedModel."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    nodes = [
        node
        for function in message.meta_graphs[0].graph_def.library.function
        for node in function.node_def
    ]
    for node in nodes:
        node.op = renaming.get(node.op, node.op)
    assert {node.op for node in nodes} >= set(renaming.values())
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())


def test_functions_of_a_saved_model(tmp_path: Path) -> None:
    path = of_functions(tmp_path)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    given = ["model=saved_model", f"model.path={path}", "selectors=[ops,outputs,weights]"]
    run = extractkit.extract(given, inputs={"x": x}, run_dir=tmp_path / "run")
    hidden = np.maximum(x @ _WEIGHTS, 0)
    np.testing.assert_allclose(np.asarray(run["hidden:0"]), hidden, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(run[":output.beside"]), hidden + 1, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(run["weights:0"]), _WEIGHTS)
    reasons = {one.address: one.reason for one in run.manifest.unextractable}
    for address, lacked in {"after": "MyOwnOp", "places": "MyOwnOp", "looped": "MyOwnErf"}.items():
        assert f"({lacked}), which this TensorFlow does not have" in reasons[f":output.{address}"]
    (check,) = run.manifest.volatile.self_check
    assert check.not_applicable is not None
    assert "which TensorFlow lacks" in check.not_applicable


def test_a_state_that_an_unknown_operation_may_change(tmp_path: Path) -> None:
    module = tf.Module()
    module.weights = tf.Variable(_WEIGHTS, name="weights")

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        before = tf.multiply(x, 2.0, name="before")
        module.weights.assign(module.weights * 2.0)
        return {"after": tf.matmul(x, module.weights, name="after"), "before": before}

    takes = [tf.TensorSpec([None, 4], name="x")]
    module.call = tf.function(call, input_signature=takes, autograph=False)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.call)
    lack(tmp_path / "m", {"AssignVariableOp": "MyOwnAssign"})
    model = load_saved_model(str(tmp_path / "m"))
    reasons = {one.address: one.reason or "" for one in model.catalog.records}
    (after,) = [address for address in reasons if address.endswith("after:0")]
    assert "(MyOwnAssign), which this TensorFlow does not have" in reasons[after]
    assert "(MyOwnAssign), which this TensorFlow does not have" in reasons[":output.after"]
    (before,) = [address for address in reasons if address.endswith("before:0")]
    assert not reasons[before]


def test_the_body_of_a_function_in_a_frozen_graph(tmp_path: Path) -> None:
    @tf.function(autograph=False)
    def inner(hidden: tf.Tensor) -> tf.Tensor:
        return tf.math.erf(hidden) * 2.0

    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        hidden = tf.nn.relu(tf.matmul(x, tf.constant(_WEIGHTS, name="weights")), name="hidden")
        tf.identity(inner(hidden), name="after")
        tf.add(hidden, 1.0, name="beside")
    graph_def = graph.as_graph_def()
    for function in graph_def.library.function:
        for node in function.node_def:
            node.op = "MyOwnErf" if node.op == "Erf" else node.op
    (tmp_path / "graph.pb").write_bytes(graph_def.SerializeToString())
    model = load(str(tmp_path / "graph.pb"))
    assert "(MyOwnErf), which this TensorFlow" in (model.catalog["after:0"].reason or "")
    batch = drawn(model, 2)
    (beside,) = model.program([Fetch(Value("beside:0"))], Compilation())(
        batch.features, batch.lengths
    )
    expected = np.maximum(batch.features["x"] @ _WEIGHTS, 0) + 1
    np.testing.assert_allclose(beside, expected, rtol=1e-5)


def test_an_operation_that_loading_runs(tmp_path: Path) -> None:
    """Then weights alone can be read, as the message says."""
    initial = tf.lookup.KeyValueTensorInitializer(tf.constant([1, 2]), tf.constant([3, 4]))
    module = tf.Module()
    module.weights = tf.Variable(_WEIGHTS, name="weights")
    module.table = tf.lookup.StaticHashTable(initial, -1)
    module.call = tf.function(
        lambda x: module.table.lookup(x), input_signature=[tf.TensorSpec([None, 2], tf.int32)]
    )
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.call)
    lack(tmp_path / "m", {"LookupTableImportV2": "MyOwnImport"})
    with pytest.raises(ModelError, match="needs the operation 'MyOwnImport', which this T") as told:
        load_saved_model(str(tmp_path / "m"))
    advice = str(told.value).rpartition("Its weights alone: ")[2].split()
    run = extractkit.extract([*advice, "selectors=weights"], run_dir=tmp_path / "run")
    (weights,) = run.values()
    np.testing.assert_array_equal(np.asarray(weights), _WEIGHTS)
