"""Tensors computed by OpenVINO are TensorFlow's, or are left to TensorFlow."""

import errno
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.errors import MissingExtraError, SampleError
from extractkit.models import (
    Compilation,
    Fetch,
    Model,
    NotCompiledError,
    bert,
    openvino,
    openvino_ranges,
)
from extractkit.models.graphs.definitions import FrozenGraph
from extractkit.models.in_memory import live_model
from extractkit.runs.comparing.measures import compare_arrays
from tests.oracles.test_own_outputs import REAL, batch_for, cutkum, fer, musicnn, pitch
from tests.real_models import real_model

pytest.importorskip("openvino", reason="needs the extra openvino")

BY_OPENVINO, BY_TENSORFLOW = Compilation("openvino"), Compilation("graph")


def compiled(compute: Callable[..., tf.Tensor], **inputs: Any) -> openvino.CompiledGraph:
    """Compile a function of named inputs, whose sizes are all unknown."""
    with tf.Graph().as_default() as graph:
        given = {
            name: tf.compat.v1.placeholder(value.dtype, [None] * value.ndim)
            for name, value in inputs.items()
        }
        outputs = compute(**given)
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    return openvino.CompiledGraph("net", FrozenGraph(graph, given, outputs))


def reason(compute: Callable[..., tf.Tensor], **inputs: Any) -> str:
    with pytest.raises(NotCompiledError) as caught:
        compiled(compute, **inputs)
    return caught.value.reason


# ---------------------------------------------------------------------------- integers

LARGEST = openvino.LARGEST
ONE = np.array([[LARGEST, -LARGEST, 0, 7], [LARGEST - 1, 1, -1, 5]], np.int64)
OTHER = np.array([[LARGEST - 1, 1 - LARGEST, 0, 8], [LARGEST, 1, 1, -5]], np.int64)
EXACT: dict[str, Callable[..., tf.Tensor]] = {
    "sums": lambda x, y: x + y - tf.constant(30522, x.dtype),
    "less": lambda x, y: tf.stack([x < y, x <= y]),
    "greater": lambda x, y: tf.stack([x > y, x >= y]),
    "equal": lambda x, y: tf.stack([tf.equal(x, y), tf.not_equal(x, y)]),
    "chosen": lambda x, y: tf.where(x < y, x, y),
    "logic": lambda x, y: tf.reduce_any(~(x < y) & (x != 0), axis=1),
    "float": lambda x, y: tf.cast(x, tf.float32) - tf.cast(y, tf.float32),
    "boolean": lambda x, y: tf.cast(tf.cast(x, tf.bool), tf.float32),
    "counted": lambda x, y: tf.cast(x < y, tf.int32),
    "one hot": lambda x, y: tf.one_hot(x, 8),
    "joined": lambda x, y: tf.transpose(tf.concat([x, y], 1)),
    "packed": lambda x, y: tf.unstack(tf.reshape(tf.stack([x, y]), [2, -1]))[1],
    "sliced": lambda x, y: tf.tile(x[:, 1:3], [1, 2]),
    "split": lambda x, y: tf.squeeze(tf.split(x, 4, axis=1)[2], 1),
    "spread": lambda x, y: tf.broadcast_to(tf.expand_dims(x, 0), [3, 2, 4]),
    "rows": lambda x, y: tf.gather(y, tf.cast(x > y, tf.int32)),
    "wider": lambda x, y: tf.cast(tf.cast(x, tf.int32), tf.int64),
}


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("name", EXACT)
def test_integers_are_exact(name: str, dtype: type) -> None:
    x, y = ONE.astype(dtype), OTHER.astype(dtype)
    expected = EXACT[name](tf.constant(x), tf.constant(y)).numpy()
    (found,) = compiled(EXACT[name], x=x, y=y)({"x": x, "y": y}) or []
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (lambda x: x * 2, "(Mul) computes integers, for which OpenVINO may use floats"),
        (lambda x: tf.reduce_sum(x, 1), "(Sum) computes integers"),
        (lambda x: tf.cumsum(x, 1), "(Cumsum) computes integers"),
        (lambda x: x + x + x + x, "computes integers that floats do not represent"),
        (lambda x: tf.cast(x, tf.int8), "makes integers of any size"),
        (lambda x: tf.cast(x, tf.float64), "computes float64, for which OpenVINO uses float32"),
        (lambda x: tf.cast(x, tf.float16), "computes float16"),
        (lambda x: tf.as_string(x), "has values of the type string"),
        (lambda x: tf.random.uniform(tf.shape(x), seed=1) + tf.cast(x, tf.float32), "has a state"),
    ],
)
def test_what_openvino_computes_in_other_types_is_refused(
    compute: Callable[[tf.Tensor], tf.Tensor], said: str
) -> None:
    assert said in reason(compute, x=ONE.astype(np.int32))


