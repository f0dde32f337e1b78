"""`model.eager=true`: a function run as Python runs it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.core.requests import Value
from extractkit.errors import ConfigError, JobError, ModelError, SampleError
from extractkit.models import Compilation, Fetch, Model
from extractkit.models.functions.eager_calls import EagerCall, watched
from extractkit.models.module import load
from extractkit.testing.models import ModelContract


def sorted_rows(x: tf.Tensor) -> dict[str, tf.Tensor]:
    """NumPy in the middle, which no trace can follow."""
    doubled = x * 2.0
    ordered = tf.constant(np.sort(doubled.numpy(), axis=-1))
    return {"ordered": ordered + 1.0, "largest": tf.reduce_max(ordered, axis=-1)}


class Scale(tf.Module):
    def __init__(self) -> None:
        self.factor = tf.Variable([2.0, 3.0], name="factor")

    @tf.function
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(x * self.factor)


def of_the_batch(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(x) if float(tf.reduce_sum(x)) > 100.0 else x + 1.0


def fails(x: tf.Tensor) -> tf.Tensor:
    if x.shape[0] == 13:
        raise RuntimeError("out of luck")
    raise RuntimeError("another time")


class Counting(tf.Module):
    """It assigns to its variable, and what reads that before depends on earlier calls too."""

    def __init__(self) -> None:
        self.count = tf.Variable(1.0, name="count")

    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        doubled = x * 2.0
        scaled = tf.math.divide(x, self.count)
        self.count.assign_add(1.0)
        return {"doubled": doubled, "scaled": scaled, "later": tf.exp(x)}


class TracedBefore(tf.Module):
    """The assignment stands in a function that is one operation when it is called."""

    def __init__(self) -> None:
        self.count = tf.Variable(1.0, name="count")

        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def counted(x: tf.Tensor) -> tf.Tensor:
            self.count.assign_add(1.0)
            return x + 1.0

        self.counted = counted.get_concrete_function()

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.exp(self.counted(tf.abs(x)))


_outside = tf.Variable(1.0)


def counts_outside(x: tf.Tensor) -> tf.Tensor:
    y = x * _outside
    _outside.assign_add(1.0)
    return y


class Remembering(tf.Module):
    """It keeps what it was given last in a table, a queue, or an attribute of Python's."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
        self.queue = tf.queue.FIFOQueue(1000, [tf.float32])
        self.numbers = iter(tf.data.Dataset.range(1000))
        self.last: tf.Tensor | None = None

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        key = tf.zeros([1], tf.int64)
        mean = tf.reduce_mean(x)
        if self.where == "table":
            y = x + self.table.lookup(key)
            self.table.insert(key, mean[None])
        elif self.where == "queue":
            y = x + tf.cast(self.queue.size(), tf.float32)
            self.queue.enqueue(mean)
        elif self.where == "iterator":
            y = x + tf.cast(next(self.numbers), tf.float32)
        else:
            y = x - (0.0 if self.last is None else self.last)
            self.last = mean
        return y


class Alternating(tf.Module):
    """It counts its calls in Python; what is computed before it looks at them is no state."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: tf.Tensor) -> dict[str, object]:
        self.calls += 1
        doubled = x * 2.0
        shifted = x + float(self.calls)
        return {
            "doubled": doubled,
            "shifted": shifted,
            "later": tf.exp(x),
            "by_numpy": np.sort(x.numpy()),
            "either": doubled if self.calls < 5 else x,
        }


class OtherOrder(tf.Module):
    """Its second column, a small difference of large numbers, has other last bits each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        self.calls += 1
        small = np.full(x.shape, 1e-3 * (1 + self.calls % 2), np.float32)
        return tf.identity(np.concatenate([x.numpy() * 1e4, small], 1))


def noisy_above_one(x: tf.Tensor) -> tf.Tensor:
    return x + tf.random.normal([2]) if float(tf.reduce_max(x)) > 100.0 else x + 1.0


