"""The adapter of graphs in a session, behind the contract of every adapter."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind, Layout
from extractkit.core.requests import Value
from extractkit.core.spec import TensorSpec
from extractkit.core.transforms.pipeline import Pipeline
from extractkit.errors import ConfigError, JobError
from extractkit.models import Compilation, Fetch, Model, frozen_graph, meta_graph
from extractkit.models.sessions import SessionModel, session_model
from extractkit.models.signature import parse_input_axes
from extractkit.testing.models import ModelContract
from tests.models.session_graphs import by_hand, classifier, control_flow, frozen, saved

v1 = tf.compat.v1

OFF = {"training": False}


def a_frozen_graph(folder: Path, version: int) -> SessionModel:
    path = frozen(lambda: classifier(version), ["probs"], folder / "graph.pb")
    return frozen_graph.load(str(path), constants=OFF)


def a_meta_graph(folder: Path, version: int, resource: bool = False) -> SessionModel:
    prefix = saved(lambda: classifier(version, resource), folder / "model")
    return meta_graph.load(str(prefix), constants=OFF)


MODELS: dict[str, Callable[[Path], SessionModel]] = {
    "frozen_v1": lambda folder: a_frozen_graph(folder, 1),
    "frozen_v2": lambda folder: a_frozen_graph(folder, 2),
    "references_v1": lambda folder: a_meta_graph(folder, 1),
    "resources_v1": lambda folder: a_meta_graph(folder, 1, resource=True),
    "resources_v2": lambda folder: a_meta_graph(folder, 2, resource=True),
}


@pytest.mark.parametrize("name", MODELS)
class TestSessionModel(ModelContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str, tmp_path: Path) -> None:
        self.name, self.folder = name, tmp_path

    def model(self) -> Model:
        return MODELS[self.name](self.folder)


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_worked_out_by_hand(name: str, tmp_path: Path) -> None:
    model = MODELS[name](tmp_path)
    x = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
    expected = by_hand(x)
    values = run(model, list(expected), {"x": x})
    for value, wanted in zip(values, expected.values(), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_all_formats_of_one_graph_have_its_weights(name: str, tmp_path: Path) -> None:
    model = MODELS[name](tmp_path)
    weights = {a: r.spec.shape for a, r in model.catalog.items() if r.kind is Kind.WEIGHT}
    assert weights == {"hidden/kernel:0": (6, 5), "top/kernel:0": (5, 4)}
    assert model.describe()["parameters"] == 50


def run(
    model: SessionModel, addresses: list[str], features: dict[str, np.ndarray], **lengths: int
) -> list[np.ndarray]:
    count = len(next(iter(features.values())))
    program = model.program([Fetch(Value(address)) for address in addresses], Compilation())
    full = {axis: np.full(count, length, np.int32) for axis, length in lengths.items()}
    return list(program(features, full))


def in_session(build: Callable[[], None], **settings: object) -> SessionModel:
    """A graph that is built and run where it is."""
    graph = tf.Graph()
    with graph.as_default():
        build()
    inputs = parse_input_axes(settings.pop("input_axes", None))
    session = v1.Session(graph=graph)
    return session_model("tested", session, settings=inputs, **settings)


def test_only_what_is_asked_for_runs() -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        tf.identity(x, name="fine")
        with tf.control_dependencies([v1.Assert(False, [x])]):
            tf.negative(x, name="fails")

    model = in_session(build)
    x = {"x": np.ones((3, 2), np.float32)}
    assert run(model, ["fine:0"], x)[0].shape == (3, 2)
    with pytest.raises(JobError, match="model 'tested' failed on a batch: assertion failed"):
        run(model, ["fails:0"], x)


def test_reading_all_constants_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Saver's own operations save when they are run."""
    model = a_meta_graph(tmp_path, 1)
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    records = [r for r in model.catalog.records if r.extractable and not r.depends_on_inputs]
    model.constants([Fetch(Value(record.address)) for record in records])
    assert list(folder.iterdir()) == []
    assert not model.catalog["save/control_dependency:0"].extractable


def test_a_constant_that_runs_after_an_input_is_not_read_without_it() -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        with tf.control_dependencies([tf.negative(x)]):
            tf.constant([1.0, 2.0], name="late")

    late = in_session(build).catalog["late:0"]
    assert late.depends_on_inputs
    assert "no axis" in (late.reason or "")


def test_an_update_in_a_branch_that_never_runs_does_no_harm(tmp_path: Path) -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        mean = v1.get_variable("mean", [2], initializer=v1.ones_initializer(), use_resource=False)
        training = v1.placeholder(tf.bool, [], "training")
        with control_flow(1):
            kept = v1.cond(training, lambda: v1.assign_add(mean, [1.0, 1.0]), lambda: mean.value())
        tf.multiply(x, kept, name="y")

    prefix = str(saved(build, tmp_path / "model"))
    model = meta_graph.load(prefix, constants=OFF)
    assert model.catalog["y:0"].extractable
    assert not meta_graph.load(prefix, constants={"training": True}).catalog["y:0"].extractable
    digest = model.weights_digest()
    x = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(run(model, ["y:0"], {"x": x})[0], x)
    assert model.weights_digest() == digest


