"""A real meta graph of TensorFlow 1: a plain session and NumPy in float64 agree.

Musicnn's VGG tags music: five convolutions over a spectrogram, trained in 2018. Its branches ask
whether it trains; its checkpoint has a name of no characters, in a folder of another machine.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.models import Compilation, Fetch
from extractkit.models.meta_graph import load
from extractkit.models.sessions import SessionModel
from tests.real_models import real_model

pytestmark = pytest.mark.real_model

v1 = tf.compat.v1
Array = npt.NDArray[np.float64]

X, TRAINS = "model/Placeholder", "model/Placeholder_2"
POOLED = ["model/max_pooling2d/MaxPool:0"] + [
    f"model/max_pooling2d_{i}/MaxPool:0" for i in (1, 2, 3, 4)
]
OUTPUTS = [*POOLED, "model/Sigmoid:0"]
POOLS = ((4, 1), (1, 4), (2, 2), (2, 2), (4, 4))


@pytest.fixture(scope="module")
def folder() -> Path:
    return real_model("musicnn", "musicnn/MSD_vgg")


@pytest.fixture(scope="module")
def model(folder: Path) -> SessionModel:
    return load(str(folder), input_axes=[X], constants={TRAINS: False})


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(7).gamma(1.0, size=(2, 187, 96)).astype(np.float32)


@pytest.fixture(scope="module")
def values(model: SessionModel, samples: np.ndarray) -> list[np.ndarray]:
    program = model.program([Fetch(Value(address)) for address in OUTPUTS], Compilation())
    return list(program({X: samples}, {}))


def test_the_catalog(model: SessionModel) -> None:
    kinds = {address: record.kind for address, record in model.catalog.items()}
    assert [a for a, kind in kinds.items() if kind is Kind.MODEL_OUTPUT] == ["model/Sigmoid:0"]
    assert sum(kind is Kind.WEIGHT for kind in kinds.values()) == 36
    assert sum(kind is Kind.OPTIMIZER for kind in kinds.values()) == 50
    assert all(model.catalog[address].extractable for address in OUTPUTS)
    assert model.catalog[POOLED[0]].spec.undescribed.labels == ("sample", None, None, None)


def test_samples_one_by_one_in_a_plain_session(
    folder: Path, samples: np.ndarray, values: list[np.ndarray]
) -> None:
    meta = v1.MetaGraphDef.FromString((folder / ".meta").read_bytes())
    for node in meta.graph_def.node:
        node.attr.pop("_output_shapes", None)
        if "seed" in node.attr:  # other tests may have asked for determinism
            node.attr["seed"].i = 1
    with tf.Graph().as_default() as graph:
        saver = v1.train.import_meta_graph(meta)
    with v1.Session(graph=graph) as session:
        names = saver.saver_def
        session.run(names.restore_op_name, {names.filename_tensor_name: f"{folder}/"})
        for index, sample in enumerate(samples):
            feeds = {f"{X}:0": sample[None], f"{TRAINS}:0": False}
            for value, expected in zip(values, session.run(OUTPUTS, feeds), strict=True):
                np.testing.assert_allclose(value[index], expected[0], atol=2e-5, rtol=1e-5)


def test_numpy_in_float64(folder: Path, samples: np.ndarray, values: list[np.ndarray]) -> None:
    reader = v1.train.NewCheckpointReader(f"{folder}/")
    weights = {
        name: reader.get_tensor(name).astype(np.float64)
        for name in reader.get_variable_to_shape_map()
        if "Adam" not in name
    }
    for value, expected in zip(values, forward(weights, samples), strict=True):
        # Sums of a thousand products in float32 round as their largest terms do.
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_weights_are_those_of_the_checkpoint(folder: Path, model: SessionModel) -> None:
    reader = v1.train.NewCheckpointReader(f"{folder}/")
    addresses = [a for a, record in model.catalog.items() if record.kind is Kind.WEIGHT]
    values = model.constants([Fetch(Value(address)) for address in addresses])
    for address, value in zip(addresses, values, strict=True):
        np.testing.assert_array_equal(value, reader.get_tensor(address.removesuffix(":0")))


def forward(weights: dict[str, Array], samples: np.ndarray) -> list[Array]:
    """What each pooling makes, and the scores of the 50 tags: (samples, …)."""
    x = normalised(weights, "batch_normalization", samples.astype(np.float64)[..., None])
    made = []
    for layer, (high, wide) in enumerate(POOLS, 1):
        x = convolved(x, weights[f"{layer}CNN/kernel"]) + weights[f"{layer}CNN/bias"]
        x = normalised(weights, f"batch_normalization_{layer}", np.maximum(x, 0))
        rows, columns = x.shape[1] // high, x.shape[2] // wide
        x = x[:, : rows * high, : columns * wide]
        x = x.reshape(len(x), rows, high, columns, wide, -1).max((2, 4))
        made.append(x)
    logits = x.reshape(len(x), -1) @ weights["dense/kernel"] + weights["dense/bias"]
    return [*made, 1 / (1 + np.exp(-logits))]


def normalised(weights: dict[str, Array], name: str, x: Array) -> Array:
    mean, variance = weights[f"{name}/moving_mean"], weights[f"{name}/moving_variance"]
    scaled = (x - mean) / np.sqrt(variance + 0.001)
    return scaled * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def convolved(x: Array, kernel: Array) -> Array:
    """A convolution of 3 by 3 that keeps the size."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = (
        padded[:, row : row + height, column : column + width] @ kernel[row, column]
        for row in range(3)
        for column in range(3)
    )
    return np.asarray(sum(parts))
