"""Whatever a layer or a function returns is taken apart into tensors with names."""

import dataclasses
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import attrs
import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.models.in_memory import live_model
from extractkit.models.module import load
from extractkit.models.naming import components, plain, ports


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Data:
    first: Any
    second: Any = None
    label: str = "x"
    never: Any = dataclasses.field(init=False, repr=False)


@attrs.define
class Attrs:
    first: Any
    second: Any


class Extension(tf.experimental.ExtensionType):
    values: tf.Tensor
    count: int = 2


@dataclasses.dataclass
class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As in transformers: an ordered dictionary with attributes, None left out."""

    last: Any = None
    pooled: Any = None
    hidden: Any = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) is not None:
                self[field.name] = value


class Lookup(Mapping[Any, Any]):
    """A mapping that is no dictionary."""

    def __getitem__(self, key: Any) -> Any:
        return {"b": tf.constant(1), 3: tf.constant(2), "3": tf.constant(3)}[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(["b", 3, "3"])

    def __len__(self) -> int:
        return 3


class Distribution:
    """As of TensorFlow Probability, which the lock does not hold."""

    def __init__(self, **parameters: Any) -> None:
        self.parameters = {**parameters, "validate_args": False, "name": "Normal"}


Distribution.__module__ = "tensorflow_probability.python.distributions.distribution"


class Normal(Distribution):
    pass


T = tf.constant
RAGGED = tf.ragged.constant([[1], [2, 3]])
SPARSE = tf.sparse.from_dense([[1, 0]])


def holding_itself() -> list[Any]:
    made: list[Any] = [T(0), T(1)]
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (T(1), ["output"]),
        ([T(1)], ["output"]),
        ([T(1), T(2)], ["output", "output.1"]),
        ((T(1), (T(2), T(3))), ["output", "output.1.0", "output.1.1"]),
        ({"b": T(1), "a": [T(2)]}, ["output.a.0", "output.b"]),
        (OrderedDict(b=T(1), a=T(2)), ["output.b", "output.a"]),
        (defaultdict(list, b=T(1), a=T(2)), ["output.a", "output.b"]),
        ({2: T(1), 10: T(2)}, ["output.2", "output.10"]),
        (Lookup(), ["output.3", "output.3.1", "output.b"]),
        ({("a", 1): T(1), None: T(2)}, ["output.None", "output.('a', 1)"]),
        ({"a.b": T(1), "a": {"b": T(2)}}, ["output.a.b", "output.a.b.1"]),
        (Pair(T(1), [T(2), T(3)]), ["output.left", "output.right.0", "output.right.1"]),
        (namedtuple("None_", "a b")(None, T(1)), ["output.b"]),
        (Data(T(1), Data(T(2))), ["output.first", "output.second.first"]),
        (Attrs(T(1), {"k": T(2)}), ["output.first", "output.second.k"]),
        (Extension(T(1)), ["output.values"]),
        (tf.IndexedSlices(T([1.0]), T([0])), ["output.values", "output.indices"]),
        (
            ModelOutput(last=T(1), hidden=(T(2), (T(3), T(4)))),
            ["output.last", "output.hidden.0", "output.hidden.1.0", "output.hidden.1.1"],
        ),
        (Normal(loc=T(1.0), scale=2.0), ["output.loc"]),
        (
            Normal(distribution=Normal(loc=T(1.0), scale=T(2.0)), bijector=object()),
            ["output.distribution.loc", "output.distribution.scale"],
        ),
        ([RAGGED, SPARSE], ["output", "output.1"]),
        (holding_itself(), ["output", "output.1"]),
        ([None, "text", 1, object(), Data, {1}, iter([T(1)]), T(1)], ["output.7"]),
        (None, []),
    ],
)
def test_every_tensor_has_a_port(value: Any, found: list[str]) -> None:
    assert list(ports("output", value)) == found


def test_ports_lead_to_their_own_tensors() -> None:
    found = ports("output", {"a.b": T(1), "a": {"b": T(2)}, 1: T(3), "1": T(4)})
    assert {port: int(tensor) for port, tensor in found.items()} == {
        "output.1": 3,
        "output.1.1": 4,
        "output.a.b": 2,
        "output.a.b.1": 1,
    }


def test_ragged_and_sparse_tensors_have_components() -> None:
    found = components(ports("output", Data(RAGGED, SPARSE)))
    assert list(found) == [
        "output.first.values",
        "output.first.row_splits",
        "output.second.indices",
        "output.second.values",
        "output.second.dense_shape",
    ]


def test_a_plain_structure_keeps_what_tensorflow_converts() -> None:
    array, variable = np.zeros(2), tf.Variable(1.0)
    structure = plain({"a": array, "v": variable, "n": 1.5, "o": object(), "k": keras.Variable(1)})
    assert structure["a"] is array
    assert structure["v"] is variable
    assert structure["n"] == 1.5
    assert structure["o"] is None
    assert tf.convert_to_tensor(structure["k"]).shape == ()


class Nested(keras.layers.Layer):
    def call(self, x: tf.Tensor) -> Any:
        return ModelOutput(last=x + 1.0, hidden=(x * 2.0, Data(x * 3.0)))


class Outer(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.nested = Nested(name="nested")

    def call(self, x: tf.Tensor) -> Any:
        inner = self.nested(x)
        return ModelOutput(last=inner.last, hidden=(*inner.hidden, object()))


def test_outputs_of_a_keras_model_are_extracted_by_name() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = live_model(Outer(), example=x)
    outputs = [r.address for r in model.catalog.records if r.kind is Kind.MODEL_OUTPUT]
    assert outputs == [":output.last", ":output.hidden.0", ":output.hidden.1.first"]
    assert "nested:output.hidden.1.first" in model.catalog
    direct = model.own_call().outputs({"input": x}, {})
    np.testing.assert_array_equal(direct[":output.last"], x + 1)
    np.testing.assert_array_equal(direct[":output.hidden.0"], x * 2)
    np.testing.assert_array_equal(direct[":output.hidden.1.first"], x * 3)


def structured(x: tf.Tensor) -> Any:
    return {3: Data(x + 1.0, Pair(x * 2.0, None)), "m": ModelOutput(last=x, pooled=object())}


@pytest.mark.parametrize("eager", [False, True])
def test_outputs_of_a_function_are_extracted_by_name(eager: bool) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    factory = Component("model.factory", f"{__name__}.structured", partial=True)
    model = load(factory, input_axes={"x": ["sample", 3]}, eager=eager)
    direct = model.own_call().outputs({"x": x}, {})
    named = {address.removeprefix(":").removeprefix("output."): v for address, v in direct.items()}
    assert {name: value.tolist() for name, value in named.items()} == {
        "3.first": (x + 1).tolist(),
        "3.second.left": (x * 2).tolist(),
        "m.last": x.tolist(),
    }
