"""Gradients of the MiniLM against PyTorch's, in float64 on the same weights.

Skipped where PyTorch or transformers is missing. To run it, install both in an environment of its
own that has extractkit's extras, and from the root of the repository:

    python -m pytest tests/oracles/test_gradients_against_torch.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extractkit
from tests.corpus import stdlib_docstrings
from tests.oracles.wordpiece import WordPiece

torch = pytest.importorskip("torch", reason="needs PyTorch: see this file's docstring")
transformers = pytest.importorskip("transformers", reason="needs transformers: see the docstring")

pytestmark = pytest.mark.oracle

TEXTS = ["a", *stdlib_docstrings(6)]


def test_gradients_with_respect_to_embeddings(tmp_path: Path) -> None:
    """Of the largest element of the last layer minus another one, for texts of many lengths."""
    of = {"tensor": "transformer_layer_5:output", "index": "argmax", "minus": [0, 3]}
    run = extractkit.extract(
        ["model=bert", "model.max_length=64", "selectors=none"],
        inputs=TEXTS,
        selectors={"words": {"path": "token_embedding:output", "gradient": {"of": of}}},
        run_dir=tmp_path / "run",
    )
    folder = Path(str(run.manifest.model["path"]))
    model: Any = transformers.BertModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float64
    ).eval()
    for at, ids in enumerate(WordPiece(folder).token_ids(TEXTS, max_length=64)):
        words = model.embeddings.word_embeddings(torch.tensor([ids])).detach().requires_grad_()
        last = model(inputs_embeds=words).last_hidden_state[0]
        (last.max() - last[0, 3]).backward()
        wanted = words.grad[0].numpy()
        found = run["token_embedding:output@grad"].sample(at)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=1e-5)
