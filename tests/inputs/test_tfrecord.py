"""Features of TFRecord files."""

import gzip
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from extractkit.core.values import Array
from extractkit.errors import InputError, JobError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.records import RecordSource
from extractkit.inputs.tfrecord import TFRecord
from extractkit.testing.inputs import SourceContract, read_all

IDS = InputSpec("ids", "int32", (None,), ("token",))
SCORE = InputSpec("score", "float32", (), ())
TWO = Signature("m", (IDS, SCORE))
ROWS = [[1, 2, 3], [4], [5, 6]]


def takes(*shape: int | None, dtype: str = "float32") -> Signature:
    dims = tuple(f"axis{i}" if size is None else None for i, size in enumerate(shape))
    return Signature("m", (InputSpec("x", dtype, shape, dims),))


def feature(value: object) -> tf.train.Feature:
    values = list(np.ravel(value)) if not isinstance(value, bytes) else [value]  # type: ignore[call-overload]
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if np.asarray(values).dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write(path: str, *rows: dict[str, object]) -> None:
    """The rows as TensorFlow itself writes them."""
    with tf.io.TFRecordWriter(path) as writer:
        for row in rows:
            held = {name: feature(value) for name, value in row.items()}
            example = tf.train.Example(features=tf.train.Features(feature=held))
            writer.write(example.SerializeToString())


def values(source: RecordSource, name: str = "x") -> list[Array]:
    return [sample.data[name] for sample in source.read(0, len(source))]  # type: ignore[index, misc]


