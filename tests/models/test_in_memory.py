"""Functions and modules of TensorFlow that are in memory, as `extractkit.extract` takes them."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.values import Array
from extractkit.errors import ModelError

KERNEL = np.array([[1.0, -2.0], [0.5, 3.0]], "float32")
X = np.array([[1.0, 2.0], [-3.0, 0.25], [4.0, -1.0]], "float32")
OUTPUT = ["selectors=outputs", '+selectors.hidden.path="hidden:0"']


class Scaled(tf.Module):
    def __init__(self) -> None:
        self.kernel = tf.Variable(KERNEL, name="kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.nn.relu(tf.matmul(x, self.kernel), name="hidden") + 1.0}


def by_hand() -> Array:
    return np.maximum(X @ KERNEL, 0)


@pytest.mark.parametrize("kind", ["module", "function", "concrete"])
def test_each_kind_gives_its_values(tmp_path: Path, kind: str) -> None:
    module = Scaled()
    function = module.__call__
    kinds = {
        "module": module, "function": function, "concrete": function.get_concrete_function(),
    }  # fmt: skip
    run = extractkit.extract(OUTPUT, model=kinds[kind], inputs=X, run_dir=tmp_path / "run")
    np.testing.assert_allclose(np.asarray(run[":output.y"]), by_hand() + 1)
    np.testing.assert_allclose(np.asarray(run["hidden:0"]), by_hand())
    [check] = run.manifest.volatile.self_check
    assert check.outputs == (":output.y",)


def test_what_declares_no_inputs_is_refused(tmp_path: Path) -> None:
    for given in ("net.keras", tf.Module(), tf.function(lambda x: x), lambda x: x):
        with pytest.raises(ModelError, match=r"^model=\w+ cannot be extracted from\. Give a keras"):
            extractkit.extract(OUTPUT, model=given, inputs=X, run_dir=tmp_path / "run")
    assert not any(tmp_path.iterdir())
