"""Samples that are no good: each fails when it is read, and the others are as they were."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from extractkit.core.component import Component
from extractkit.errors import InputError, JobError
from extractkit.inputs import Inputs, InputSpec, Sample, Signature, identity
from extractkit.inputs.arrays import Arrays
from extractkit.inputs.dataset import Dataset
from extractkit.inputs.file_access import Stamp
from extractkit.inputs.hdf5 import Hdf5
from extractkit.inputs.images import Images
from extractkit.inputs.in_memory import LiveArrays, LiveTexts
from extractkit.inputs.parquet import Parquet
from extractkit.inputs.texts import Texts
from extractkit.inputs.tfrecord import TFRecord
from extractkit.testing.inputs import assert_same

TEXT = Signature("m", (InputSpec("ids", "int32", (None,), ("token",)),), takes_text=True)
BYTE = Signature("m", (InputSpec("x", "uint8", (), ()),))
PAIR = Signature("m", (InputSpec("x", "float32", (2,), (None,)),))
PICTURE = Signature("m", (InputSpec("x", "uint8", (2, 2, 3), (None,) * 3),))
STRINGS = Signature("m", (InputSpec("x", "string", (), ()),))

Made = Callable[[list[bool]], Inputs]
"""Makes inputs with a sample for each, good or not."""


def texts(good: list[bool]) -> Inputs:
    Path("x.txt").write_bytes(b"".join(b"fine\n\n" if one else b"caf\xe9\n" for one in good))
    return Texts("x.txt")


def json_lines(good: list[bool]) -> Inputs:
    bad = ["{", "[]", '{"body": "a"}', '{"text": 1}', r'{"text": "\ud800"}', "\udcff"]
    lines = [
        json.dumps({"text": f"fine {at}"}) if one else bad[at % len(bad)]
        for at, one in enumerate(good)
    ]
    Path("x.jsonl").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    return Texts("x.jsonl")


def images(good: list[bool]) -> Inputs:
    Path("in").mkdir(exist_ok=True)
    for at, one in enumerate(good):
        path = Path(f"in/{at}.png")
        Image.fromarray(np.full((2, 2, 3), at, np.uint8)).save(path)
        if not one:
            path.write_bytes(path.read_bytes()[: 40 if at % 2 else 3])
    return Images("in")


def numbers(good: list[bool]) -> np.ndarray:
    """Some that a byte cannot hold."""
    return np.array([at if one else 256 + at for at, one in enumerate(good)])


def arrays(good: list[bool]) -> Inputs:
    np.save("x.npy", numbers(good))
    return Arrays("x.npy")


def live_arrays(good: list[bool]) -> Inputs:
    return LiveArrays(numbers(good))


def live_texts(good: list[bool]) -> Inputs:
    return LiveTexts(["fine" if one else None for one in good])  # type: ignore[list-item]


def objects(good: list[bool]) -> Inputs:
    return LiveArrays(np.array(["fine" if one else 7 for one in good], object))


def hdf5(good: list[bool]) -> Inputs:
    """Some in chunks whose checksum is wrong."""
    Path("x.h5").unlink(missing_ok=True)  # a source may have it open
    with h5py.File("x.h5", "w") as file:
        data = file.create_dataset("x", (len(good),), "u1", chunks=(1,), fletcher32=True)
        data[:] = range(len(good))
        places = [data.id.get_chunk_info(at).byte_offset for at in range(len(good))]
    content = bytearray(Path("x.h5").read_bytes())
    for place, one in zip(places, good, strict=True):
        content[place] ^= 0 if one else 1
    Path("x.h5").write_bytes(content)
    return Hdf5("x.h5")


def parquet(good: list[bool]) -> Inputs:
    cells = [
        [1.0, 2.0] if one else [None, [1.0], [1.0, None]][at % 3] for at, one in enumerate(good)
    ]
    pq.write_table(pa.table({"x": cells}), "x.parquet", row_group_size=2)
    return Parquet("x.parquet")


def tfrecord(good: list[bool]) -> Inputs:
    import tensorflow as tf

    with tf.io.TFRecordWriter("x.tfrecord") as writer:
        for at, one in enumerate(good):
            held = tf.train.Feature(float_list=tf.train.FloatList(value=[1, 2][: 2 if one else 1]))
            features = tf.train.Features(feature={"x" if one or at % 2 else "y": held})
            writer.write(tf.train.Example(features=features).SerializeToString())
    return TFRecord("x.tfrecord")


class Rows:
    """Some of which raise, lack a value or have another shape."""

    def __init__(self, good: list[bool]) -> None:
        self.good = good

    def __len__(self) -> int:
        return len(self.good)

    def __getitem__(self, at: int) -> object:
        if self.good[at]:
            return {"x": np.array([at, 1], "float32")}
        if at % 3 == 0:
            raise OSError(f"{object()} is gone")
        return {"y": 1} if at % 3 == 1 else {"x": np.zeros(3, "float32")}


def in_turn(good: list[bool]) -> object:
    return ({"x": np.array([at, 1] if one else [at], "f4")} for at, one in enumerate(good))


def sequence(good: list[bool]) -> Inputs:
    return Dataset(Component("inputs.dataset", f"{__name__}.Rows", {"good": good}))


def iterable(good: list[bool]) -> Inputs:
    return Dataset(Component("inputs.dataset", f"{__name__}.in_turn", {"good": good}))


SOURCES: dict[str, tuple[Made, Signature]] = {
    made.__name__: (made, signature)
    for made, signature in [
        (texts, TEXT), (json_lines, TEXT), (images, PICTURE), (arrays, BYTE), (live_arrays, BYTE),
        (live_texts, TEXT), (objects, STRINGS), (hdf5, BYTE), (parquet, PAIR), (tfrecord, PAIR),
        (sequence, PAIR), (iterable, PAIR),
    ]
}  # fmt: skip

every_source = pytest.mark.parametrize(("made", "signature"), SOURCES.values(), ids=list(SOURCES))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def alone(inputs: Inputs, signature: Signature) -> list[Sample | None]:
    """Every sample read alone; None where that fails."""
    source = inputs.bind(signature)
    found: list[Sample | None] = []
    for index in range(len(source)):
        try:
            found += source.read(index, index + 1)
        except InputError:
            found.append(None)
    return found


@every_source
@pytest.mark.parametrize(
    "good",
    [[False, True, True], [True, False, False, True, False], [False] * 9 + [True]],
    ids=["first", "between", "all but one"],
)
def test_each_fails_alone_and_the_others_are_what_they_were(
    made: Made, signature: Signature, good: list[bool]
) -> None:
    expected = made([True] * len(good)).bind(signature).read(0, len(good))
    inputs = made(good)
    found = alone(inputs, signature)
    assert [sample is not None for sample in found] == good
    kept = [sample for sample in found if sample is not None]
    same = [sample for sample, one in zip(expected, good, strict=True) if one]
    if made is texts:  # the blank lines behind the good ones count in the names of what follows
        assert [sample.data for sample in kept] == [sample.data for sample in same]
    else:
        assert_same(kept, same)
    with pytest.raises(InputError):
        inputs.bind(signature).read(0, len(good))


@every_source
def test_each_is_who_it_would_be_if_it_could_be_read(made: Made, signature: Signature) -> None:
    good = [True, False, False, True, False]
    expected = made([True] * len(good)).bind(signature).read(0, len(good))
    inputs = made(good)
    source = inputs.bind(signature)
    reported = [identity(source, index) for index in range(len(good))]
    if made is texts:  # a blank line stands behind the good ones alone
        assert [one.id for one in reported] == [f"x.txt:{line}" for line in (1, 3, 4, 5, 7)]
    else:
        assert [one.id for one in reported] == [sample.id for sample in expected]
    assert [one.source for one in reported] == [sample.source for sample in expected]
    for one, sample in zip(reported, expected, strict=True):
        assert one.extra.items() <= sample.extra.items()


def test_a_broken_picture_keeps_its_file_and_its_class() -> None:
    Path("in/cat").mkdir(parents=True)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save("in/a.png")
    Path("in/cat/1.png").write_bytes(b"no picture")
    reported = identity(Images("in").bind(PICTURE), 1)
    assert (reported.id, reported.source) == ("cat/1.png", "1.png")
    assert reported.extra == {"file": "in/cat/1.png", "label": "cat"}


def test_they_are_distinguished_across_files() -> None:
    Path("a.jsonl").write_text('{"text": "a"}\n\n{\n')
    Path("b.jsonl").write_text('\n{"text": "b"}\n[]\n')
    source = Texts(["a.jsonl", "b.jsonl"]).bind(TEXT)
    ids = [identity(source, index).id for index in range(len(source))]
    assert ids == ["a.jsonl:1", "a.jsonl:3", "b.jsonl:2", "b.jsonl:3"]
    sources = [identity(source, index).source for index in range(len(source))]
    assert sources == ["a.jsonl", "a.jsonl", "b.jsonl", "b.jsonl"]


def test_a_source_that_cannot_tell_names_them_by_their_numbers() -> None:
    class Plain:
        digest, notes = "", ()

        def __len__(self) -> int:
            return 8

        def read(self, start: int, stop: int) -> list[Sample]:
            raise InputError("no good")

    reported = identity(Plain(), 7)
    assert (reported.id, reported.source, reported.extra) == ("7", "", {})


@every_source
def test_a_source_of_nothing_else_is_refused_at_once(made: Made, signature: Signature) -> None:
    inputs = made([False] * 4)
    with pytest.raises(InputError):
        inputs.bind(signature)


@every_source
def test_the_digest_tells_which_they_are(made: Made, signature: Signature) -> None:
    prints = []
    for good in ([True, True, True], [True, False, True], [True, True, False]):
        inputs = made(good)
        prints += [inputs.bind(signature).digest, inputs.bind(signature).digest]
    assert prints[::2] == prints[1::2]
    assert len(set(prints)) == 3


def test_a_change_of_mode_or_links_is_no_change_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("one")
    stamp = Stamp.of(path)
    path.chmod(0o640)
    stamp.check(path)
    (tmp_path / "backup.txt").hardlink_to(path)
    with stamp.unchanged(path):
        path.chmod(0o600)


@pytest.mark.parametrize("before", [False, True], ids=["at once", "after chmod"])
@pytest.mark.parametrize("renamed", [False, True], ids=["in place", "renamed"])
def test_other_content_of_the_same_size_and_date_is_noticed(
    tmp_path: Path, before: bool, renamed: bool
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("one")
    stamp = Stamp.of(path)
    if before:
        path.chmod(0o600)
        stamp.check(path)
    date = path.stat().st_mtime_ns
    time.sleep(0.05)  # the clock of the file system advances in steps of some milliseconds
    written = tmp_path / "y.txt" if renamed else path
    written.write_text("two")
    os.utime(written, ns=(date, date))
    written.chmod(0o600 if before else path.stat().st_mode)
    written.rename(path)
    with pytest.raises(JobError, match="it had another time of change"):
        stamp.check(path)