def test_floats_are_not_rounded_to_integers_of_any_size() -> None:
    x = np.ones((2, 2), np.float32)
    assert "makes integers of any size" in reason(lambda x: tf.cast(x, tf.int32), x=x)
    assert "(ArgMax) computes integers" in reason(lambda x: tf.argmax(x, 1), x=x)


def test_operations_that_it_cannot_convert_are_named() -> None:
    x = np.eye(2, dtype=np.float32)
    found = reason(lambda x: tf.linalg.svd(x, compute_uv=False), x=x)
    assert found == "it cannot convert the operations Svd"


def fixed(check: Callable[[tf.Tensor], Any]) -> openvino.CompiledGraph:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 2])
        with tf.control_dependencies([check(x)]):
            output = x * 2
    return openvino.CompiledGraph("net", FrozenGraph(graph, {"x": x}, [output]))


def test_assertions_about_values_are_refused() -> None:
    """Those about sizes hold for all samples if their sizes are fixed."""
    x = np.ones((3, 2), np.float32)
    plain = tf.raw_ops.Assert
    size = lambda x: plain(condition=tf.shape(x)[1] < 3, data=[x], summarize=3)  # noqa: E731
    (found,) = fixed(size)({"x": x}) or []
    np.testing.assert_array_equal(found, x * 2)
    for refused in (
        lambda x: plain(condition=tf.reduce_all(x > 0), data=[x], summarize=3),
        lambda x: tf.debugging.Assert(tf.reduce_all(x > 0), [x]),
        lambda x: tf.debugging.check_numerics(x, "no number"),
    ):
        with pytest.raises(
            NotCompiledError, match=r"has a state, or checks values|is a loop, a branch"
        ):
            fixed(refused)


def test_without_room_for_its_file_the_reason_is_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert reason(lambda x: x * 2, x=np.ones((2, 2), np.float32)) == (
        "its graph cannot be written to the folder of temporary files: No space left on device "
        "(TMPDIR=… for another)"
    )


# ---------------------------------------------------------------------------- patterns


@cache
def transformer() -> keras.Model:
    """Attention, layer normalisation, exact GELU and dense layers over a free axis."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(11, 8, name="embedding")(tokens)
    mask = keras.ops.expand_dims(keras.ops.not_equal(tokens, 0), 1)
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    attended = attention(x, x, attention_mask=mask)
    x = keras.layers.LayerNormalization(epsilon=1e-5, name="norm")(x + attended)
    exact = lambda one: keras.activations.gelu(one, approximate=False)  # noqa: E731
    wide = keras.layers.Dense(16, activation=exact, name="wide")(x)
    return keras.Model(tokens, keras.layers.Dense(3, name="head")(wide))


TOKENS = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [9, 10, 0, 0, 0]], np.int32)
LENGTHS = {"tokens": np.array([5, 3, 2], np.int32)}


def fetched(model: Model, *addresses: str) -> list[Fetch]:
    return [Fetch(Value(address)) for address in addresses]


def computed(model: Model, compilation: Compilation, *addresses: str) -> list[Array]:
    program = model.program(fetched(model, *addresses), compilation)
    lengths = dict.fromkeys(model.signature.free_axes, LENGTHS["tokens"])
    return list(program({"tokens": TOKENS}, lengths))


def test_values_without_transforms_do_not_pass_through_tensorflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are copied, so results outlast the next call all the same."""
    model = live_model(transformer(), name="net")
    program = model.program(fetched(model, "norm:output", "head:output"), BY_OPENVINO)
    monkeypatch.setattr(tf, "constant", None)
    lengths = dict.fromkeys(model.signature.free_axes, LENGTHS["tokens"])
    found = program({"tokens": TOKENS}, lengths)
    kept = [one.copy() for one in found]
    assert not np.array_equal(program({"tokens": TOKENS[::-1]}, lengths)[1], kept[1])
    np.testing.assert_array_equal(found[0], kept[0])
    np.testing.assert_array_equal(found[1], kept[1])


