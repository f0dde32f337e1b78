"""Sparse storage, written down by hand as TFLite's schema defines it."""

import numpy as np

from extractkit.models.litert.catalog import densify, dequantized
from extractkit.models.litert.graph import Quantization

_SPARSE, _DENSE = 1, 0


def test_rows_of_a_matrix() -> None:
    sparsity = {
        "traversal_order": [0, 1],
        "dim_metadata": [
            {"format": _DENSE, "dense_size": 3},
            {"format": _SPARSE, "array_segments": [0, 2, 2, 3], "array_indices": [0, 3, 1]},
        ],
    }
    dense = densify(np.array([5, 6, 7], np.float32), (3, 4), sparsity)
    assert dense.tolist() == [[5, 0, 0, 6], [0, 0, 0, 0], [0, 7, 0, 0]]


def test_columns_first() -> None:
    sparsity = {
        "traversal_order": [1, 0],
        "dim_metadata": [
            {"format": _DENSE, "dense_size": 2},
            {"format": _SPARSE, "array_segments": [0, 1, 3], "array_indices": [2, 0, 1]},
        ],
    }
    dense = densify(np.array([1, 2, 3], np.int8), (3, 2), sparsity)
    assert dense.tolist() == [[0, 2], [0, 3], [1, 0]]


def test_blocks_of_two_by_two() -> None:
    """Block rows and columns first, then places inside a block (TFLite's own example)."""
    sparsity = {
        "traversal_order": [0, 1, 2, 3],
        "block_map": [0, 1],
        "dim_metadata": [
            {"format": _DENSE, "dense_size": 2},
            {"format": _SPARSE, "array_segments": [0, 1, 2], "array_indices": [1, 0]},
            {"format": _DENSE, "dense_size": 2},
            {"format": _DENSE, "dense_size": 2},
        ],
    }
    dense = densify(np.arange(1, 9, dtype=np.float32), (4, 4), sparsity)
    expected = np.zeros((4, 4))
    expected[:2, 2:] = [[1, 2], [3, 4]]
    expected[2:, :2] = [[5, 6], [7, 8]]
    assert dense.tolist() == expected.tolist()


def test_dequantised_by_tensor_and_by_axis() -> None:
    q = np.array([[-128, 0], [127, 4]], np.int8)
    whole = Quantization(np.array([0.5], np.float32), np.array([-128]), 0)
    assert dequantized(q, whole).tolist() == [[0, 64], [127.5, 66]]
    columns = Quantization(np.array([0.5, 2], np.float32), np.array([0, 1]), 1)
    assert dequantized(q, columns).tolist() == [[-64, -2], [63.5, 6]]
    assert dequantized(np.array(3, np.uint8), whole).shape == ()
