"""Make the stored runs of the current schema: `python tests/golden/make_runs.py`.

Run it before the schema is raised, and never again for that schema: `runs/SCHEMA/` must hold what
the code of its time wrote. A copy of the package runs in a neutral directory under a made-up host,
so that nothing of this machine gets into a run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

GOLDEN = Path(__file__).parent
NEUTRAL = Path("/tmp/x")
RUNS = ("finished", "interrupted", "trajectory", "joined", "sweep")
HOST = {"name": "host", "system": "Linux", "machine": "x86_64", "processor": "some processor"}

MODEL = ("model=keras", "model.factory._target_=linear.build")
STEP_0 = (*MODEL, "model.checkpoint=step_0.safetensors")
INPUTS = ("inputs=dataset", "inputs.dataset._target_=linear.samples")
TENSORS = (
    "selectors=[outputs,weights]",
    "+selectors.total={path: 'hidden:output', reduce: {1: sum}}",
    "runtime.shard_size=2",
)
BOTH_SINKS = "sinks=[hdf5,npz]"


def main() -> None:
    """Make the runs in a process of their own and store them."""
    sys.path.insert(0, str(GOLDEN.parents[1]))
    from extractkit.runs.manifest import SCHEMA

    target = GOLDEN / "runs" / f"schema-{SCHEMA}"
    if target.exists():
        sys.exit(f"{target} exists: stored runs of a schema are never made again")
    shutil.rmtree(NEUTRAL, ignore_errors=True)
    NEUTRAL.mkdir()
    for name in ("extractkit", "conf"):
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(GOLDEN.parents[1] / name, NEUTRAL / name, ignore=caches)
    for name in ("linear.py", Path(__file__).name):
        shutil.copy(GOLDEN / name, NEUTRAL / name)
    environment = {**os.environ, "PYTHONPATH": str(NEUTRAL)}
    program = "import make_runs; make_runs.make()"
    subprocess.run([sys.executable, "-c", program], cwd=NEUTRAL, env=environment, check=True)
    for name in RUNS:
        shutil.copytree(NEUTRAL / name, target / name)


def make() -> None:
    """Make every run below the working directory."""
    # TensorFlow describes the machine while it is imported: not into a run's log.
    import tensorflow as tf  # noqa: F401

    import extractkit
    import extractkit.engine.execute

    extractkit.engine.execute.host = lambda: dict(HOST)
    _write_weights()
    _command(*STEP_0, *INPUTS, *TENSORS, BOTH_SINKS, "hydra.run.dir=finished")
    _interrupted()
    steps = ("model.checkpoints='step_*.safetensors'", "model.checkpoint_step='step_([0-9]+)'")
    _command(*MODEL, *steps, *INPUTS, *TENSORS, "hydra.run.dir=trajectory")
    faulty = ("+inputs.dataset.faulty=true", "runtime.bad_samples=skip")
    for part in ("1/2", "2/2"):
        joined = (f"runtime.shards={part}", "hydra.run.dir=joined")
        _command(*STEP_0, *INPUTS, *faulty, *TENSORS, *joined)
    extractkit.finalize("joined")
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


def _interrupted() -> None:
    """A run that stops, as by Ctrl-C, once its constants and its first range are committed."""
    import extractkit
    from extractkit.engine.listener import Silent

    class Impatient(Silent):
        commits = 0

        def advanced(self, samples: int, stored: int) -> None:
            self.commits += stored > 0
            if self.commits == 2:
                raise KeyboardInterrupt

    try:
        extractkit.extract(
            [*STEP_0, *INPUTS, *TENSORS, BOTH_SINKS], run_dir="interrupted", listener=Impatient()
        )
    except KeyboardInterrupt:
        return
    raise AssertionError("the run was not interrupted")


if __name__ == "__main__":
    main()
