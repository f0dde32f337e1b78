"""Values inside loops of functions, SavedModels and sessions: those of every step."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.errors import SelectionError
from extractkit.models import Compilation, Fetch, Model, NotCompiledError
from extractkit.models.frozen_graph import load as load_frozen
from extractkit.models.functions import inputs_of, outputs_of
from extractkit.models.functions.callables import graph_function
from tests.models.programs import values_of
from tests.models.session_graphs import by_hand, classifier, control_flow, frozen

X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
SPEC = tf.TensorSpec([None, None, 3], tf.float32, name="x")


def model_of(function: Callable[..., Any], *specs: tf.TensorSpec) -> Model:
    concrete = tf.function(function, input_signature=specs).get_concrete_function()
    return graph_function("model", concrete, inputs_of(concrete), outputs_of(concrete))


def recurrent(x: tf.Tensor) -> tf.Tensor:
    """A recurrence over the second axis."""
    steps = tf.shape(x)[1]
    turned = tf.transpose(x, [1, 0, 2])

    def body(step: tf.Tensor, h: tf.Tensor) -> Any:
        return step + 1, tf.tanh(tf.gather(turned, step) + tf.matmul(h, KERNEL, name="mix"))

    zero = tf.constant(0)
    return tf.while_loop(lambda step, _: step < steps, body, (zero, tf.zeros_like(x[:, 0])))[1]


def steps_of(x: Array) -> tuple[list[Array], list[Array]]:
    """The product and the state at each step, by the same kernels outside of a loop."""
    h, products, states = tf.zeros_like(x[:, 0]), [], []
    for step in range(x.shape[1]):
        products.append(tf.matmul(h, KERNEL))
        h = tf.tanh(x[:, step] + products[-1])
        states.append(h)
    return [one.numpy() for one in products], [one.numpy() for one in states]


def address(model: Model, ending: str) -> str:
    (found,) = [one for one in model.catalog if one.endswith(ending)]
    return found


def values(model: Model, *endings: str, mode: str = "graph", x: Array = X) -> list[Array]:
    keys = [address(model, one) for one in endings]
    return list(values_of(model, keys, {"x": x}, mode).values())


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_each_step_of_a_while_loop_equals_that_outside_of_a_loop(mode: str) -> None:
    model = model_of(recurrent, SPEC)
    mixed, state = values(model, "/mix:0", "/Tanh:0", mode=mode)
    products, states = steps_of(X)
    tolerance = 0 if mode == "graph" else 1e-6
    np.testing.assert_allclose(mixed, products, atol=tolerance, rtol=0)
    np.testing.assert_allclose(state, states, atol=tolerance, rtol=0)


def test_the_steps_of_a_loop_over_an_axis_are_as_many_as_it_is_long() -> None:
    catalog = model_of(recurrent, SPEC).catalog
    record = catalog[address(model_of(recurrent, SPEC), "/Tanh:0")]
    assert list(map(str, record.spec.axes)) == ["step=axis1", "sample", "3"]
    assert record.op_type == "Tanh"


def test_a_length_that_changes_from_step_to_step_is_not_taken_from_the_first() -> None:
    def growing(x: tf.Tensor) -> tf.Tensor:
        def body(step: tf.Tensor, total: tf.Tensor) -> Any:
            part = tf.identity(x[:, : step + 1], name="part")
            return step + 1, total + tf.reduce_sum(part, 1)

        return tf.while_loop(lambda step, _: step < 4, body, (tf.constant(0), x[:, 0]))[1]

    model = model_of(growing, tf.TensorSpec([None, 6], tf.float32, name="x"))
    record = model.catalog[address(model, "/part:0")]
    assert list(map(str, record.spec.axes)) == ["step=4", "sample", "?"]


def test_tensors_of_a_condition_are_listed_with_the_reason() -> None:
    reasons = {r.reason for r in model_of(recurrent, SPEC).catalog.records if "/cond/" in r.address}
    assert reasons == {
        "made inside a loop's condition, which runs once more than the loop has steps"
    }


def scanned(x: tf.Tensor) -> tf.Tensor:
    def add(total: tf.Tensor, one: tf.Tensor) -> tf.Tensor:
        return tf.multiply(total + one, 0.5, name="half")

    return tf.scan(add, tf.transpose(x, [1, 0, 2]))


def mapped(x: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(lambda one: tf.sin(one * 2.0, name="sine"), tf.transpose(x, [1, 0, 2]))


def test_scan_gives_its_own_result_step_by_step() -> None:
    (half,) = values(model_of(scanned, SPEC), "/half:0")
    # The first element is the initial value.
    np.testing.assert_array_equal(half, scanned(X)[1:])


def test_map_gives_its_own_result_step_by_step() -> None:
    model = model_of(mapped, SPEC)
    (sine,) = values(model, "/sine:0")
    np.testing.assert_array_equal(sine, mapped(X))
    assert not model.catalog[address(model, "/sine:0")].spec.axes[0].unknown


def test_a_number_at_each_step_of_a_loop_over_the_samples(tmp_path: Path) -> None:
    function = tf.function(
        lambda x: tf.map_fn(lambda one: tf.reduce_sum(one, name="total"), x),
        input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")],
    )
    rows = np.arange(15, dtype="float32").reshape(5, 3)
    run = extractkit.extract(
        selectors={"total": {"path": "*/total:0"}},
        model=function,
        inputs=rows,
        run_dir=tmp_path / "run",
    )
    (view,) = run.values()
    assert view.dims == ("sample",)
    np.testing.assert_array_equal(view[:], rows.sum(1))


def in_loops(x: tf.Tensor) -> tf.Tensor:
    """Three steps of two steps each, in a function that is not inlined."""

    def inner(h: tf.Tensor) -> tf.Tensor:
        zero = tf.constant(0)
        loop = (lambda i, _: i < 2, lambda i, h: (i + 1, tf.tanh(h * 1.5, name="inner")))
        return tf.while_loop(*loop, (zero, h))[1]

    def body(step: tf.Tensor, h: tf.Tensor) -> Any:
        return step + 1, tf.subtract(inner(h), 0.1, name="outer")

    return tf.while_loop(lambda step, _: step < 3, body, (tf.constant(0), x))[1]


def test_a_loop_in_a_loop_has_an_axis_for_each() -> None:
    model = model_of(in_loops, tf.TensorSpec([None, 3], tf.float32, name="x"))
    inner, outer = values(model, "/inner:0", "/outer:0", x=X[:, 0])
    h = tf.constant(X[:, 0])
    for step in range(3):
        for at in range(2):
            h = tf.tanh(h * 1.5)
            np.testing.assert_array_equal(inner[step, at], h)
        h = h - 0.1
        np.testing.assert_array_equal(outer[step], h)


def halving(x: tf.Tensor) -> tf.Tensor:
    """As many steps as the largest number of the batch needs to get below one."""
    body = (lambda y: tf.multiply(y, 0.5, name="half"),)
    return tf.while_loop(lambda y: tf.reduce_any(y > 1.0), *body, (tf.abs(x),))[0]


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Array, Any]:
    x = np.array([[0.5], [3.0], [9.0], [1.5], [30.0]], np.float32)
    function = tf.function(halving, input_signature=[tf.TensorSpec([None, 1], tf.float32)])
    run = extractkit.extract(
        selectors={"half": {"path": "*/half:0"}}, model=function, inputs=x, run_dir=tmp_path / "run"
    )
    return x, run


def test_each_sample_has_its_own_number_of_steps_if_its_values_decide_it(
    halves: tuple[Array, Any],
) -> None:
    x, run = halves
    (key,) = run
    assert run[key].dims[:2] == ("sample", "step")
    for at, number in enumerate(x[:, 0]):
        expected = []
        while number > 1:
            number = number * np.float32(0.5)
            expected.append([number])
        assert run[key].sample(at).shape == (len(expected), 1)
        np.testing.assert_array_equal(run[key].sample(at), np.reshape(expected, (-1, 1)))


def test_a_loop_that_runs_no_step_for_any_sample_has_values_of_no_step(tmp_path: Path) -> None:
    function = tf.function(halving, input_signature=[tf.TensorSpec([None, 1], tf.float32)])
    run = extractkit.extract(
        selectors={"half": {"path": "*/half:0"}},
        model=function,
        inputs=np.zeros((3, 1), np.float32),
        run_dir=tmp_path / "run",
    )
    (view,) = run.values()
    assert [view.sample(at).shape for at in range(3)] == [(0, 1)] * 3


def test_xla_needs_a_number_of_steps_that_follows_from_the_inputs() -> None:
    model = model_of(halving, tf.TensorSpec([None, 1], tf.float32, name="x"))
    with pytest.raises(NotCompiledError) as error:
        values(model, "/half:0", mode="xla", x=np.full((2, 1), 9, np.float32))
    assert str(error.value).startswith("runtime.compile=xla cannot run model ")
    assert str(error.value).endswith(
        "/half:0' is inside a loop whose number of steps the values of the inputs decide, and XLA "
        "compiles shapes that are known. Use runtime.compile=graph"
    )


def test_xla_needs_a_limit_of_steps() -> None:
    def limited(x: tf.Tensor) -> tf.Tensor:
        body = lambda at, y: (at + 1, tf.divide(y, 2, name="half"))  # noqa: E731
        return tf.while_loop(lambda at, y: at * at < 9, body, (0, x))[1]

    model = model_of(limited, tf.TensorSpec([None, 1], tf.float32, name="x"))
    with pytest.raises(NotCompiledError, match=r"number of steps.*Use runtime\.compile=graph"):
        values(model, "/half:0", mode="xla", x=np.full((2, 1), 9, np.float32))


@pytest.mark.parametrize(
    ("function", "dtype", "reason"),
    [
        (tf.strings.length, tf.string, "its input 'x' has strings, and XLA compiles numbers alone"),
        (
            lambda x: tf.strings.length(tf.strings.as_string(x)),
            tf.float32,
            "XLA does not compile its operations? ('StringLength', )?'AsString'(, 'StringLength')?",
        ),
        (
            lambda x: tf.fill([tf.cast(x[0, 0] + tf.random.uniform([]), tf.int32), 1], 1.0),
            tf.float32,
            "an argument of its operation 'Fill' is computed, and XLA needs a constant",
        ),
    ],
    ids=["input", "operation", "shape"],
)
def test_xla_refuses_what_it_does_not_compile(function: Any, dtype: Any, reason: str) -> None:
    model = model_of(
        lambda x: tf.identity(function(x), name="sought"), tf.TensorSpec([None, 1], dtype, name="x")
    )
    given = np.full((2, 1), "ab" if dtype == tf.string else 1, dtype.as_numpy_dtype)
    with pytest.raises(NotCompiledError, match=reason + r"\. Use runtime\.compile=graph"):
        values(model, "sought:0", mode="xla", x=given)


def growing(x: tf.Tensor) -> tf.Tensor:
    """A loop with two values that change their shapes, and others that do not."""

    def body(step: tf.Tensor, y: tf.Tensor, z: tf.Tensor) -> Any:
        grown = tf.concat([y, x], 1, name="grown")
        return step + 1, tf.exp(grown, name="longer"), tf.multiply(z, 2.0, name="double")

    shapes = [tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape([None, 2])]
    loop = tf.while_loop(lambda step, *_: step < 3, body, [0, x, x], shape_invariants=shapes)
    return loop[2]


def test_a_value_that_changes_its_shape_is_refused_with_the_reason(tmp_path: Path) -> None:
    function = tf.function(growing, input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    common = {"model": function, "inputs": np.ones((3, 2), np.float32)}
    reason = r"'while/body/while/grown:0' is inside a loop, and has another shape at another step"
    with pytest.raises(SelectionError, match=reason):
        extractkit.extract(selectors={"grown": {"path": "*/grown:0"}}, run_dir=tmp_path, **common)


def test_the_rest_of_a_loop_is_extracted_without_values_that_change_their_shape(
    tmp_path: Path,
) -> None:
    function = tf.function(growing, input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    x = np.ones((3, 2), np.float32)
    run = extractkit.extract(["selectors=ops"], model=function, inputs=x, run_dir=tmp_path / "run")
    (double,) = [key for key in run if key.endswith("/double:0")]
    expected = np.array([2, 4, 8])[:, None] * np.ones(2)
    np.testing.assert_array_equal(run[double].sample(1), expected)
    reasons = {one.address: one.reason for one in run.manifest.unextractable}
    changing = {address for address, why in reasons.items() if "another shape at another" in why}
    assert {"while/body/while/grown:0", "while/body/while/longer:0"} <= changing


@pytest.mark.parametrize("limit", [2**40, None])
def test_limits_of_64_bits_are_no_lengths_of_lists(limit: int | None) -> None:
    """The smaller of two limits ends the loop; the other one would not fit into 32 bits."""

    def counting(x: tf.Tensor) -> tf.Tensor:
        far = tf.constant(limit, tf.int64) if limit else tf.cast(tf.shape(x)[0], tf.int64) * 2**40
        zero = tf.constant(0, tf.int64)
        return tf.while_loop(
            lambda step, _: tf.logical_and(step < far, step < 3),
            lambda step, y: (step + 1, tf.multiply(y, 2.0, name="double")),
            (zero, x),
        )[1]

    model = model_of(counting, tf.TensorSpec([None, 2], tf.float32, name="x"))
    (found,) = values(model, "/double:0", x=np.ones((4, 2), np.float32))
    np.testing.assert_array_equal(found, np.array([2, 4, 8])[:, None, None] * np.ones((3, 4, 2)))


@pytest.mark.parametrize(
    ("steps", "reason"),
    [(0, "not computed for any"), (2, r"another shape at another step: \[1,4\] vs")],
)
def test_a_loop_of_version_1_fails_with_the_reason(steps: int, reason: str, tmp_path: Path) -> None:
    def build() -> None:
        tf.compat.v1.disable_control_flow_v2()
        try:
            x = tf.compat.v1.placeholder(tf.float32, [None, 2], name="x")
            shapes = [tf.TensorShape([]), tf.TensorShape([None, None])]
            _, found = tf.while_loop(
                lambda step, _: step < steps,
                lambda step, y: (step + 1, tf.concat([y, x], 1, name="grown")),
                [0, x],
                shape_invariants=shapes,
            )
            tf.identity(found, "y")
        finally:
            tf.compat.v1.enable_control_flow_v2()

    path = frozen(build, ["y"], tmp_path / "graph.pb")
    with pytest.raises(SelectionError, match=reason):
        extractkit.extract(
            ["model=frozen_graph", f"model.path={path}"],
            selectors={"grown": {"path": "*grown:0"}},
            inputs=np.zeros((3, 2), np.float32),
            run_dir=tmp_path / "run",
        )


def test_two_programs_of_one_loop_share_it() -> None:
    model = model_of(recurrent, SPEC)
    fetches = [Fetch(Value(address(model, "/Tanh:0")))]
    lengths = {axis: np.full(len(X), X.shape[1], np.int32) for axis in model.signature.free_axes}
    one, other = (model.program(fetches, Compilation()) for _ in range(2))
    expected = one({"x": X}, lengths)[0]
    del one
    gc.collect()
    np.testing.assert_array_equal(other({"x": X}, lengths)[0], expected)


def test_gradients_of_and_by_values_in_a_loop_are_refused(tmp_path: Path) -> None:
    function = tf.function(recurrent, input_signature=[SPEC])

    def refusal(selector: dict[str, object]) -> str:
        with pytest.raises(SelectionError) as error:
            extractkit.extract(
                selectors={"g": selector}, model=function, inputs=X, run_dir=tmp_path / "run"
            )
        return str(error.value)

    target = {"of": {"tensor": ":output", "index": 0}}
    by = refusal({"path": "*/Tanh:0", "gradient": target})
    assert "made inside a loop, branch or nested function, where gradients are not computed" in by
    target = {"of": {"tensor": "while/body/while/Tanh:0", "index": [0, 0]}}
    of = refusal({"path": ":input.x", "gradient": target})
    assert "the target 'while/body/while/Tanh:0' is made inside a loop, branch" in of


@pytest.mark.parametrize("version", [1, 2])
def test_a_session_gives_the_steps_of_a_loop(version: int, tmp_path: Path) -> None:
    path = frozen(lambda: classifier(version), ["probs"], tmp_path / "graph.pb")
    model = load_frozen(str(path), constants={"training": False})
    (ours,) = [a for a, r in model.catalog.items() if r.op_type == "Tanh"]
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    program = model.program([Fetch(Value(ours)), Fetch(Value("probs:0"))], Compilation())
    steps, probs = program({"x": x}, {})
    np.testing.assert_allclose(probs, by_hand(x)["probs:0"], atol=1e-6)
    state = by_hand(x)["hidden/Relu:0"]
    assert len(steps) == 3
    for step in steps:
        state = np.tanh(state * 1.5 + 0.1)
        np.testing.assert_allclose(step, state, atol=1e-6)


def test_a_branch_or_loop_in_a_loop_of_version_1_is_listed_with_the_reason(tmp_path: Path) -> None:
    v1 = tf.compat.v1

    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], "x")

        def body(step: tf.Tensor, h: tf.Tensor) -> Any:
            h = v1.cond(step > 1, lambda: tf.sin(h, "side"), lambda: tf.identity(h), name="either")
            inner = (lambda h: tf.reduce_sum(h) < 3.0, lambda h: tf.exp(h, "deep"), [h])
            return step + 1, tf.tanh(v1.while_loop(*inner, name="again"), "flat")

        loop = v1.while_loop(lambda step, _: step < 3, body, [tf.constant(0), x], name="loop")
        tf.identity(loop[1], "y")

    with control_flow(1):
        model = load_frozen(str(frozen(build, ["y"], tmp_path / "graph.pb")))
    reasons = {record.op_type: record.reason for record in model.catalog.records}
    assert reasons["Tanh"] is None
    assert reasons["Sin"] == reasons["Exp"] == "made inside a loop, once for each iteration"
    found = [address for address, record in model.catalog.items() if record.op_type == "Tanh"]
    x = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    (steps,) = model.program([Fetch(Value(found[0]))], Compilation())({"x": x}, {})
    h = x.astype(np.float64)
    for step, value in enumerate(steps):
        h = np.sin(h) if step > 1 else h
        while h.sum() < 3:
            h = np.exp(h)
        h = np.tanh(h)
        np.testing.assert_allclose(value, h, atol=1e-5)
    assert len(steps) == 3
