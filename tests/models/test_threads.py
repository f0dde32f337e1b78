"""Threads are those that the environment gives, in whatever TensorFlow or LiteRT computes with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractkit.models.process import inter_op_threads, intra_op_threads
from tests.models.tflite_zoo import written

# Counts the threads that computing starts, by the names that TensorFlow gives them.
_COUNTING = """
import json, sys
from collections import Counter
from pathlib import Path

def threads():
    return Counter(file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm"))

matrix = __import__("numpy").ones((1200, 1200), "float32")
"""
_CONFIGURED = """
before = threads()
compute()
from extractkit.models.process import configure
print(json.dumps({**(threads() - before), **configure(0, False, None)}))
"""
_EAGER = """
import tensorflow as tf
def compute():
    tf.matmul(matrix, matrix)
"""
_FUNCTION = """
import tensorflow as tf
compute = tf.function(lambda: tf.matmul(matrix, matrix))
"""
_XLA = """
import tensorflow as tf
compute = tf.function(lambda: tf.matmul(matrix, matrix), jit_compile=True)
"""
_SESSION = """
import tensorflow as tf
from extractkit.models.sessions.importing import session_config
def compute():
    with tf.Graph().as_default(), tf.compat.v1.Session(config=session_config()) as session:
        session.run(tf.matmul(matrix, matrix))
"""

linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are read in /proc")


def run(code: str, *arguments: str, python: Path | None = None, **variables: str) -> Any:
    """What a process with these environment variables prints, from JSON.

    Args:
        python: A program that has imported TensorFlow. It reads numbers of threads when it starts
            to compute, and the switch of oneDNN when it is imported.
    """
    child = subprocess.run(
        [python or sys.executable, "-c", code, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(child.stdout.splitlines()[-1])


@linux
@pytest.mark.parametrize(
    ("code", "pool", "key"),
    [
        (_EAGER, "tf_Compute", "inter_op_threads"),
        (_FUNCTION, "tf_Compute", "inter_op_threads"),
        (_SESSION, "tf_Compute", "inter_op_threads"),
        (_XLA, "tf_XLAEigen", "intra_op_threads"),
    ],
    ids=["eager", "function", "session", "xla"],
)
def test_tensorflow_starts_as_many_as_the_environment_says(
    code: str, pool: str, key: str, preloaded: Path
) -> None:
    """And `configure` reports them."""
    variables = {"TF_NUM_INTRAOP_THREADS": "3", "TF_NUM_INTEROP_THREADS": "5"}
    found = run(_COUNTING + code + _CONFIGURED, python=preloaded / "python", **variables)
    assert (found["intra_op_threads"], found["inter_op_threads"]) == (3, 5)
    assert found[pool] == found[key]
    # One operation's own have the name of the process.
    assert found.get("python", 0) >= 3


_LITERT = """
from extractkit.core.requests import Value
from extractkit.engine.batches import collate
from extractkit.inputs.random import Random
from extractkit.models import Compilation, Fetch
from extractkit.models.tflite import load

model = load(sys.argv[1], **json.loads(sys.argv[2]))
source = Random(samples=1).bind(model.signature)
batch = collate(model.signature, model.encode(source.read(0, 1)))
(output,) = (r.address for r in model.catalog.records if r.kind == "model_output")
program = model.program([Fetch(Value(output))], Compilation())
before = threads().total()
program(batch.features, batch.lengths)
print(json.dumps([model.configure(0, True, None)["threads"], threads().total() - before]))
"""


@linux
@pytest.mark.parametrize(("settings", "threads"), [({}, 3), ({"threads": 2}, 2)], ids=str)
def test_litert_computes_with_the_same_number(
    settings: dict[str, int], threads: int, tmp_path: Path
) -> None:
    file = written("float32", tmp_path)
    found = run(_COUNTING + _LITERT, str(file), json.dumps(settings), TF_NUM_INTRAOP_THREADS="3")
    # The thread that calls it computes too.
    assert found == [threads, threads - 1]


@pytest.mark.parametrize("given", ["", "0", "many", "-1"])
def test_without_a_number_there_are_as_many_as_processors(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", given)
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)
    assert intra_op_threads() == inter_op_threads() == len(os.sched_getaffinity(0))


_BITS = """
import hashlib
import numpy as np, tensorflow as tf
draw = np.random.default_rng(0)
x, w = (draw.normal(size=size).astype("float32") for size in ((64, 300), (300, 257)))

def compute(x):
    return tf.nn.gelu(tf.nn.bias_add(x @ w, w[0]), approximate=True)

eager = tf.function(compute)(tf.constant(x)).numpy()
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    fed = tf.compat.v1.placeholder(tf.float32, [None, 300])
    there = session.run(compute(fed), {fed: x})
print(__import__("json").dumps([one.tobytes().hex() for one in (eager, there)]))
"""


def test_the_flag_of_onednn_holds_in_functions_and_sessions() -> None:
    """Where the processor has it, it changes the last bits of both."""
    off, on = (run(_BITS, TF_ENABLE_ONEDNN_OPTS=flag) for flag in "01")
    for one, other in zip(off, on, strict=True):
        values = (np.frombuffer(bytes.fromhex(bits), np.float32) for bits in (one, other))
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)
    assert (off[0] == on[0]) == (off[1] == on[1])