def test_patterns_are_replaced_and_compute_the_same() -> None:
    model = live_model(transformer(), name="net")
    program: Any = model.program(fetched(model, ":output"), BY_OPENVINO)
    assert program.compiled.patterns == {
        "LayerNormalization": 1, "ExactGelu": 1, "DenseOfLastAxis": 2, "EinsumDense": 4,
    }  # fmt: skip
    (one,), (other,) = (computed(model, c, ":output") for c in (BY_OPENVINO, BY_TENSORFLOW))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_tensors_inside_patterns_are_those_of_tensorflow() -> None:
    """Every tensor that can be extracted, mean and variance of a normalisation included."""
    model = live_model(transformer(), name="net")
    addresses = [
        record.address
        for record in model.catalog.records
        if record.extractable and record.depends_on_inputs and record.spec.dtype == "float32"
    ]
    assert any(address.startswith("norm:op/") for address in addresses)
    assert any("Softmax" in address for address in addresses)
    found = (computed(model, c, *addresses) for c in (BY_OPENVINO, BY_TENSORFLOW))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, atol=2e-6)


X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def normalized(x: tf.Tensor, axes: list[int], power: float, keep: bool = True) -> tf.Tensor:
    mean = tf.reduce_mean(x, [-1], keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=keep)
    weight = tf.pow(variance + 1e-3, power) * tf.constant([1.0, 2, 3, 4])
    return x * weight + (-mean * weight + 0.5)


ALMOST: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "another axis": lambda x: normalized(x, [1], -0.5),
    "another power": lambda x: normalized(x, [-1], -0.25),
    "another factor": lambda x: 0.5 * x * tf.math.erfc(-x * 0.7),
    "another half": lambda x: 0.25 * x * tf.math.erfc(-x * 0.70710677),
    "transposed": lambda x: tf.tensordot(x, tf.constant(X[0]), [[1], [0]]),
    "a repeated axis": lambda x: tf.einsum("abc,cd->abd", x, tf.constant(X[0].T)),
    "kernel first": lambda x: tf.einsum("abc,dc->abd", x, tf.constant(X[0])),
    "summed away": lambda x: tf.einsum("abc,cd->ab", x, tf.constant(X[0].T)),
}


@pytest.mark.parametrize("name", ALMOST)
def test_what_is_almost_a_pattern_computes_the_same(name: str) -> None:
    expected = ALMOST[name](tf.constant(X)).numpy()
    (found,) = compiled(ALMOST[name], x=X)({"x": X}) or []
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------- values of samples


def test_a_token_out_of_range_fails_as_in_tensorflow() -> None:
    model = live_model(transformer(), name="net")
    program = model.program(fetched(model, ":output"), BY_OPENVINO)
    lengths = dict.fromkeys(model.signature.free_axes, LENGTHS["tokens"])
    for wrong in (11, 1 << 23, -12):
        tokens = TOKENS.copy()
        tokens[0, 0] = wrong
        with pytest.raises(SampleError, match="is not in"):
            program({"tokens": tokens}, lengths)


