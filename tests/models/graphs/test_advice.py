"""What refusals of graphs say is true, and the command that they advise succeeds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.advice import hydra_override
from tests.advised import ask, merged, refused
from tests.models.session_graphs import saved, weight

v1 = tf.compat.v1

KERNEL = np.arange(12, dtype="float32").reshape(4, 3)


def several_inputs() -> None:
    """`x` (N, 4), `rows` (3), `one` (1), `scale` (), `loose` of any shape, `half` ()."""
    x = v1.placeholder(tf.float32, [None, 4], "x")
    rows = v1.placeholder(tf.float32, [3], "rows")
    one = v1.placeholder(tf.float32, [1], "one")
    scale = v1.placeholder(tf.float32, [], "scale")
    tf.add(tf.matmul(x, KERNEL), rows, name="with_rows")
    tf.multiply(x, one, name="with_one")
    tf.multiply(x, scale, name="with_scale")
    tf.multiply(v1.placeholder(tf.float32, None, "loose"), 2.0, name="twice")
    tf.multiply(v1.placeholder(tf.float16, [], "half"), 2.0, name="with_half")


def frozen(build: Callable[[], object], file: Path) -> str:
    with tf.Graph().as_default() as graph:
        build()
    file.write_bytes(graph.as_graph_def().SerializeToString())
    return hydra_override("model.path", file)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    path = frozen(several_inputs, tmp_path_factory.mktemp("graphs") / "g.pb")
    return "tensors", "model=frozen_graph", path


def test_a_scalar_beside_samples_becomes_a_constant(words: tuple[str, ...]) -> None:
    answer = refused(*words, "model.input_axes=[x, scale]")
    assert "input 'scale' of model 'frozen_graph' has the axes [], none of them" in answer.message
    advised = [one.replace("VALUE", "2.0") for one in answer.overrides]
    assert advised == ["model.input_axes={x: null}", "model.constants={scale: 2.0}"]
    assert "with_scale" in ask(*merged(answer.words, advised)).out


def test_axes_that_are_named_keep_those_of_other_inputs(words: tuple[str, ...]) -> None:
    answer = refused(*words, "model.input_axes={x: [sample, 4], loose: null}")
    assert answer.overrides == ["model.input_axes={x: [sample, 4], loose: [sample, 4]}"]
    assert ask(*answer.advised()).code == 0
    answer = refused(*words, "model.input_axes={loose: [sample, 4], x: [2, null]}")
    assert "has the axes [2, None], none of them for the samples. Name one: " in answer.message
    assert answer.overrides == ["model.input_axes={loose: [sample, 4], x: [sample, null]}"]
    assert ask(*answer.advised()).code == 0


@pytest.mark.parametrize(("name", "length"), [("rows", 3), ("one", 1)])
def test_what_each_call_takes_once_goes_to_one_sample_a_call(
    name: str, length: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((5, 4)).astype("float32")
    other = draw.standard_normal((5, length)).astype("float32")
    np.savez(tmp_path / "in.npz", x=x, **{name: other})
    run = extractkit.extract(
        [
            *words[1:],
            f"model.input_axes=[x, {name}]",
            "inputs=arrays",
            hydra_override("inputs.path", tmp_path / "in.npz"),
            f"+selectors.mine.path=with_{name}:0",
        ],
        run_dir=tmp_path / "run",
    )
    found = np.stack([run[f"with_{name}:0"].sample(at) for at in range(5)])
    wanted = x @ KERNEL + other if name == "rows" else x * other
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_constant_of_several_numbers_is_not_a_weight(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """A weight is read from the session, where a constant has no value unless it is fed."""
    run = extractkit.extract(
        [
            *words[1:],
            *("model.input_axes=[x]", "model.constants={rows: [1, 2, 3]}", "inputs=random"),
            "inputs.samples=2",
            "+selectors.mine.path=[with_rows:0, rows:0, x:0]",
        ],
        run_dir=tmp_path / "run",
    )
    np.testing.assert_array_equal(np.asarray(run["rows:0"]), [1, 2, 3])
    x = np.stack([run["x:0"].sample(at) for at in range(2)])
    found = np.stack([run["with_rows:0"].sample(at) for at in range(2)])
    np.testing.assert_allclose(found, x @ KERNEL + [1, 2, 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("half: 1e10", "model.constants.half=10000000000.0 does not fit into float16"),
        ("scale: 1e300", "model.constants.scale=1e+300 does not fit into float32"),
        ("rows: [[1], [2, 3]]", "is not an array: its rows differ in length"),
        ("scale: text", "model.constants.scale='text' is not float32, which this input takes"),
        ("rows: [1, 2]", "has the shape [2], and this input takes [3]"),
        ("rosw: 1", "model.constants: 'rosw' is not an input. Available: 'half', 'loose', "),
    ],
)
def test_constants_that_do_not_fit(value: str, text: str, words: tuple[str, ...]) -> None:
    assert text in refused(*words, f"model.constants={{{value}}}").message


def test_an_infinite_constant_stays_so(words: tuple[str, ...]) -> None:
    assert ask(*words, "model.constants={half: inf, scale: 1.5}").code == 0


def linear() -> None:
    x = v1.placeholder(tf.float32, [None, 4], "x")
    tf.nn.relu(tf.matmul(x, weight("w", [4, 3])), name="y")


def test_a_graph_with_variables_is_read_with_the_checkpoint_beside_it(tmp_path: Path) -> None:
    path = frozen(linear, tmp_path / "graph.pb")
    answer = refused("tensors", "model=frozen_graph", path)
    assert "is not frozen: it has no values for 1 of its variables, such as 'w:0'" in answer.message
    assert "model=meta_graph model.path=FILE.meta" in answer.message
    saved(linear, tmp_path / "my model")
    answer = refused("tensors", "model=frozen_graph", path)
    assert "w" in ask(*answer.advised()).out


def test_a_folder_is_looked_into(tmp_path: Path) -> None:
    folder = hydra_override("model.path", tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    message = refused("tensors", "model=frozen_graph", folder).message
    assert "is a folder; model=frozen_graph takes one file. It holds 'notes.txt'." in message
    frozen(several_inputs, tmp_path / "graph.pb")
    answer = refused("tensors", "model=frozen_graph", folder)
    assert ask(*answer.advised()).code == 0
