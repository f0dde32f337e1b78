"""A model of Keras on workers: bits that depend on threads are those of one process."""

import json
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from tests.faults.runs import content

ROOT = Path(__file__).parents[3]
JOB = (
    *("model=keras", "model.path=wide.keras", "inputs=arrays", "inputs.path=x.npy"),
    *("selectors=layers", "sinks=[hdf5,npz]", "runtime.batch_size=1"),
    *("runtime.shard_size=2", "runtime.threads=1"),
)


Run = Callable[..., Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with so many inputs that its sums depend on threads, at one sample a batch."""
    place = tmp_path_factory.mktemp("wide")
    keras.utils.set_random_seed(1)
    wide = [layers.Dense(300, activation="gelu"), layers.Dense(4)]
    keras.Sequential([keras.Input((20_000,)), *wide]).save(place / "wide.keras")
    samples = np.random.default_rng(0).normal(size=(8, 20_000)).astype(np.float32)
    np.save(place / "x.npy", samples)
    return place


@pytest.fixture(scope="module")
def run(place: Path, preloaded: Path) -> Run:
    """Run the job, with more overrides, in a directory of that name."""

    def call(name: str, *more: str) -> Path:
        done = subprocess.run(
            [preloaded / "extractkit", *JOB, *more, f"hydra.run.dir={name}"],
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return place / name

    return call


@pytest.fixture(scope="module")
def local(run: Run) -> Path:
    """The run of one process."""
    return run("local")


def values(directory: Path) -> dict[str, object]:
    """What must be the same: everything but what Hydra composed, and what was typed."""
    found = {k: v for k, v in content(directory).items() if not k.startswith(".hydra")}
    manifest = found["manifest.json"]
    assert isinstance(manifest, dict)
    for key in ("job_given", "job_resolved", "files"):
        del manifest[key]
    return found


@pytest.mark.parametrize("engine", ["processes", pytest.param("ray", marks=pytest.mark.thorough)])
def test_two_workers_have_the_bits_of_one_process(run: Run, local: Path, engine: str) -> None:
    if engine == "ray" and find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    two = run(engine, f"runtime.engine={engine}", "runtime.workers=2")
    assert values(two) == values(local)
    manifest = json.loads((two / "manifest.json").read_text("utf-8"))
    assert manifest["settings"]["intra_op_threads"] == 1
    assert len(manifest["volatile"]["workers"]) == 1


@pytest.mark.thorough
@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")
def test_two_workers_have_the_bits_of_one_process_with_openvino(run: Run) -> None:
    one = run("openvino", "runtime.compile=openvino")
    two = run("both", "runtime.compile=openvino", "runtime.engine=processes", "runtime.workers=2")
    assert values(two) == values(one)
    manifest = json.loads((two / "manifest.json").read_text("utf-8"))
    assert manifest["settings"]["compile"] == "openvino"
    assert len(manifest["volatile"]["workers"]) == 1


def test_the_bits_do_depend_on_threads_here(run: Run, local: Path) -> None:
    """Otherwise the tests above would tell nothing of them."""
    other = content(run("other", "runtime.threads=2"))
    assert other["journal.jsonl"] != content(local)["journal.jsonl"]
