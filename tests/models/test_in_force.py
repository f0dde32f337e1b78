"""What TensorFlow has read once is what counts: recorded as it is, and another wish is refused."""

from pathlib import Path

from tests.models.test_threads import run

INTRA, INTER, ONEDNN = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "TF_ENABLE_ONEDNN_OPTS"

_JOBS = """
import json, sys
import numpy as np, keras
import extractkit
from extractkit.errors import ConfigError
from extractkit.runs import manifest
from extractkit.testing.reference import ReferenceModel

model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])

def threads(number, **live):
    asked = [] if number is None else [f"runtime.threads={number}"]
    if not live:
        live = {"model": model, "inputs": np.ones((2, 2), "float32")}
    try:
        made = extractkit.extract(["selectors=weights", *asked], **live, run_dir=next(directories))
    except ConfigError as error:
        return str(error)
    found = made.manifest
    settings = [found.settings[f"{which}_op_threads"] for which in ("intra", "inter")
                if "cpus" in found.settings]
    return [*found.environment.values(), *settings]

directories = (f"{sys.argv[1]}/{number}" for number in range(9))
reference = {"model": ReferenceModel(), "inputs": ["a"]}
print(json.dumps([
    threads(3), threads(7), threads(None), threads(7, **reference), threads(3)
]))
"""


def test_jobs_of_one_process_have_the_threads_of_the_first(tmp_path: Path, preloaded: Path) -> None:
    """Those that ask for others are refused; what computes without TensorFlow has its own."""
    variables = {INTRA: "3", INTER: "3"}
    found = run(_JOBS, str(tmp_path), python=preloaded / "python", **variables)
    first, other, unasked, reference, again = found
    assert first == unasked == again == ["3", "3", 3, 3]
    assert other == (
        "runtime.threads=7: TensorFlow already runs in this process with 3, and it cannot change "
        "that. Start a new process (in a sweep: one for each run)"
    )
    assert reference == ["7", "7"]


_STARTED = """
import json, os
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(3)
tf.config.threading.set_inter_op_parallelism_threads(4)
tf.constant(1.0)
from extractkit.models.process import environment, impose
from extractkit.errors import ConfigError
from extractkit.models.process import configure

def configured(**recorded):
    if recorded:
        impose(recorded)
    try:
        settings = configure(0, False, None)
    except ConfigError as error:
        return str(error)
    return [settings[k] for k in ("intra_op_threads", "inter_op_threads", "onednn")]

threads = {"TF_NUM_INTRAOP_THREADS": "3", "TF_NUM_INTEROP_THREADS": "4"}
print(json.dumps([
    configured(**threads),
    configured(**threads, TF_ENABLE_ONEDNN_OPTS="0"),
    configured(**threads | {"TF_NUM_INTEROP_THREADS": "5"}, TF_ENABLE_ONEDNN_OPTS="1"),
    configured(),
    environment(None),
]))
"""


def test_what_somebody_elses_tensorflow_has_read_counts_as_well() -> None:
    """It had started before anything was imposed."""
    same, switch, both, unasked, environment = run(_STARTED, **{ONEDNN: "1"})
    assert same == (
        "TF_ENABLE_ONEDNN_OPTS=(unset): TensorFlow already runs in this process with 1, and it "
        "cannot change that. Start a new process (in a sweep: one for each run)"
    )
    assert switch.startswith("TF_ENABLE_ONEDNN_OPTS=0: TensorFlow already runs in this process wit")
    assert both.startswith(
        "TF_NUM_INTEROP_THREADS=5: TensorFlow already runs in this process with 4, and"
    )
    assert unasked == [3, 4, "1"]
    assert environment == {INTRA: "3", INTER: "4", ONEDNN: "1"}


_FAILED_BEFORE = """
import json, os
import tensorflow as tf
from extractkit.models.process import impose
from extractkit.models.process import configure

# A first job imposes, but fails before TensorFlow computes anything.
impose({"TF_NUM_INTRAOP_THREADS": "3", "TF_NUM_INTEROP_THREADS": "3"})
impose({"TF_NUM_INTRAOP_THREADS": "5", "TF_NUM_INTEROP_THREADS": "5"})
print(json.dumps(configure(0, False, None)["intra_op_threads"]))
"""


def test_as_long_as_tensorflow_computes_nothing_threads_can_be_changed(preloaded: Path) -> None:
    assert run(_FAILED_BEFORE, python=preloaded / "python") == 5


def test_nothing_of_it_imports_tensorflow() -> None:
    code = "import sys, extractkit.models.process as p; p.impose({}); "
    assert run(f"{code} print(int('tensorflow' in sys.modules))") == 0
