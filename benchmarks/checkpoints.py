"""284 checkpoints of a real model in one job, against the loop that people write by hand.

By hand: `model.load_weights(path)`, then the forward pass by a compiled function in batches of 32,
for every checkpoint in turn; nothing is stored. extractkit: one job that stores the same layers'
outputs, every checkpoint's files looked at first, drift and index included. Loading TensorFlow,
building the model and tracing are left out on both sides: for a job, that is what one with a single
checkpoint spends before its first shard, listing that checkpoint included. Separate processes: one
job for each checkpoint, from a shell; a few are run, and the rest is reckoned from their mean.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

import extractkit
from experiments.real_models.architectures import mhcnuggets
from tests.real_models import real_model

ROUNDS = 3
BATCH_SIZE = 32
SAMPLES = (200, 1000, 4000)
PROCESSES = 4

_FACTORY = "model.factory._target_=experiments.real_models.architectures.mhcnuggets"
# The layers that compute: what Masking hands on is the input itself.
_SELECTOR = "+selectors.layers={path: ['lstm:output', 'hidden:output', 'affinity:output']}"

Peptides = npt.NDArray[np.float32]


def main() -> None:
    """Print seconds of the three ways, round by round, and the ratios."""
    folder = real_model("mhcnuggets", "mhcnuggets/saves/production/HLA-A02:01_BA.h5").parent
    files = sorted(folder.glob("*_BA.h5"))
    print(f"  {len(files)} checkpoints")
    for samples in SAMPLES:
        peptides = _peptides(samples)
        ratios = []
        for round_ in range(ROUNDS):
            ours, committed = _one_job(folder, files[0], peptides)
            loading, forward = _by_hand(files, peptides)
            ratios.append(ours / (loading + forward))
            print(
                f"  {samples} samples, round {round_ + 1}: one job {ours:.1f} s (until the last "
                f"commit {committed:.1f} s), by hand {loading:.1f} s loading and {forward:.1f} s "
                f"forward, ratio {ratios[-1]:.2f}",
                flush=True,
            )
        print(f"  {samples} samples: median ratio {median(ratios):.2f}")
    _processes(files, _peptides(SAMPLES[0]))


def _peptides(count: int) -> Peptides:
    """One-hot encoded at random: (count, 15, 21) float32."""
    letters = np.random.default_rng(0).integers(1, 21, size=(count, 15))
    return np.eye(21, dtype=np.float32)[letters]


def _one_job(folder: Path, first: Path, peptides: Peptides) -> tuple[float, float]:
    """Seconds from the first look at the checkpoints to the finished run; to the last commit."""
    _, single = _job(first, peptides[:1])
    whole, timings = _job(folder / "*_BA.h5", peptides)
    start_up = single["load"] + single["compile"]
    committed = sum(timings[stage] for stage in ("load", "compile", "survey", "extract"))
    return whole - start_up, committed - start_up


def _job(checkpoints: Path, peptides: Peptides) -> tuple[float, Mapping[str, float]]:
    """Seconds of a job, and those of its stages."""
    with tempfile.TemporaryDirectory() as name:
        began = perf_counter()
        run = extractkit.extract(
            ["model=keras", _FACTORY, f"model.checkpoints='{checkpoints}'", _SELECTOR],
            inputs=peptides,
            run_dir=Path(name) / "run",
        )
        return perf_counter() - began, run.manifest.volatile.timings


def _by_hand(files: Sequence[Path], peptides: Peptides) -> tuple[float, float]:
    """Seconds of loading all weights, and of all forward passes."""
    model = mhcnuggets()
    outputs = [layer.output for layer in model.layers[1:]]
    inner = keras.Model(model.inputs, outputs)
    forward = tf.function(lambda batch: inner(batch, training=False))
    batches = [peptides[at : at + BATCH_SIZE] for at in range(0, len(peptides), BATCH_SIZE)]
    for batch in (batches[0], batches[-1]):
        forward(tf.constant(batch))
    loading = passing = 0.0
    for file in files:
        began = perf_counter()
        model.load_weights(file)
        loaded = perf_counter()
        for batch in batches:
            for output in forward(tf.constant(batch)):
                output.numpy()
        loading += loaded - began
        passing += perf_counter() - loaded
    return loading, passing


def _processes(files: Sequence[Path], peptides: Peptides) -> None:
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "peptides.npy"
        np.save(data, peptides)
        began = perf_counter()
        for number, file in enumerate(files[:PROCESSES]):
            subprocess.run(
                [
                    *(sys.executable, "-m", "extractkit", "model=keras", _FACTORY, _SELECTOR),
                    *(f"model.checkpoint='{file}'", "inputs=arrays", f"inputs.path={data}"),
                    f"run_dir={name}/run-{number}",
                ],
                check=True,
                capture_output=True,
            )
        each = (perf_counter() - began) / PROCESSES
    print(
        f"  a process for each, {len(peptides)} samples: {each:.1f} s each (mean of {PROCESSES}), "
        f"so {each * len(files):.0f} s for all"
    )
