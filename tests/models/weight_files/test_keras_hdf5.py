"""Weights that Keras wrote, held against plain h5py and the model itself."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from extractkit.errors import ModelError
from extractkit.models.weight_files import Entry, Location, WeightFile, open_weights
from tests.models.weight_files import examples


def datasets(file: Any) -> dict[str, np.ndarray]:
    """Everything in a file, by plain h5py."""
    found = {}

    def visit(path: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[path] = node[()]

    file.visititems(visit)
    return found


def assert_holds(weights: WeightFile, arrays: dict[str, np.ndarray]) -> None:
    assert set(weights) == set(arrays)
    for key, array in arrays.items():
        value = weights.read(key)
        assert weights.entry(key) == Entry(value.dtype.name, value.shape)
        if array.dtype == np.dtype("V2"):
            array = array.view(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(value, array.astype(array.dtype.newbyteorder("=")))
        assert value.dtype == array.dtype.newbyteorder("=")


def test_legacy_weights(tmp_path: Path) -> None:
    arrays = examples.legacy_hdf5(tmp_path / "m.h5")
    weights = open_weights(str(tmp_path / "m.h5"))
    assert_holds(weights, arrays)
    assert {key: weights.location(key) for key in weights} == {
        "bidirectional/bidirectional/forward_lstm/kernel:0": Location(
            ("bidirectional", "forward_lstm"), "kernel"
        ),
        "dense_1/dense_1/bias:0": Location(("dense_1",), "bias"),
        "dense_1/dense_1/kernel:0": Location(("dense_1",), "kernel"),
        "lstm_1/lstm_1_1/recurrent_kernel:0": Location(("lstm_1", "lstm_1_1"), "recurrent_kernel"),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["m.weights.h5", "m.h5", "m.keras"])
def test_what_keras_3_writes(name: str, dtype: str, tmp_path: Path) -> None:
    model = examples.trained_model(dtype)
    file = tmp_path / name
    model.save(file) if name != "m.weights.h5" else model.save_weights(file)
    whole: Any = file
    if name == "m.keras":
        with zipfile.ZipFile(file) as archive:
            whole = BytesIO(archive.read("model.weights.h5"))
    weights = open_weights(str(file))
    with h5py.File(whole, "r") as opened:
        assert_holds(weights, datasets(opened))
    # The same bytes as the live model has, in whatever order, and nothing that is not its own.
    own = [key for key in weights if not weights.location(key).training]
    live = [np.asarray(weight) for weight in model.get_weights()]
    assert sorted(weights.read(key).tobytes() for key in own) == sorted(w.tobytes() for w in live)


def test_places_in_keras_3s_numbered_layout(tmp_path: Path) -> None:
    examples.trained_model().save_weights(tmp_path / "m.weights.h5")
    weights = open_weights(str(tmp_path / "m.weights.h5"))
    places = {key: weights.location(key) for key in weights}
    # The author's name in place of the class, the class where Keras made the name up.
    assert places["layers/dense/vars/0"] == Location(("logits",), "0")
    assert places["layers/batch_normalization/vars/3"] == Location(("batch_normalization",), "3")
    nested = places["layers/sequential/layers/dense_1/vars/1"]
    assert nested == Location(("sequential", "dense_1"), "1")
    assert places["optimizer/vars/2"] == Location(("optimizer",), "2", training=True)


def test_an_optimizer_in_a_whole_legacy_file(tmp_path: Path) -> None:
    examples.trained_model().save(tmp_path / "m.h5")
    weights = open_weights(str(tmp_path / "m.h5"))
    training = {key for key in weights if weights.location(key).training}
    assert training == {key for key in weights if key.startswith("optimizer_weights/")}
    (kernel,) = (key for key in weights if key.endswith("logits/kernel"))
    assert weights.location(kernel) == Location(("logits",), "kernel")


def test_texts_and_what_numpy_has_no_type_for(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as opened:
        opened["vocabulary"] = np.array(["a", "bc"], object)
        opened["name"] = "x"
        opened["fixed"] = np.array([b"de"])
        opened["opaque"] = np.zeros(2, "V7")
        opened["flags"] = np.array([True, False])
    weights = open_weights(str(tmp_path / "m.h5"))
    assert weights.entry("vocabulary") == Entry("string", (2,))
    assert weights.read("vocabulary").tolist() == [b"a", b"bc"]
    assert weights.read("name").item() == b"x"
    assert weights.read("fixed").tolist() == [b"de"]
    assert weights.read("flags").tolist() == [True, False]
    with pytest.raises(ModelError, match=r"is of type \|V7, which NumPy does not have"):
        weights.read("opaque")


def refused(file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_weights(str(file))
    return str(caught.value).removeprefix(f"model.path={str(file)!r} is refused: ")


def test_a_file_that_leads_out_of_itself_is_refused(tmp_path: Path) -> None:
    secret, file = tmp_path / "secret.h5", tmp_path / "m.h5"
    examples.legacy_hdf5(secret)
    with h5py.File(file, "w") as opened:
        opened["a/link"] = h5py.ExternalLink(str(secret), "/dense_1")
    assert refused(file) == f"'a/link' is a link to the file {str(secret)!r}"
    with h5py.File(file, "w") as opened:
        opened.create_dataset("x", (4,), "u1", external=[(str(secret), 0, 4)])
    assert refused(file) == "the values of 'x' are in another file"
    with h5py.File(file, "w") as opened:
        layout = h5py.VirtualLayout((4, 3), "f4")
        layout[:] = h5py.VirtualSource(secret, "dense_1/dense_1/kernel:0", (4, 3))
        opened.create_virtual_dataset("x", layout)
    assert refused(file) == "the values of 'x' are in another file"


def test_links_inside_a_file_are_followed_once(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as opened:
        opened["a/kernel"] = np.ones(3)
        opened["a/again"] = opened["a"]
        opened["b"] = h5py.SoftLink("/a")
    assert open_weights(str(tmp_path / "m.h5")).keys() == ("a/kernel",)


def test_an_archive_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples.trained_model().save(tmp_path / "m.keras")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    weights = open_weights(str(tmp_path / "m.keras"))
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    del weights
    assert list((tmp_path / "scratch").iterdir()) == []
