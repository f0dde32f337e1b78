"""States inside the loop of an LSTM against its forward pass.

The forward job stores the layer's output at every step. The second stores as much: the cell's
hidden state at every step. The third stores the means of all states and gates over the steps.
"""

from statistics import median

import keras
import numpy as np

from benchmarks.pooled import Jobs, compare

MOST = 1.3
"""The most that values inside a loop may cost, as a multiple of the forward job."""

SAMPLES, STEPS, UNITS = 512, 200, 128
JOBS: Jobs = {
    "forward": {"path": "memory:output"},
    "hidden": {"path": "memory/lstm_cell:hidden"},
    "states": {"kind": "state", "do": [{"mean": "step"}]},
}


def main() -> None:
    """Print what each job costs as a multiple of the forward job."""
    keras.utils.set_random_seed(0)
    x = keras.Input((STEPS, 32), name="x")
    memory = keras.layers.LSTM(UNITS, return_sequences=True, name="memory")
    inputs = np.random.default_rng(0).normal(size=(SAMPLES, STEPS, 32)).astype(np.float32)
    jobs = compare(JOBS, keras.Model(x, memory(x)), list(inputs))
    for job, each in jobs.items():
        seconds, cpu = (median(1 / share for share in column) for column in zip(*each, strict=True))
        print(f"  {job}: costs {seconds:.2f} times the forward job, CPU time {cpu:.2f} times")
    print(f"  asked for values inside loops: {MOST} at most")
