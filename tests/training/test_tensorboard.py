"""Histograms for TensorBoard: those of the values themselves, at every step, once."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.statistics.histograms import buckets
from extractkit.core.values import Array
from extractkit.errors import ConfigError
from tests.training.examples import PROBE, probing, small, trained

HISTOGRAMS = {
    "all": {"path": "a:output"},
    "bars": {"path": "a:output", "statistics": ["histogram", "moments"]},
    "together": {"path": "a:input", "statistics": [{"histogram": {"range": [0, 1], "per": "all"}}]},
}
QUICK = {"selectors": HISTOGRAMS, "runtime": {"self_check": False}}


def written(logdir: Path) -> dict[str, dict[int, Array]]:
    """Read the last file of events: for each tag, the histogram by step."""
    files = sorted(logdir.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
    found: dict[str, dict[int, Array]] = {}
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(files[-1]))]
    events = [tf.compat.v1.Event.FromString(record) for record in records]
    assert events[0].file_version == "brain.Event:2"
    for event in events[1:]:
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "histograms"
            found.setdefault(value.tag, {})[event.step] = tf.make_ndarray(value.tensor)
    return found


def assert_counted(rows: Array, values: Array) -> None:
    """Assert that buckets hold the values, counted by hand."""
    lower, upper, counts = rows.T
    expected = [((values >= a) & (values < b)).sum() for a, b in zip(lower, upper, strict=True)]
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == values.size
    assert (upper[:-1] <= lower[1:]).all()


def fit(tmp_path: Path, **settings: Any) -> extractkit.Run:
    callback = probing(tmp_path / "run", tensorboard=tmp_path / "logs", **QUICK)
    trained(keras, [callback], model=small(), **settings)
    return callback.run


def test_each_step_has_the_histogram_of_its_values(tmp_path: Path) -> None:
    run = fit(tmp_path)
    found = written(tmp_path / "logs")
    assert found.keys() == {"a:output@bars", "a:input"}
    for at, step in enumerate(range(4)):
        assert_counted(found["a:output@bars"][step], np.asarray(run["a:output@all"][at]))
        lower, upper, counts = found["a:input"][step].T
        np.testing.assert_allclose(upper - lower, 0.05, rtol=1e-9)
        np.testing.assert_array_equal(counts, np.histogram(PROBE, np.append(lower, 1.0))[0])


def test_a_resumed_training_writes_every_step_again(tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    before = written(tmp_path / "logs")
    fit(tmp_path, epochs=2)
    after = written(tmp_path / "logs")
    assert list(after["a:output@bars"]) == [0, 1, 2]
    for tag, steps in before.items():
        for step, rows in steps.items():
            np.testing.assert_array_equal(after[tag][step], rows)


def test_intervals_of_features_of_any_size_are_joined_exactly() -> None:
    features = [np.array([-1000.0, 1000.0, 3.0]), np.array([0.25, 0.5]), np.array([7.0])]
    edges, counts = [], []
    for one, width in zip(features, (64.0, 0.0078125, 1.0), strict=True):
        begin = np.floor(one.min() / width) * width
        edges.append(begin + width * np.arange(51))
        counts.append(np.histogram(one, edges[-1])[0])
    rows = buckets({"edges": np.array(edges), "counts": np.array(counts)})
    assert_counted(rows, np.concatenate(features))
    empty = {"edges": np.array(edges), "counts": np.zeros((3, 50), np.int64)}
    assert buckets(empty).shape == (0, 3)


def test_narrow_intervals_far_apart_become_few(tmp_path: Path) -> None:
    edges = np.array([np.arange(51) / 1024, 2.0**20 + np.arange(51) / 1024])
    rows = buckets({"edges": edges, "counts": np.full((2, 50), 3)})
    assert rows[:, 2].tolist() == [150, 150]


def test_there_must_be_histograms_to_show(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^tensorboard='logs' is for histograms"):
        probing(tmp_path / "run", "outputs", tensorboard="logs")


def test_tensorboard_itself_reads_them(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(tmp_path)
    read = accumulator.EventAccumulator(str(tmp_path / "logs"), {"tensors": 0})
    read.Reload()
    assert set(read.Tags()["tensors"]) == {"a:output@bars", "a:input"}
    for one in read.Tensors("a:output@bars"):
        rows = tf.make_ndarray(one.tensor_proto)
        np.testing.assert_array_equal(rows, written(tmp_path / "logs")["a:output@bars"][one.step])