def refusal(signature: Signature, path: object = "x.tfrecord", **arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        read_all(TFRecord(path, **arguments), signature)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestRecords(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        for name, rows in (("a", ROWS[:2]), ("b", ROWS[2:])):
            path = folder / f"{name}.tfrecord"
            if not path.exists():
                write(str(path), *({"ids": row, "score": float(len(row))} for row in rows))
        return TFRecord(str(folder / "*.tfrecord"))

    def signature(self) -> Signature:
        return TWO


class TestReading:
    def test_values_are_those_that_tensorflow_parses(self) -> None:
        random = np.random.default_rng(0)
        rows = [{"x": random.random(6), "n": [i]} for i in range(40)]
        write("x.tfrecord", *rows)
        wanted = {"x": tf.io.FixedLenFeature((2, 3), tf.float32)}
        expected = [
            tf.io.parse_single_example(record, wanted)["x"].numpy()
            for record in tf.data.TFRecordDataset("x.tfrecord")
        ]
        source = TFRecord("x.tfrecord").bind(takes(2, 3))
        np.testing.assert_array_equal(values(source), expected)
        alone = source.read(17, 18)[0]
        assert (alone.id, alone.source) == ("x.tfrecord:17", "x.tfrecord")

    def test_features_are_named_by_configuration(self) -> None:
        write("x.tfrecord", *({"a": row, "b": [float(len(row))]} for row in ROWS))
        features = {"ids": "a", "score": {"feature": "b"}}
        source = TFRecord("x.tfrecord", features).bind(TWO)
        assert [v.tolist() for v in values(source, "ids")] == ROWS
        assert [v.tolist() for v in values(source, "score")] == [3, 1, 2]

    def test_numbers_stored_as_bytes_are_read_as_the_type_given(self) -> None:
        expected = np.arange(-3, 3).reshape(2, 3)
        write("x.tfrecord", {"x": expected.astype("<i2").tobytes()})
        source = TFRecord("x.tfrecord", {"x": {"dtype": "int16"}}).bind(takes(2, 3))
        np.testing.assert_array_equal(values(source)[0], expected)

    def test_a_type_given_converts_what_would_not_be_unasked(self) -> None:
        write("x.tfrecord", {"x": [0, 1, 1]})
        signature = takes(3, dtype="bool")
        assert "feature 'x' is int64, and input 'x' is bool" in refusal(signature)
        source = TFRecord("x.tfrecord", {"x": {"dtype": "bool"}}).bind(signature)
        assert values(source)[0].tolist() == [False, True, True]

    def test_a_shape_given_tells_what_the_model_leaves_open(self) -> None:
        write("x.tfrecord", {"x": np.arange(6.0)})
        open_shape = takes(None, None)
        assert "'x' has shape (1, 6); model 'm' takes it as (samples, axis0, axis1)" in refusal(
            open_shape
        )
        source = TFRecord("x.tfrecord", {"x": {"shape": [None, 2]}}).bind(open_shape)
        assert values(source)[0].tolist() == [[0, 1], [2, 3], [4, 5]]

    def test_pictures_are_decoded(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
        data = BytesIO()
        Image.fromarray(picture).save(data, "PNG")
        write("x.tfrecord", {"image/encoded": data.getvalue()})
        features = {"x": {"feature": "image/encoded", "encoded": True}}
        source = TFRecord("x.tfrecord", features).bind(takes(6, 8, 3, dtype="uint8"))
        np.testing.assert_array_equal(values(source)[0], picture)

    def test_texts_are_objects(self) -> None:
        write("x.tfrecord", {"x": "bé".encode()})
        source = TFRecord("x.tfrecord").bind(takes(dtype="string"))
        assert values(source)[0].item() == "bé".encode()

    def test_the_limit_leaves_the_rest_unread(self) -> None:
        write("a.tfrecord", {"x": 1.0}, {"x": 2.0}, {"x": 3.0})
        Path("b.tfrecord").write_bytes(b"damaged")
        assert len(TFRecord("*.tfrecord", limit=2).bind(takes())) == 2
        assert len(TFRecord("*.tfrecord", limit=3).bind(takes())) == 3
        assert "inputs.path='b.tfrecord' is not a TFRecord file" in refusal(
            takes(), "*.tfrecord", limit=4
        )

    def test_the_digest_follows_what_is_read(self) -> None:
        prints = []
        for last, dtype in ((2.0, "float32"), (3.0, "float32"), (2.0, "float64")):
            write("x.tfrecord", {"x": 1.0}, {"x": last})
            prints.append(TFRecord("x.tfrecord").bind(takes(dtype=dtype)).digest)
        assert len(set(prints)) == 3

    def test_a_file_that_changes_fails_the_job(self) -> None:
        write("x.tfrecord", {"x": 1.0})
        source = TFRecord("x.tfrecord").bind(takes())
        os.utime("x.tfrecord", ns=(0, 0))
        with pytest.raises(JobError, match=r"x\.tfrecord changed while the job ran"):
            source.read(0, 1)


class TestWhole:
    """Records as bytes, for a model whose one input is a string."""

    def signature(self, parsed: bool = False, *shape: int) -> Signature:
        spec = InputSpec("x", "string", shape, (None,) * len(shape), parsed=parsed)
        return Signature("m", (spec,), takes_text=True)

    def records(self) -> list[bytes]:
        return [bytes(one) for one in tf.data.TFRecordDataset("x.tfrecord").as_numpy_iterator()]

    def test_a_model_that_parses_examples_is_given_them(self) -> None:
        write("x.tfrecord", {"v": [3.0, 0.0]}, {"v": [1.0, 2.0], "w": b"\x00"})
        for shape in ((), (1,)):
            source = TFRecord("x.tfrecord").bind(self.signature(True, *shape))
            found = values(source)
            assert [value.item() for value in found] == self.records()
            assert {value.shape for value in found} == {shape}
        assert source.notes == (
            "each record is one sample, given whole; its features: inputs.whole=false",
        )

    def test_records_that_are_no_examples_are_bytes(self) -> None:
        written = [b"\xff\xff\x00", b"", b"\x00\x00"]
        with tf.io.TFRecordWriter("x.tfrecord") as writer:
            for record in written:
                writer.write(record)
        source = TFRecord("x.tfrecord").bind(self.signature())
        assert [value.item() for value in values(source)] == written

    def test_a_feature_of_the_inputs_name_comes_first(self) -> None:
        write("x.tfrecord", {"x": b"a\x00", "y": 1.0})
        for parsed in (False, True):
            source = TFRecord("x.tfrecord").bind(self.signature(parsed))
            assert [value.item() for value in values(source)] == [b"a\x00"]
        source = TFRecord("x.tfrecord", whole=True).bind(self.signature())
        assert [value.item() for value in values(source)] == self.records()

    def test_what_the_model_does_with_bytes_is_never_guessed(self) -> None:
        write("x.tfrecord", {"text": b"good", "label": 1})
        assert refusal(self.signature()) == (
            "inputs.path='x.tfrecord', record 0 has no feature 'x' for input 'x'. "
            "Available: 'label', 'text'. Name it: 'inputs.features={x: NAME}'. "
            "Or give the model each record whole: inputs.whole=true"
        )
        named = TFRecord("x.tfrecord", {"x": "text"}).bind(self.signature())
        assert values(named)[0].item() == b"good"

    def test_settings_that_do_not_fit(self) -> None:
        write("x.tfrecord", {"x": 1.0})
        assert refusal(takes(), whole=True) == (
            "inputs.whole=true gives each record's bytes to one string input, and model 'm' takes "
            "x: float32 (samples). Leave it out: inputs.whole=null"
        )
        assert refusal(takes(), whole=True, features={"x": None}) == (
            "inputs.whole=true takes no features. Leave inputs.features out"
        )
        assert refusal(takes(), whole="yes") == "inputs.whole='yes' is not true, false or null"
        reported = refusal(self.signature(), features={"x": {"encoded": True}})
        assert reported.endswith("it takes a picture's file as it is. Remove encoded=true")


class TestRefused:
    def test_no_path(self) -> None:
        assert refusal(takes(), None) == (
            "inputs.path is missing. Model 'm' takes x: float32 (samples). "
            "Give TFRecord files: inputs.path=FILE.tfrecord"
        )

    def test_a_compressed_file(self) -> None:
        write("x.tfrecord", {"x": 1.0})
        Path("x.tfrecord").write_bytes(gzip.compress(Path("x.tfrecord").read_bytes()))
        assert refusal(takes()) == (
            "inputs.path='x.tfrecord' is compressed, and records are read at random. "
            "Decompress it: gunzip < x.tfrecord > NEW"
        )

    def test_a_file_cut_short_or_with_a_flipped_bit_anywhere(self) -> None:
        write("x.tfrecord", {"x": 1.0}, {"x": 2.0})
        content = Path("x.tfrecord").read_bytes()
        begin = "inputs.path='x.tfrecord' is not a TFRecord file, or it is cut short or damaged: "
        for size in range(1, len(content), 9):
            if size == len(content) // 2:
                continue  # one whole record
            Path("x.tfrecord").write_bytes(content[:size])
            assert refusal(takes()).startswith(begin)
        for at in range(0, len(content), 9):
            Path("x.tfrecord").write_bytes(
                content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]
            )
            assert refusal(takes()).startswith(begin)

    def test_an_empty_file(self) -> None:
        Path("x.tfrecord").touch()
        assert refusal(takes()) == "inputs.path='x.tfrecord' holds no sample. Give at least one"

    def test_records_that_are_no_examples(self) -> None:
        with tf.io.TFRecordWriter("x.tfrecord") as writer:
            writer.write(b"\xff\xff\xff")
        assert refusal(takes()).startswith(
            "inputs.path='x.tfrecord', record 0 is not a tf.train.Example: "
        )

    def test_a_feature_that_is_not_there(self) -> None:
        write("x.tfrecord", {"y": 1.0, "z": 1.0})
        assert refusal(takes()) == (
            "inputs.path='x.tfrecord', record 0 has no feature 'x' for input 'x'. "
            "Available: 'y', 'z'. Name it: 'inputs.features={x: NAME}'"
        )

    def test_a_feature_without_values(self) -> None:
        empty = tf.train.Example(features=tf.train.Features(feature={"x": tf.train.Feature()}))
        with tf.io.TFRecordWriter("x.tfrecord") as writer:
            writer.write(empty.SerializeToString())
        assert refusal(takes()) == (
            "inputs.path='x.tfrecord', record 0, feature 'x' is empty: it has no list of values. "
            "Fill it in, or leave the record out"
        )

    @pytest.mark.parametrize(("given", "dtype"), [(1.5, "int32"), (1, "bool")])
    def test_numbers_of_another_meaning(self, given: float, dtype: str) -> None:
        write("x.tfrecord", {"x": given})
        message = refusal(takes(dtype=dtype))
        assert message.endswith(
            f"This is not converted automatically. If you mean it: "
            f"'inputs.features={{x: {{dtype: {dtype}}}}}'"
        )
        source = TFRecord("x.tfrecord", features={"x": {"dtype": dtype}}).bind(takes(dtype=dtype))
        assert values(source)[0] == 1

    def test_bytes_of_which_nothing_is_said(self) -> None:
        write("x.tfrecord", {"x": b"abc"})
        assert refusal(takes()) == (
            "inputs.path='x.tfrecord', record 0, feature 'x' holds bytes, and input 'x' is "
            "float32. Specify what they are: 'inputs.features={x: {dtype: uint8}}' (numbers of "
            "any type), 'inputs.features={x: {encoded: true}}' (a picture)"
        )
        assert refusal(takes(), features={"x": {"dtype": "int16"}}) == (
            "inputs.path='x.tfrecord', record 0, feature 'x' holds 3 bytes, which is not a "
            "multiple of the size of int16"
        )
        assert "record 0, feature 'x' is not a picture that can be decoded" in refusal(
            takes(None, None, 3), features={"x": {"encoded": True}}
        )

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            ({"x": {"dtyp": "int8"}}, "inputs.features.x.dtyp does not exist. Available: 'dtype', "
             "'encoded', 'feature', 'shape'."),
            ({"x": {"dtype": "text"}}, "inputs.features.x.dtype='text' is not a type of "
             "numbers, such as uint8"),
            ({"x": {"shape": 3}}, "inputs.features.x.shape=3 is not a list of lengths, as in "
             "[28,28] or [null,8]"),
            ({"x": {"shape": [None, None]}}, "inputs.features.x.shape=[None, None] is not a list "
             "of lengths, as in [28,28] or [null,8]"),
            ({"x": {"encoded": 1}}, "inputs.features.x.encoded=1 is not true or false"),
            ({"x": {"encoded": True, "dtype": "uint8"}}, "inputs.features.x.encoded=true: a "
             "picture has its own shape and dtype. Remove them"),
            ({"x": 8}, "inputs.features.x=8 is neither the name of a feature nor a mapping. A "
             "mapping may hold feature, dtype, shape, encoded"),
            ({"image/raw": {"input": "x", "dtype": "int8"}}, "inputs.features maps inputs to "
             "features, and not features to inputs. Write: 'inputs.features={x: {feature: "
             "image/raw, dtype: int8}}'"),
            ({"a b": {"input": "x"}}, "inputs.features maps inputs to features, and not features "
             "to inputs. Write: 'inputs.features={x: \"a b\"}'"),
            ({"x": {"input": "image/raw", "dtype": "int8"}}, "inputs.features names the feature of "
             "an input by 'feature', not by 'input'. Write: 'inputs.features={x: {feature: "
             "image/raw, dtype: int8}}'"),
            ({"x": {"input": "a b"}}, "inputs.features names the feature of an input by 'feature', "
             "not by 'input'. Write: 'inputs.features={x: \"a b\"}'"),
            ({"x": {"input": "x"}}, "inputs.features maps inputs to features, and not features "
             "to inputs. Write: 'inputs.features={x: {}}'"),
            ({"y": {"input": "z"}}, "inputs.features.y.input does not exist. Available: 'dtype', "
             "'encoded', 'feature', 'shape'."),
            ({"y": "x"}, "inputs.features maps inputs to features, and not features to inputs. "
             "Write: 'inputs.features={x: y}'"),
            ({"y": None}, "inputs.features does not match model 'm': 'x' is missing; 'y' is not "
             "an input of it (Available: 'x'). It takes x: float32 (samples)"),
        ],
    )  # fmt: skip
    def test_settings_that_do_not_exist_or_fit(
        self, features: dict[str, object], message: str
    ) -> None:
        assert refusal(takes(), features=features) == message
