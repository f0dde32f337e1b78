"""Histograms for TensorBoard, written from the statistic `histogram` of each step of a training."""

import os
import platform
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from extractkit.core.statistics import Arrays, Partials
from extractkit.core.statistics.histograms import Histogram
from extractkit.core.values import Array
from extractkit.errors import JobError

_MOST_BUCKETS = 128
_PLUGIN = "histograms"


class HistogramWriter:
    """Writes an event file of TensorBoard.

    An event is a record of its own. A process that is killed while writing one leaves all others
    readable. If a step is written again, TensorBoard drops what it has of this and later steps.

    Args:
        directory: TensorBoard's `--logdir`, or a folder in it. It is created if needed.

    Raises:
        JobError: the file cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{platform.node()}.{os.getpid()}"
        self._path = directory / name
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = tf.io.TFRecordWriter(str(self._path))
        except (OSError, tf.errors.OpError) as error:
            raise JobError(f"{self._path} cannot be written: {error}") from error
        self._write(tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, statistics: Partials) -> None:
        """Write the histograms among the statistics of a step, each under the key of its tensor.

        Raises:
            JobError: the disk refuses.
        """
        found = {
            key: rows
            for (key, name), results in statistics.items()
            if name == Histogram.name and len(rows := buckets(results))
        }
        summary = tf.compat.v1.Summary(value=[_value(key, rows) for key, rows in found.items()])
        self._write(tf.compat.v1.Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: tf.compat.v1.Event) -> None:
        try:
            self._file.write(event.SerializeToString())
            self._file.flush()
        except tf.errors.OpError as error:
            raise JobError(f"{self._path} cannot be written: {error}") from error


def buckets(results: Arrays) -> Array:
    """Return the counts of all features together as TensorBoard has them.

    Each feature has intervals of its own width, a power of two, and they begin at a multiple of it.
    So the intervals of one feature lie whole in those of a wider one, and counts stay exact.

    Args:
        results: those of the statistic `histogram`.

    Returns:
        float64 (buckets, 3): lower edge, upper edge, number of elements. Without elements there
        are none.
    """
    edges, counts = np.asarray(results["edges"], np.float64), np.asarray(results["counts"])
    if edges.ndim == 1:
        total = counts.reshape(-1, counts.shape[-1]).sum(0)
        return _rows(edges[:-1], edges[1:], total) if total.any() else np.zeros((0, 3))
    lower, upper, counted = edges[:, :-1], edges[:, 1:], counts > 0
    if not counted.any():
        return np.zeros((0, 3))
    width = (upper - lower)[counted].max()
    span = upper[counted].max() - lower[counted].min()
    while span / width > _MOST_BUCKETS:
        width *= 2
    places, which = np.unique(np.floor(lower[counted] / width), return_inverse=True)
    total = np.bincount(which.reshape(-1), weights=counts[counted])
    return _rows(places * width, (places + 1) * width, total)


def _rows(lower: Array, upper: Array, counts: Array) -> Array:
    return np.stack([lower, upper, counts.astype(np.float64)], axis=1)


def _value(key: str, rows: Array) -> tf.compat.v1.Summary.Value:
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=_PLUGIN)
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class="DATA_CLASS_TENSOR")
    tensor = tf.make_tensor_proto(rows, tf.float64)
    return tf.compat.v1.Summary.Value(tag=key, metadata=metadata, tensor=tensor)
