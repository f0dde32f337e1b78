"""Labels of samples: from every source that has them, in the form that a target takes."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image

from extractkit.core.component import Component
from extractkit.core.picks import LabelSpec, merged
from extractkit.core.spec import TEXT as STRING
from extractkit.errors import InputError, SelectionError
from extractkit.inputs import (
    Identity,
    InputSpec,
    Sample,
    Scanning,
    Signature,
    Unreadable,
    identity,
)
from extractkit.inputs.arrays import Arrays
from extractkit.inputs.dataset import Dataset
from extractkit.inputs.hdf5 import Hdf5
from extractkit.inputs.images import Images
from extractkit.inputs.in_memory import Labelled
from extractkit.inputs.labels import check_labels
from extractkit.inputs.parquet import Parquet
from extractkit.inputs.random import Random
from extractkit.inputs.texts import Texts
from extractkit.inputs.tfrecord import TFRecord
from extractkit.inputs.whole_files import Files
from tests.inputs import made_datasets

AT = "selectors.g.gradient.of"
CLASS = LabelSpec(AT, whole=True, below=4)
PLAIN = Signature("net", (InputSpec("x", "float32", (2,), (None,)),))
MODEL = replace(PLAIN, label=CLASS)
TEXT = Signature("bert", (InputSpec("ids", "int32", (None,), ("token",)),), True, label=CLASS)
PICTURE = Signature("cnn", (InputSpec("x", "float32", (2, 2, 3), (None,) * 3),), label=CLASS)
BYTES = Signature("bytes", (InputSpec("x", STRING, (), ()),), label=CLASS)

ROWS = np.arange(8, dtype=np.float32).reshape(4, 2)
GOOD: tuple[object, ...] = (3, 0, 2, 1)


def npz(folder: Path, labels: Sequence[object]) -> Scanning:
    np.savez(folder / "x.npz", x=ROWS, y=np.array(labels))
    return Arrays(str(folder / "x.npz"), labels="y")


def npy(folder: Path, labels: Sequence[object]) -> Scanning:
    np.save(folder / "x.npy", ROWS)
    np.save(folder / "y.npy", np.array(labels))
    return Arrays({"x": str(folder / "x.npy"), "y": str(folder / "y.npy")}, labels="y")


def hdf5(folder: Path, labels: Sequence[object]) -> Scanning:
    with h5py.File(folder / "x.h5", "w") as file:
        file["train/images"] = ROWS
        file["train/labels"] = np.array(labels)
    return Hdf5(str(folder / "x.h5"), {"x": "train/images"}, labels="train/labels")


def parquet(folder: Path, labels: Sequence[object]) -> Scanning:
    table = pa.table({"x": ROWS.tolist(), "y": list(labels)})
    pq.write_table(table, folder / "x.parquet")
    return Parquet(str(folder / "x.parquet"), labels="y")


def json_lines(folder: Path, labels: Sequence[object]) -> Scanning:
    rows = [{"x": x, "y": y} for x, y in zip(ROWS.tolist(), labels, strict=True)]
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Texts(str(folder / "x.jsonl"), labels="y")


def tfrecord(folder: Path, labels: Sequence[object]) -> Scanning:
    with tf.io.TFRecordWriter(str(folder / "x.tfrecord")) as file:
        for x, y in zip(ROWS.tolist(), labels, strict=True):
            feature = {"x": tf.train.Feature(float_list=tf.train.FloatList(value=x))}
            if isinstance(y, int):
                feature["y"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[y]))
            elif isinstance(y, float):
                feature["y"] = tf.train.Feature(float_list=tf.train.FloatList(value=[y]))
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            file.write(example.SerializeToString())
    return TFRecord(str(folder / "x.tfrecord"), labels="y")


def made(name: str, labels: Sequence[object], key: str | int) -> Scanning:
    target = f"{made_datasets.__name__}.{name}"
    component = Component("inputs.dataset", target, {"rows": ROWS, "labels": list(labels)})
    return Dataset(component, labels=key)


def pairs(folder: Path, labels: Sequence[object]) -> Scanning:
    """Keras's (x, y)."""
    return made("pairs", labels, 1)


def named_pairs(folder: Path, labels: Sequence[object]) -> Scanning:
    """Keras's (features, label)."""
    return made("named_pairs", labels, "1")


