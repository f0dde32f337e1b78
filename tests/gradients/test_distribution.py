"""Gradients by label, with checkpoints: the same bits however a job is divided or interrupted."""

from pathlib import Path

import keras
import numpy as np
import pytest

import extractkit
from extractkit import cli
from tests.engine.examples import Collected
from tests.gradients.networks import classifier

ROWS = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 3, 10)
LOSS = {"loss": "sparse_categorical_crossentropy", "options": {"from_logits": True}}
SELECTORS = {
    "inputs": {"kind": "model_input", "gradient": {"of": {"index": "argmax", "minus": "label"}}},
    "loss": {"path": "hidden:output", "gradient": {"of": LOSS}},
    "weights": {"kind": "weight", "gradient": {"of": LOSS}, "statistics": ["total"]},
}


class Stopping(Collected):
    """Interrupts the job once values are stored."""

    def advanced(self, samples: int, stored: int) -> None:
        super().advanced(samples, stored)
        if self.bytes:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two checkpoints, its samples, and an undisturbed run."""
    folder = tmp_path_factory.mktemp("distribution")
    model = classifier()
    model.save(folder / "net.keras")
    for seed in (1, 2):
        draw = np.random.default_rng(seed)
        model.set_weights([draw.normal(size=one.shape) for one in model.get_weights()])
        model.save_weights(folder / f"step_{seed}.weights.h5")
    np.savez(folder / "x.npz", x=ROWS, y=LABELS)
    extracted(folder, folder / "whole")
    return folder


def extracted(
    folder: Path, run_dir: Path, *given: str, listener: Collected | None = None
) -> extractkit.Run:
    how = ["model=keras", f"model.path={folder / 'net.keras'}", "selectors=none"]
    how += [f"model.checkpoints={folder}/step_*.weights.h5", "runtime.shard_size=4"]
    how += ["inputs=arrays", f"inputs.path={folder / 'x.npz'}", "inputs.labels=y"]
    return extractkit.extract(
        [*how, *given], selectors=SELECTORS, run_dir=run_dir, listener=listener
    )


def same(run: Path, whole: Path) -> None:
    one, other = extractkit.open(run), extractkit.open(whole)
    assert one.journal.digests() == other.journal.digests()
    assert one.manifest.identity == other.manifest.identity
    assert (run / "statistics.npz").read_bytes() == (whole / "statistics.npz").read_bytes()


def test_gradients_of_each_checkpoint(folder: Path) -> None:
    run = extractkit.open(folder / "whole")
    assert set(run) == {":input.x@grad", "hidden:output@grad"}
    model = keras.models.load_model(folder / "net.keras")
    for at, seed in enumerate((1, 2)):
        model.load_weights(folder / f"step_{seed}.weights.h5")
        kernel, bias = (one.numpy().astype(np.float64) for one in model.layers[-1].weights)
        first, shift = (one.numpy().astype(np.float64) for one in model.layers[1].weights)
        hidden = np.tanh(ROWS @ first + shift)
        logits = hidden @ kernel + bias
        shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        of_logits = shares - np.eye(3)[LABELS]
        found = run.at(f"step_{seed}")["hidden:output@grad"][:]
        np.testing.assert_allclose(found, of_logits @ kernel.T, rtol=1e-4, atol=1e-6)
        total = run.statistics["head:kernel@grad"].total.sum[at]
        np.testing.assert_allclose(total, hidden.T @ of_logits, rtol=1e-4, atol=1e-5)


def test_interrupted_and_resumed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        extracted(folder, tmp_path / "run", listener=Stopping())
    left = extractkit.open(tmp_path / "run")
    assert 0 < len(left.journal.by_shard()) < 6
    extractkit.resume(tmp_path / "run")
    same(tmp_path / "run", folder / "whole")


def test_in_parts_and_joined(folder: Path, tmp_path: Path) -> None:
    for part in (1, 2):
        extracted(folder, tmp_path / "run", f"runtime.part={part}/2")
    extractkit.join(tmp_path / "run")
    same(tmp_path / "run", folder / "whole")


@pytest.mark.usefixtures("quick_tensorflow_workers")
def test_with_workers(folder: Path, tmp_path: Path) -> None:
    extracted(folder, tmp_path / "run", "runtime.engine=processes", "runtime.workers=1")
    same(tmp_path / "run", folder / "whole")


def test_in_a_sweep_over_targets(folder: Path, tmp_path: Path) -> None:
    job = ["model=keras", f"model.path={folder / 'net.keras'}", "selectors=gradients"]
    job += ["inputs=arrays", f"inputs.path={folder / 'x.npz'}", "inputs.labels=y"]
    key = "selectors.gradients.gradient.of"
    assert cli.execute(["-m", *job, f"{key}=argmax,{{index: label}}", f"run_dir={tmp_path}"]) == 0
    for at, of in enumerate(("argmax", "{index: label}")):
        alone = extractkit.extract([*job, f"{key}={of}"], run_dir=tmp_path / f"alone{at}")
        swept = extractkit.open(tmp_path / str(at))
        assert swept.journal.digests() == alone.journal.digests()


def test_verify_recomputes_every_shard(folder: Path) -> None:
    found = extractkit.verify(folder / "whole", recompute=6)
    assert not found.failed, [str(one) for one in found.findings]