def makes_for_itself(x: tf.Tensor) -> tf.Tensor:
    (row,) = tf.data.Dataset.from_tensors(x)
    count = tf.Variable(0.0)
    count.assign_add(1.0)
    return row + count


def noisy(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(tf.abs(x) + tf.random.normal([2]))


class Lazy(tf.Module):
    """It makes its variable, from random numbers, when it is first called."""

    kernel = None

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        if self.kernel is None:
            self.kernel = tf.Variable(tf.random.normal([2, 2]) * 3.0)
        return x @ self.kernel


def ragged(x: tf.Tensor) -> dict[str, object]:
    return {
        "rows": tf.RaggedTensor.from_row_lengths(tf.range(3), [1, 2]),
        "sparse": tf.sparse.from_dense(x),
    }


@tf.function(input_signature=[[tf.TensorSpec([None, 2]), tf.TensorSpec([None, 2])]])
def of_a_list(pair: list[tf.Tensor]) -> tf.Tensor:
    return pair[0] + pair[1]


@tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32)])
def of_whole_numbers(x: tf.Tensor) -> tf.Tensor:
    return x // 2


def model(name: str, itself: bool = True, **arguments: object) -> Model:
    factory = Component("model.factory", f"{__name__}.{name}", partial=itself)
    return load(factory, eager=True, **arguments)  # type: ignore[arg-type]


X = {"x": {"dims": ["sample", "time"]}}
PAIR = {"x": {"dims": ["sample", 2]}}


class TestEagerFunction(ModelContract):
    def model(self) -> Model:
        return model("sorted_rows", input_axes=X)


class TestEagerModule(ModelContract):
    def model(self) -> Model:
        return model("Scale", itself=False, input_axes=PAIR)


class TestOneSampleACall(ModelContract):
    def model(self) -> Model:
        return model("Scale", itself=False, input_axes={"x": {"dims": [3, 2]}})


def test_values_agree_with_numpy(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(70, 5)).astype(np.float32)
    from extractkit import extract

    run = extract(
        [
            "model=module", f"model.factory._target_={__name__}.sorted_rows",
            "model.factory._partial_=true", "model.eager=true",
            "model.input_axes={x: {dims: [sample, 5]}}", "+selectors.all.path=*",
        ],
        inputs=x,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(run[":input.x"]), x)
    np.testing.assert_array_equal(np.asarray(run[":op/Mul"]), x * 2)
    np.testing.assert_array_equal(np.asarray(run[":output.ordered"]), np.sort(x * 2) + 1)
    np.testing.assert_array_equal(np.asarray(run[":output.largest"]), (x * 2).max(-1))


def test_operations_inside_a_nested_function_are_seen() -> None:
    catalog = model("Scale", itself=False, input_axes=PAIR).catalog
    assert [r.address for r in catalog.records if r.kind is Kind.OP and r.extractable] == [
        ":op/Mul",
        ":op/Relu",
    ]
    assert catalog[":factor"].kind is Kind.WEIGHT


def test_values_of_nothing() -> None:
    factory = Component("model.factory", "tests.models.test_module.values")
    given = load(factory, eager=True)
    (scaled,) = given.constants([Fetch(Value(":output.scaled"))])
    np.testing.assert_array_equal(scaled, [[3.0, 6.0]])


def test_functions_are_traced_again_afterwards() -> None:
    model("Scale", itself=False, input_axes=PAIR).catalog  # noqa: B018
    assert not tf.config.functions_run_eagerly()


def test_another_path_ends_the_job() -> None:
    given = model("of_the_batch", input_axes=PAIR)
    program = given.program([Fetch(Value(":op/AddV2"))], Compilation())
    (value,) = program({"x": np.ones((2, 2), np.float32)}, {})
    np.testing.assert_array_equal(value, np.full((2, 2), 2.0))
    with pytest.raises(
        JobError, match=r"took another path on this batch: it did not run ':op/AddV2'"
    ):
        program({"x": np.full((2, 2), 99.0, np.float32)}, {})


