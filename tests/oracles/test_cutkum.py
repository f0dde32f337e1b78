"""A real frozen graph with loops of TensorFlow 1: a plain session and NumPy in float64 agree.

Cutkum cuts Thai text into words: three layers of GRU cells over characters, in time-major order.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.catalog import Kind, Layout
from extractkit.core.requests import Value
from extractkit.core.spec import TensorSpec
from extractkit.models import Compilation, Fetch
from extractkit.models.frozen_graph import load
from extractkit.models.sessions import SessionModel
from tests.real_models import real_model

pytestmark = pytest.mark.real_model

v1 = tf.compat.v1
Array = npt.NDArray[np.float64]

INPUTS = {
    "placeholder/inputs": ["time", "sample", 80],
    "placeholder/seq_lengths": ["sample"],
    "placeholder/fw_state": [None, "sample", None],
}
KEEP = "placeholder/keep_prob"
OUTPUTS = ("rnn/TensorArrayStack/TensorArrayGatherV3:0", "probs:0")
SAMPLES, STEPS = 4, 9


@pytest.fixture(scope="module")
def path() -> Path:
    return real_model("cutkum", "cutkum/frozen_model.pb")


@pytest.fixture(scope="module")
def model(path: Path) -> SessionModel:
    return load(str(path), input_axes=INPUTS, constants={KEEP: 1.0})


@pytest.fixture(scope="module")
def samples() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {
        "placeholder/inputs": np.eye(80, dtype=np.float32)[
            generator.integers(0, 80, (SAMPLES, STEPS))
        ],
        "placeholder/seq_lengths": np.array([9, 4, 7, 1], np.int32),
        "placeholder/fw_state": generator.normal(size=(SAMPLES, 1, 896)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def values(model: SessionModel, samples: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Both outputs, (time, samples, width)."""
    lengths = {"time": np.full(SAMPLES, STEPS, np.int32)}
    program = model.program([Fetch(Value(address)) for address in OUTPUTS], Compilation())
    return list(program(samples, lengths))


def test_the_catalog(model: SessionModel) -> None:
    outputs = [a for a, record in model.catalog.items() if record.kind is Kind.MODEL_OUTPUT]
    assert outputs == ["probs:0"]
    assert model.catalog["probs:0"].extractable
    assert model.catalog["rnn/multi_rnn_cell/cell_0/gru_cell/gates/kernel:0"].kind is Kind.WEIGHT
    inside = [record for address, record in model.catalog.items() if "/while/" in address]
    reasons = {record.op_type: record.reason or "" for record in inside}
    assert reasons["Exit"] == reasons["Tanh"] == ""
    for kind in ("Enter", "Switch", "LoopCond"):
        assert "inside a loop" in reasons[kind]
    assert "random" in reasons["RandomUniform"]


def test_samples_one_by_one_in_a_plain_session(
    path: Path, samples: dict[str, np.ndarray], values: list[np.ndarray]
) -> None:
    graph_def = v1.GraphDef.FromString(path.read_bytes())
    for node in graph_def.node:
        if "seed" in node.attr:  # other tests may have asked for determinism
            node.attr["seed"].i = 1
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
    with v1.Session(graph=graph) as session:
        for index in range(SAMPLES):
            feeds = {
                "placeholder/inputs:0": samples["placeholder/inputs"][index][:, None],
                "placeholder/seq_lengths:0": samples["placeholder/seq_lengths"][[index]],
                "placeholder/fw_state:0": samples["placeholder/fw_state"][index][:, None],
                f"{KEEP}:0": 1.0,
            }
            for value, expected in zip(values, session.run(OUTPUTS, feeds), strict=True):
                np.testing.assert_allclose(value[:, index], expected[:, 0], atol=1e-6)


def test_numpy_in_float64(
    path: Path, samples: dict[str, np.ndarray], values: list[np.ndarray]
) -> None:
    expected = forward(weights(path), *samples.values())
    for value, wanted in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_each_step_of_the_loop(
    model: SessionModel, path: Path, samples: dict[str, np.ndarray]
) -> None:
    """The new states and the gates of all layers, also of samples that have ended."""
    path_of = "rnn/while/rnn/multi_rnn_cell/cell_{0}/cell_{0}/gru_cell"
    ports = ("hidden", "gate.r", "gate.z", "gate.h")
    made = [f"{path_of.format(at)}:{port}" for at in range(3) for port in ports]
    fetches = [Fetch(Value(address)) for address in (*made, OUTPUTS[1])]
    lengths = {"time": np.full(SAMPLES, STEPS, np.int32)}
    *found, probs = model.program(fetches, Compilation())(samples, lengths)
    expected = list(steps(weights(path), *samples.values()))
    for at, value in enumerate(found):
        layer, port = divmod(at, len(ports))
        wanted = np.stack([cells[layer][port] for _, cells in expected])
        np.testing.assert_allclose(value, wanted, atol=1e-5)
    np.testing.assert_allclose(probs, forward(weights(path), *samples.values())[1], atol=1e-5)


