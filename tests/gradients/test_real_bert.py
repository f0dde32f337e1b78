"""Gradients of the MiniLM with respect to its embeddings, against GradientTape and differences."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.models.bert import load
from tests.corpus import stdlib_docstrings
from tests.oracles.bert_float64 import Array, BertFloat64
from tests.oracles.wordpiece import WordPiece

pytestmark = [pytest.mark.real_model, pytest.mark.thorough]

LAST = "transformer_layer_5:output"


class Moved(BertFloat64):
    """A BERT whose embeddings of words are moved."""

    by: Array

    def _norm(self, name: str, x: Array) -> Array:
        return super()._norm(name, x + self.by if name == "embeddings.LayerNorm" else x)


def test_embeddings_of_texts_of_many_lengths(tmp_path: Path) -> None:
    texts = ["a", *stdlib_docstrings(9), "every word " * 60, "Ünïcode straße, « naïve » — 北京"]
    run = extractkit.extract(
        ["model=bert", "model.max_length=48", "selectors=none"],
        inputs=texts,
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
    folder = Path(str(run.manifest.model["path"]))
    every = WordPiece(folder).token_ids(texts, max_length=48)
    _follow_differences(view, folder, every[:4])
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


def _follow_differences(
    view: extractkit.TensorView, folder: Path, samples: Sequence[list[int]]
) -> None:
    """Compare with central differences in float64 along random directions, without TensorFlow."""
    bert, draw, step = Moved(folder), np.random.default_rng(0), 1e-4

    def number(ids: list[int], by: Array) -> float:
        bert.by = by
        last = bert.forward(ids).hidden_states[-1]
        return float(last[-1, 7] - last[0, 3])

    for at, ids in enumerate(samples):
        gradient = view.sample(at).astype(np.float64)
        for _ in range(2):
            along = draw.normal(size=gradient.shape)
            along /= np.linalg.norm(along)
            slope = (number(ids, step * along) - number(ids, -step * along)) / (2 * step)
            assert abs((gradient * along).sum() - slope) < 1e-5 * np.linalg.norm(gradient)