def mappings(folder: Path, labels: Sequence[object]) -> Scanning:
    """A generator of mappings, which are read in turn."""
    return made("mappings", labels, "y")


SOURCES = (npz, npy, hdf5, parquet, json_lines, tfrecord, pairs, named_pairs, mappings)
Make = Callable[[Path, Sequence[object]], Scanning]
sources = pytest.mark.parametrize("make", SOURCES, ids=lambda one: one.__name__)


@sources
def test_every_source_has_labels(make: Make, tmp_path: Path) -> None:
    inputs = make(tmp_path, GOOD)
    samples = inputs.bind(MODEL).read(0, 4)
    assert [(one.label.dtype, one.label.tolist()) for one in samples] == [
        (np.int64, label) for label in GOOD
    ]
    for sample, row in zip(samples, ROWS, strict=True):
        assert isinstance(sample.data, dict)
        assert list(sample.data) == ["x"]
        np.testing.assert_array_equal(sample.data["x"], row)
    # The label is in samples.jsonl, under its name in the source.
    assert [next(iter(one.extra.values())) for one in samples] == list(GOOD)


@sources
def test_the_digest_covers_labels_that_a_target_takes(make: Make, tmp_path: Path) -> None:
    digests = []
    for labels in (GOOD, (3, 0, 2, 2)):
        inputs = make(tmp_path, labels)
        digests.append(inputs.bind(MODEL).digest)
        assert inputs.bind(MODEL).digest == digests[-1]
        assert inputs.bind(PLAIN).read(0, 1)[0].label is None
    assert digests[0] != digests[1]


@sources
def test_a_scan_shows_the_labels_or_leaves_that_to_another_pass(make: Make, tmp_path: Path) -> None:
    shown: list[Sample | Unreadable] = []
    make(tmp_path, GOOD).scan(MODEL, shown.append)
    assert [one.label.item() for one in shown if isinstance(one, Sample)] in ([], list(GOOD))


WRONG: dict[str, tuple[Sequence[object], str]] = {
    "beyond": ((3, 0, 4, 1), "its label (inputs.labels) is 4, not a whole number of 0 to 3, which"),
    "negative": ((3, 0, -1, 1), "its label (inputs.labels) is -1, not a whole number of 0 to 3"),
}


@sources
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_label_is_that_of_a_sample(name: str, make: Make, tmp_path: Path) -> None:
    labels, message = WRONG[name]
    source = make(tmp_path, labels).bind(MODEL)
    assert len(source.read(0, 2)) == 2
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        source.read(0, 4)
    assert re.search(r"sample .*[23]|[:] ?sample 2", str(caught.value)), caught.value
    assert len(source.read(3, 4)) == 1


@sources
def test_floats_that_are_whole_numbers_are_these(make: Make, tmp_path: Path) -> None:
    whole = make(tmp_path, GOOD).bind(MODEL).digest
    source = make(tmp_path, [float(str(one)) for one in GOOD]).bind(MODEL)
    labels = [one.label for one in source.read(0, 4)]
    assert [(one.dtype, one.item()) for one in labels if one is not None] == [
        (np.int64, label) for label in GOOD
    ]
    assert (source.digest == whole) == (make in (npz, npy, hdf5))


@sources
def test_numbers_that_are_not_whole_are_refused(make: Make, tmp_path: Path) -> None:
    for bad in (0.5, float("nan"), 2.0**53 + 2):
        match = "not a whole number of 0 to 3, which selectors"
        with pytest.raises(InputError, match=match):
            make(tmp_path, (1.0, bad, 2.0, 3.0)).bind(MODEL).read(0, 4)


@pytest.mark.parametrize(
    "make", [npz, npy, parquet, mappings, json_lines], ids=lambda one: one.__name__
)
def test_labels_that_are_an_input_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        replace(make(tmp_path, GOOD), labels="x").bind(MODEL)  # type: ignore[type-var]
    assert (
        "inputs.labels=x is an input of the model, and labels are read beside the inputs. "
        "Name something else. Available: 'y'"
    ) in str(caught.value)


