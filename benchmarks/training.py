"""The cost of `extractkit.Callback` in a training, against the forward passes that it makes.

A network of convolutions is trained in batches of 64 pictures. After each 20th step, the means over
the positions of each of its layers are recorded for 256 pictures. By hand: the same outputs of the
same pictures by a compiled function, copied to NumPy; nothing is stored. Tracing, the self-check at
the first step and the files over all steps are left out, because they do not grow with the number
of steps. Their seconds are printed, too.
"""

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

import extractkit

ROUNDS = 5
STEPS, EVERY, BATCH, PROBE = 100, 20, 64, 256

Pictures = npt.NDArray[np.float32]


def main() -> None:
    """Print seconds for each step, round by round, and the ratios."""
    drawn = np.random.default_rng(0)
    pictures = drawn.random((STEPS * BATCH, 32, 32, 3), dtype=np.float32)
    labels = drawn.integers(0, 10, len(pictures))
    forward, share = [], []
    for number in range(ROUNDS):
        plain = _seconds(pictures, labels, [])
        with tempfile.TemporaryDirectory() as name:
            timed = _Timed(pictures[:PROBE], Path(name) / "run")
            _seconds(pictures, labels, [timed])
        by_hand = timed.by_hand()
        step = median(timed.steps)
        forward.append(step / by_hand)
        share.append((step - by_hand) * STEPS / EVERY / plain)
        print(
            f"  round {number + 1}: training {plain:.2f} s for {STEPS} steps; recording "
            f"{step * 1e3:.1f} ms a step, forward pass {by_hand * 1e3:.1f} ms, ratio "
            f"{forward[-1]:.2f}, beyond it {share[-1]:.1%} of the training; once: "
            f"{timed.opening:.1f} s before, {timed.closing:.1f} s after",
            flush=True,
        )
    print(
        f"  median: recording takes {median(forward):.2f} times its forward passes; beyond them "
        f"{median(share):.1%} of the training"
    )


class _Timed(extractkit.Callback):
    """Measures what it does."""

    def __init__(self, probe: Pictures, run_dir: Path) -> None:
        wanted = {"path": "*:output", "kind": "layer_output", "reduce": {1: "mean", 2: "mean"}}
        selectors = {"conv": {**wanted, "layer_type": "Conv2D"}}
        super().__init__(selectors, probe, run_dir, every=EVERY)
        self.probe = probe
        self.steps: list[float] = []
        self.opening = self.closing = 0.0

    def begin(self) -> None:
        began = perf_counter()
        super().begin()
        self.opening += perf_counter() - began

    def start(self, step: int, *, due: bool) -> None:
        began = perf_counter()
        super().start(step, due=due)
        self.opening += perf_counter() - began

    def record(self, step: int) -> None:
        began = perf_counter()
        super().record(step)
        self.steps.append(perf_counter() - began)

    def end(self) -> None:
        began = perf_counter()
        super().end()
        self.closing = perf_counter() - began

    def by_hand(self) -> float:
        """Return the seconds of a forward pass, in batches as extractkit makes them."""
        layers = [one for one in self.model.layers if isinstance(one, keras.layers.Conv2D)]
        means = [keras.ops.mean(one.output, (1, 2)) for one in layers]
        inner = keras.Model(self.model.inputs, means)
        forward = tf.function(lambda batch: inner(batch, training=False))
        batches = [self.probe[at : at + 32] for at in range(0, len(self.probe), 32)]
        seconds = []
        for _ in range(len(self.steps) + 1):
            began = perf_counter()
            for batch in batches:
                for output in forward(tf.constant(batch)):
                    output.numpy()
            seconds.append(perf_counter() - began)
        return median(seconds[1:])


def _seconds(pictures: Pictures, labels: Any, callbacks: list[Any]) -> float:
    """Train a new network, and return the seconds of the steps after the first."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(width, 3, activation="relu") for width in (32, 64, 64, 64)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy")
    times: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: times.append(perf_counter())
    )
    model.fit(
        *(pictures, labels),
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        callbacks=[clock, *callbacks],
    )
    return (times[-1] - times[0]) * STEPS / (STEPS - 1)
