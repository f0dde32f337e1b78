"""Make the stored runs of one schema: `python tests/golden/make_runs.py [CHECKOUT [early]]`.

`CHECKOUT` is a work tree with the commit that is to write them; without it, this one writes them.
Make the runs of a schema before it is raised, and never again: `runs/schema-N/` must hold what the
code of its time wrote. A copy of the package runs in a neutral directory under a made-up host, so
that nothing of this machine gets into a run.

The commits that wrote them, on Python 3.11.7 with TensorFlow 2.21.0, Keras 3.15.1, NumPy 2.4.6 and
h5py 3.14.0; none needed a change for these:

    runs of         by       since this schema there are
    schema-1        bc3680f  runs, interrupted ones
    schema-2        82fb8c9  samples without values (`missing`)
    schema-3        2395581  trajectories over checkpoints, joined parts, sweeps with an index
    schema-4        fdcf705  self-checks
    schema-5        426f055  carried state
    schema-6        4f78007  values versions
    schema-7        584d1f7  `runtime.part`; `unextractable`, `missing` and `excluded`
    schema-8        8a000d8  the version of the samples' rows
    schema-9        9ec6aeb  statistics and transforms, interrupted ones
    schema-10       afa6f62  recorded transforms and components
    schema-11       169fc4a  gradients
    schema-12       30443f1  steps of a training
    schema-13       04fc6aa  requests of any kind

Each is the last commit of its schema; a few that changed no record followed that of schema 5.
Schemas 1 to 3 gained fields under one number in their first hours. Of two of these early forms
there is a finished and an interrupted run (`early`):

    schema-2-early  80d06ff  statistics without the number of elements
    schema-3-early  e7c3789  no parts, no workers

Before 921fef7 manifests of schema 1 had layers without names. Those commits cannot write these
runs, as they had no `inputs=dataset`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

GOLDEN = Path(__file__).parent
NEUTRAL = Path("/tmp/x")
HOST = {"name": "host", "system": "Linux", "machine": "x86_64", "processor": "some processor"}

MODEL = ("model=keras", "model.factory._target_=linear.build")
STEP_0 = (*MODEL, "model.checkpoint=step_0.safetensors")
INPUTS = ("inputs=dataset", "inputs.dataset._target_=linear.samples")
TENSORS = (
    "selectors=[outputs,weights]",
    "+selectors.total={path: 'hidden:output', reduce: {1: sum}}",
    "runtime.shard_size=2",
)
STATISTICS = (
    "selectors=none",
    "+selectors.spread={path: 'hidden:output', statistics: [moments, {top: {k: 2}}]}",
    "+selectors.pieces={path: ':output', do: [{slice: {1: '-2:'}}, "
    "{quantile: {q: [0, 1], axis: 1}}]}",
    "+selectors.largest={path: ':output', do: [{topk: {axis: 2, k: 2}}]}",
    "+selectors.last={path: 'hidden:output', slice: {1: '-1:'}, cast: float16}",
    "+selectors.kernel={path: 'hidden:kernel', do: [abs]}",
    "runtime.shard_size=2",
)
GRADIENTS = (
    "selectors=none",
    "+selectors.slope={path: ':input', "
    "gradient: {of: {tensor: 'hidden:output', index: [-1, 2], minus: [0, 1]}}}",
    "+selectors.chosen={path: 'hidden:kernel', gradient: {of: argmax}}",
    "runtime.batch_size=1",
    "runtime.shard_size=2",
)
BOTH_SINKS = "sinks=[hdf5,npz]"
FAULTY = ("+inputs.dataset.faulty=true", "runtime.bad_samples=skip")


def main() -> None:
    """Make the runs in a process of their own and store them."""
    checkout = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else GOLDEN.parents[1]
    early = sys.argv[2:] == ["early"]
    shutil.rmtree(NEUTRAL, ignore_errors=True)
    NEUTRAL.mkdir()
    for name in ("extractkit", "conf"):
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(checkout / name, NEUTRAL / name, ignore=caches)
    for name in ("linear.py", Path(__file__).name):
        shutil.copy(GOLDEN / name, NEUTRAL / name)
    environment = {**os.environ, "PYTHONPATH": str(NEUTRAL)}
    schema = int(_python("print(make_runs.schema())", environment).split()[-1])
    target = GOLDEN / "runs" / f"schema-{schema}{'-early' if early else ''}"
    if target.exists():
        sys.exit(f"{target} exists: stored runs of a schema are never made again")
    _python(f"make_runs.make({early=})", environment)
    for made in sorted(NEUTRAL.iterdir()):
        if (made / "manifest.json").exists() or (made / "sweep.json").exists():
            shutil.copytree(made, target / made.name)


def _python(statement: str, environment: dict[str, str]) -> str:
    """What a process in the neutral directory prints."""
    program = [sys.executable, "-c", f"import make_runs; {statement}"]
    done = subprocess.run(
        program, cwd=NEUTRAL, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def schema() -> int:
    """The version that the package in the neutral directory writes."""
    from extractkit.runs.manifest import SCHEMA

    return SCHEMA


def make(early: bool) -> None:
    """Make the runs below the working directory; of an early form of a schema, the first two."""
    # TensorFlow describes the machine while it is imported: not into a run's log.
    import tensorflow as tf  # noqa: F401

    import extractkit.engine.execute

    extractkit.engine.execute.host = lambda: dict(HOST)
    _write_weights()
    _command(*STEP_0, *INPUTS, *TENSORS, BOTH_SINKS, "hydra.run.dir=finished")
    _interrupted("interrupted", (*TENSORS, BOTH_SINKS))
    if early:
        return
    if schema() == 2:
        _command(*STEP_0, *INPUTS, *FAULTY, *TENSORS, "hydra.run.dir=missing")
    if schema() >= 3:
        _trajectory_joined_and_sweep()
    if schema() >= 9:
        _command(*STEP_0, *INPUTS, *STATISTICS, "hydra.run.dir=statistics")
        _interrupted("statistics_interrupted", STATISTICS)
    if schema() >= 11:
        _command(*STEP_0, *INPUTS, *GRADIENTS, "hydra.run.dir=gradients")
        _interrupted("gradients_interrupted", GRADIENTS)
    if schema() >= 12:
        _training()


def _training() -> None:
    """A run that is recorded while its model is trained, and one of a training that stopped."""
    import keras
    import numpy as np

    import extractkit

    def stop(epoch: int, logs: object) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    samples = np.arange(10, dtype="float32").reshape(5, 2) / 10
    stopping = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    for name, others in (("training", []), ("training_interrupted", [stopping])):
        keras.utils.set_random_seed(0)
        layer = keras.layers.Dense(3, name="hidden")
        model = keras.Sequential([keras.Input((2,)), layer])
        model.compile("sgd", "mse")
        wanted = {
            "values": {"path": "hidden:*"},
            "spread": {"path": "hidden:output", "statistics": ["moments", "histogram"]},
        }
        probe = extractkit.Callback(wanted, samples, name)
        with contextlib.suppress(KeyboardInterrupt):
            given = {"epochs": 2, "shuffle": False, "verbose": 0}
            model.fit(samples, np.ones((5, 3)), callbacks=[probe, *others], **given)


def _trajectory_joined_and_sweep() -> None:
    import extractkit

    steps = ("model.checkpoints='step_*.safetensors'", "model.checkpoint_step='step_([0-9]+)'")
    _command(*MODEL, *steps, *INPUTS, *TENSORS, "hydra.run.dir=trajectory")
    key = "runtime.part" if schema() >= 7 else "runtime.shards"
    for part in ("1/2", "2/2"):
        joined = (f"{key}={part}", "hydra.run.dir=joined")
        _command(*STEP_0, *INPUTS, *FAULTY, *TENSORS, *joined)
    join = extractkit.join if schema() >= 7 else extractkit.finalize
    join("joined")
    step = "model.checkpoint=step_0.safetensors,step_20.safetensors"
    _command("-m", *MODEL, step, *INPUTS, *TENSORS, "sinks=npz", "hydra.sweep.dir=sweep")


def _write_weights() -> None:
    import numpy as np
    from safetensors.numpy import save_file

    for step in (0, 10, 20):
        kernel = np.arange(6, dtype="float32").reshape(2, 3) - 2 + step
        bias = np.array([1, -1, step], "float32")
        weights = {"sequential/hidden/kernel": kernel, "sequential/hidden/bias": bias}
        save_file(weights, f"step_{step}.safetensors")


def _command(*arguments: str) -> None:
    from extractkit import cli

    code = cli.execute(arguments)
    assert code == 0, (code, arguments)


def _interrupted(name: str, tensors: tuple[str, ...]) -> None:
    """A run that stops, as by Ctrl-C, once its constants and its first range are committed."""
    import extractkit
    from extractkit.engine import Silent

    class Impatient(Silent):
        commits = 0

        def advanced(self, samples: int, stored: int) -> None:
            self.commits += stored > 0
            if self.commits == 2:
                raise KeyboardInterrupt

    try:
        extractkit.extract([*STEP_0, *INPUTS, *tensors], run_dir=name, listener=Impatient())
    except KeyboardInterrupt:
        return
    raise AssertionError("the run was not interrupted")


if __name__ == "__main__":
    main()
