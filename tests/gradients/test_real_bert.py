"""Gradients of the MiniLM with respect to its embeddings, against GradientTape."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.models.bert import load
from tests.corpus import stdlib_docstrings
from tests.oracles.wordpiece import WordPiece

pytestmark = pytest.mark.real_model

TEXTS = ["a", *stdlib_docstrings(9), "every word " * 60, "Ünïcode straße, « naïve » — 北京"]
LAST = "transformer_layer_5:output"


def test_embeddings_of_texts_of_many_lengths(tmp_path: Path) -> None:
    run = extractkit.extract(
        ["model=bert", "model.max_length=48", "selectors=none"],
        inputs=TEXTS,
        selectors={
            "words": {
                "path": "token_embedding:output",
                "gradient": {"of": {"tensor": LAST, "index": [-1, 7], "minus": [0, 3]}},
            }
        },
        run_dir=tmp_path / "run",
    )
    assert run.manifest.settings["sharing"] == "samples of any lengths"
    view = run["token_embedding:output@grad"]
    backbone = load().keras_model
    table = backbone.get_layer("token_embedding").embeddings.value
    every = WordPiece(Path(str(run.manifest.model["path"]))).token_ids(TEXTS, max_length=48)
    assert len({len(ids) for ids in every}) > 6
    for at, ids in enumerate(every):
        row = np.array([ids], np.int32)
        given = {
            "token_ids": row,
            "segment_ids": np.zeros_like(row),
            "padding_mask": np.ones_like(row),
        }
        with tf.GradientTape() as tape:
            found = backbone(given, training=False)
            hidden = found["sequence_output"]
            number = hidden[0, -1, 7] - hidden[0, 0, 3]
        # Of a table, TensorFlow gives one row for each token that was looked up.
        by_token = tape.gradient(number, table)
        assert by_token.indices.numpy().ravel().tolist() == ids
        wanted = by_token.values.numpy().reshape(len(ids), -1)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(view.sample(at) / scale, wanted / scale, rtol=0, atol=1e-5)
