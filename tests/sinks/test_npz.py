"""The NPZ sink, read with plain NumPy."""

import io
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.values import Dense, Ragged
from extractkit.errors import JobError, RunDirectoryError
from extractkit.sinks import Sink
from extractkit.sinks.npz import NpzSink, member
from extractkit.testing.sinks import SinkContract, example_values


class TestNpzSink(SinkContract):
    def sink(self) -> Sink:
        return NpzSink()


def test_plain_numpy_reads_every_array_by_its_escaped_key() -> None:
    values = example_values()
    with np.load(io.BytesIO(NpzSink().serialize(values)), allow_pickle=False) as archive:
        expected = {
            member(key, part): array
            for key, value in values.items()
            for part, array in value.parts().items()
            if not array.dtype.hasobject
        }
        assert {name for name in archive.files if "+ends" not in name and "+bytes" not in name} == (
            set(expected)
        )
        for name, array in expected.items():
            np.testing.assert_array_equal(archive[name], array)


def test_member_names_hold_nothing_that_a_file_system_could_take_for_a_path() -> None:
    assert member("a/b:op/X") == "a%2Fb%3Aop%2FX"
    assert member("../a+b:output@x", "values") == "..%2Fa%2Bb%3Aoutput%40x+values"


def test_plain_numpy_reads_strings_by_where_they_end() -> None:
    strings = np.array([[b"a\0", b""], ["é", b"\xff\0"]], object)
    image = NpzSink().serialize({"a:output": Dense(strings)})
    with np.load(io.BytesIO(image), allow_pickle=False) as archive:
        assert archive["a%3Aoutput+ends"].tolist() == [[2, 2], [4, 6]]
        assert archive["a%3Aoutput+bytes"].tobytes() == b"a\0" + "é".encode() + b"\xff\0"


@pytest.mark.parametrize("ends", [[3, 2], [1, 9], [-1, 2], [1.0, 2.0]])
def test_strings_that_do_not_lie_in_their_bytes_are_damaged(
    ends: list[float], tmp_path: Path
) -> None:
    path = tmp_path / "shard.npz"
    arrays = {"a%3Aoutput+ends": np.array(ends), "a%3Aoutput+bytes": np.zeros(3, np.uint8)}
    np.savez(path, **arrays)
    with pytest.raises(RunDirectoryError, match=r"'a:output' is damaged"):
        NpzSink().read(path, "a:output", 0, 2)


def test_python_objects_are_refused_rather_than_pickled() -> None:
    with pytest.raises(JobError) as refusal:
        NpzSink().serialize({"a:output": Dense(np.array([b"x", 1.5], object))})
    assert str(refusal.value) == (
        "sinks.npz cannot store 'a:output': 1.5 is float, neither text nor bytes"
    )


def test_texts_of_numpys_own_types_come_back_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "shard.npz"
    texts = np.array(["é", "longer", ""])
    path.write_bytes(NpzSink().serialize({"a:output": Ragged(texts, np.array([0, 1, 3]))}))
    found = NpzSink().read(path, "a:output", 1, 2)
    assert found.sample(0).tolist() == [b"longer", b""]


def test_a_file_that_holds_texts_as_numpys_own_types_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "shard.npz"
    np.savez(path, **{member("a:output"): np.array(["é", "longer", ""])})
    assert NpzSink().read(path, "a:output", 1, 3).sample(0).item() == "longer"