def test_nothing_is_compiled() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.compile=xla: model\.eager=true runs"):
        model("sorted_rows", input_axes=X).program([], Compilation(compile="xla"))


def test_what_fails_says_so() -> None:
    with pytest.raises(ModelError) as caught:
        model("fails", input_axes=X).catalog  # noqa: B018
    assert str(caught.value) == (
        f"what model.factory={__name__}.fails gives cannot be called with made-up values: "
        "RuntimeError: out of luck. Sizes tried: sample=13, time=101; sample=13, time=331; "
        "sample=13, time=37; and 10 more. Specify what it takes, with a size for each free axis: "
        "'model.input_axes={x: {dims: [sample, 4], dtype: float32}}'"
    )


def out_of_reach(given: Model) -> list[str]:
    catalog = given.catalog
    return [
        record.address
        for record in catalog.records
        if record.reason is not None and "a random or assigning operation" in record.reason
    ]


def test_what_comes_after_an_assignment_or_reads_what_is_assigned_to_is_refused() -> None:
    given = model("Counting", itself=False, input_axes=PAIR)
    refused = out_of_reach(given)
    assert {":op/RealDiv", ":op/Exp", ":output.scaled", ":output.later"} <= set(refused)
    assert given.catalog[":op/Mul"].extractable
    assert given.catalog[":output.doubled"].extractable


@pytest.mark.parametrize("name", ["Counting", "TracedBefore"])
def test_variables_are_left_as_they_were(name: str) -> None:
    given = model(name, itself=False, input_axes=PAIR)
    (address,) = [r.address for r in given.catalog.records if r.kind is Kind.WEIGHT]
    program = given.program(
        [Fetch(Value(":op/Mul" if name == "Counting" else ":op/Abs"))], Compilation()
    )
    program({"x": np.ones((2, 2), np.float32)}, {})
    (count,) = given.constants([Fetch(Value(address))])
    assert count == 1.0


@pytest.mark.parametrize("where", ["table", "queue", "iterator", "attribute"])
def test_what_nothing_starts_anew_is_refused(where: str) -> None:
    factory = Component("model.factory", f"{__name__}.Remembering", {"where": where})
    (output,) = [
        record
        for record in load(factory, input_axes=PAIR, eager=True).catalog.records
        if record.kind is Kind.MODEL_OUTPUT
    ]
    reported = "it keeps a state" if where == "attribute" else "a random or assigning operation"
    assert reported in str(output.reason)


def test_what_is_computed_before_a_state_is_looked_at_is_kept() -> None:
    records = model("Alternating", itself=False, input_axes=PAIR).catalog.records
    kept = {one.address for one in records if one.extractable}
    stateful = {one.address for one in records if "it keeps a state" in str(one.reason)}
    assert {":op/Mul", ":output.doubled"} <= kept
    assert stateful == {
        *(":op/AddV2", ":op/Exp", ":output.shifted", ":output.later"),
        *(":output.by_numpy", ":output.either"),
    }


def test_last_bits_of_a_tensors_largest_value_are_no_state() -> None:
    catalog = model("OtherOrder", itself=False, input_axes=PAIR).catalog
    assert catalog[":output"].extractable


def test_a_variable_that_is_none_of_the_models_is_refused_when_assigned_to() -> None:
    assert ":output" in out_of_reach(model("counts_outside", input_axes=PAIR))


def test_what_a_call_makes_for_itself_is_no_state() -> None:
    given = model("makes_for_itself", input_axes=PAIR)
    x = np.ones((2, 2), np.float32)
    (found,) = given.program([Fetch(Value(":output"))], Compilation())({"x": x}, {})
    np.testing.assert_array_equal(found, x + 1)


