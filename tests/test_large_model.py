"""A model with more than two gigabytes of weights, the most that one GraphDef can hold."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest

import extractkit

_GIGABYTE = 1 << 30

# Nine square matrices of 268 MB: the identity, scaled, so that the answer is known.
_WRITE = """
import sys
import tensorflow as tf

class Large(tf.Module):
    def __init__(self):
        self.kernels = [
            tf.Variable(tf.eye(8192) * (1.0 + index), name=f"kernel_{index}") for index in range(9)
        ]

    @tf.function(input_signature=[tf.TensorSpec([None, 8192], tf.float32, name="x")])
    def __call__(self, x):
        for kernel in self.kernels:
            x = tf.nn.relu(x @ kernel)
        return x

tf.saved_model.save(Large(), sys.argv[1])
"""


def test_more_than_two_gigabytes_of_weights(tmp_path: Path, preloaded: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    if psutil.virtual_memory().available < 8 * _GIGABYTE or free < 4 * _GIGABYTE:
        pytest.skip("needs 8 GB of memory and 4 GB of disk")
    folder, run_dir = tmp_path / "large", tmp_path / "run"
    np.save(tmp_path / "x.npy", np.arange(4 * 8192, dtype=np.float32).reshape(4, 8192))
    subprocess.run(
        [preloaded / "python", "-c", _WRITE, str(folder)], check=True, capture_output=True
    )
    assert sum(file.stat().st_size for file in folder.rglob("*")) > 2 * _GIGABYTE
    subprocess.run(
        [
            *(preloaded / "extractkit", "model=saved_model", f"model.path={folder}"),
            *("+selectors.hidden.op_type=Relu", f"hydra.run.dir={run_dir}"),
            "+selectors.corner={kind: weight, slice: {0: '0:2', 1: '0:2'}}",
            *("inputs=arrays", f"inputs.path={tmp_path / 'x.npy'}"),
        ],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(folder)
    run = extractkit.open(run_dir)
    hidden = run.select(op_type="Relu")
    expected = np.arange(4 * 8192, dtype=np.float64).reshape(4, 8192)
    for factor, view in enumerate(hidden.values(), start=1):
        expected = expected * factor
        np.testing.assert_allclose(np.asarray(view), expected, rtol=1e-5)
    corners = run.select(kind="weight")
    assert len(hidden) == len(corners) == 9
    for factor, view in enumerate(corners.values(), start=1):
        np.testing.assert_array_equal(np.asarray(view), np.eye(2) * factor)
