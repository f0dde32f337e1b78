"""Digests of what models compute: alike for rebuilds, different for whatever changes a value."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.component import Component
from extractkit.models import frozen_graph, module
from extractkit.models.graphs.definitions import graph_digest
from extractkit.models.in_memory import live_model
from tests.models import session_graphs

Layers = keras.layers


def digest(model: Any) -> str:
    """Of a Keras model."""
    found = live_model(model).definition_digest()
    assert found is not None
    return found


def classifier(activation: str = "relu", scale: float = 2.0, width: int = 3, **names: str) -> Any:
    """Nobody named its layers, unless `names` does."""
    inputs = keras.Input((4,))
    hidden = Layers.Dense(width, activation=activation, **names)(inputs)
    return keras.Model(inputs, Layers.Rescaling(scale)(hidden))


def test_a_rebuild_after_other_models_is_the_same_model() -> None:
    before = digest(classifier())
    for _ in range(3):
        digest(classifier("tanh", width=5))
    assert digest(classifier()) == before


@pytest.mark.parametrize(
    "changes",
    [{"activation": "tanh"}, {"scale": 2.5}, {"width": 4}, {"name": "other"}],
    ids=str,
)
def test_what_is_computed_and_what_it_is_called_count(changes: dict[str, Any]) -> None:
    assert digest(classifier(**changes)) != digest(classifier())


def test_weights_do_not_count() -> None:
    one, two = classifier(), classifier()
    two.set_weights([weight + 1 for weight in two.get_weights()])
    assert digest(one) == digest(two)
    assert live_model(one).weights_digest() != live_model(two).weights_digest()


def test_which_weight_stands_where_counts() -> None:
    """Two layers of one shape, called in the other order under the same names."""

    def model(first: str, second: str) -> Any:
        inputs = keras.Input((4,))
        named = {name: Layers.Dense(4, name=name) for name in ("a", "b")}
        hidden = named[second](named[first](inputs))
        return keras.Model(inputs, hidden)

    assert digest(model("a", "b")) != digest(model("b", "a"))


def test_which_tensor_has_which_name_counts() -> None:
    def model(first: str, second: str) -> Any:
        inputs = keras.Input((4,))
        doubled = Layers.Rescaling(2.0, name=first)(inputs)
        tripled = Layers.Rescaling(3.0, name=second)(inputs)
        return keras.Model(inputs, [doubled, tripled])

    assert digest(model("a", "b")) != digest(model("b", "a"))


def test_the_body_of_a_loop_counts() -> None:
    def model(activation: str) -> Any:
        inputs = keras.Input((None, 4))
        return keras.Model(inputs, Layers.LSTM(3, activation=activation)(inputs))

    assert digest(model("tanh")) == digest(model("tanh")) != digest(model("relu"))


class Shifted(keras.layers.Layer):  # type: ignore[misc]
    """Its shift is a variable that Keras does not know of."""

    def __init__(self, shift: float) -> None:
        super().__init__(name="shifted")
        self._held = (lambda variable: lambda: variable)(tf.Variable(shift))

    def call(self, x: Any) -> Any:
        return x + self._held()


def test_a_variable_that_is_no_weight_counts_by_its_content() -> None:
    def model(shift: float) -> Any:
        return keras.Sequential([keras.Input((2,)), Shifted(shift)])

    assert digest(model(1.0)) == digest(model(1.0)) != digest(model(2.0))


class Drawing(Layers.Layer):
    """Draws numbers, and uses them or not."""

    def __init__(self, source: str, seed: int) -> None:
        super().__init__(name="drawing")
        self.source = source
        self.keras_generator = keras.random.SeedGenerator(seed)
        self.generator = tf.random.Generator.from_seed(seed)

    def call(self, x: Any) -> Any:
        if self.source == "used as a number":
            x = x * keras.ops.cast(self.keras_generator.next()[0], "float32")
        if self.source == "tensorflow":
            self.generator.normal((4,))
        else:
            keras.random.normal((4,), seed=self.keras_generator)
        return x


def with_seed(kind: str, seed: int) -> Any:
    keras.utils.set_random_seed(seed)  # for layers without a seed
    cells = {
        "gru": lambda: Layers.GRU(3, dropout=0.3),
        "convolution": lambda: Layers.ConvLSTM1D(2, 2, recurrent_dropout=0.3),
    }
    inputs = keras.Input((4, 3, 1) if kind == "convolution" else (4, 3) if kind in cells else (4,))
    made = cells[kind]() if kind in cells else Drawing(kind, seed)
    return keras.Model(inputs, made(inputs))


@pytest.mark.parametrize("kind", ["gru", "convolution", "keras", "tensorflow"])
def test_the_state_of_random_generators_does_not_count(kind: str) -> None:
    one, two = with_seed(kind, 1), with_seed(kind, 2)
    assert digest(one) == digest(two)
    # Nor can it be extracted: it would differ each time that a model is loaded.
    reads = [
        record
        for record in live_model(one).catalog.records
        if record.address.startswith("drawing:op/R")
    ]
    assert not any(record.extractable for record in reads)
    assert live_model(one).catalog.outputs[0].extractable
    assert len(reads) == {"keras": 2, "tensorflow": 1}.get(kind, 0)


def test_the_state_of_a_random_generator_that_is_used_as_a_number_counts() -> None:
    kind = "used as a number"
    assert digest(with_seed(kind, 1)) != digest(with_seed(kind, 2))


def function_digest(build: Callable[..., Any], **arguments: object) -> str | None:
    """Of what `model=module` makes of a builder of this file."""
    target = f"{__name__}.{build.__name__}"
    return module.load(Component("model.factory", target, arguments)).definition_digest()


def look_up(words: list[str]) -> Any:
    """Positions of words in a list."""
    numbers = tf.range(len(words), dtype=tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(words, numbers), -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    def find(word: tf.Tensor) -> tf.Tensor:
        return table.lookup(word)

    find.table = table
    return find


def test_the_words_of_a_lookup_table_count() -> None:
    assert function_digest(look_up, words=["a", "b"]) == function_digest(look_up, words=["a", "b"])
    assert function_digest(look_up, words=["a", "b"]) != function_digest(look_up, words=["a", "c"])


def calls_python(factor: int) -> Any:
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def compute(x: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(lambda array: array * factor, [x], tf.float32) + x

    return compute


def nests(factor: float) -> Any:
    """A function in a loop in a function; TensorFlow counts all their names up."""

    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        return x * factor

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def outer(x: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda y: tf.reduce_sum(y) < 9.0, lambda y: (inner(y),), [x])[0]

    return outer


def test_nobody_can_tell_what_python_does() -> None:
    assert function_digest(calls_python, factor=2) is None


def test_functions_count_by_what_is_in_them() -> None:
    assert function_digest(nests, factor=2.0) == function_digest(nests, factor=2.0)
    assert function_digest(nests, factor=2.0) != function_digest(nests, factor=3.0)


def scaled(kernel: float, constant: float) -> None:
    """A kernel of two numbers and a constant of one."""
    v1 = tf.compat.v1
    x = v1.placeholder(tf.float32, [None, 2], "x")
    weights = v1.get_variable("kernel", initializer=np.array([kernel, 1.0], np.float32))
    tf.multiply(x * weights, np.float32(constant), name="y")


def test_of_a_frozen_graph_weights_do_not_count_and_constants_do(tmp_path: Path) -> None:
    numbers = count()

    def frozen(kernel: float, constant: float) -> Any:
        file = tmp_path / f"{next(numbers)}.pb"
        session_graphs.frozen(lambda: scaled(kernel, constant), ["y"], file)
        return frozen_graph.load(str(file))

    one, same, kernel, constant = (
        frozen(*values) for values in ((1.0, 2.0), (1.0, 2.0), (3.0, 2.0), (1.0, 3.0))
    )
    assert one.definition_digest() == same.definition_digest() == kernel.definition_digest()
    assert one.definition_digest() != constant.definition_digest()
    assert one.weights_digest() == constant.weights_digest() != kernel.weights_digest()


def test_model_inputs_and_constants_count(tmp_path: Path) -> None:
    file = session_graphs.frozen(lambda: session_graphs.classifier(), ["probs"], tmp_path / "m.pb")
    training, inference, longer = (
        frozen_graph.load(str(file), **settings).definition_digest()  # type: ignore[arg-type]
        for settings in (
            {"constants": {"training": True}},
            {"constants": {"training": False}},
            {"constants": {"training": False}, "input_axes": {"x": ["sample", 6]}},
        )
    )
    assert None not in (training, inference, longer)
    assert training != inference


def graph_def(build: Callable[[], Any]) -> Any:
    with tf.Graph().as_default() as graph:
        build()
    return graph.as_graph_def()


def test_however_a_constant_is_written_it_is_the_same() -> None:
    one = graph_def(lambda: tf.constant([1.0, 1.0]))
    other = graph_def(lambda: tf.constant([1.0, 1.0]))
    tensor = other.node[0].attr["value"].tensor
    tensor.tensor_content = b""
    tensor.float_val.append(1.0)  # which stands for all
    assert one.node[0].attr["value"] != other.node[0].attr["value"]
    assert graph_digest(one, {}) == graph_digest(other, {})


def test_names_and_notes_do_not_count() -> None:
    def one() -> None:
        tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="cd2c89b7", name="a")

    def other() -> None:
        tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="0f2", name="b")

    noted = graph_def(other)
    noted.node[0].attr["_uid"].s = b"17"
    assert graph_digest(graph_def(one), {}) == graph_digest(noted, {})


def test_devices_count_whatever_process_they_are_in() -> None:
    def placed(device: str) -> Any:
        graph = graph_def(lambda: tf.constant(1.0))
        graph.node[0].device = device
        return graph_digest(graph, {})

    here = placed("/device:CPU:0")
    assert here == placed("/job:localhost/replica:0/task:0/device:CPU:0") == placed("/CPU:0")
    assert len({here, placed(""), placed("/GPU:0"), placed("/GPU:1"), placed("nowhere")}) == 5


def compiled(by_xla: bool, factor: float = 2.0) -> Any:
    """One function in another, which XLA compiles or not."""
    inner = tf.function(lambda x: x * factor, jit_compile=by_xla or None)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def outer(x: tf.Tensor) -> tf.Tensor:
        return inner(x) + 1.0

    return outer


def test_what_xla_has_to_compile_counts() -> None:
    found = [function_digest(compiled, by_xla=by_xla) for by_xla in (True, True, False)]
    assert found[0] == found[1] != found[2]
    graphs = [compiled(by_xla).get_concrete_function().graph for by_xla in (True, False)]
    by_xla, plain = (graph.as_graph_def() for graph in graphs)
    assert graph_digest(by_xla, {}) != graph_digest(plain, {})
    # Said of the function alone, or of its call alone.
    for of in (by_xla.library.function[0], *[n for n in by_xla.node if "Call" in n.op]):
        del of.attr["_XlaMustCompile"]
    assert graph_digest(by_xla, {}) == graph_digest(plain, {})
    plain.library.function[0].attr["_XlaMustCompile"].b = True
    assert graph_digest(by_xla, {}) != graph_digest(plain, {})
    plain.library.function[0].attr["_XlaMustCompile"].b = False
    assert graph_digest(by_xla, {}) == graph_digest(plain, {})


@pytest.mark.parametrize("shared", [("a", "a"), ("a", "")], ids=str)
def test_what_shares_something_counts(shared: tuple[str, str]) -> None:
    def two(names: tuple[str, str]) -> Any:
        def build() -> None:
            for name in names:
                tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name=name)

        return graph_digest(graph_def(build), {})

    assert two(("a", "b")) != two(shared)


def test_where_inputs_come_from_counts_and_in_which_order() -> None:
    def difference(swapped: bool) -> Any:
        def build() -> None:
            x, y = (tf.compat.v1.placeholder(tf.float32, []) for _ in range(2))
            tf.subtract(*((y, x) if swapped else (x, y)))

        return graph_digest(graph_def(build), {})

    assert difference(True) != difference(False)