GOOD = np.array([[1, 2, 3, 4], [0.5, 0.25, 7, 1e-3]], np.float32)
NEGATIVE, ZERO, HUGE = GOOD * [[1], [-1]], GOOD * 0, GOOD * np.float32(3e11)
NOT_FINITE: dict[str, tuple[Callable[[tf.Tensor], tf.Tensor], Array]] = {
    "root": (lambda x: tf.nn.relu(tf.sqrt(x)), NEGATIVE),
    "logarithm": (lambda x: tf.reduce_max(tf.math.log(x), 1), NEGATIVE),
    "power": (lambda x: tf.clip_by_value(tf.pow(x, 0.3), 0, 9), NEGATIVE),
    "quotient": (lambda x: tf.minimum(1.0, x / x), ZERO),
    "infinite quotient": (lambda x: tf.nn.relu6((x + 1) / x), ZERO),
    "inverse root": (lambda x: tf.cast(tf.math.rsqrt(x) > 1, tf.float32), ZERO),
    "exponential": (lambda x: tf.nn.relu(tf.exp(x) - tf.exp(x)), HUGE),
    "product": (lambda x: tf.nn.relu(x * x * x * x - x * x * x * x), HUGE),
    "matrix product": (lambda x: tf.nn.relu(tf.matmul(x * x * x, x, transpose_b=True)), HUGE),
    "mean of nothing": (lambda x: tf.nn.relu(tf.reduce_mean(x[:, 4:], 1)), GOOD),
    "maximum of nothing": (lambda x: tf.exp(tf.reduce_max(x[:, 4:], 1)), GOOD),
    "unknown": (lambda x: tf.nn.relu(tf.math.acosh(x)), ZERO),
    "a constant": (lambda x: tf.exp(tf.where(x < 0, tf.constant(-np.inf), x)), NEGATIVE),
    "an input": (lambda x: tf.nn.relu(x), GOOD * np.float32(np.nan)),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_what_is_not_finite_is_left_to_tensorflow(name: str) -> None:
    """OpenVINO's ReLU, maxima, clipping and exponential lose NaN."""
    compute, bad = NOT_FINITE[name]
    graph = compiled(compute, x=GOOD)
    program = openvino.OpenVinoProgram(
        "net", graph, lambda features: features, lambda values, *_: values, lambda: lambda *_: []
    )
    assert list(program({"x": bad.astype(np.float32)}, {})) == []
    if "nothing" not in name and name != "a constant":
        (found,) = graph({"x": GOOD + 1}) or []
        np.testing.assert_allclose(found, compute(tf.constant(GOOD + 1)), rtol=1e-5, atol=1e-6)


FINITE: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "masked attention": lambda x: tf.nn.softmax(x + tf.where(x > 1, 0.0, tf.float32.min)),
    "layer normalisation": lambda x: normalized(x[:, None, :], [-1], -0.5),
    "power": lambda x: tf.nn.gelu(x, approximate=True),
    "quotient": lambda x: x / (1.0 + tf.abs(x)),
    "logarithm": lambda x: tf.math.log(tf.nn.softmax(x) + 1e-6),
    "convolution": lambda x: tf.nn.conv1d(x[..., None], tf.ones([3, 1, 2]), 1, "SAME"),
    "einsum": lambda x: tf.einsum("ab,cb->ac", x, tf.constant(np.eye(4, dtype=np.float32))),
}


@pytest.mark.parametrize("name", FINITE)
def test_what_is_finite_for_all_inputs_needs_no_check(name: str) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4])
        FINITE[name](x)
    assert openvino_ranges.checks(graph, [x.name], {}) == openvino_ranges.Checks([], [])