def test_samples_along_another_axis_and_a_transform() -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, None, 2], "x")
        tf.multiply(x, tf.constant(2.0), name="y")  # 2.0 itself becomes `y` in TensorFlow 2.22

    model = in_session(build, input_axes={"x": ["time", "sample", 2]})
    assert model.catalog["y:0"].spec.labels == ("time", "sample", None)
    layout = Layout.of(model.catalog["y:0"])
    x = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    assert layout is not None
    spec = TensorSpec("float32", layout.dims)
    pipeline = Pipeline.parse({"slice": {"time": "0:1"}}, "s").bind("y:0", spec)[""]
    fetch = Fetch(Value("y:0"), layout, pipeline)
    lengths = {"time": np.full(3, 4, np.int32)}
    (value,) = model.program([fetch], Compilation())({"x": x}, lengths)
    np.testing.assert_array_equal(value, x[:, :1] * 2)


def test_where_no_input_has_samples_a_call_takes_one() -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [3, 2], "x")
        tf.reduce_sum(x, name="y")

    model = in_session(build)
    assert model.signature.batch == 1
    assert model.catalog["y:0"].spec.labels == ("sample",)
    layout = Layout.of(model.catalog["y:0"])
    program = model.program([Fetch(Value("y:0"), layout)], Compilation())
    np.testing.assert_array_equal(program({"x": np.ones((1, 3, 2), np.float32)}, {})[0], [6.0])


def test_texts_booleans_whole_numbers_and_bfloat16() -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        tf.strings.as_string(x, precision=1, name="text")
        tf.greater(x, 0, name="positive")
        tf.cast(x, tf.int64, name="whole")
        tf.cast(x, tf.bfloat16, name="brief")

    x = np.array([[1.5, -2.0]], np.float32)
    names = ["text:0", "positive:0", "whole:0", "brief:0"]
    text, positive, whole, brief = run(in_session(build), names, {"x": x})
    assert text.tolist() == [[b"1.5", b"-2.0"]]
    assert positive.tolist() == [[True, False]]
    assert (whole.dtype, whole.tolist()) == (np.int64, [[1, -2]])
    assert (brief.dtype, brief.tolist()) == (np.float32, [[1.5, -2.0]])


def test_dropout_that_is_off_leaves_values_extractable() -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        keep = v1.placeholder(tf.float32, [], "keep")
        tf.identity(x * tf.floor(keep + v1.random_uniform(tf.shape(x), seed=1)) / keep, name="y")

    assert in_session(build, constants={"keep": 1.0}).catalog["y:0"].extractable
    on = in_session(build, constants={"keep": 0.5}).catalog["y:0"]
    assert "random" in (on.reason or "")


def test_a_tensor_in_the_midst_can_be_an_input() -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        tf.negative(tf.exp(x, name="middle"), name="y")

    model = in_session(build, input_axes=["middle"])
    value = run(model, ["y:0"], {"middle": np.ones((2, 2), np.float32)})[0]
    np.testing.assert_array_equal(value, -np.ones((2, 2)))
    assert "'x'" in (model.catalog["x:0"].reason or "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"input_axes": ["z"]},
            "model.input_axes: 'z' is neither an input nor a tensor of the graph. Available: "
            "'keep'",
        ),
        ({"constants": {"z": 1}}, "model.constants: 'z' is not an input. Available: 'keep', 'x'."),
        ({"constants": {"keep": "much"}}, "model.constants.keep='much' is not float32"),
        ({"constants": {"keep": [1.0, 2.0]}}, "has the shape [2], and this input takes []"),
        (
            {"input_axes": ["keep"], "constants": {"keep": 1.0}},
            "both model.input_axes and model.constants",
        ),
    ],
)
def test_inputs_and_constants_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        tf.multiply(x, v1.placeholder(tf.float32, [], "keep"), name="y")

    with pytest.raises(ConfigError) as caught:
        in_session(build, **settings)
    assert message in str(caught.value)


def test_a_scalar_input_wants_a_constant() -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        tf.multiply(x, v1.placeholder(tf.float32, [], "keep"), name="y")

    reason = in_session(build).catalog["y:0"].reason
    assert reason is not None
    assert "needs 'keep', which nothing is given for" in reason


def test_settings_that_a_session_does_not_have() -> None:
    model = in_session(lambda: tf.negative(v1.placeholder(tf.float32, [None, 2], "x")))
    with pytest.raises(ConfigError, match=r"runtime\.compile=xla"):
        model.program([Fetch(Value("x:0"))], Compilation("xla"))
    assert model.configure(0, False, "/CPU:0")
    with pytest.raises(ConfigError, match=r"runtime\.device='/CPU:7' is not a device"):
        model.configure(0, False, "/CPU:7")


def test_a_constant_that_waits_for_an_assignment_is_refused(tmp_path: Path) -> None:
    """Computing it makes the assignment, even where constants decide its value."""

    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        count = v1.get_variable("count", initializer=1.0, use_resource=True)
        tf.multiply(x, count, name="y")
        with tf.control_dependencies([count.assign_add(1.0)]):
            tf.multiply(x, tf.constant(2.0, name="two"), name="z")

    model = meta_graph.load(str(saved(build, tmp_path / "model")))
    before = model.weights_digest()
    record = model.catalog["z:0"]
    assert not record.extractable
    assert "AssignAddVariableOp" in str(record.reason)
    x = np.ones((3, 2), np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(run(model, ["y:0"], {"x": x})[0], x)
    assert model.weights_digest() == before