def test_random_numbers_on_the_path_of_one_batch_end_the_job() -> None:
    program = model("noisy_above_one", input_axes=PAIR).program(
        [Fetch(Value(":output"))], Compilation()
    )
    with pytest.raises(SampleError, match="took another path on this batch"):
        program({"x": np.full((2, 2), 200, np.float32)}, {})


def test_an_assignment_in_a_function_traced_before_is_seen() -> None:
    given = model("TracedBefore", itself=False, input_axes=PAIR)
    assert {":op/Exp", ":output"} <= set(out_of_reach(given))
    assert given.catalog[":op/Abs"].extractable


def test_random_numbers_and_what_comes_after_them_are_refused() -> None:
    given = model("noisy", input_axes=PAIR)
    refused = {":op/RandomStandardNormal", ":op/AddV2", ":op/Relu", ":output"}
    assert refused <= set(out_of_reach(given))
    assert given.catalog[":op/Abs"].extractable


def test_what_is_made_at_the_first_call_is_no_assignment() -> None:
    given = model("Lazy", itself=False, input_axes=PAIR)
    assert out_of_reach(given) == []
    assert ":op/Mul" not in given.catalog
    assert given.catalog[":output"].extractable


def test_ragged_and_sparse_results_are_listed_by_what_they_are_made_of() -> None:
    outputs = [
        record.address
        for record in model("ragged", input_axes=PAIR).catalog.records
        if record.kind is Kind.MODEL_OUTPUT
    ]
    assert outputs == [
        ":output.rows.values",
        ":output.rows.row_splits",
        ":output.sparse.indices",
        ":output.sparse.values",
        ":output.sparse.dense_shape",
    ]


def test_one_call_runs_at_a_time_and_functions_are_traced_again_after_all() -> None:
    begin, alone = threading.Barrier(4), threading.Lock()

    def function(x: tf.Tensor) -> tf.Tensor:
        assert alone.acquire(blocking=False), "another call is running"
        try:
            for _ in range(50):
                x = x + 1.0
            assert tf.config.functions_run_eagerly()
            return x
        finally:
            alone.release()

    def call(_: int) -> EagerCall:
        begin.wait(60)
        return watched(function, {"x": tf.zeros([1])})

    with ThreadPoolExecutor(4) as threads:
        calls = list(threads.map(call, range(4)))
    assert [float(one.result[0]) for one in calls] == [50.0] * 4
    assert [len(one.operations) for one in calls] == [50] * 4
    assert not tf.config.functions_run_eagerly()


def test_a_declared_type_is_kept() -> None:
    given = model("of_whole_numbers", input_axes=PAIR)
    assert [spec.dtype for spec in given.signature.specs] == ["int32"]
    assert given.catalog[":output"].extractable


def test_an_argument_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.eager=true: .* takes 'pair' as \["):
        model("of_a_list")


def with_nothing(x: tf.Tensor) -> dict[str, object]:
    return {"doubled": x * 2.0, "nothing": None}


def with_an_object(x: tf.Tensor) -> dict[str, object]:
    return {"doubled": x * 2.0, "thing": object()}


def test_nothing_among_the_results_is_passed_over() -> None:
    outputs = [r for r in model("with_nothing", input_axes=X).catalog if r.startswith(":output")]
    assert outputs == [":output.doubled"]


def test_an_object_among_the_results_is_left_out() -> None:
    outputs = [r for r in model("with_an_object", input_axes=X).catalog if r.startswith(":output")]
    assert outputs == [":output.doubled"]


def with_odd_array(x: tf.Tensor) -> dict[str, object]:
    return {"doubled": x * 2.0, "odd": np.array([object()])}


def test_an_array_that_cannot_be_a_tensor_is_named() -> None:
    with pytest.raises(ModelError, match="returns a ndarray among its results, which TensorFlow"):
        model("with_odd_array", input_axes=X).catalog  # noqa: B018
