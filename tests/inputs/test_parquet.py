"""Numbers and texts from the columns of Parquet files."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractkit.core.values import Array
from extractkit.errors import InputError, JobError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.parquet import Parquet
from extractkit.inputs.records import RecordSource
from extractkit.testing.inputs import SourceContract, read_all

IDS = InputSpec("ids", "int32", (None,), ("token",))
SCORE = InputSpec("score", "float32", (), ())
TWO = Signature("m", (IDS, SCORE))
BERT = Signature("bert", (IDS,), takes_text=True)
ROWS = [[1, 2, 3], [4], [], [5, 6], [7]]


def takes(*shape: int | None, dtype: str = "float32") -> Signature:
    dims = tuple(f"axis{i}" if size is None else None for i, size in enumerate(shape))
    return Signature("m", (InputSpec("x", dtype, shape, dims),))


def write(path: str, columns: dict[str, object], rows: int = 2) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=rows)


def values(source: RecordSource, name: str = "x") -> list[Array]:
    return [sample.data[name] for sample in source.read(0, len(source))]  # type: ignore[index, misc]


def refusal(signature: Signature, path: object = "x.parquet", **arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        read_all(Parquet(path, **arguments), signature)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestNumbers(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        scores = [0.5, 1.5, 2.5, 3.5, 4.5]
        for name, part in (("a", slice(0, 3)), ("b", slice(3, 5))):
            columns = {"ids": ROWS[part], "score": scores[part], "other": ["t"] * len(scores[part])}
            if not (folder / f"{name}.parquet").exists():
                write(str(folder / f"{name}.parquet"), columns)
        return Parquet(str(folder / "*.parquet"))

    def signature(self) -> Signature:
        return TWO


class TestTexts(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        write(str(folder / "x.parquet"), {"body": ["one", "", "two"], "n": [1, 2, 3]})
        os.utime(folder / "x.parquet", ns=(0, 0))
        return Parquet(str(folder / "x.parquet"), column="body")

    def signature(self) -> Signature:
        return BERT


class TestReading:
    def test_rows_over_files_and_row_groups_come_in_order(self) -> None:
        for name, start in (("a", 0), ("b", 7)):
            write(f"{name}.parquet", {"x": np.arange(start, start + 7)}, rows=3)
        source = Parquet(["b.parquet", "a.parquet"]).bind(takes())
        assert [float(v) for v in values(source)] == [*range(7, 14), *range(7)]
        ids = [sample.id for sample in source.read(5, 9)]
        assert ids == ["b.parquet:5", "b.parquet:6", "a.parquet:0", "a.parquet:1"]
        assert source.read(0, 1)[0].source == "b.parquet"

    def test_columns_are_named_by_configuration(self) -> None:
        write("x.parquet", {"a": ROWS, "b": [1, 2, 3, 4, 5]})
        source = Parquet("x.parquet", columns={"ids": "a", "score": "b"}).bind(TWO)
        assert [v.tolist() for v in values(source, "ids")] == ROWS
        assert [v.tolist() for v in values(source, "score")] == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        "kind",
        [
            pa.list_(pa.float32()),
            pa.large_list(pa.float64()),
            pa.list_(pa.int16(), 6),
            pa.list_(pa.list_(pa.float32()), 2),
            pa.list_(pa.list_(pa.float32(), 3), 2),
            pa.list_(pa.list_(pa.float32())),
        ],
        ids=str,
    )
    def test_lists_nested_or_flat_take_the_models_shape(self, kind: pa.DataType) -> None:
        expected = np.arange(18.0).reshape(3, 2, 3)
        nested = pa.types.is_list(kind.value_type) or pa.types.is_fixed_size_list(kind.value_type)
        rows = expected.tolist() if nested else expected.reshape(3, 6).tolist()
        write("x.parquet", {"x": pa.array(rows, kind)})
        np.testing.assert_array_equal(values(Parquet("x.parquet").bind(takes(2, 3))), expected)
        found = values(Parquet("x.parquet").bind(takes(None, 3)))
        np.testing.assert_array_equal(found, expected)

    def test_tensors_of_fixed_shape_take_it(self) -> None:
        expected = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(expected)
        write("x.parquet", {"x": column})
        np.testing.assert_array_equal(values(Parquet("x.parquet").bind(takes(2, 3))), expected)

    @pytest.mark.parametrize("dtype", ["int8", "uint64", "float16", "bool"])
    def test_number_types(self, dtype: str) -> None:
        given = np.array([0, 1, 1], dtype)
        write("x.parquet", {"x": given})
        np.testing.assert_array_equal(
            values(Parquet("x.parquet").bind(takes(dtype=dtype))), given
        )  # fmt: skip

    @pytest.mark.parametrize("dictionary", [False, True])
    def test_texts_are_objects_where_the_model_names_the_input(self, dictionary: bool) -> None:
        column = pa.array(["a", "bé", "a"])
        write("x.parquet", {"x": column.dictionary_encode() if dictionary else column})
        found = values(Parquet("x.parquet").bind(takes(dtype="string")))
        assert [v.item() for v in found] == ["a", "bé", "a"]
        assert {v.dtype for v in found} == {np.dtype(object)}

    def test_two_row_groups_stay_in_memory_and_no_more_are_read_than_needed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write("x.parquet", {"x": np.arange(12), "other": np.arange(12)}, rows=3)
        read: list[tuple[int, list[str]]] = []
        original = pq.ParquetFile.read_row_group

        def watched(self: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
            read.append((group, columns))
            return original(self, group, columns=columns)

        monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
        source = Parquet("x.parquet").bind(takes())
        read.clear()
        for start in (0, 2, 4, 2, 9):  # groups 0 (there since it was bound), 0-1, 1-2, 0-1, 3
            source.read(start, start + 3)
        assert [group for group, _ in read] == [1, 2, 0, 1, 3]
        assert {tuple(columns) for _, columns in read} == {("x",)}

    def test_the_limit_takes_the_first_rows(self) -> None:
        write("x.parquet", {"x": [1.0, 2.0, None]})
        assert len(Parquet("x.parquet", limit=2).bind(takes())) == 2

    def test_a_file_that_changes_fails_the_job(self) -> None:
        write("x.parquet", {"x": [1.0, 2.0]})
        source = Parquet("x.parquet").bind(takes())
        os.utime("x.parquet", ns=(0, 0))
        with pytest.raises(JobError, match=r"x\.parquet changed while the job ran"):
            source.read(0, 1)

    def test_the_digest_is_of_the_rows_not_of_how_they_are_packed(self) -> None:
        prints = []
        for rows, last in ((1, 3), (3, 3), (3, 4)):
            write("x.parquet", {"x": [1, 2, last]}, rows=rows)
            prints.append(Parquet("x.parquet").bind(takes()).digest)
        assert prints[0] == prints[1] != prints[2]


class TestRefused:
    def test_no_path(self) -> None:
        assert refusal(takes(), None) == (
            "inputs.path is missing. Model 'm' takes x: float32 (samples). "
            "Give Parquet files: inputs.path=FILE.parquet"
        )

    def test_every_column_that_is_not_there_is_named(self) -> None:
        write("x.parquet", {"a": [1], "body": ["t"]})
        specs = tuple(InputSpec(name, "float32", (), ()) for name in ("x", "a", "y"))
        assert refusal(Signature("m", specs)) == (
            "inputs.path='x.parquet' has no column 'x' for input 'x', 'y' for input 'y' of model "
            "'m'. Available: 'a', 'body'. Name them: 'inputs.columns={x: COLUMN, a: a, y: COLUMN}'"
        )

    def test_a_column_that_is_not_there(self) -> None:
        write("x.parquet", {"a": [1], "body": ["t"]})
        assert refusal(takes()) == (
            "inputs.path='x.parquet' has no column 'x' for input 'x' of model 'm'. "
            "Available: 'a', 'body'. Name it: 'inputs.columns={x: COLUMN}'"
        )
        assert refusal(BERT) == (
            "inputs.path='x.parquet' has no column 'text'. Available: 'a', 'body'. Give the one "
            "with the text, inputs.column=…, or one for each of the model's inputs, "
            "inputs.columns={INPUT:COLUMN,…}"
        )
        assert refusal(takes(), column="a") == (
            "inputs.column='a' means nothing, as the model takes no text: 'm' takes "
            "x: float32 (samples). In its place: 'inputs.columns={x: a}'"
        )
        assert refusal(takes(), columns={"a b": "x"}) == (
            "inputs.columns maps inputs to columns, and not columns to inputs. Write: "
            "'inputs.columns={x: \"a b\"}'"
        )

    @pytest.mark.parametrize(
        ("column", "signature", "message"),
        [
            ([1.0, None], takes(), ", row 1: column 'x' holds a null. Fill it in or leave the row "
             "out"),
            ([[1.0], None], takes(1), ", row 1: column 'x' holds a null. Fill it in or leave the "
             "row out"),
            ([[1.0], [None]], takes(1), ", row 1: column 'x' holds a null. Fill it in or leave the "
             "row out"),
            ([[[1.0], [2.0, 3.0]]], takes(2, 2), ", row 0: column 'x' has lists of different "
             "lengths in one cell: 1 and 2"),
            ([{"a": 1}], takes(), ": column 'x' is struct<a: int64>; numbers, texts, lists of "
             "them and structs of indices and values are read"),
            ([[1.0, 2.0]], takes(3), ", sample 'x.parquet:0': 'x' has shape (1, 2); model 'm' "
             "takes it as (samples, 3)"),
            (["a"], takes(), ", sample 'x.parquet:0': 'x' holds Python objects (texts), model 'm' "
             "takes float32. Give numbers"),
            ([b"\0\0"], takes(), ", sample 'x.parquet:0': 'x' holds Python objects (bytes), model "
             "'m' takes float32. Give numbers"),
            ([300], takes(dtype="uint8"), ", sample 'x.parquet:0': 'x' holds 300, which uint8, the "
             "type that the model takes, cannot hold"),
        ],
    )  # fmt: skip
    def test_cells_that_do_not_fit(
        self, column: list[object], signature: Signature, message: str
    ) -> None:
        write("x.parquet", {"x": column})
        assert refusal(signature) == f"inputs.path='x.parquet'{message}"

    def test_what_is_no_text(self) -> None:
        write("x.parquet", {"text": [1]})
        assert refusal(BERT) == (
            "inputs.path='x.parquet', row 0: column 'text' is int64 and holds 1, not a text"
        )

    def test_a_text_that_is_not_utf8(self) -> None:
        write("x.parquet", {"text": [b"\xff"]})
        assert refusal(BERT).startswith(
            "inputs.path='x.parquet', row 0: column 'text' is not UTF-8: "
        )

    def test_no_rows(self) -> None:
        write("x.parquet", {"x": pa.array([], pa.float32())})
        assert refusal(takes()) == "inputs.path='x.parquet' holds no sample. Give at least one"

    def test_damaged_files(self) -> None:
        write("x.parquet", {"x": np.random.default_rng(0).random(100)}, rows=50)
        content = Path("x.parquet").read_bytes()
        for size in range(0, len(content), 61):
            Path("x.parquet").write_bytes(content[:size])
            assert "inputs.path='x.parquet' cannot be read as Parquet: " in refusal(takes())
        Path("x.parquet").write_bytes(content[:20] + bytes(40) + content[60:])
        at = "inputs.path='x.parquet', row group 0,"
        assert f"{at} cannot be read as Parquet: " in refusal(takes())

    def test_flipped_bits_are_a_message_or_numbers(self) -> None:
        write("x.parquet", {"x": np.random.default_rng(0).random((20, 2)).tolist()}, rows=9)
        content = np.frombuffer(Path("x.parquet").read_bytes(), np.uint8)
        for seed in range(150):
            random = np.random.default_rng(seed)
            broken = content.copy()
            broken[random.integers(0, len(broken), 2)] ^= np.uint8(1 << seed % 8)
            Path("x.parquet").write_bytes(broken.tobytes())
            try:
                values(Parquet("x.parquet").bind(takes(2, dtype="float64")))
            except InputError as error:
                assert "inputs.path='x.parquet'" in str(error)  # noqa: PT017
