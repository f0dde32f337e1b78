"""Jobs over published checkpoints against loops written by hand, and against h5py."""

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from experiments.real_models import architectures
from extractkit.core.component import Component
from extractkit.inputs.in_memory import LiveArrays
from extractkit.models.checkpoint import load as load_weights_alone
from extractkit.models.keras_file import load
from extractkit.runs import drift
from extractkit.runs.reader import Run
from tests.engine.examples import executed, job
from tests.models.zoo import drawn
from tests.real_models import real_model

pytestmark = pytest.mark.real_model

SAVES = "mhcnuggets/saves/production"
LAYERS = ("lstm", "hidden", "affinity")
WEIGHTS = (
    "lstm_1:kernel", "lstm_1:recurrent_kernel", "lstm_1:bias",
    "dense_1:kernel", "dense_1:bias", "dense_2:kernel", "dense_2:bias",
)  # fmt: skip


@pytest.fixture(scope="module")
def saves() -> Path:
    return real_model("mhcnuggets", SAVES)


def stored(file: Path) -> list[np.ndarray]:
    """Its arrays by h5py, in the order of WEIGHTS."""
    with h5py.File(file, "r") as opened:
        return [
            opened[f"{layer}/{layer}/{name}:0"][()]
            for layer, name in (key.split(":") for key in WEIGHTS)
        ]


def test_mhcnuggets_over_twelve_checkpoints_is_twelve_times_load_and_predict(
    saves: Path, tmp_path: Path
) -> None:
    files = sorted(saves.glob("*_BA.h5"))[::18][:12]
    assert len(files) == 12
    draw = np.random.default_rng(0)
    x = np.eye(21, dtype=np.float32)[draw.integers(0, 21, (10, 15))]
    for sample, length in enumerate((15, 9, 9, 10, 12, 8, 15, 11, 9, 14)):
        x[sample, length:] = -4200000.0
    given = load(
        factory=Component("model.factory", f"{architectures.__name__}.mhcnuggets"),
        checkpoints=[str(file) for file in files],
    )
    selectors = ({"path": [f"{layer}:output" for layer in LAYERS]}, {"kind": "weight"})
    run = executed(
        tmp_path / "run", job(*selectors, model=given, inputs=LiveArrays(x), shard_size=6)
    )
    assert run.checkpoints == tuple(file.stem for file in files)

    model = architectures.mhcnuggets()
    probe = keras.Model(model.inputs, [model.get_layer(name).output for name in LAYERS])
    for at, file in enumerate(files):
        model.load_weights(file)
        wanted = probe.predict(x, verbose=0)
        for name, expected in zip(LAYERS, wanted, strict=True):
            found = run[f"{name}:output"][at]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=file.name)
        by_shape = [run[f"{layer}:{name}"][at] for layer, name in OWN]
        for found, expected in zip(by_shape, stored(file), strict=True):
            np.testing.assert_array_equal(found, expected, strict=True)
    assert np.ptp(np.asarray(run["affinity:output"]), axis=0).min() > 1e-4  # they do differ


CELL = "lstm/lstm_cell"
OWN = (
    (CELL, "kernel"), (CELL, "recurrent_kernel"), (CELL, "bias"),
    ("hidden", "kernel"), ("hidden", "bias"), ("affinity", "kernel"), ("affinity", "bias"),
)  # fmt: skip
"""As the architecture calls WEIGHTS."""


def test_all_of_mhcnuggets_as_weights_alone_is_what_h5py_reads(
    saves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CKA of 256 gates 284 times is most of the time, and measured elsewhere.
    monkeypatch.setattr(drift, "WIDEST", 64)
    model = load_weights_alone(checkpoints=f"{saves}/*_BA.h5")
    run = executed(tmp_path / "run", job({"kind": "weight"}, model=model, inputs=()))
    assert len(run.checkpoints) == 284
    read = [stored(saves / f"{label}.h5") for label in run.checkpoints]
    assert {f"{label}.h5" for label in run.checkpoints} == {f.name for f in saves.glob("*_BA.h5")}
    for key, *expected in zip(WEIGHTS, *read, strict=True):
        np.testing.assert_array_equal(np.asarray(run[key]), np.stack(expected), strict=True)
    assert_drift(run, "lstm_1:kernel")


def assert_drift(run: Run, key: str) -> None:
    """The relative norms of all steps, by NumPy."""
    assert run.drift is not None
    values = np.asarray(run[key]).astype(np.float64)
    steps = np.linalg.norm(np.diff(values, axis=0), axis=(1, 2))
    expected = steps / np.linalg.norm(values[:-1], axis=(1, 2))
    found = run.drift.tensors[key].from_previous.relative_norm
    np.testing.assert_allclose(np.array(found[1:], float), expected, rtol=1e-9)


def test_of_deeplcs_three_files_those_of_other_architectures_are_reported_and_left_out(
    tmp_path: Path,
) -> None:
    """Their first convolutions are of different sizes."""
    folder = real_model("deeplc", "deeplc/mods")
    files = sorted(folder.glob("*.keras"))
    assert len(files) == 3
    given = load(str(files[1]), checkpoints=[str(file) for file in files])
    batch = drawn(given.signature, 5, 0)
    only = {"path": ":output"}
    wanted = job(only, model=given, inputs=LiveArrays(batch), bad_checkpoints="skip")
    run = executed(tmp_path / "run", wanted)
    reasons = {one.path: one.reason for one in run.manifest.excluded}
    assert reasons.keys() == {str(files[0]), str(files[2])}
    assert all("'conv1d' kernel_size is " in one for one in reasons.values())
    live = keras.saving.load_model(files[1], compile=False)
    expected = live.predict(list(batch.values()), verbose=0)
    np.testing.assert_allclose(run[":output"][0], expected, rtol=1e-5, atol=1e-5)