def test_checks_bound_what_follows() -> None:
    """A check of a tensor serves all operations after it."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4])
        y = tf.identity(x * x, name="square")
        tf.nn.relu(y * y * y) + tf.sqrt(2.0 * tf.identity(y))
    found = openvino_ranges.checks(graph, [x.name], {})
    assert ([one.op.name for one in found.within], found.filled) == (["square"], [])


def test_nan_stays_nan() -> None:
    layers = [keras.Input((4,)), keras.layers.ReLU(), keras.layers.Dense(2)]
    model = live_model(keras.Sequential(layers), name="net")
    (name,) = (spec.name for spec in model.signature.specs)
    x = np.array([[1, np.nan, -1, 2], [1, 2, 3, 4]], np.float32)
    one, other = (
        model.program(fetched(model, ":output"), how)({name: x}, {})[0]
        for how in (BY_OPENVINO, BY_TENSORFLOW)
    )
    assert np.isnan(one[0]).all()
    np.testing.assert_array_equal(one, other)


def test_inputs_stay_in_memory_while_they_are_used() -> None:
    """Also those that OpenVINO cannot take where they are: in another order, or read-only."""
    x = np.arange(200_000, dtype=np.float32).reshape(2, -1)
    y = np.asfortranarray(-x)
    x.flags.writeable = False
    graph = compiled(lambda x, y: [tf.identity(x), tf.identity(y), x * 2 + y], x=x, y=y)
    found = graph({"x": x, "y": y})
    assert found is not None
    overwritten = [np.full_like(x, np.nan) for _ in range(4)]  # takes memory that is free
    for one, other in zip(found, (x, y, x), strict=True):
        np.testing.assert_array_equal(one, other)
    del overwritten


def test_the_same_batch_has_the_same_bits_whatever_came_before() -> None:
    model = live_model(transformer(), name="net")
    lengths = dict.fromkeys(model.signature.free_axes, LENGTHS["tokens"])
    batches = [TOKENS[:, :length] for length in (5, 3, 4, 2, 5)]
    runs = []
    for order in (batches, batches[::-1]):
        program = model.program(fetched(model, ":output"), BY_OPENVINO)
        values = [np.array(program({"tokens": one}, lengths)[0]) for one in order]
        runs.append(values if order is batches else values[::-1])
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------------- models


def test_loops_are_refused_by_name() -> None:
    lstm = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(2)])
    model = live_model(lstm, name="net")
    with pytest.raises(NotCompiledError) as caught:
        model.program(fetched(model, ":output"), BY_OPENVINO)
    assert "(While) is a loop, a branch or a call. Use runtime.compile=graph" in str(caught.value)


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    model = live_model(transformer(), name="net")
    with pytest.raises(MissingExtraError) as caught:
        model.program(fetched(model, ":output"), BY_OPENVINO)
    assert str(caught.value) == (
        "runtime.compile=openvino needs openvino, which is not installed. Install it: "
        "python -m pip install 'extractkit[openvino]'"
    )
    assert importlib.util.find_spec("openvino") is not None


@pytest.mark.real_model
@pytest.mark.parametrize("load", [pitch, musicnn, fer])
def test_a_real_model_has_the_values_of_tensorflow(load: Callable[[Path], Model]) -> None:
    """A SavedModel, a meta graph with a switch for training, and a file of Keras."""
    model = load(real_model(*REAL[load]))
    batch = batch_for(model)
    records = [
        record
        for record in model.catalog.records
        if record.extractable
        and record.depends_on_inputs
        and record.spec.dtype == "float32"
        # The further results of a batch normalisation are for its gradient.
        and not str(record.op_type).startswith("FusedBatchNorm")
    ]
    fetches = [Fetch(Value(record.address)) for record in records]
    programs: list[Any] = [model.program(fetches, how) for how in (BY_OPENVINO, BY_TENSORFLOW)]
    assert programs[0].work(batch.features).returned > 0  # not left to TensorFlow
    values = [program(*batch.arguments) for program in programs]
    for record, one, other in zip(records, *values, strict=True):
        assert one.shape == other.shape, record.address
        apart = compare_arrays(one, other)
        assert not apart.beyond, apart


@pytest.mark.real_model
def test_minilm_has_the_values_of_tensorflow() -> None:
    model = bert.load()
    addresses = [
        record.address
        for record in model.catalog.records
        if record.op_type == "Softmax" or record.address.endswith("norm:output")
    ]
    fetches = [Fetch(Value(address)) for address in addresses]
    batch = batch_for(model)
    program: Any = model.program(fetches, BY_OPENVINO)
    assert program.compiled.patterns == {
        "LayerNormalization": 13, "ExactGelu": 6, "DenseOfLastAxis": 12, "EinsumDense": 24,
    }  # fmt: skip
    assert program.work(batch.features).multiplications > 0  # not left to TensorFlow
    expected = model.program(fetches, BY_TENSORFLOW)(*batch.arguments)
    for one, other in zip(program(*batch.arguments), expected, strict=True):
        apart = compare_arrays(one, other)
        assert not apart.beyond, apart


@pytest.mark.real_model
def test_a_real_loop_is_refused() -> None:
    model = cutkum(real_model(*REAL[cutkum]))
    with pytest.raises(NotCompiledError, match="has a state, or checks"):
        model.program([Fetch(Value("probs:0"))], BY_OPENVINO)
