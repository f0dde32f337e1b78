"""Ragged and sparse inputs: a row of any length for each sample; outputs by their parts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tf_keras
from pyarrow import parquet as parquet_files

import extractkit
from extractkit.errors import InputError, ModelError, SelectionError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.in_memory import LiveArrays
from extractkit.inputs.parquet import Parquet
from extractkit.inputs.texts import Texts
from extractkit.models.saved_model import load
from tests.models.test_sizes import dataset

v1 = tf.compat.v1
WEIGHTS = np.arange(5, dtype="f4")[:, np.newaxis]
DENSE = np.array([[0, 1, 0, 0, 2], [3, 0, 0, 0, 0], [0, 0, 0, 0, 0]], "f4")
ROWS = [[1.0, 2.0, 3.0], [4.0], [], [5.0, 6.0]]
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

    @tf.function(
        input_signature=[tf.RaggedTensorSpec([None, None], tf.float32, row_splits_dtype=tf.int32)]
    )
    def narrow(self, x: Any) -> Any:
        return {"sum": tf.reduce_sum(x, 1)}

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None, 3], tf.float32, 1)])
    def boxes(self, x: Any) -> Any:
        return {"sum": tf.reduce_sum(x, 1)}

    @tf.function(input_signature=[tf.SparseTensorSpec([None, 5], tf.float32)])
    def words(self, x: Any) -> Any:
        return {"product": tf.sparse.sparse_dense_matmul(x, tf.constant(WEIGHTS))}

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None, None], tf.float32)])
    def deep(self, x: Any) -> Any:
        return {"sum": tf.reduce_sum(x, [1, 2])}

    @tf.function(input_signature=[tf.SparseTensorSpec([None, None, None], tf.float32)])
    def cube(self, x: Any) -> Any:
        return {"sum": tf.sparse.reduce_sum(x, [1, 2])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = Module()
    path = tmp_path_factory.mktemp("composites")
    tf.saved_model.save(module, path / "m", signatures=module.ragged)
    return path / "m"


class Matrix:
    """A compressed matrix as SciPy has them."""

    def __init__(self, dense: Any) -> None:
        self.indices = np.nonzero(dense)[1]
        self.data = dense[np.nonzero(dense)]
        self.shape = np.shape(dense)
        self.indptr = np.concatenate([[0], np.cumsum((dense != 0).sum(axis=1))])

    def tocsr(self) -> "Matrix":
        return self


def extracted(folder: Path, to: Path, signature: str, inputs: Any, *overrides: str) -> Any:
    """The outputs of all samples, from live inputs or those that the overrides name."""
    model = ["model=saved_model", f"model.path={folder}", f"model.signature={signature}"]
    got = extractkit.extract([*model, "selectors=outputs", *overrides], inputs=inputs, run_dir=to)
    (address,) = got
    return np.asarray(got[address]).tolist()


def json_lines(path: Path, rows: Sequence[Any]) -> Texts:
    path.write_text("\n".join(json.dumps({"x": row}) for row in rows))
    return Texts(path)


def parquet(path: Path, rows: Sequence[Any]) -> Parquet:
    parquet_files.write_table(pa.table({"x": rows}), path)
    return Parquet(path)


def rows_read(inputs: Inputs, signature: Signature) -> list[Any]:
    source = inputs.bind(signature)
    samples = source.read(0, len(source))
    return [np.asarray(sample.data["x"]).tolist() for sample in samples]  # type: ignore[index]


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


@pytest.mark.parametrize("size", [None, 2])
def test_dense_inputs_beside_a_function_that_takes_a_sparse_tensor(
    size: int | None, tmp_path: Path
) -> None:
    """Only the function that a signature wraps says what the signature's inputs make."""
    module = tf.Module()
    module.other = tf.function(
        lambda args_0: tf.sparse.to_dense(args_0),
        input_signature=[tf.SparseTensorSpec([None, 5], tf.float32)],
    )
    shapes = [([None, 2], tf.int64), ([None], tf.float32), ([size], tf.int64)]
    names = ["args_0", "args_0_1", "args_0_2"]
    given = [tf.TensorSpec(*one, name=name) for one, name in zip(shapes, names, strict=True)]
    module.main = tf.function(
        lambda a, b, c: {"sum": tf.cast(a + c[:, tf.newaxis], tf.float32) + b[:, tf.newaxis]},
        input_signature=given,
    )
    tf.saved_model.save(module, tmp_path / "m", signatures=module.main)
    signature = load(str(tmp_path / "m")).signature
    assert [one.composite for one in signature.specs] == [None] * (2 if size else 3)


