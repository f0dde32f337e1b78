"""Bytes in are bytes out, from every source: NumPy's fixed-width types drop zeros at the end."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit.core.component import Component
from extractkit.engine.batches import collate
from extractkit.errors import InputError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.arrays import Arrays
from extractkit.inputs.dataset import Dataset
from extractkit.inputs.hdf5 import Hdf5
from extractkit.inputs.in_memory import LiveArrays, LiveTexts
from extractkit.inputs.parquet import Parquet
from extractkit.inputs.random import Random
from extractkit.inputs.texts import Texts
from extractkit.models import encode_arrays
from extractkit.testing.inputs import read_all

AWKWARD = [b"", b"\x00", b"a\x00\x00", b"\x00a", b"\xff\xfe\x00", b"plain", "é\x00".encode()]
NAME = "contents"


def takes(*shape: int, alone: bool = True) -> Signature:
    spec = InputSpec(NAME, "string", shape, (None,) * len(shape))
    number = InputSpec("n", "float32", (), ())
    return Signature("m", (spec,) if alone else (spec, number), takes_text=alone)


def collated(inputs: Inputs, signature: Signature) -> list[bytes]:
    """What the model is given of its string input, as UTF-8."""
    samples = read_all(inputs, signature)
    batch = collate(signature, [encode_arrays(signature, sample) for sample in samples])
    features = batch.features[NAME]
    assert features.dtype == object
    assert features.shape == (len(samples), *signature.specs[0].shape)
    return [one.encode() if isinstance(one, str) else one for one in features.flat]


def dataset(returned: object) -> Dataset:
    return Dataset(Component("dataset", f"{__name__}.returned", {"value": returned}))


def returned(value: object) -> object:
    return value() if callable(value) else value


def _tf_data(values: list[bytes]) -> object:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices({NAME: values, "n": np.zeros(len(values), "f4")})


def _tensors(values: list[bytes]) -> object:
    import tensorflow as tf

    return [{NAME: tf.constant(value), "n": 0.0} for value in values]


def _hugging_face(values: list[bytes]) -> object:
    import datasets

    return datasets.Dataset.from_dict({NAME: values, "n": [0.0] * len(values)})


def _hdf5(values: list[bytes]) -> Inputs:
    with h5py.File("x.h5", "w") as file:
        rows = file.create_dataset(NAME, (len(values),), h5py.vlen_dtype(np.uint8))
        for row, value in enumerate(values):
            rows[row] = np.frombuffer(value, np.uint8)
        file["n"] = np.zeros(len(values))
    return Hdf5("x.h5", {NAME: NAME, "n": "n"})


def _parquet(kind: pa.DataType) -> Callable[[list[bytes]], Inputs]:
    def write(values: list[bytes]) -> Inputs:
        columns = {NAME: pa.array(values, kind), "n": pa.array([0.0] * len(values))}
        pq.write_table(pa.table(columns), "x.parquet")
        return Parquet("x.parquet")

    return write


def numbers(values: list[bytes]) -> list[float]:
    return [0.0] * len(values)


SOURCES: dict[str, Callable[[list[bytes]], Inputs]] = {
    "live mapping": lambda v: LiveArrays({NAME: v, "n": numbers(v)}),
    "live objects": lambda v: LiveArrays({NAME: np.array(v, object), "n": numbers(v)}),
    "live several": lambda v: LiveArrays([v, numbers(v)]),
    "rows": lambda v: dataset([{NAME: one, "n": 0.0} for one in v]),
    "rows of arrays": lambda v: dataset([{NAME: np.array(one, object), "n": 0.0} for one in v]),
    "rows of buffers": lambda v: dataset([{NAME: bytearray(one), "n": 0.0} for one in v]),
    "tuples": lambda v: dataset([(one, 0.0) for one in v]),
    "generator": lambda v: dataset(lambda: ({NAME: one, "n": 0.0} for one in v)),
    "columns": lambda v: dataset({NAME: v, "n": numbers(v)}),
    "tf.data": lambda v: dataset(_tf_data(v)),
    "tensors": lambda v: dataset(_tensors(v)),
    "hugging face": lambda v: dataset(_hugging_face(v)),
    "hdf5": _hdf5,
    "parquet": _parquet(pa.binary()),
    "large parquet": _parquet(pa.large_binary()),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("source", SOURCES)
def test_bytes_in_are_bytes_out(source: str, shape: tuple[int, ...]) -> None:
    assert collated(SOURCES[source](AWKWARD), takes(*shape, alone=False)) == AWKWARD


ALONE: dict[str, Callable[[list[bytes]], Inputs]] = {
    "list": LiveArrays,
    "array": lambda v: LiveArrays(np.array(v, object)),
    "values": lambda v: dataset(v),
    "rows": lambda v: dataset([{NAME: one} for one in v]),
    "named otherwise": lambda v: dataset([{"blob": one} for one in v]),
    "rows of rows": lambda v: dataset([{NAME: [one]} for one in v]),
    "rows of arrays": lambda v: dataset([{NAME: np.array([one], object)} for one in v]),
    "text": lambda v: dataset([{"text": one, "label": 3} for one in v]),
    "parquet": lambda v: _parquet(pa.binary())(v),
}


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("source", ALONE)
def test_a_model_of_one_string_takes_bytes_that_are_no_text(
    source: str, shape: tuple[int, ...]
) -> None:
    assert collated(ALONE[source](AWKWARD), takes(*shape)) == AWKWARD


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=6))
def test_any_bytes_come_through_a_list(values: list[bytes]) -> None:
    assert collated(LiveArrays(values), takes()) == values
    assert collated(dataset(values), takes(1)) == values


@settings(max_examples=40)
@given(st.lists(st.text(max_size=9), min_size=1, max_size=6))
def test_any_texts_come_through_a_list(texts: list[str]) -> None:
    expected = [text.encode() for text in texts]
    assert collated(LiveTexts(texts), takes(1)) == expected
    assert collated(LiveArrays(texts), takes()) == expected


def test_zeros_at_the_end_change_the_digest() -> None:
    one, other = ([{NAME: value}] for value in (b"a", b"a\x00"))
    assert dataset(one).bind(takes()).digest != dataset(other).bind(takes()).digest
    live = (LiveArrays({NAME: [value]}).bind(takes()) for value in (b"a", b"a\x00"))
    assert len({source.digest for source in live}) == 2


class TestFixedWidth:
    """What NumPy stores in a fixed width has lost its zeros before it gets here."""

    @pytest.mark.parametrize(
        "inputs",
        [
            lambda: LiveArrays({NAME: np.array([b"\x01\x02\x00", b"abc"])}),
            lambda: LiveArrays(np.array([b"abcd", b"\xff\x00"])),
            lambda: Arrays("x.npy"),
            lambda: dataset({NAME: np.array([b"\x01\x02\x00", b"abc"])}),
            lambda: dataset([{NAME: np.array([b"\x01\x02\x00", b"abc"])[:1]}]),
            lambda: replace(dataset([(np.array([b"\x01\x00", b"ab"]),)]), batched=True),
        ],
        ids=["mapping", "array", "file", "columns", "row", "batch"],
    )
    def test_bytes_that_may_be_cut_are_refused(self, inputs: Callable[[], Inputs]) -> None:
        np.save("x.npy", np.array([b"a\x00b", b"abcd"]))
        with pytest.raises(InputError) as caught:
            inputs().bind(takes(1))  # all of them: the others may have been cut as well
        assert re.search(r" holds b'.*', shorter than its type '\|S", str(caught.value))
        assert "np.array(values, object)" in str(caught.value)

    def test_texts_are_read_with_a_note(self) -> None:
        np.savez("x.npz", **{NAME: np.array([b"rome", b"\xc3\xa9t\xc3\xa9", b""])})
        assert collated(Arrays("x.npz"), takes(1)) == [b"rome", "été".encode(), b""]
        (note,) = Arrays("x.npz").bind(takes()).notes
        assert note == (
            "contents: values of NumPy's fixed-width type '|S5' end before their last zero bytes; "
            "bytes that may end in zeros need an array of objects"
        )

    def test_bytes_that_fill_their_width_are_whole(self) -> None:
        assert collated(LiveArrays(np.array([b"\x00\xff", b"\x01\x02"])), takes()) == [
            b"\x00\xff",
            b"\x01\x02",
        ]

    def test_an_opaque_type_keeps_its_zeros(self) -> None:
        values = np.array([b"a\x00\x00", b"\x00\x00\x00"], "V3")
        np.save("x.npy", values)
        with h5py.File("x.h5", "w") as file:
            file[NAME] = values
        for inputs in (LiveArrays(values), Arrays("x.npy"), Hdf5("x.h5")):
            assert collated(inputs, takes()) == [b"a\x00\x00", b"\x00\x00\x00"]

    def test_strings_of_numpy_2_are_texts(self) -> None:
        values = np.array(["a\x00", "long " * 9], np.dtypes.StringDType())
        assert collated(LiveArrays(values), takes()) == [b"a\x00", b"long " * 9]


class TestSingleValues:
    """Models with inputs of shape (1,) or () take single numbers and texts."""

    @pytest.mark.parametrize("shape", [(), (1,)])
    @pytest.mark.parametrize("own", [(), (1,)])
    def test_from_every_source(self, shape: tuple[int, ...], own: tuple[int, ...]) -> None:
        dims = (None,) * len(shape)
        signature = Signature(
            "m",
            (InputSpec("age", "float32", shape, dims), InputSpec("city", "string", shape, dims)),
        )
        ages = np.array([12.5, 40.0]).reshape(2, *own)
        cities = np.array(["rome", "oslo"]).reshape(2, *own)
        table = {"age": ages.tolist(), "city": cities.tolist()}
        np.savez("x.npz", age=ages, city=cities)
        pq.write_table(pa.table(table), "x.parquet")
        with h5py.File("x.h5", "w") as file:
            file["age"], file["city"] = ages, cities.tolist()
        rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        for inputs in (
            Arrays("x.npz"),
            Parquet("x.parquet"),
            Hdf5("x.h5"),
            LiveArrays(table),
            LiveArrays({"age": ages, "city": cities}),
            dataset(rows),
            dataset({"age": ages, "city": cities}),
        ):
            first, second = read_all(inputs, signature)
            assert not isinstance(first.data, str)
            assert not isinstance(second.data, str)
            for name, value in (("age", 12.5), ("city", "rome")):
                assert first.data[name].shape == shape
                found = first.data[name].item()
                assert (found.decode() if isinstance(found, bytes) else found) == value
            assert second.data["age"].item() == 40.0

    def test_longer_values_are_still_refused(self) -> None:
        signature = Signature("m", (InputSpec("x", "float32", (1,), (None,)),))
        with pytest.raises(InputError, match=r"'x' has shape \(3, 2\); model 'm' takes it as"):
            read_all(LiveArrays(np.zeros((3, 2))), signature)


class TestRefused:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (["rome", None], "'contents' is missing (None). Fill it in, or leave the sample out"),
            (["rome", 5], "'contents' is int, not a text: 5"),
            ([b"a", 1.5], "'contents' is float, not a text: 1.5"),
            (
                ["\ud800"],
                "'contents' holds '\\ud800', half a surrogate pair, which is not a character",
            ),
        ],
    )
    def test_what_is_no_string_is_named(self, values: list[object], message: str) -> None:
        with pytest.raises(InputError) as caught:
            read_all(LiveArrays({NAME: values, "n": [0.0] * len(values)}), takes(alone=False))
        assert str(caught.value) == f"inputs: {message}"
        rows = [{NAME: value, "n": 0.0} for value in values]
        with pytest.raises(InputError, match="'contents'"):
            read_all(dataset(rows), takes(alone=False))

    @pytest.mark.parametrize("value", [None, "twelve", [1, None]])
    def test_what_is_no_number_is_named(self, value: object) -> None:
        signature = Signature("m", (InputSpec("n", "float32", (), ()),))
        with pytest.raises(InputError) as caught:
            read_all(dataset([{"n": value}]), signature)
        reported = str(caught.value)
        assert "'n'" in reported
        assert "missing (None)" in reported or "takes float32" in reported

    def test_bytes_that_are_no_text_for_a_tokenizer(self) -> None:
        ids = Signature("bert", (InputSpec("ids", "int32", (None,), ("token",)),), takes_text=True)
        with pytest.raises(InputError, match="sample 0 is not UTF-8"):
            read_all(dataset([b"\xff"]), ids)


def test_a_label_in_bytes_keeps_its_zeros() -> None:
    rows = [{NAME: b"x", "label": np.array(b"a\x00", object)}]
    (sample,) = read_all(dataset(rows), takes())
    assert json.dumps(sample.extra) == json.dumps({"label": "a\x00"})


class TestJsonRows:
    """JSON lines hold a value for each input of a model that does not take one text."""

    SIGNATURE = Signature(
        "m",
        (
            InputSpec("age", "float32", (1,), (None,)),
            InputSpec("city", "string", (1,), (None,)),
            InputSpec("code", "int64", (), ()),
            InputSpec("path", "float32", (2, 2), (None, None)),
        ),
    )
    ROW: ClassVar = {"age": 12.5, "city": "rome\x00", "code": 7, "path": [[1, 2], [3, 4]], "y": 1}

    def write(self, *rows: object, name: str = "x.jsonl") -> None:
        Path(name).write_text("".join(f"{json.dumps(row)}\n\n" for row in rows))

    def refusal(self, *rows: object, **arguments: object) -> str:
        self.write(*rows)
        with pytest.raises(InputError) as caught:
            read_all(Texts("x.jsonl", **arguments), self.SIGNATURE)  # type: ignore[arg-type]
        return str(caught.value)

    def test_each_row_is_a_sample(self) -> None:
        self.write(self.ROW, {**self.ROW, "age": 40, "code": -1})
        first, second = read_all(Texts("x.jsonl"), self.SIGNATURE)
        assert (first.id, second.id, first.extra) == ("x.jsonl:1", "x.jsonl:3", {"y": 1})
        assert not isinstance(first.data, str)
        assert not isinstance(second.data, str)
        assert first.data["age"].tolist() == [12.5]
        assert first.data["city"].tolist() == ["rome\x00"]
        assert first.data["code"].item() == 7
        assert first.data["path"].tolist() == [[1, 2], [3, 4]]
        assert second.data["age"].tolist() == [40.0]
        assert second.data["code"].item() == -1
        assert len(read_all(Texts("x.jsonl", limit=1), self.SIGNATURE)) == 1

    def test_columns_are_named(self) -> None:
        self.write({**self.ROW, "town": "oslo"})
        columns = {"age": "age", "city": "town", "code": "y", "path": "path"}
        (sample,) = read_all(Texts("x.jsonl", columns=columns), self.SIGNATURE)
        assert not isinstance(sample.data, str)
        assert sample.data["city"].tolist() == ["oslo"]
        assert sample.data["code"].item() == 1

    def test_rows_that_do_not_fit_are_named(self) -> None:
        at = "inputs.path='x.jsonl', line 1"
        assert self.refusal({**self.ROW, "age": None}) == (
            f"{at}: 'age' is missing (None). Fill it in, or leave the sample out"
        )
        del (short := dict(self.ROW))["city"]
        assert self.refusal(short).startswith(
            f"{at} has no column 'city' for input 'city' of model 'm'. Available: "
        )
        assert self.refusal([1]).startswith(f"{at} is JSON, but a list, not an object. ")
        assert "'age' is text" in self.refusal({**self.ROW, "age": [1, "x"]})
        assert "cannot be converted to an array" in self.refusal(
            {**self.ROW, "path": [[1], [2, 3]]}
        )
        assert "'code' is float64" in self.refusal({**self.ROW, "code": 1.5})
        assert "'age' is text" in self.refusal({**self.ROW, "age": "old"})

    def test_advice_leads_on(self) -> None:
        Path("x.txt").write_text("one\n")
        with pytest.raises(InputError, match=r"Try JSON lines: inputs.path=FILE.jsonl, or"):
            read_all(Texts("x.txt"), self.SIGNATURE)
        with pytest.raises(
            InputError, match=r"Try inputs=texts inputs.path=FILE.jsonl \(JSON lines\) or"
        ):
            read_all(Random(), self.SIGNATURE)
        with pytest.raises(InputError, match=r"inputs.columns means nothing in 'x.txt', which"):
            read_all(Texts("x.txt", columns={NAME: "x"}), takes())
