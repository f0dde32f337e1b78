"""Ragged and sparse inputs: a row of any length for each sample; outputs by their parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.errors import InputError
from extractkit.models.saved_model import load
from tests.models.test_sizes import dataset

v1 = tf.compat.v1
IDS = ([1, 2, 3], [4], [], [5, 6])


class Module(tf.Module):
    def __init__(self) -> None:
        self.table = tf.Variable(np.random.default_rng(0).normal(size=(10, 3)).astype("f4"))

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int64)])
    def ragged(self, ids: Any) -> Any:
        vectors = tf.gather(self.table, ids)
        return {"vectors": vectors, "sum": tf.reduce_sum(vectors, 1, name="sum")}

    @tf.function(input_signature=[tf.SparseTensorSpec([None, None], tf.float32)])
    def sparse(self, given: Any) -> Any:
        return {"sum": tf.sparse.reduce_sum(given, 1), "twice": given * 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = Module()
    path = tmp_path_factory.mktemp("composites")
    tf.saved_model.save(module, path / "m", signatures=module.ragged)
    return path / "m"


def run(folder: Path, to: Path, samples: Sequence[Any], *overrides: str) -> extractkit.Run:
    given = ["model=saved_model", f"model.path={folder}", "selectors=outputs", *overrides]
    return extractkit.extract(given, inputs=dataset(samples), run_dir=to)


@pytest.mark.parametrize("signature", ["serving_default", "ragged"])
def test_a_ragged_input_is_a_row_for_each_sample(
    folder: Path, signature: str, tmp_path: Path
) -> None:
    model = load(str(folder), signature)
    (spec,) = model.signature.specs
    assert (spec.shape, spec.composite) == ((None,), "ragged")
    assert {":input.ids.values", ":input.ids.row_splits"} <= set(model.catalog)
    samples = [np.array(ids, np.int64) for ids in IDS]
    got = run(folder, tmp_path / "r", samples, f"model.signature={signature}")
    table = tf.saved_model.load(str(folder)).table.numpy()
    assert got.manifest.settings["sharing"] == "samples of any lengths"
    for index, ids in enumerate(samples):
        np.testing.assert_allclose(got[":output.sum"].sample(index), table[ids].sum(0), atol=1e-6)
    alone = run(folder, tmp_path / "1", samples, "runtime.batch_size=1")
    for index, ids in enumerate(samples):
        found = alone[":output.vectors.values"].sample(index)
        np.testing.assert_array_equal(found, table[ids])


def test_a_sparse_argument_of_a_function(folder: Path, tmp_path: Path) -> None:
    rows = [np.array(row, np.float32) for row in ([1.5, 2], [], [0, 3, 4])]
    got = run(folder, tmp_path / "r", rows, "model.signature=sparse")
    np.testing.assert_array_equal(np.asarray(got[":output.sum"]), [3.5, 0, 7])
    alone = run(folder, tmp_path / "1", rows, "model.signature=sparse", "runtime.batch_size=1")
    found = [alone[":output.twice.values"].sample(at).tolist() for at in range(3)]
    assert found == [[3, 4], [], [0, 6, 8]]


def test_a_list_of_lists_is_no_row(folder: Path, tmp_path: Path) -> None:
    samples = [np.ones((2, 2), np.int64)]
    with pytest.raises(InputError, match=r"'ids' has shape .*takes it as \(samples, token\)"):
        run(folder, tmp_path / "r", samples)


def test_a_sparse_feature_of_a_graph_of_tensorflow_1(tmp_path: Path) -> None:
    """As tf.Transform saves them: by values, indices and shape in the signature."""
    with v1.Graph().as_default(), v1.Session() as session:
        age = v1.placeholder(tf.float32, [None], "age")
        words = v1.sparse_placeholder(tf.string, [None, None], "words")
        length = tf.sparse.reduce_sum(tf.SparseTensor(
            words.indices, v1.strings.length(words.values), words.dense_shape
        ), 1)  # fmt: skip
        info = v1.saved_model.utils.build_tensor_info
        signature = v1.saved_model.signature_def_utils.build_signature_def(
            {"age": info(age), "words": info(words)},
            {"older": info(age + 1.0), "length": info(length), "same": info(words)},
        )
        builder = v1.saved_model.Builder(str(tmp_path / "m"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    samples = [
        {"age": np.float32(25), "words": ["Private", "é"]},
        {"age": np.float32(50), "words": []},
        {"age": np.float32(38), "words": ["State-gov"]},
    ]
    got = run(tmp_path / "m", tmp_path / "r", samples)
    assert np.asarray(got[":output.older"]).tolist() == [26, 51, 39]
    assert np.asarray(got[":output.length"]).tolist() == [7 + 2, 0, 9]
    alone = run(tmp_path / "m", tmp_path / "1", samples, "runtime.batch_size=1")
    found = [alone[":output.same.values"].sample(at).tolist() for at in range(3)]
    assert found == [[b"Private", "é".encode()], [], [b"State-gov"]]