def test_a_signature_saved_again_keeps_its_ragged_input(folder: Path, tmp_path: Path) -> None:
    again = tf.saved_model.load(str(folder))
    tf.saved_model.save(again, tmp_path / "m", signatures=again.signatures)
    (spec,) = load(str(tmp_path / "m")).signature.specs
    assert (spec.name, spec.composite) == ("ids", "ragged")


def test_the_signature_of_a_concrete_function_has_its_sparse_input(tmp_path: Path) -> None:
    module = Module()
    wrapped = module.words.get_concrete_function()
    tf.saved_model.save(module, tmp_path / "m", signatures=wrapped)
    (spec,) = load(str(tmp_path / "m")).signature.specs
    assert (spec.name, spec.composite, spec.shape) == ("x", "sparse", (5,))


class Beside(tf.Module):
    """Composite arguments beside inputs that a signature sorts in front of them."""

    @tf.function(
        input_signature=[
            tf.RaggedTensorSpec([None, None], tf.int64),
            tf.TensorSpec([None], tf.int64, "a"),
        ]
    )
    def ragged(self, ids: Any, a: Any) -> Any:
        return {"sum": tf.reduce_sum(ids, 1) * a}

    @tf.function(
        input_signature=[
            tf.SparseTensorSpec([None, 5], tf.float32),
            tf.TensorSpec([None], tf.float32, "a"),
        ]
    )
    def sparse(self, x: Any, a: Any) -> Any:
        return {"sum": tf.sparse.reduce_sum(x, 1) - a}


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = Beside()
    path = tmp_path_factory.mktemp("beside") / "m"
    signatures = {"ragged": module.ragged, "words": module.sparse}
    tf.saved_model.save(module, path, signatures=signatures)
    again = tf.saved_model.load(str(path))
    tf.saved_model.save(again, path.with_name("again"), signatures=again.signatures)
    return path


@pytest.mark.parametrize(
    ("name", "signature"), [("m", "ragged"), ("m", "ragged.0"), ("again", "ragged")]
)
def test_a_signature_with_a_ragged_input_beside_another_of_its_type(
    beside: Path, name: str, signature: str, tmp_path: Path
) -> None:
    """A signature sorts its inputs by name; `ragged.0` is the function of the same name."""
    path = beside.with_name(name)
    specs = {one.name: one.composite for one in load(str(path), signature).signature.specs}
    assert specs == {"ids": "ragged", "a": None}
    samples = [
        {"ids": np.array(ids, np.int64), "a": np.int64(at + 2)} for at, ids in enumerate(IDS)
    ]
    got = run(path, tmp_path / "r", samples, f"model.signature={signature}")
    expected = [sum(ids) * (at + 2) for at, ids in enumerate(IDS)]
    assert np.asarray(got[":output.sum"]).tolist() == expected


def test_a_signature_with_a_sparse_input_beside_another(beside: Path, tmp_path: Path) -> None:
    samples = [{"x": row, "a": np.float32(at)} for at, row in enumerate(DENSE)]
    got = run(beside, tmp_path / "r", samples, "model.signature=words")
    expected = DENSE.sum(1) - np.arange(len(DENSE))
    np.testing.assert_array_equal(np.asarray(got[":output.sum"]), expected)


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
    without = [{"age": sample["age"]} for sample in samples]
    with pytest.raises(InputError, match="no column 'words' for input 'words'") as refused:
        run(tmp_path / "m", tmp_path / "w", without)
    assert str(refused.value).endswith(
        ". For tensors that do not need the others: 'model.input_axes=[age]'"
    )
    older = run(tmp_path / "m", tmp_path / "w", without, "model.input_axes=[age]")
    assert np.asarray(older[":output.older"]).tolist() == [26, 51, 39]
    alone = run(tmp_path / "m", tmp_path / "1", samples, "runtime.batch_size=1")
    found = [alone[":output.same.values"].sample(at).tolist() for at in range(3)]
    assert found == [[b"Private", "é".encode()], [], [b"State-gov"]]