def test_labels_that_are_the_column_of_an_input_are_refused(tmp_path: Path) -> None:
    message = "inputs.labels=y is the column of input 'x', and labels are read beside the inputs."
    for make in (parquet, json_lines, mappings, hdf5):
        inputs = replace(make(tmp_path, GOOD), columns={"x": "y"}, labels="y")  # type: ignore[call-arg, type-var]
        with pytest.raises(InputError, match=re.escape(message)):
            inputs.bind(MODEL)


@pytest.mark.parametrize("make", [parquet, json_lines, pairs, mappings, tfrecord])
def test_a_missing_label_is_that_of_a_sample(make: Make, tmp_path: Path) -> None:
    source = make(tmp_path, (3, None, 2, 1)).bind(MODEL)
    with pytest.raises(InputError, match=r"has no label|has no 'y'|holds a null"):
        source.read(0, 2)
    assert source.read(2, 3)[0].label == 2


@sources
def test_a_source_without_these_labels_is_refused(make: Make, tmp_path: Path) -> None:
    inputs = replace(make(tmp_path, GOOD), labels="z")  # type: ignore[type-var]
    with pytest.raises(InputError, match="'z'") as caught:
        inputs.bind(MODEL)
    assert "inputs.labels" in str(caught.value)


def test_vectors_of_numbers(tmp_path: Path) -> None:
    spec = LabelSpec(AT, whole=False, shape=(3,))
    wanted = np.random.default_rng(0).random((4, 3))
    np.savez(tmp_path / "x.npz", x=ROWS, y=wanted)
    inputs = Arrays(str(tmp_path / "x.npz"), labels="y")
    samples = inputs.bind(replace(PLAIN, label=spec)).read(0, 4)
    np.testing.assert_array_equal([one.label for one in samples], wanted)
    np.savez(tmp_path / "x.npz", x=ROWS, y=np.ones((4, 3), int))
    with pytest.raises(InputError, match=re.escape("has the shape [3], not a whole number of 0")):
        inputs.bind(MODEL)
    wanted[2, 1] = np.nan
    np.savez(tmp_path / "x.npz", x=ROWS, y=wanted)
    with pytest.raises(InputError, match=r"sample 2: its label .* is nan, not 3 numbers"):
        inputs.bind(replace(PLAIN, label=spec)).read(0, 4)


def test_names_of_classes_are_not_numbers(tmp_path: Path) -> None:
    for make in (npz, parquet, json_lines, pairs):
        with pytest.raises(InputError, match=r"'cat', is .* Give the number of its class"):
            make(tmp_path, ("cat", "dog", "dog", "cat")).bind(MODEL)


def test_an_ignored_label_is_outside_the_range(tmp_path: Path) -> None:
    ignoring = replace(CLASS, ignored=-1)
    source = npz(tmp_path, (3, -1, 2, 1)).bind(replace(PLAIN, label=ignoring))
    assert [one.label.item() for one in source.read(0, 4)] == [3, -1, 2, 1]
    with pytest.raises(InputError, match="is -2, not a whole number of 0 to 3 or -1, which"):
        npz(tmp_path, (3, -2, 2, 1)).bind(replace(PLAIN, label=ignoring)).read(0, 4)


@pytest.mark.parametrize("count", [3, 5])
def test_fewer_or_more_labels_than_samples(count: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ROWS, y=np.zeros(count, int))
    message = f"'y' (inputs.labels) has {count} labels for 4 samples"
    with pytest.raises(InputError, match=re.escape(message)):
        Arrays(str(tmp_path / "x.npz"), labels="y").bind(MODEL)


def test_one_array_has_no_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(InputError, match=re.escape("{x: FILE.npy, y: LABELS.npy}")):
        Arrays(str(tmp_path / "x.npy"), labels="y").bind(MODEL)


def test_texts_with_labels(tmp_path: Path) -> None:
    rows = [{"text": f"text {label}", "y": label} for label in GOOD]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = Texts(str(tmp_path / "x.jsonl"), labels="y").bind(TEXT).read(0, 4)
    assert [(one.data, one.label) for one in samples] == [(f"text {n}", n) for n in GOOD]
    (tmp_path / "x.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"inputs\.labels means nothing in .*, which is read as"):
        Texts(str(tmp_path / "x.txt"), labels="y").bind(TEXT)


def folders(tmp_path: Path) -> Path:
    for name in ("b/1", "b/2", "a/1", "c/1"):
        path = tmp_path / "all" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (len(name), 0, 0)).save(path)
    return tmp_path / "all"


