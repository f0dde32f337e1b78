"""Runs of gradients: resumed, recomputed, with transforms and statistics, and their identity."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import extractkit
from extractkit.core.values import Array

ROWS = np.random.default_rng(0).normal(size=(11, 4)).astype("float32")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(0)
    given = keras.Input((4,), name="x")
    hidden = layers.Dense(5, activation="silu", name="hidden")(given)
    path = tmp_path_factory.mktemp("model") / "net.keras"
    keras.Model(given, layers.Dense(3, name="head")(hidden)).save(path)
    return path


def extracted(
    file: Path, directory: Path, *given: str, of: object = "argmax", **selector: object
) -> extractkit.Run:
    return extractkit.extract(
        ["model=keras", f"model.path={file}", "selectors=none", "runtime.shard_size=4", *given],
        inputs=ROWS,
        selectors={"g": {"path": "hidden:output", "gradient": {"of": of}, **selector}},
        run_dir=directory,
    )


def shards(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "shards").iterdir())}


def test_a_resumed_run_has_the_same_bits_and_can_be_recomputed(file: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    extracted(file, whole)
    extracted(file, cut)
    for shard in sorted((cut / "shards").iterdir())[1:]:
        shard.unlink()
    extractkit.resume(cut, inputs=ROWS)
    assert shards(whole) == shards(cut)
    found = extractkit.verify(cut, recompute=3, inputs=ROWS)
    assert not found.failed, [str(one) for one in found.findings]
    assert "3 of 3 shards, bit for bit" in str([one.detail for one in found.checks])


def test_the_target_is_part_of_the_identity(file: Path, tmp_path: Path) -> None:
    one, same, other = (
        extracted(file, tmp_path / str(at), of=of)
        for at, of in enumerate(["argmax", {"tensor": ":output", "index": "argmax"}, {"index": 0}])
    )
    assert one.manifest.identity is not None
    assert one.manifest.identity == same.manifest.identity != other.manifest.identity
    assert other.manifest.tensors[0].gradient == {"tensor": ":output", "index": [0]}
    assert list(one) == list(other) == ["hidden:output@grad"]


def test_statistics_are_those_of_the_gradients(file: Path, tmp_path: Path) -> None:
    rows = np.asarray(extracted(file, tmp_path / "rows")["hidden:output@grad"])
    run = extracted(file, tmp_path / "moments", statistics=["moments"])
    assert run.manifest.statistics[0].gradient == {"tensor": ":output", "index": "argmax"}
    found = run.statistics["hidden:output@grad"].moments
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), rtol=1e-6)


def test_transforms_apply_to_gradients(file: Path, tmp_path: Path) -> None:
    rows: Array = np.asarray(extracted(file, tmp_path / "rows")["hidden:output@grad"])
    run = extracted(file, tmp_path / "norm", reduce="norm")
    wanted = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(run["hidden:output@grad"], wanted, rtol=1e-6)


def test_the_ready_selector_takes_real_inputs(file: Path, tmp_path: Path) -> None:
    run = extractkit.extract(
        ["model=keras", f"model.path={file}", "selectors=gradients"],
        inputs=ROWS,
        run_dir=tmp_path / "run",
    )
    assert list(run) == [":input.x@grad"]
    model = keras.models.load_model(file)
    step = np.float32(1e-2)
    for axis in range(4):
        moved = np.zeros(4, np.float32)
        moved[axis] = step
        up, down = (model(ROWS + sign * moved).numpy() for sign in (1, -1))
        chosen = model(ROWS).numpy().argmax(1)
        differences = (up - down)[np.arange(11), chosen] / (2 * step)
        np.testing.assert_allclose(run[":input.x@grad"][:, axis], differences, atol=2e-3)