def test_positions_have_the_type_that_the_graph_takes(folder: Path, tmp_path: Path) -> None:
    """Row splits are int64 unless a model says int32."""
    assert extracted(folder, tmp_path / "r", "narrow", ROWS) == [6, 4, 0, 11]
    signature = load(str(folder), "narrow").signature
    for inputs in (
        LiveArrays(ROWS),
        LiveArrays(tf.ragged.constant(ROWS)),
        dataset([np.array(row, "f4") for row in ROWS]),
        json_lines(tmp_path / "x.jsonl", ROWS),
        parquet(tmp_path / "x.parquet", ROWS),
    ):
        assert rows_read(inputs, signature) == ROWS


def test_rows_of_arrays(folder: Path, tmp_path: Path) -> None:
    boxes = [np.full((count, 3), count, "f4") for count in (2, 0, 1)]
    got = extracted(folder, tmp_path / "r", "boxes", dataset(boxes))
    assert got == [[4, 4, 4], [0, 0, 0], [1, 1, 1]]


def test_sparse_rows_of_a_fixed_size(folder: Path, tmp_path: Path) -> None:
    parts = [
        {"indices": [1, 4], "values": [1.0, 2.0]},
        {"indices": [[0]], "values": [3.0], "shape": [5]},
        {"indices": [], "values": []},
    ]
    flat = [{**part, "indices": np.ravel(part["indices"]).astype(int)} for part in parts]
    got = extracted(folder, tmp_path / "r", "words", tf.sparse.from_dense(DENSE))
    assert got == (DENSE @ WEIGHTS).tolist()
    signature = load(str(folder), "words").signature
    for inputs in (
        LiveArrays(DENSE),
        LiveArrays(tf.sparse.from_dense(DENSE)),
        LiveArrays(Matrix(DENSE)),
        dataset([{"x": tf.sparse.from_dense(row)} for row in DENSE]),
        json_lines(tmp_path / "x.jsonl", parts),
        json_lines(tmp_path / "dense.jsonl", DENSE.tolist()),
        parquet(tmp_path / "x.parquet", flat),
    ):
        assert rows_read(inputs, signature) == DENSE.tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"indices": [5], "values": [1]}, r"a position in \[5\] is outside of a row of 5"),
        ({"indices": [1, 1], "values": [1, 2]}, r"in \[1, 1\] is given more than once"),
        ({"indices": [1], "values": [0]}, "0 at position 1 is the same as a missing element"),
        ({"indices": [1], "values": [2], "shape": [4]}, r"is \[4\], and the model takes rows of 5"),
        ({"indices": ["a"], "values": [2]}, "are not whole numbers"),
        ({"indices": [1], "values": [2, 3]}, "Give one position for each value"),
        ({"indices": [[1], [2, 3]], "values": [2, 3]}, "cannot be converted to an array"),
        ({"indices": [1], "values": [[2], [3, 4]]}, "values .* cannot be converted to an array"),
        ({"indices": [1], "values": [1e300]}, "holds 1e\\+300, which float32"),
        ({"indices": [1]}, "Python objects"),
    ],
)  # fmt: skip
def test_positions_that_make_no_row(folder: Path, tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        json_lines(tmp_path / "x.jsonl", [row]).bind(load(str(folder), "words").signature)


@pytest.mark.parametrize("made", [tf.sparse.from_dense, Matrix])
@pytest.mark.parametrize("width", [4, 6])
def test_a_sparse_matrix_of_another_width_is_refused(made: Any, width: int) -> None:
    signature = Signature("m", (InputSpec("x", "float32", (5,), (None,), composite="sparse"),))
    with pytest.raises(InputError, match=rf"is \[{width}\], and the model takes rows of 5"):
        LiveArrays(made(np.eye(3, width, dtype="f4"))).bind(signature)


def test_rows_of_a_sparse_tensor_are_found_in_any_order() -> None:
    given = tf.SparseTensor([[2, 1], [0, 3], [2, 0], [0, 1]], [1.0, 2.0, 3.0, 4.0], [4, 5])
    signature = Signature("m", (InputSpec("x", "float32", (5,), (None,), composite="sparse"),))
    expected = np.zeros((4, 5))
    expected[[2, 0, 2, 0], [1, 3, 0, 1]] = [1, 2, 3, 4]
    assert rows_read(LiveArrays(given), signature) == expected.tolist()


def test_a_row_of_any_length_has_no_gaps(tmp_path: Path) -> None:
    spec = InputSpec("x", "float32", (None,), ("token",), composite="sparse")
    signature = Signature("m", (spec,))
    row = {"indices": [1, 0], "values": [2.0, 1.0], "dense_shape": [4]}
    assert rows_read(json_lines(tmp_path / "x.jsonl", [row]), signature) == [[1, 2]]
    gap = json_lines(tmp_path / "y.jsonl", [{"indices": [0, 2], "values": [1.0, 1.0]}])
    with pytest.raises(InputError, match=r"positions \[0, 2\] leave some out"):
        gap.bind(signature)


@pytest.mark.parametrize(
    ("signature", "advice", "sample"),
    [
        (
            "deep",
            "model.input_axes={x: [value], x_1: [split1], x_2: [split2]}",
            {"x": [1.0, 2.0, 3.0], "x_1": [0, 2], "x_2": [0, 1, 3]},
        ),
        (
            "cube",
            "model.input_axes={x: [value, 3], x_1: [value], x_2: [3]}",
            {"x": [[0, 0, 1], [0, 1, 0]], "x_1": [2.0, 4.0], "x_2": [1, 2, 2]},
        ),
    ],
)
def test_deeper_ones_are_taken_by_their_parts(
    folder: Path, tmp_path: Path, signature: str, advice: str, sample: Any
) -> None:
    with pytest.raises(SelectionError, match="of which a sample is more than one row") as refused:
        extracted(folder, tmp_path / "q", signature, [[1.0]])
    assert advice in str(refused.value)
    got = extracted(folder, tmp_path / "r", signature, dataset([sample]), advice)
    assert np.ravel(got).tolist() == [6]


def test_keras_models_take_ragged_and_sparse_rows(tmp_path: Path) -> None:
    layers = tf_keras.layers
    ids = tf_keras.Input((None,), ragged=True, dtype="int64", name="ids")
    mean = layers.GlobalAveragePooling1D()(layers.Embedding(10, 3)(ids))
    words = tf_keras.Input((5,), sparse=True, name="words")
    rows = [[1, 2, 3], [4], [5, 6]]
    cases = [
        (tf_keras.Model(ids, mean), rows, tf.ragged.constant(rows, dtype=tf.int64)),
        (
            tf_keras.Model(words, layers.Dense(2)(words)),
            tf.sparse.from_dense(DENSE),
            tf.sparse.from_dense(DENSE),
        ),
    ]
    for number, (model, inputs, given) in enumerate(cases):
        to = tmp_path / str(number)
        got = extractkit.extract(["selectors=outputs"], model=model, inputs=inputs, run_dir=to)
        expected = model.predict(given, verbose=0)
        np.testing.assert_allclose(np.asarray(got[":output"]), expected, atol=1e-6)


def test_a_keras_model_whose_layers_want_ragged_tensors(tmp_path: Path) -> None:
    ids = tf_keras.Input((None,), ragged=True, dtype="int64", name="ids")
    model = tf_keras.Model(ids, tf_keras.layers.Lambda(lambda x: x.row_lengths())(ids))
    rows = [[1, 2, 3], [4], []]
    with pytest.raises(ModelError, match=r"It takes ragged tensors, and .* dense rows") as refused:
        extractkit.extract(["selectors=outputs"], model=model, inputs=rows, run_dir=tmp_path / "q")
    assert "tf.saved_model.save(model, DIR), and use model=saved_model" in str(refused.value)
    tf.saved_model.save(model, tmp_path / "m")
    assert extracted(tmp_path / "m", tmp_path / "r", "serving_default", rows) == [3, 1, 0]
