"""safetensors, held against what was written and against the bytes of the file."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from extractkit.errors import ModelError
from extractkit.models.weight_files import Entry, Location, open_weights
from tests.models.weight_files import examples

WRITTEN = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}


def by_hand(file: Path, dtype: str, content: bytes, shape: list[int]) -> None:
    """A file of one tensor `x`, laid out by the format's description."""
    header = {"__metadata__": {"format": "pt"}}
    header["x"] = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]}  # type: ignore[dict-item]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + content)


def test_arrays_and_places(tmp_path: Path) -> None:
    arrays = examples.safetensors(tmp_path / "m.safetensors")
    weights = open_weights(str(tmp_path / "m.safetensors"))
    for key, array in arrays.items():
        assert weights.entry(key) == Entry(array.dtype.name, array.shape)
        np.testing.assert_array_equal(weights.read(key), array, strict=True)
    place = weights.location("encoder.layer.0.query.weight")
    assert place == Location(("encoder", "layer", "0", "query"), "weight")
    assert weights.location("scale") == Location((), "scale")


def test_names_of_tensorflow_in_safetensors(tmp_path: Path) -> None:
    examples.save_file({"bert/layer_._0/kernel:0": np.ones(2)}, tmp_path / "m.safetensors")
    weights = open_weights(str(tmp_path / "m.safetensors"))
    assert weights.location("bert/layer_._0/kernel:0") == Location(("bert", "layer_._0"), "kernel")


@pytest.mark.parametrize("dtype", WRITTEN)
def test_types_that_numpy_lacks(dtype: str, tmp_path: Path) -> None:
    array = np.array([[0.5, -2.0, 1.5]]).astype(getattr(ml_dtypes, dtype))
    by_hand(tmp_path / "m.safetensors", WRITTEN[dtype], array.tobytes(), [1, 3])
    weights = open_weights(str(tmp_path / "m.safetensors"))
    assert weights.entry("x") == Entry(dtype, (1, 3))
    np.testing.assert_array_equal(weights.read("x").astype(float), [[0.5, -2.0, 1.5]])


def test_a_type_that_nobody_has(tmp_path: Path) -> None:
    by_hand(tmp_path / "m.safetensors", "F6_E2M3", bytes(3), [4])
    with pytest.raises(ModelError) as caught:
        open_weights(str(tmp_path / "m.safetensors")).read("x")
    assert "F6_E2M3, which NumPy does not have" in str(caught.value)