def test_class_folders_are_numbered_by_name(tmp_path: Path) -> None:
    path = str(folders(tmp_path))
    for kind, model in ((Images, PICTURE), (Files, BYTES)):
        source = kind(path, labels="folder").bind(model)
        found = {one.extra["label"]: one.label.item() for one in source.read(0, 4)}
        assert found == {"a": 0, "b": 1, "c": 2}
        (first,) = kind(path, limit=1, labels="folder").bind(model).read(0, 1)
        assert first.label == 0
    with pytest.raises(InputError, match="'class': the label of a file is the number of its class"):
        Images(path, labels="class")
    (tmp_path / "all/lonely.png").write_bytes((tmp_path / "all/a/1.png").read_bytes())
    source = Images(path, labels="folder").bind(PICTURE)
    with pytest.raises(InputError, match=r"lonely.png' has no label \(inputs.labels\)"):
        source.read(0, 5)


def test_targets_need_inputs_with_labels() -> None:
    with pytest.raises(InputError, match="of each sample, and inputs=random has no labels"):
        check_labels(Random(), CLASS, "inputs=random")
    with pytest.raises(InputError, match=r"Name where it is: inputs\.labels=COLUMN"):
        check_labels(Arrays("x.npz"), CLASS, "inputs=arrays")
    check_labels(Arrays("x.npz", labels="y"), CLASS, "inputs=arrays")


@pytest.mark.parametrize("labels", ["", True, 1.5, ["y"]])
def test_what_is_not_a_name(labels: object) -> None:
    with pytest.raises(InputError, match="is not the name of a column"):
        Arrays("x.npz", labels=labels)  # type: ignore[arg-type]


def test_labels_of_several_targets() -> None:
    other = replace(CLASS, below=3, at="selectors.h.gradient.of")
    assert merged([None, CLASS, other]) == replace(CLASS, below=3)
    number = LabelSpec(AT, whole=False)
    assert merged([number, CLASS]) == replace(CLASS)
    assert merged([]) is None
    with pytest.raises(SelectionError) as caught:
        merged([CLASS, LabelSpec("selectors.h.gradient.of", whole=False, shape=(3,))])
    assert str(caught.value) == (
        "selectors.g.gradient.of takes a whole number of 0 to 3 as a sample's label, and "
        "selectors.h.gradient.of takes 3 numbers. A job has one label for each sample "
        "(inputs.labels): make two runs"
    )


def test_labels_in_memory() -> None:
    texts = [f"text {label}" for label in GOOD]
    rows = [{"x": row} for row in ROWS]
    for inputs, model in ((ROWS, MODEL), ({"x": ROWS}, MODEL), (rows, MODEL), (texts, TEXT)):
        source = Labelled(inputs, GOOD).bind(model)  # type: ignore[arg-type]
        samples = source.read(1, 4)
        assert [(one.index, one.label.item()) for one in samples] == [(1, 0), (2, 2), (3, 1)]
        assert samples[0].extra == {"label": 0}
        assert source.read(2, 2) == []
        assert identity(source, 2).id == samples[1].id
        other = Labelled(inputs, GOOD[::-1]).bind(model)  # type: ignore[arg-type]
        assert source.digest != other.digest
        assert Labelled(inputs, GOOD).bind(replace(model, label=None)).digest  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"sample 2: its label .* is 4, not a whole number"):
        Labelled(ROWS, [0, 1, 4, 2]).bind(MODEL).read(0, 4)
    with pytest.raises(InputError, match=re.escape("'label' (inputs.labels) has 3 labels for 4")):
        Labelled(ROWS, [0, 1, 2]).bind(MODEL)
    masked = np.ma.array([0, 1, 2, 3], mask=[0, 1, 0, 0])
    with pytest.raises(InputError, match="mask"):
        Labelled(ROWS, masked).bind(MODEL)


def test_identities_do_not_need_labels(tmp_path: Path) -> None:
    source = npz(tmp_path, (3, 0, 9, 1)).bind(MODEL)
    assert isinstance(source.identify(2), Identity)  # type: ignore[attr-defined]