def test_ready_selectors_find_the_samples_along_the_second_axis(
    path: Path, samples: dict[str, np.ndarray], tmp_path: Path
) -> None:
    lengths = samples["placeholder/seq_lengths"]
    rows = [
        {name: array[at] for name, array in samples.items()}
        | {"placeholder/inputs": samples["placeholder/inputs"][at, :length]}
        for at, length in enumerate(lengths)
    ]
    run = extractkit.extract(
        ["selectors=[pooled,last_token,statistics]"],
        model=load(str(path), input_axes=INPUTS, constants={KEEP: 1.0}),
        inputs=rows,
        run_dir=tmp_path / "run",
    )
    whole = forward(weights(path), *samples.values())[1]
    expected = [whole[:length, at] for at, length in enumerate(lengths)]
    means, last = run["probs:0@pooled"], run["probs:0@last_token"]
    np.testing.assert_allclose(np.asarray(means), [row.mean(0) for row in expected], atol=1e-5)
    np.testing.assert_allclose(np.asarray(last), [row[-1] for row in expected], atol=1e-5)
    found = run.statistics["probs:0@statistics"].moments
    np.testing.assert_allclose(found.mean, np.concatenate(expected).mean(0), atol=1e-5)
    assert int(found.count) == lengths.sum()


def test_what_is_stored_has_the_samples_first(
    model: SessionModel, samples: dict[str, np.ndarray], values: list[np.ndarray]
) -> None:
    layout = Layout(
        1, False, TensorSpec.of("float32", ("sample", "time", None), (None, None, 5)).axes
    )
    lengths = {"time": np.full(SAMPLES, STEPS, np.int32)}
    (stored,) = model.program([Fetch(Value("probs:0"), layout)], Compilation())(samples, lengths)
    np.testing.assert_array_equal(stored, values[1].transpose(1, 0, 2))


def weights(path: Path) -> dict[str, Array]:
    """Constants straight from the file."""
    graph_def = v1.GraphDef.FromString(path.read_bytes())
    return {
        node.name: tf.make_ndarray(node.attr["value"].tensor).astype(np.float64)
        for node in graph_def.node
        if node.op == "Const" and node.attr["value"].tensor.dtype == tf.float32
    }


def forward(
    weights: dict[str, Array], inputs: np.ndarray, lengths: np.ndarray, state: np.ndarray
) -> tuple[Array, Array]:
    """The top layer's states, zero after each sample's end, and the scores: (time, samples, …)."""
    made = steps(weights, inputs, lengths, state)
    tops = np.stack([np.where(going, cells[-1][0], 0) for going, cells in made])
    scores = sigmoid(tops @ weights["fully_connected/weights"] + weights["fully_connected/biases"])
    powers = np.exp(scores)
    return tops, powers / powers.sum(-1, keepdims=True)


def steps(
    weights: dict[str, Array], inputs: np.ndarray, lengths: np.ndarray, state: np.ndarray
) -> Iterator[tuple[npt.NDArray[np.bool_], list[tuple[Array, ...]]]]:
    """Which samples go on, and what the cells make, at each step; see `cell`."""
    states = np.split(state[:, 0].astype(np.float64), [512, 768], axis=1)
    for step in range(inputs.shape[1]):
        going = (step < lengths)[:, None]
        below = inputs[:, step].astype(np.float64)
        made = []
        for layer, before in enumerate(states):
            made.append(cell(weights, f"rnn/multi_rnn_cell/cell_{layer}/gru_cell", below, before))
            below = made[-1][0]
            states[layer] = np.where(going, below, before)
        yield going, made


def cell(weights: dict[str, Array], name: str, below: Array, state: Array) -> tuple[Array, ...]:
    """One step of a GRU cell as TensorFlow 1 had it: the reset gate comes before the product.

    The new state, the reset and update gates, and the candidate.
    """
    gates = np.concatenate([below, state], 1) @ weights[f"{name}/gates/kernel"]
    reset, update = np.split(sigmoid(gates + weights[f"{name}/gates/bias"]), 2, axis=1)
    candidate = np.concatenate([below, reset * state], 1) @ weights[f"{name}/candidate/kernel"]
    candidate = np.tanh(candidate + weights[f"{name}/candidate/bias"])
    return update * state + (1 - update) * candidate, reset, update, candidate


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
